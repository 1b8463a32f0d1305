//! Stretches of zeros where weights should be: space that a download reserved and never filled.
//!
//! While a file is digested its zeros are noted ([`Zeros`]); afterwards [`check`] asks which of the
//! stretches no sound file has. Sound files hold zeros too: biases, rows of tokens that nobody uses, a
//! tensor that training began with zeros. What is told apart by is where a stretch begins and ends:
//! those end where a tensor or a row does, a hole goes on into the next tensor, to the end of the file,
//! or begins and ends where pages of memory do.
//!
//! ```text
//! | tensor A       | tensor B       | tensor C       |
//!       000000000000000                                across: no sound tensor stops being zero in the next
//!                                    0000              rows of B or C: bias, unused tokens, pruned rows
//!                             000000000000000000000000 to the end: the download stopped
//!    0000000                                           from page to page of 4096 bytes, and not whole rows
//! ```

use std::path::Path;

use crate::check::Finding;
use crate::model::{Model, Piece, Tensor};

/// Zeros are looked for in pieces of this size; digests read multiples of it.
const PIECE: usize = 2048;
/// Shorter stretches are nothing to remark.
const SHORTEST: u64 = 4096;
/// Stretches that are kept; a file with more of them is pruned, not damaged.
const MOST: usize = 1 << 16;
/// What lies beside a hole may be zero by chance for N bytes.
const CHANCE: u64 = 16;
/// Programs reserve and fill files by pages.
const PAGE: u64 = 4096;
/// The longest norm that is read.
const LONGEST_NORM: u64 = 1 << 20;

/// The stretches of zeros in a file, found while its bytes go by.
#[derive(Debug, Default)]
pub(super) struct Zeros {
    /// Bytes that went by.
    at: u64,
    /// Zeros at the end of what was seen last.
    trailing: u64,
    /// Where the stretch began that is open.
    from: Option<u64>,
    /// Those that have ended: the first byte, and that behind the last.
    runs: Vec<(u64, u64)>,
}

impl Zeros {
    /// Takes the next bytes; all but the last must be a multiple of [`PIECE`] long.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let zeros = |bytes: &mut dyn Iterator<Item = &u8>| bytes.take_while(|b| **b == 0).count();
        for piece in bytes.chunks(PIECE) {
            if piece.iter().all(|byte| *byte == 0) {
                // The stretch began at the zeros that the piece before ended with.
                self.from.get_or_insert(self.at - self.trailing);
            } else {
                // It ends at the first byte of this piece that is none, so stretches are told to the byte, looking at
                // pieces.
                self.end(self.at + zeros(&mut piece.iter()) as u64);
                self.trailing = zeros(&mut piece.iter().rev()) as u64;
            }
            self.at += piece.len() as u64;
        }
    }

    /// Ends the stretch that is open, and keeps it where it is long enough.
    fn end(&mut self, at: u64) {
        let Some(from) = self.from.take() else { return };
        if at - from >= SHORTEST && self.runs.len() < MOST {
            self.runs.push((from, at));
        }
    }

    /// The stretches, from where to where.
    pub(super) fn finish(mut self) -> Vec<(u64, u64)> {
        self.end(self.at);
        self.runs
    }
}

/// What a stretch of zeros covers of one tensor.
struct Covered<'a> {
    tensor: &'a Tensor,
    /// Whether it begins and ends with the tensor or with rows of it, give or take what is zero by chance.
    whole_rows: bool,
    /// Whether it covers all of it.
    whole: bool,
    /// Which part of the tensor it covers.
    share: f64,
    /// Whether it begins and ends at pages and is longer than a row.
    pages: bool,
}

impl Covered<'_> {
    fn is_matrix(&self) -> bool {
        self.tensor.dims() > 1
    }

    /// Whether rows of zeros are what tokens that nobody uses leave.
    fn is_unused_tokens(&self) -> bool {
        let name = self.tensor.name.as_str();
        let vocabulary = ["embd", "embed", "wte", "lm_head"];
        let named = vocabulary.iter().any(|part| name.contains(part));
        let is_vocabulary = named || name == "output.weight";
        is_vocabulary && self.whole_rows && self.share < 0.25
    }
}

/// The holes of one file of a model, by the stretches of zeros in it.
pub(super) fn check(path: &Path, model: &Model, runs: &[(u64, u64)]) -> Vec<Finding> {
    let mut extents = extents(path, model);
    extents.sort_by_key(|(from, to, _)| (*from, *to));
    let Some(end) = extents.iter().map(|(_, to, _)| *to).max() else { return Vec::new() };
    let covers = |run: &(u64, u64)| {
        // Sorted by their beginnings and not over each other: the first that ends behind the beginning of the
        // stretch.
        let from = extents.partition_point(|(_, to, _)| *to <= run.0);
        let after = extents.get(from..).unwrap_or_default();
        let touched: Vec<Covered> =
            after.iter().take_while(|e| e.0 < run.1).map(|e| covered(*e, *run)).collect();
        touched
    };
    let all: Vec<((u64, u64), Vec<Covered>)> = runs.iter().map(|run| (*run, covers(run))).collect();
    let matrices = extents.iter().filter(|(_, _, tensor)| tensor.dims() > 1).count();
    let zero = all.iter().flat_map(|(_, c)| c).filter(|c| c.is_matrix() && c.whole).count();
    if matrices > 1 && zero == matrices {
        let message = "every matrix is zero: whatever wrote this file did not work";
        return vec![Finding::failure("all-zero", message)];
    }
    let mut findings = Vec::new();
    let mut holes = Vec::new();
    for (run, covered) in &all {
        if let Some(finding) = judge(*run, covered, end) {
            findings.push(finding);
            holes.push(*run);
        }
    }
    findings.extend(norms(path, model, &holes));
    findings
}

