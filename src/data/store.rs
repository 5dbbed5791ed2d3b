//! Pixels of any number of images: what is more than memory should hold lies in a file without a name, which the system
//! takes back when the program ends, however it ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;

use super::DataError;

/// Bytes that are kept in memory.
const KEPT: usize = 256 << 20;

/// Bytes, written once from the first to the last and read anywhere.
pub(super) struct Store {
    memory: Vec<u8>,
    file: Option<File>,
    most: usize,
}

impl Store {
    pub fn new() -> Self {
        Self::with_at_most(KEPT)
    }

    fn with_at_most(most: usize) -> Self {
        Self { memory: Vec::new(), file: None, most }
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        if self.file.is_none() && self.memory.len() + bytes.len() <= self.most {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        self.write(bytes).map_err(|source| DataError::NoRoom { folder: std::env::temp_dir(), source })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = tempfile::tempfile()?;
                file.write_all(&std::mem::take(&mut self.memory))?;
                none.insert(file)
            }
        };
        file.write_all(bytes)
    }

    /// Hands a range of the bytes to `take`; `buffer` is where they are put if they have to be read.
    ///
    /// # Panics
    /// When the range is beyond the bytes, or the file that was written before can no longer be read.
    pub fn read<T>(&self, range: Range<usize>, buffer: &mut Vec<u8>, take: impl FnOnce(&[u8]) -> T) -> T {
        let Some(file) = &self.file else { return take(&self.memory[range]) };
        buffer.resize(range.len(), 0);
        if let Err(e) = read_at(file, buffer, range.start as u64) {
            panic!("the temporary file of the images cannot be read: {e}");
        }
        take(buffer)
    }
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut out: &mut [u8], mut at: u64) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (out, at) = (&mut out[n..], at + n as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_file_hold_the_same() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7 % 251) as u8).collect();
        for most in [0, 300, 1000] {
            let mut store = Store::with_at_most(most);
            bytes.chunks(100).for_each(|some| store.push(some).expect("room"));
            assert_eq!((store.file.is_some(), store.memory.len()), (most < 1000, if most < 1000 { 0 } else { 1000 }));
            let mut buffer = Vec::new();
            for range in [0..10, 290..310, 990..1000] {
                store.read(range.clone(), &mut buffer, |found| assert_eq!(found, &bytes[range.clone()]));
            }
        }
    }
}
