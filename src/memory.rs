//! Room for large arrays.
//!
//! The system hands out memory page by page, when it is first written to, and for an array as large as a model that takes
//! longer than the writing. Where it knows larger pages it is asked for them; it may refuse, and nothing depends on it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Bytes from which an array is worth the question: two of the larger pages.
const LARGE: usize = 4 << 20;

/// An empty vector with room for `n` elements.
pub fn room<T>(n: usize) -> Vec<T> {
    let room = Vec::with_capacity(n);
    ask(&room);
    room
}

/// `n` zeros.
pub fn zeros<T: Clone + Default>(n: usize) -> Vec<T> {
    let zeros = vec![T::default(); n];
    ask(&zeros);
    zeros
}

/// A vector with these elements.
pub fn copied<T: Copy>(elements: &[T]) -> Vec<T> {
    let mut copy = room(elements.len());
    copy.extend_from_slice(elements);
    copy
}

/// What there is to read of an open file.
pub fn rest(mut file: &File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    // One byte more tells the end without making room for more.
    let mut bytes = room(size.saturating_add(1));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All bytes of a file.
pub fn file(path: &Path) -> io::Result<Vec<u8>> {
    rest(&File::open(path)?)
}

/// Asks for large pages for what a vector has room for.
fn ask<T>(room: &Vec<T>) {
    let bytes = room.capacity() * size_of::<T>();
    if bytes >= LARGE {
        large_pages(room.as_ptr().cast_mut().cast(), bytes);
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library has no such call")]
fn large_pages(start: *mut libc::c_void, bytes: usize) {
    // SAFETY: the range lies within one allocation, and the call changes nothing of what is in it.
    unsafe {
        // Whole pages alone, and a size that is not known takes none.
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(usize::MAX);
        let skipped = start.align_offset(page);
        if skipped < bytes {
            libc::madvise(start.byte_add(skipped), (bytes - skipped) / page * page, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn large_pages(_: *mut std::ffi::c_void, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_hold_what_they_are_given() {
        for n in [0, 1, LARGE / 4, LARGE + 5] {
            assert_eq!((zeros(n), room::<u8>(n).len()), (vec![0.0; n], 0));
            let numbers: Vec<u32> = (0..n as u32).collect();
            assert_eq!(copied(&numbers), numbers);
        }
    }
}