/// Where the tensors of a file lie, but for those whose rows are strewn over it.
fn extents<'a>(path: &Path, model: &'a Model) -> Vec<(u64, u64, &'a Tensor)> {
    let here = |piece: &Piece| {
        let file = model.files.get(piece.file);
        file.is_some_and(|file| file.path() == path && file.is_on_disk())
    };
    let dense = model.tensors.iter().filter(|t| t.pieces.iter().all(Piece::is_dense));
    let of = |tensor: &'a Tensor| {
        let pieces = tensor.pieces.iter().filter(|piece| here(piece));
        pieces.map(move |p| (p.at, p.at + p.rows.saturating_mul(p.row_bytes), tensor))
    };
    dense.flat_map(of).filter(|(from, to, _)| from < to).collect()
}

/// How a stretch of zeros lies on one tensor.
fn covered<'a>((from, to, tensor): (u64, u64, &'a Tensor), run: (u64, u64)) -> Covered<'a> {
    let (begin, end) = (run.0.max(from), run.1.min(to));
    let row = tensor.pieces.first().map_or(1, |p| p.row_bytes).max(1);
    // Chance adds zeros before and after, never takes some away.
    // A stretch of zeros may begin up to 16 bytes before a row does, and end up to 16 bytes after it.
    let begins_row = (begin - from).next_multiple_of(row) - (begin - from) <= CHANCE;
    let ends_row = (end - from) % row <= CHANCE;
    let begins_page = run.0.next_multiple_of(PAGE) - run.0 <= CHANCE;
    let ends_page = run.1 % PAGE <= CHANCE;
    Covered {
        tensor,
        whole_rows: begins_row && ends_row,
        whole: begin == from && end == to,
        share: (end - begin) as f64 / (to - from) as f64,
        pages: begins_page && ends_page && end - begin > row + 3 * PAGE,
    }
}

/// What a stretch of zeros is; none where a sound file may have it.
fn judge((from, to): (u64, u64), covered: &[Covered], end: u64) -> Option<Finding> {
    let first = covered.first()?;
    let counted = || covered.iter().filter(|c| c.is_matrix() && !c.is_unused_tokens());
    // A tensor that is zero from end to end may have been trained so; two neighbours in one stretch were not, nor was
    // the rest of one from some place on.
    let partly = counted().any(|c| !c.whole);
    let across = counted().count() > 1 || partly && covered.len() > 1;
    let at_end = partly && to >= end;
    let pages = covered.len() == 1 && first.is_matrix() && first.pages && !first.whole_rows;
    let more = match covered.len() - 1 {
        0 => String::new(),
        1 => " and the tensor after it".to_owned(),
        n => format!(" and {n} tensors after it"),
    };
    let (bytes, name) = (to - from, &first.tensor.name);
    if to >= end && (across || at_end) {
        let message = format!(
            "the download stopped at {from:#x}: from there to the end of the file are {bytes} bytes of zeros, \
             over {name}{more}, space that was reserved and never filled: resume or download it again"
        );
        return Some(Finding::failure("hole", message));
    }
    (across || pages).then(|| {
        let message = format!(
            "a hole: zeros from {from:#x} to {to:#x}, {bytes} bytes over {name}{more}: a piece of the download \
             never arrived: let the program that downloaded it check and complete it"
        );
        Finding::failure("hole", message)
    })
}

/// Norms of nothing but zeros: whatever passes one is lost. Raw weights may have them where a family
/// adds one to every norm; those in `holes` are told of already.
fn norms(path: &Path, model: &Model, holes: &[(u64, u64)]) -> Vec<Finding> {
    let raw = model.header.is_empty() && model.metadata.is_empty();
    let is_norm = |t: &Tensor| t.dims() == 1 && t.name.ends_with("norm.weight");
    let is_zero = |from: u64, to: u64| {
        let input = model.files.iter().find(|file| file.path() == path)?;
        let mut bytes = vec![0; usize::try_from(to - from).ok()?];
        input.read_at(from, &mut bytes).ok()?;
        bytes.iter().all(|byte| *byte == 0).then_some(())
    };
    let mut findings = Vec::new();
    for (from, to, tensor) in extents(path, model) {
        let told = holes.iter().any(|hole| hole.0 <= from && to <= hole.1);
        if told || !is_norm(tensor) || to - from > LONGEST_NORM || is_zero(from, to).is_none() {
            continue;
        }
        let message = format!(
            "a norm of nothing but zeros at {from:#x}: no model works with that, a piece of the file never arrived"
        );
        let finding = if raw {
            Finding::warning("zero-norm", "a norm of nothing but zeros")
        } else {
            Finding::failure("zero-norm", message)
        };
        findings.push(finding.about(&tensor.name));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(bytes: &[u8], step: usize) -> Vec<(u64, u64)> {
        let mut zeros = Zeros::default();
        bytes.chunks(step).for_each(|piece| zeros.take(piece));
        zeros.finish()
    }

    #[test]
    fn stretches_are_found_to_the_byte() {
        let mut bytes = vec![7; 50_000];
        bytes[3..5000].fill(0);
        bytes[10_001..18_200].fill(0);
        bytes[20_000..24_000].fill(0);
        bytes[40_000..].fill(0);
        for step in [PIECE, 4 * PIECE, 1 << 20] {
            assert_eq!(runs(&bytes, step), [(3, 5000), (10_001, 18_200), (40_000, 50_000)]);
        }
        assert_eq!(runs(&[], PIECE), []);
    }
}
