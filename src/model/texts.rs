//! Lists of texts as a file holds them: one buffer, not one allocation for each of millions.
//!
//! Clones share the buffer, so that plans, headers and vocabularies made from one file hold it once.

use std::{collections::HashMap, fmt, sync::Arc};

/// Texts, one behind the other in one buffer. All together they are shorter than 4 GiB, as
/// [`crate::limits::Limits`] has it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts(Arc<Packed>);

/// `["ab", "", "cde"]` is the bytes `abcde` with the ends 2, 2, 5: a text begins where the one before it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packed {
    bytes: Vec<u8>,
    /// Where each text ends.
    ends: Vec<u32>,
}

impl Texts {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// The text at `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.0.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|i| self.0.ends.get(i)).copied().unwrap_or(0);
        self.0.bytes.get(start as usize..end as usize)
    }

    /// All texts in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Adds a text at the end.
    pub fn push(&mut self, text: impl AsRef<[u8]>) {
        let packed = Arc::make_mut(&mut self.0);
        packed.bytes.extend_from_slice(text.as_ref());
        packed.ends.push(u32::try_from(packed.bytes.len()).unwrap_or(u32::MAX));
    }

    /// The same texts but for those at the places in `others`.
    pub fn with(&self, others: &HashMap<usize, Vec<u8>>) -> Texts {
        let text = |(i, old)| others.get(&i).map_or(old, Vec::as_slice);
        self.iter().enumerate().map(text).collect()
    }

    /// Keeps the first `len` texts.
    pub fn truncate(&mut self, len: usize) {
        let packed = Arc::make_mut(&mut self.0);
        packed.ends.truncate(len);
        packed.bytes.truncate(packed.ends.last().map_or(0, |end| *end as usize));
    }

    /// Gives back memory that was kept for more texts.
    pub fn shrink(&mut self) {
        let packed = Arc::make_mut(&mut self.0);
        packed.bytes.shrink_to_fit();
        packed.ends.shrink_to_fit();
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Texts {
        let mut out = Texts::default();
        out.extend(texts);
        out
    }
}

impl<T: AsRef<[u8]>> Extend<T> for Texts {
    fn extend<I: IntoIterator<Item = T>>(&mut self, texts: I) {
        texts.into_iter().for_each(|text| self.push(text));
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_in_order_and_changed_in_place() {
        let mut texts: Texts = ["a", "", "bcd"].into_iter().collect();
        let shared = texts.clone();
        texts = texts.with(&HashMap::from([(1, b"longer".to_vec())]));
        texts.push("e");
        assert_eq!(texts.iter().collect::<Vec<_>>(), [&b"a"[..], b"longer", b"bcd", b"e"]);
        texts.truncate(2);
        assert_eq!(texts, ["a", "longer"].into_iter().collect());
        assert_eq!(shared.get(2), Some(&b"bcd"[..]));
        assert_eq!(shared.get(3), None);
    }
}
