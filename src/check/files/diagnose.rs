//! Why a file is not what it should be, from most to least certain.
//!
//! | asked in this order | because |
//! |---|---|
//! | `evident`: empty, an HTML page, an LFS pointer, zeros, a wrong size, an unfinished download | it needs no digest |
//! | `wrong-part`: the digest is that of another file of the list | parts were saved under each other's names |
//! | `stale-list`: another list agrees with the file | records contradict each other |
//! | the published digests of LLaMA 1 | they are certain, of whatever date the list is |
//! | a failure in its structure | the damage is seen |
//! | `line-ends` | a copy in text mode explains all of it |
//! | `stale-list`: the file is newer than the list and whole | it may have been replaced since |

use std::fs;
use std::io;
use std::path::Path;

use super::digest::{Algorithm, Digest, of_bytes};
use super::download::{Claim, Implied, Nature, implied_size, prefix, unfinished, written};
use super::gather::GIVEN;
use super::known;
use crate::check::{Finding, Severity};
use crate::container::has_magic;

/// Text files up to this size are tried with the other kind of line end.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Faults that show without any digest: no model at all, cut short, not finished.
///
/// The first that is found is all that is told: a page of HTML is also of a wrong size, and that helps nobody.
pub(super) fn evident(path: &Path, size: u64, claims: &[Claim]) -> Option<Finding> {
    if let Some(nature) = prefix(path).ok().and_then(|bytes| Nature::of(&bytes, size)) {
        let code = match nature {
            Nature::Empty => "empty",
            Nature::Html => "html-page",
            Nature::XmlError(_) | Nature::Refusal(_) => "server-refusal",
            Nature::Pointer(_) => "lfs-pointer",
            Nature::Zeros => "never-filled",
        };
        return Some(Finding::failure(code, format!("{}: {}", nature.noun(), nature.remedy())));
    }
    let claimed = claims.iter().find_map(|claim| Some((claim.size?, claim.by.clone())));
    // Where no claim gives a size: headers of safetensors and end records of zip archives say how long a file is.
    let own = || match implied_size(path)? {
        Implied::Bytes(wanted) => Some((wanted, "its own header".to_owned())),
        Implied::NoZipEnd => None,
    };
    if let Some((wanted, by)) = claimed.or_else(own).filter(|(wanted, _)| *wanted != size) {
        return Some(wrong_size(size, wanted, &by));
    }
    if let Some(record) = unfinished(path) {
        let message = format!("the download has not finished ({}): resume it", record.display());
        return Some(Finding::failure("unfinished", message));
    }
    (implied_size(path) == Some(Implied::NoZipEnd)).then(|| {
        let message = "truncated: the end record of its zip archive is missing: download it again";
        Finding::failure("truncated", message)
    })
}

/// A file that is shorter than `by` says was cut; one that is longer has something behind it.
fn wrong_size(size: u64, wanted: u64, by: &str) -> Finding {
    if size < wanted {
        let message = format!(
            "truncated by {} bytes: it has {size} of the {wanted} that {by} gives: resume or \
             download it again",
            wanted - size
        );
        return Finding::failure("truncated", message);
    }
    let message = format!(
        "{} bytes too many: it has {size}, {by} gives {wanted}: something was appended, as a resumed \
         download does: download it again",
        size - wanted
    );
    Finding::failure("too-long", message)
}

/// Everything known when a digest does not match.
pub(super) struct Mismatch<'a> {
    pub(super) path: &'a Path,
    pub(super) size: u64,
    /// The claim that failed.
    pub(super) claim: &'a Claim,
    /// All claims about the file.
    pub(super) claims: &'a [Claim],
    /// What the file digests to.
    pub(super) found: &'a [Digest],
    /// What lists give to every name.
    pub(super) listed: &'a [(Digest, String)],
    /// What the check of its structure found.
    pub(super) structure: &'a [Finding],
}

