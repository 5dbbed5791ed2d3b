//! Reads the first bytes of a library file, so that nothing but a whole library for this machine reaches the loader.
//!
//! Layouts: the System V ABI for ELF, Apple's `mach-o/loader.h`, Microsoft's PE format; all little-endian 64-bit here.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// The symbol every ONNX Runtime library exports.
const ENTRY_POINT: &[u8] = b"OrtGetApiBase\0";
/// Program headers, dynamic section and string table are read whole; more than this is no library.
const LARGEST_TABLE: u64 = 64 << 20;

/// Library formats, one for each family of systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Elf,
    MachO,
    Pe,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Elf => "a Linux (ELF) file",
            Self::MachO => "a macOS (Mach-O) file",
            Self::Pe => "a Windows (PE) file",
        }
    }
}

/// Processors ONNX Runtime is distributed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Arm64,
}

/// What the loader of a system accepts. `None` leaves the processor to the loader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub format: Format,
    pub machine: Option<Machine>,
}

impl Host {
    /// The system this program was built for.
    pub const THIS: Self = Self {
        format: if cfg!(windows) {
            Format::Pe
        } else if cfg!(target_vendor = "apple") {
            Format::MachO
        } else {
            Format::Elf
        },
        machine: if cfg!(target_arch = "x86_64") {
            Some(Machine::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Machine::Arm64)
        } else {
            None
        },
    };
}

/// What the bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// A library for this host that can name the ONNX Runtime entry point.
    Possible,
    /// A library for this host that cannot: the entry point is not among its symbol names.
    WithoutEntryPoint,
    /// Nothing this host can load, and why.
    Not(String),
}

/// Looks at an open file.
pub(super) fn inspect(file: &mut File, host: Host) -> io::Result<Image> {
    let length = file.seek(SeekFrom::End(0))?;
    let head = read_up_to(file, 0, 4096)?;
    let Some(format) = format_of(&head) else {
        let reason = if length == 0 { "it is empty" } else { "its first bytes are those of no library format" };
        return Ok(Image::Not(reason.to_owned()));
    };
    if format != host.format {
        return Ok(Image::Not(format!("it is {}, and this system loads {}", format.name(), host.format.name())));
    }
    let checked = match format {
        Format::Elf => elf(file, &head, length, host)?,
        Format::MachO => mach_o(&head, host).map(|()| Image::Possible),
        Format::Pe => pe(&head, host).map(|()| Image::Possible),
    };
    Ok(checked.unwrap_or_else(Image::Not))
}

fn format_of(head: &[u8]) -> Option<Format> {
    match head.get(..4)? {
        [0x7f, b'E', b'L', b'F'] => Some(Format::Elf),
        [0xcf, 0xfa, 0xed, 0xfe] | [0xca, 0xfe, 0xba, 0xbe | 0xbf] => Some(Format::MachO),
        [b'M', b'Z', ..] => Some(Format::Pe),
        _ => None,
    }
}

/// Checks class, type and processor, that every loaded segment lies inside the file (mapping a truncated library kills
/// the process), and whether the dynamic string table holds the entry point.
fn elf(file: &mut File, head: &[u8], length: u64, host: Host) -> io::Result<Result<Image, String>> {
    let truncated = || Ok(Err("it ends early: the file is truncated".to_owned()));
    let (Some(kind), Some(machine), Some(table), Some(size), Some(count)) =
        (u16_at(head, 16), u16_at(head, 18), u64_at(head, 32), u16_at(head, 54), u16_at(head, 56))
    else {
        return truncated();
    };
    if head.get(4..6) != Some(&[2, 1]) {
        return Ok(Err("it is not a 64-bit little-endian library".to_owned()));
    }
    if let Err(reason) = same_machine(machine_of(machine, 62, 183), host) {
        return Ok(Err(reason));
    }
    if kind != 3 || size != 56 {
        return Ok(Err("it is an ELF file but not a shared library".to_owned()));
    }
    let Some(headers) = read_exactly(file, table, u64::from(size) * u64::from(count), length)? else {
        return truncated();
    };
    let segments: Option<Vec<Segment>> = headers.chunks_exact(56).map(Segment::read).collect();
    let segments = segments.unwrap_or_default();
    if segments.iter().any(|s| s.kind == Segment::LOAD && s.offset.checked_add(s.size).is_none_or(|end| end > length)) {
        return truncated();
    }
    let Some(dynamic) = segments.iter().find(|s| s.kind == Segment::DYNAMIC) else {
        return Ok(Err("it is an ELF file but not a shared library".to_owned()));
    };
    let Some(dynamic) = read_exactly(file, dynamic.offset, dynamic.size, length)? else {
        return truncated();
    };
    let entry = |tag| dynamic.chunks_exact(16).find(|e| u64_at(e, 0) == Some(tag)).and_then(|e| u64_at(e, 8));
    let names = match (entry(5), entry(10)) {
        (Some(address), Some(size)) => match segments.iter().find_map(|s| s.offset_of(address)) {
            Some(offset) => read_exactly(file, offset, size, length)?,
            None => None,
        },
        _ => None,
    };
    Ok(match names {
        None => Err("its table of symbol names is damaged".to_owned()),
        Some(names) if names.windows(ENTRY_POINT.len()).any(|w| w == ENTRY_POINT) => Ok(Image::Possible),
        Some(_) => Ok(Image::WithoutEntryPoint),
    })
}

