//! Memory for what goes from one part of a layer to the next.

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

/// Fewer numbers than these come from the allocator, which has them at hand: 128 KB.
const LEAST: usize = 32 << 10;
/// Buffers that are kept: more than a layer has at once.
const MOST: usize = 16;

/// Buffers that nobody uses.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Numbers in memory that was used before and will be used again.
///
/// A prompt's vectors are some MB from each matrix of each layer. Memory of that size goes back to the system when it
/// is freed, and comes back page by page, each cleared first, which took a tenth of the time of a prompt.
#[derive(Debug, Default)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` numbers of any value: the caller writes each of them before it reads it.
    pub fn of(len: usize) -> Buffer {
        let mut numbers = if len < LEAST { Vec::new() } else { fitting(len) };
        numbers.resize(len, 0.0);
        Buffer(numbers)
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Buffer {
        let mut buffer = Buffer::of(len);
        buffer.fill(0.0);
        buffer
    }
}

/// The smallest free buffer that `len` numbers fit into, else the largest.
fn fitting(len: usize) -> Vec<f32> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    // Smallest first.
    let fits = free.partition_point(|numbers| numbers.capacity() < len);
    let at = fits.min(free.len().saturating_sub(1));
    if free.is_empty() { Vec::new() } else { free.remove(at) }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let numbers = mem::take(&mut self.0);
        if numbers.capacity() < LEAST {
            return;
        }
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.partition_point(|other| other.capacity() < numbers.capacity());
        free.insert(at, numbers);
        if free.len() > MOST {
            free.remove(0);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl From<&[f32]> for Buffer {
    fn from(numbers: &[f32]) -> Buffer {
        let mut buffer = Buffer::of(numbers.len());
        buffer.copy_from_slice(numbers);
        buffer
    }
}