impl Mismatch<'_> {
    /// The reason, as far as the evidence goes.
    ///
    /// The order is that of the module's table: what is certain comes before what is only likely, so that a stale
    /// list is never blamed for a file that is visibly broken.
    pub(super) fn explain(&self) -> Finding {
        evident(self.path, self.size, self.claims)
            .or_else(|| self.other_part())
            .or_else(|| self.contradicted())
            .or_else(|| self.known_otherwise())
            .or_else(|| self.damage().cloned())
            .or_else(|| self.line_ends().ok().flatten())
            .or_else(|| self.stale())
            .unwrap_or_else(|| self.plain())
    }

    /// The bytes are those of another file of the list: parts saved under each other's names.
    fn other_part(&self) -> Option<Finding> {
        // A file of the same name in another folder of the list is a copy, not another part.
        let own = self.path.file_name()?.to_string_lossy();
        let (_, name) = self
            .listed
            .iter()
            .find(|(digest, name)| self.found.contains(digest) && !name.ends_with(&*own))?;
        let message = format!("wrong part: these are the bytes of {name}: rename the files");
        Some(Finding::failure("wrong-part", message))
    }

    /// One list says no, another yes: the list is wrong, not the file.
    fn contradicted(&self) -> Option<Finding> {
        let agrees = self.claims.iter().find(|claim| self.found.contains(&claim.digest))?;
        let verdict = match self.claim.by == GIVEN {
            true => "it is the file of the latter, not that of the digest given",
            false => "the former is stale or wrong, the file is good",
        };
        let (by, agrees) = (&self.claim.by, &agrees.by);
        let message = format!("{by} does not match, but {agrees} does: {verdict}");
        Some(Finding::failure("stale-list", message))
    }

    /// The bytes are published ones, under another name or of another date.
    ///
    /// Meta's weights are known by their digests; where the list means the same file of another date, the list is old.
    fn known_otherwise(&self) -> Option<Finding> {
        let known = self.found.iter().find_map(known::find)?;
        if let Some(listed) = known::find(&self.claim.digest).filter(|l| l.path == known.path) {
            let message = format!(
                "stale list: the file is {}, the list means {}",
                known.describe(),
                listed.describe()
            );
            return Some(Finding::failure("stale-list", message));
        }
        let message = format!("another file: these are the bytes of {}", known.describe());
        Some(Finding::failure("wrong-part", message))
    }

    /// A small text file whose line ends were converted on the way.
    ///
    /// ```text
    /// a file            {\r\n  "dim": 4096\r\n}
    /// with line feeds   {\n  "dim": 4096\n}          has the digest that the list gives
    /// ```
    fn line_ends(&self) -> io::Result<Option<Finding>> {
        if self.size > MAX_TEXT_BYTES {
            return Ok(None);
        }
        let bytes = fs::read(self.path)?;
        // Both ways at once: what it would be with line feeds, and with a carriage return before each.
        let mut unix = Vec::with_capacity(bytes.len());
        let mut windows = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        for (i, &byte) in bytes.iter().enumerate() {
            if byte == b'\r' && bytes.get(i + 1) == Some(&b'\n') {
                continue;
            }
            if byte == b'\n' {
                windows.push(b'\r');
            }
            unix.push(byte);
            windows.push(byte);
        }
        let wanted = &self.claim.digest;
        let matches = |bytes: &[u8]| of_bytes(wanted.algorithm, bytes) == *wanted;
        let message = if matches(&unix) {
            "its line ends were converted to CRLF: copy it in binary mode"
        } else if matches(&windows) {
            "its line ends were converted from CRLF: copy it in binary mode"
        } else {
            return Ok(None);
        };
        Ok(Some(Finding::failure("line-ends", message)))
    }

    /// What is visibly broken inside.
    fn damage(&self) -> Option<&Finding> {
        self.structure.iter().find(|finding| finding.severity == Severity::Failure)
    }

    /// The file is whole and newer than the list.
    ///
    /// A copy may keep the time of its original or not, so this is the last that is tried, and it leaves both open.
    fn stale(&self) -> Option<Finding> {
        let list = self.claim.record.as_deref()?;
        let older = written(list)? < written(self.path)?;
        older.then(|| {
            let message = format!(
                "{} does not match; the file was written after it and nothing is wrong with its \
                 structure: either the list is stale or bytes were altered: get a fresh list",
                self.claim.by
            );
            Finding::failure("stale-list", message)
        })
    }

    /// Nothing explains it: both digests are told, and whether the size speaks for altered bytes.
    fn plain(&self) -> Finding {
        let Digest { algorithm, hex } = &self.claim.digest;
        let found = self.found.iter().find(|d| d.algorithm == *algorithm);
        let found = found.map_or("nothing", |d| d.hex.as_str());
        let same_size = self.claims.iter().any(|c| c.size == Some(self.size));
        let hint = if same_size
            || implied_size(self.path).is_some()
            || has_magic(self.path).unwrap_or(false)
        {
            "the size is right, so bytes were altered on the way"
        } else {
            "bytes were altered or are missing"
        };
        let message = format!(
            "{algorithm} is {found}, {} gives {hex}; {hint}: download it again",
            self.claim.by
        );
        Finding::failure("altered", message)
    }
}

/// Which algorithms a file has to be read for: what is claimed, or SHA-256 to recognise it.
/// Each once, so that one reading serves all claims.
pub(super) fn algorithms(claims: &[Claim]) -> Vec<Algorithm> {
    let mut wanted: Vec<Algorithm> = claims.iter().map(|claim| claim.digest.algorithm).collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        wanted.push(Algorithm::Sha256);
    }
    wanted
}
