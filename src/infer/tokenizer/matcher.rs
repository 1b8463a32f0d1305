//! Texts of a fixed set in a text: special tokens, and those that a person added.

use std::collections::HashMap;

/// Finds texts of a fixed set, the longest at each place.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    /// By first byte, longest first.
    by_first: HashMap<u8, Vec<(Vec<u8>, u32)>>,
}

impl Matcher {
    /// Finds these texts, each with its token.
    pub(super) fn new(tokens: Vec<(Vec<u8>, u32)>) -> Matcher {
        let mut by_first: HashMap<u8, Vec<(Vec<u8>, u32)>> = HashMap::new();
        for (text, id) in tokens {
            // Only whole characters: a match must not cut a text inside one.
            if let Some(&first) = text.first().filter(|_| std::str::from_utf8(&text).is_ok()) {
                by_first.entry(first).or_default().push((text, id));
            }
        }
        for list in by_first.values_mut() {
            list.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        }
        Matcher { by_first }
    }

    /// Length and token of the longest text that is at `at`.
    pub(super) fn longest_at(&self, text: &[u8], at: usize) -> Option<(usize, u32)> {
        let rest = text.get(at..)?;
        let list = self.by_first.get(rest.first()?)?;
        list.iter().find(|(text, _)| rest.starts_with(text)).map(|(text, id)| (text.len(), *id))
    }

    /// Start, length and token of every text found, from left to right, none overlapping.
    pub(super) fn matches<'a>(
        &'a self,
        text: &'a [u8],
    ) -> impl Iterator<Item = (usize, usize, u32)> + 'a {
        let mut at = if self.by_first.is_empty() { text.len() } else { 0 };
        std::iter::from_fn(move || {
            while at < text.len() {
                let here = at;
                if let Some((len, id)) = self.longest_at(text, here) {
                    at += len;
                    return Some((here, len, id));
                }
                at += 1;
            }
            None
        })
    }
}
