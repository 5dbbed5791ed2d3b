//! Buffers that are kept from call to call: the system takes its time to hand out memory and clear it.

/// A cache line, in bytes.
const LINE: usize = 64;

/// Room for floats, whatever they are, from the start of a cache line on: a vector that lies across two lines takes two
/// accesses.
#[derive(Default)]
pub struct Room {
    buffer: Vec<f32>,
    first: usize,
    len: usize,
}

impl Room {
    /// No room yet.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), first: 0, len: 0 }
    }

    /// Room for so many, which may hold what they held before.
    pub fn of(&mut self, len: usize) -> &mut [f32] {
        let whole = len + LINE / size_of::<f32>();
        if self.buffer.len() < whole {
            // The old one first, so that never both are there.
            self.buffer = Vec::new();
            self.buffer = vec![0.0; whole];
        }
        self.first = self.buffer.as_ptr().align_offset(LINE).min(whole - len);
        self.len = len;
        &mut self.buffer[self.first..][..len]
    }

    /// Those that were last asked for.
    pub fn floats(&self) -> &[f32] {
        &self.buffer[self.first..][..self.len]
    }
}
