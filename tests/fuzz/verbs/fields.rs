//! Where the fields of a sound file are, by walks that are not the program's own.

use std::collections::BTreeSet;

/// A number in a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    pub at: usize,
    pub width: usize,
}

/// How many tokens, values of an array or tensors are looked at from each end of a list.
const EACH: usize = 6;

/// Words that a header has at most, its magic included.
const HEADER: usize = 20;

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: BTreeSet<Field>,
}

impl Walk<'_> {
    fn skip(&mut self, n: usize) -> Option<&[u8]> {
        let skipped = self.bytes.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(skipped)
    }

    /// The number at the place of the walk, which is a field.
    fn field(&mut self, width: usize) -> Option<usize> {
        self.fields.insert(Field { at: self.at, width });
        self.plain(width)
    }

    /// As `field`, but nothing that is worth an edit.
    fn plain(&mut self, width: usize) -> Option<usize> {
        let mut out = [0; 8];
        out[..width].copy_from_slice(self.skip(width)?);
        usize::try_from(u64::from_le_bytes(out)).ok()
    }

    fn some(&mut self, index: usize, count: usize, width: usize) -> Option<usize> {
        let edge = index < EACH || index + EACH >= count;
        if edge { self.field(width) } else { self.plain(width) }
    }

    fn gguf(&mut self) -> Option<()> {
        self.skip(4)?;
        let wide = if self.field(4)? == 1 { 4 } else { 8 };
        let (tensors, keys) = (self.field(wide)?, self.field(wide)?);
        for _ in 0..keys {
            let len = self.field(wide)?;
            self.skip(len)?;
            match self.field(4)? {
                9 => {
                    let (kind, n) = (self.field(4)?, self.field(wide)?);
                    for i in 0..n {
                        self.value(kind, i, n, wide)?;
                    }
                }
                kind => self.value(kind, 0, 1, wide)?,
            }
        }
        for i in 0..tensors {
            let len = self.some(i, tensors, wide)?;
            self.skip(len)?;
            for _ in 0..self.some(i, tensors, 4)? {
                self.some(i, tensors, wide)?;
            }
            self.some(i, tensors, 4)?;
            self.some(i, tensors, 8)?;
        }
        Some(())
    }

    fn value(&mut self, kind: usize, index: usize, count: usize, wide: usize) -> Option<()> {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            10..=12 => 8,
            8 => {
                let len = self.some(index, count, wide)?;
                return self.skip(len).map(|_| ());
            }
            _ => 4,
        };
        self.some(index, count, width).map(|_| ())
    }

    /// ggml, ggmf and ggjt of LLaMA.
    fn stream(&mut self, version: bool, scores: bool, align: usize) -> Option<()> {
        self.skip(4)?;
        if version {
            self.field(4)?;
        }
        let vocab = self.field(4)?;
        for _ in 0..6 {
            self.field(4)?;
        }
        for i in 0..vocab {
            let len = self.some(i, vocab, 4)?;
            self.skip(len)?;
            if scores {
                self.some(i, vocab, 4)?;
            }
        }
        // Only the first records: how long the data of one is, its type says, and types changed.
        let dims = self.field(4)?;
        let len = self.field(4)?;
        self.field(4)?;
        for _ in 0..dims {
            self.field(4)?;
        }
        self.skip(len)?;
        self.at = self.at.next_multiple_of(align);
        Some(())
    }

    /// Any other family's container: the words at its beginning, and those around the names of tensors.
    fn around(&mut self, names: &[String]) -> Option<()> {
        for _ in 0..HEADER {
            self.field(4)?;
        }
        self.at = 0;
        for (i, name) in names.iter().enumerate() {
            let found =
                self.bytes[self.at..].windows(name.len()).position(|w| w == name.as_bytes());
            let (begin, edge) = (self.at + found?, i < EACH || i + EACH >= names.len());
            self.at = begin + name.len();
            // Dimensions, lengths and types are before the name, in ChatGLM's records also after it.
            let before = (1..=6).map(|n| begin - 4 * n);
            let after = (0..4).map(|n| self.at + 4 * n);
            let words = before.chain(after).filter(|at| edge && at + 4 <= self.bytes.len());
            self.fields.extend(words.map(|at| Field { at, width: 4 }));
        }
        self.at = 4 * HEADER;
        self.data();
        Some(())
    }

    /// Some words of the data: scales and weights.
    fn data(&mut self) {
        let step = (self.bytes.len().saturating_sub(self.at) / 16).max(8);
        for at in (self.at..self.bytes.len().saturating_sub(8)).step_by(step) {
            self.fields.insert(Field { at, width: 4 });
        }
    }
}

/// The fields of a file; none where its format is no model's or the walk gets lost in it. The names of its tensors
/// are given where its container is none of LLaMA's.
pub fn of(bytes: &[u8], names: Option<&[String]>) -> Vec<Field> {
    let mut walk = Walk { bytes, at: 0, fields: BTreeSet::new() };
    let done = match bytes.get(..4).filter(|_| names.is_none()) {
        Some(b"GGUF") => walk.gguf(),
        Some(b"lmgg") => walk.stream(false, false, 1),
        Some(b"fmgg") => walk.stream(true, true, 1),
        Some(b"tjgg") => walk.stream(true, true, 32),
        _ => names.and_then(|names| walk.around(names)),
    };
    if done.is_none() {
        return Vec::new();
    }
    walk.fields.extend([Field { at: 0, width: 4 }]);
    walk.data();
    walk.fields.into_iter().collect()
}