/// The fields of an ELF program header that matter here, in bytes.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Segment {
    const LOAD: u32 = 1;
    const DYNAMIC: u32 = 2;

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(bytes, 0)?,
            offset: u64_at(bytes, 8)?,
            address: u64_at(bytes, 16)?,
            size: u64_at(bytes, 32)?,
        })
    }

    /// Where in the file a virtual address lies, when this segment holds it.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let inside = address.checked_sub(self.address)?;
        (self.kind == Self::LOAD && inside < self.size).then(|| self.offset.checked_add(inside))?
    }
}

fn mach_o(head: &[u8], host: Host) -> Result<(), String> {
    let short = || "it ends early: the file is truncated".to_owned();
    if head[0] == 0xcf {
        let processor = u32_at(head, 4).ok_or_else(short)?;
        let kind = u32_at(head, 12).ok_or_else(short)?;
        same_machine(machine_of(processor, 0x0100_0007, 0x0100_000c), host)?;
        return if kind == 6 { Ok(()) } else { Err("it is a Mach-O file but not a shared library".to_owned()) };
    }
    // A universal file lists its processors, big-endian. A Java class file begins alike, but its "count" is above 30.
    let entry = if head[3] == 0xbf { 32 } else { 20 };
    let big = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let count = big(4).ok_or_else(short)? as usize;
    if count > 30 {
        return Err("its first bytes are those of no library format".to_owned());
    }
    let machines = (0..count).filter_map(|i| machine_of(big(8 + i * entry)?, 0x0100_0007, 0x0100_000c));
    if host.machine.is_none_or(|wanted| machines.into_iter().any(|m| m == wanted)) {
        Ok(())
    } else {
        Err("it holds no code for this processor".to_owned())
    }
}

fn pe(head: &[u8], host: Host) -> Result<(), String> {
    let damaged = || "it begins like a Windows file, but its header is damaged".to_owned();
    let at = u32_at(head, 0x3c).ok_or_else(damaged)? as usize;
    if head.get(at..at + 4) != Some(b"PE\0\0") {
        return Err(damaged());
    }
    let machine = u16_at(head, at + 4).ok_or_else(damaged)?;
    let flags = u16_at(head, at + 22).ok_or_else(damaged)?;
    same_machine(machine_of(machine, 0x8664, 0xaa64), host)?;
    if flags & 0x2000 == 0 {
        return Err("it is a Windows program but not a library".to_owned());
    }
    Ok(())
}

fn machine_of<T: PartialEq + Copy>(code: T, x86_64: T, arm64: T) -> Option<Machine> {
    if code == x86_64 {
        Some(Machine::X86_64)
    } else if code == arm64 {
        Some(Machine::Arm64)
    } else {
        None
    }
}

fn same_machine(found: Option<Machine>, host: Host) -> Result<(), String> {
    if host.machine.is_none() || found == host.machine {
        return Ok(());
    }
    let name = |machine| match machine {
        Some(Machine::X86_64) => "x86-64",
        Some(Machine::Arm64) => "64-bit ARM",
        None => "another processor",
    };
    Err(format!("it is for {}, and this program runs on {}", name(found), name(host.machine)))
}

/// Reads `size` bytes at `offset`, or `None` when the file or the bound on tables is smaller.
fn read_exactly(file: &mut File, offset: u64, size: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
    if size > LARGEST_TABLE || offset.checked_add(size).is_none_or(|end| end > length) {
        return Ok(None);
    }
    let bytes = read_up_to(file, offset, size)?;
    Ok((bytes.len() as u64 == size).then_some(bytes))
}

