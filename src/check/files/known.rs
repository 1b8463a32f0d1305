//! Public digests of the original LLaMA-1 files and of the ggml files made from them.
//!
//! They come from every version of llama.cpp's `SHA256SUMS` (2023-03-20 to 2024-02-07) and from
//! Meta's `checklist.chk`; the table is `formats/known-weights.csv`. The dates say between which
//! commits the list carried a digest, so a quantized file is dated by recognising it.

use std::sync::LazyLock;

use super::digest::{Algorithm, Digest};

/// One published file.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name from the root of the llama.cpp repository, `models/7B/consolidated.00.pth`.
    pub path: &'static str,
    /// As 64 digits of lower case.
    sha256: &'static str,
    /// Of Meta's own files, whose list has it.
    md5: Option<&'static str>,
    /// The commit of llama.cpp that listed it first, and its day.
    first: (&'static str, &'static str),
    /// The last commit whose list has it.
    last: (&'static str, &'static str),
}

static TABLE: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let text = include_str!("../../../formats/known-weights.csv");
    text.lines().filter(|line| !line.starts_with('#')).skip(1).filter_map(parse).collect()
});

/// A line of the table; none where it has too few fields.
fn parse(line: &'static str) -> Option<Known> {
    let mut fields = line.split(',');
    let mut field = || fields.next();
    Some(Known {
        sha256: field()?,
        md5: field().filter(|md5| !md5.is_empty()),
        path: field()?,
        first: (field()?, field()?),
        last: (field()?, field()?),
    })
}

/// Every known file.
pub fn all() -> &'static [Known] {
    &TABLE
}

/// The known file with this digest.
pub fn find(digest: &Digest) -> Option<&'static Known> {
    let hex = digest.hex.as_str();
    all().iter().find(|known| match digest.algorithm {
        Algorithm::Sha256 => known.sha256 == hex,
        Algorithm::Md5 => known.md5 == Some(hex),
        _ => false,
    })
}

impl Known {
    /// Whether this file was part of Meta's release.
    pub fn is_original(&self) -> bool {
        self.path.ends_with(".pth")
            || self.path.ends_with("tokenizer.model")
            || (self.path.ends_with("params.json") && !self.path.contains("alpaca"))
    }

    /// What the file is and from when, in words.
    pub fn describe(&self) -> String {
        if self.is_original() {
            return format!("Meta's original LLaMA-1 file {}", self.path);
        }
        let name = self.path.strip_prefix("models/").unwrap_or(self.path);
        let (first, first_date) = self.first;
        let (last, last_date) = self.last;
        if first == last {
            format!("{name} as llama.cpp listed it on {first_date} ({first})")
        } else {
            format!(
                "{name} as llama.cpp listed it from {first_date} ({first}) to {last_date} ({last})"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let lines = include_str!("../../../formats/known-weights.csv").lines();
        let records = lines.filter(|l| !l.starts_with('#')).count() - 1;
        assert_eq!(all().len(), records);
        for known in all() {
            assert!(Digest::parse(known.sha256).is_some(), "{}", known.path);
            assert!(known.md5.is_none_or(|md5| Digest::parse(md5).is_some()), "{}", known.path);
            assert_eq!(known.first.1.len(), 10, "{}", known.path);
        }
    }

    #[test]
    fn originals_are_found_by_either_digest() {
        let md5 = Digest::parse("eeec4125e9c7560836b4873b6f8e3025").expect("a digest");
        let known = find(&md5).expect("the LLaMA-1 tokenizer");
        assert_eq!(known.path, "models/tokenizer.model");
        let sha256 = Digest::parse(known.sha256).expect("a digest");
        assert_eq!(find(&sha256), Some(known));
        assert!(known.describe().contains("original LLaMA-1"));
    }
}
