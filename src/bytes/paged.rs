//! Buffers whose bytes lie in memory as they will lie in the pages of a file.
//!
//! Only whole pages can be written past the page cache, and only from memory that begins at a page: so
//! the buffer leaves as many bytes free before its first as the file has before it in its page, and a
//! page after its last. There the other bytes of the outer pages are put, where they are known.
//!
//! ```text
//! file      |  page 0   |  page 1   |  page 2   |
//! buffer          |.......bytes...........|             at = 1000, len = 9000
//! room      |     ^ skip = 1000           |    |        begins at a page of memory
//! pages           before|  page 1   |after               the middle goes past the cache
//! ```

#![expect(clippy::indexing_slicing, reason = "`place` made room for whatever the others reach")]

/// Bytes of a page, or a multiple of what any disk wants.
const PAGE: usize = 4096;

/// A buffer for bytes that go to a given place of a file.
#[derive(Debug, Default)]
pub struct Paged {
    room: Vec<u8>,
    /// Where its first page begins in `room`.
    base: usize,
    /// Where the bytes begin in that page.
    skip: usize,
    len: usize,
    at: u64,
}

impl Paged {
    /// Makes room for `len` bytes that will be at `at` in a file. What they are is not defined.
    pub fn place(&mut self, at: u64, len: usize) -> &mut [u8] {
        let wanted = len.saturating_add(3 * PAGE);
        if self.room.len() < wanted {
            self.room.resize(wanted, 0);
        }
        self.base = self.room.as_ptr().align_offset(PAGE);
        let skip = usize::try_from(at % PAGE as u64).unwrap_or(0);
        (self.at, self.len, self.skip) = (at, len, skip);
        self.bytes_mut()
    }

    /// Where its bytes will be.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.room[self.base + self.skip..][..self.len]
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.base + self.skip..][..self.len]
    }

    /// Bytes of the first page that are before them, and of the last page after them.
    pub(super) fn missing(&self) -> (usize, usize) {
        let end = self.skip + self.len;
        (self.skip, end.next_multiple_of(PAGE) - end)
    }

    /// Adds bytes that are directly before them.
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        self.room[self.base..self.base + self.skip].copy_from_slice(bytes);
        (self.at, self.len, self.skip) = (self.at - self.skip as u64, self.len + self.skip, 0);
    }

    /// Adds bytes that are directly after them.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let end = self.base + self.skip + self.len;
        self.room[end..end + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// The bytes before the first whole page, the whole pages, and those after; none are pages where
    /// they fill none.
    pub(super) fn pages(&self) -> (&[u8], &[u8], &[u8]) {
        let bytes = self.bytes();
        let edge = if self.skip == 0 { 0 } else { PAGE - self.skip };
        let Some((before, rest)) = bytes.split_at_checked(edge) else { return (bytes, &[], &[]) };
        let (pages, after) = rest.split_at(rest.len() / PAGE * PAGE);
        (before, pages, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_at_pages_in_memory_and_in_the_file() {
        let mut buffer = Paged::default();
        for (at, len) in [(0, 3 * PAGE), (1, 3 * PAGE), (4095, 2 * PAGE + 7), (8192, 10), (5, 0)] {
            buffer.place(at, len).fill(1);
            let (before, pages, after) = buffer.pages();
            assert_eq!(before.len() + pages.len() + after.len(), len);
            assert!(before.len() < PAGE && after.len() < PAGE, "{at} {len}");
            assert!(pages.is_empty() || (at as usize + before.len()).is_multiple_of(PAGE));
            assert!(pages.is_empty() || pages.as_ptr().align_offset(PAGE) == 0);
            let (left, right) = buffer.missing();
            buffer.prepend(&vec![2; left]);
            buffer.append(&vec![3; right]);
            assert_eq!(buffer.pages().1.len(), len + left + right);
            assert_eq!(&buffer.bytes()[left..left + len], vec![1; len]);
        }
    }
}