fn read_up_to(file: &mut File, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LINUX: Host = Host { format: Format::Elf, machine: Some(Machine::X86_64) };
    const MAC: Host = Host { format: Format::MachO, machine: Some(Machine::Arm64) };
    const WINDOWS: Host = Host { format: Format::Pe, machine: Some(Machine::X86_64) };

    fn look(bytes: &[u8], host: Host) -> Image {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("written");
        inspect(&mut file, host).expect("readable")
    }

    fn reason(bytes: &[u8], host: Host) -> String {
        match look(bytes, host) {
            Image::Not(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// An ELF file of one loaded segment that covers everything: header, two program headers, dynamic section, names.
    fn elf_with(names: &[u8]) -> Vec<u8> {
        let (dynamic, strings) = (64 + 2 * 56, 64 + 2 * 56 + 3 * 16);
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        bytes.resize(16, 0);
        bytes.extend(3u16.to_le_bytes());
        bytes.extend(62u16.to_le_bytes());
        bytes.resize(32, 0);
        bytes.extend(64u64.to_le_bytes());
        bytes.resize(54, 0);
        bytes.extend([56, 0, 2, 0]);
        bytes.resize(64, 0);
        let length = strings + names.len();
        for (kind, offset, size) in [(Segment::LOAD, 0, length), (Segment::DYNAMIC, dynamic, 3 * 16)] {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 4]);
            // Loaded at 0x1000, to see that addresses are translated.
            for value in [offset, offset + 0x1000, offset + 0x1000, size, size, 8] {
                bytes.extend((value as u64).to_le_bytes());
            }
        }
        for (tag, value) in [(5u64, strings + 0x1000), (10, names.len()), (0, 0)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((value as u64).to_le_bytes());
        }
        bytes.extend(names);
        bytes
    }

    #[test]
    fn elf_is_read_down_to_its_symbol_names() {
        let good = elf_with(b"\0OrtGetApiBase\0");
        assert_eq!(look(&good, LINUX), Image::Possible);
        assert_eq!(look(&elf_with(b"\0OrtGetApiBases\0cos\0"), LINUX), Image::WithoutEntryPoint);
        assert!(reason(&good[..good.len() - 1], LINUX).contains("truncated"));
        assert!(reason(&good[..40], LINUX).contains("truncated"));
        let arm = Host { machine: Some(Machine::Arm64), ..LINUX };
        assert!(reason(&good, arm).contains("for x86-64, and this program runs on 64-bit ARM"));
        assert!(reason(&good, MAC).contains("Linux (ELF)"));
        let mut program = good.clone();
        program[16] = 2;
        assert!(reason(&program, LINUX).contains("not a shared library"));
        let mut narrow = good.clone();
        narrow[4] = 1;
        assert!(reason(&narrow, LINUX).contains("64-bit"));
    }

    #[test]
    fn no_byte_of_an_elf_header_can_make_it_panic() {
        let good = elf_with(b"\0OrtGetApiBase\0");
        for at in 0..good.len() {
            for value in [0x00, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                look(&bytes, LINUX);
            }
            look(&good[..at], LINUX);
        }
    }

    #[test]
    fn other_formats() {
        assert!(reason(b"", LINUX).contains("empty"));
        assert!(reason(b"#!/bin/sh\n", LINUX).contains("no library format"));
        let mut dylib = vec![0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 1, 0, 0, 0, 0, 6, 0, 0, 0];
        assert_eq!(look(&dylib, MAC), Image::Possible);
        dylib[12] = 2;
        assert!(reason(&dylib, MAC).contains("not a shared library"));
        dylib[4] = 7;
        assert!(reason(&dylib, MAC).contains("x86-64"));
        let universal = [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 1, 1, 0, 0, 12, 0, 0, 0, 0];
        assert_eq!(look(&universal, MAC), Image::Possible);
        assert!(reason(&universal, Host { machine: Some(Machine::X86_64), ..MAC }).contains("processor"));
        assert!(reason(&[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 52], MAC).contains("no library format"));
        let mut dll = vec![0; 0x80];
        dll[..2].copy_from_slice(b"MZ");
        dll[0x3c] = 0x40;
        assert!(reason(&dll, WINDOWS).contains("damaged"));
        dll[0x40..0x46].copy_from_slice(&[b'P', b'E', 0, 0, 0x64, 0x86]);
        assert!(reason(&dll, WINDOWS).contains("not a library"));
        dll[0x40 + 23] = 0x20;
        assert_eq!(look(&dll, WINDOWS), Image::Possible);
    }
}
