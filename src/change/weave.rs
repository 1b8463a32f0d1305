//! Tensors of Hugging Face whose parts GGUF has apart, with rows that alternate or are the other way round: woven
//! together again, some rows of a group at a time.
//!
//! ```text
//! parts of a group   a: rows of GGUF's first tensor, b: rows of its second
//! in bands           [a a a b b]          alternating   [a b a b a b]
//! turned             the columns of that are the rows
//!
//! gpt-oss, gate_up_proj: a group for each expert, gate and up alternate, turned
//!
//! shape   vectors [groups, rows]      flat [groups * rows, columns]
//!         turned  [groups, columns, rows]   else [groups, rows, columns]      rows: of all strands together
//! ```

use std::ops::Range;

use super::recode::check_rows;
use crate::{
    error::{Error, Result},
    format::family::Cut,
    model::{Model, Sizes},
    quant::{QuantType, decode_rows, encode::EncodeRows, isa::Isa},
};

/// A tensor that is woven.
#[derive(Debug)]
pub struct Weave {
    /// The number of its groups.
    pub groups: u64,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The type of its numbers, one to a block.
    pub to: QuantType,
    /// Where it begins in the output.
    pub at: u64,
    encode: EncodeRows,
    strands: Vec<Strand>,
    columns: usize,
    alternate: bool,
    turned: bool,
    /// Whether rows of a part cannot be read without the others.
    whole: bool,
    /// How many rows are stored together.
    row_group: usize,
}

/// Rows of one part of a group, or of all that alternate.
#[derive(Debug)]
pub struct Piece {
    group: u64,
    strands: Range<usize>,
    rows: Range<usize>,
}

/// Numbers of a piece, about.
const PIECE: usize = 1 << 20;

/// A part of each group.
#[derive(Clone, Copy, Debug)]
struct Strand {
    /// The tensor of the model that it comes from.
    tensor: usize,
    /// Its rows in a group.
    rows: usize,
    /// Whether it is the other way round there.
    turned: bool,
}

impl Weave {
    /// The tensor that `cut` takes apart, of these tensors of `model`, in the order of its parts; none where they do not
    /// fit.
    pub fn new(
        cut: &Cut,
        sizes: &Sizes,
        model: &Model,
        tensors: &[usize],
        (to, encode): (QuantType, EncodeRows),
        at: u64,
    ) -> Option<Weave> {
        let groups = cut.groups.as_ref().map_or(Some(1), |symbol| sizes.get(symbol))?;
        let (mut wide, mut row_group) = (None, 1);
        let mut strands = Vec::new();
        for (part, number) in cut.into.iter().zip(tensors) {
            let tensor = model.tensors.get(*number)?;
            let rows = sizes.get(&part.rows).filter(|rows| *rows > 0)?;
            let columns = tensor.elements().checked_div(groups)?.checked_div(rows)?;
            let (first, last) = (tensor.rows().checked_div(groups)?, tensor.row_len());
            // A tensor of GGUF has as many rows a group as the part says, or as columns where it lies the other way
            // round.
            let upright = match part.turned {
                true => (first, last) == (columns, rows),
                false => cut.vectors && last == rows || (first, last) == (rows, columns),
            };
            let grouped = first.is_multiple_of(tensor.quant.row_group() as u64);
            let whole = tensor.elements() == groups.checked_mul(rows)?.checked_mul(columns)?;
            if !(upright && grouped && whole) || wide.is_some_and(|wide| wide != columns) {
                return None;
            }
            wide = Some(columns);
            row_group = row_group.max(tensor.quant.row_group());
            let rows = usize::try_from(rows).ok()?;
            strands.push(Strand { tensor: *number, rows, turned: part.turned });
        }
        let rows: u64 = strands.iter().map(|strand| strand.rows as u64).sum();
        let columns = wide?;
        let shape = match cut {
            Cut { vectors: true, .. } => vec![groups, rows],
            Cut { flat: true, .. } => vec![groups * rows, columns],
            Cut { turned: true, .. } => vec![groups, columns, rows],
            _ => vec![groups, rows, columns],
        };
        let each = strands.first()?.rows;
        // Rows can only take turns where each part has as many.
        let even = !cut.alternate || strands.iter().all(|strand| strand.rows == each);
        let columns = usize::try_from(columns).ok()?;
        let (alternate, turned) = (cut.alternate, cut.turned);
        // A turned part has a bit of every row in each of its own; a vector is one row of all.
        let whole = cut.vectors || strands.iter().any(|strand| strand.turned);
        let fits = strands.len() == cut.into.len() && even;
        fits.then_some(Weave {
            groups,
            shape,
            to,
            at,
            encode,
            strands,
            columns,
            alternate,
            turned,
            whole,
            row_group,
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.to.layout().bytes as u64
    }

    /// What is made and written at a time: a few megabytes of numbers, whatever a group holds.
    pub fn pieces(&self) -> Vec<Piece> {
        // Parts that alternate are made together; bands one after the other.
        let together = if self.alternate { self.strands.len() } else { 1 };
        let most =
            (PIECE / (self.columns * together).max(1)).max(1).next_multiple_of(self.row_group);
        let mut pieces = Vec::new();
        for group in 0..self.groups {
            for first in (0..self.strands.len()).step_by(together) {
                let rows = self.strands.get(first).map_or(0, |strand| strand.rows);
                let step = if self.whole { rows.max(1) } else { most };
                let ranges = (0..rows).step_by(step).map(|from| from..rows.min(from + step));
                let strands = first..first + together;
                pieces.extend(ranges.map(|rows| Piece { group, strands: strands.clone(), rows }));
            }
        }
        pieces
    }

    /// Makes a piece and gives its bytes, each run of them with its place in the tensor; numbers that are none are refused
    /// unless they are kept.
    ///
    /// # Errors
    /// Where the model cannot be read, a number is infinite or none, or `write` fails.
    pub fn piece(
        &self,
        model: &Model,
        piece: &Piece,
        keep_nan: bool,
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let width = self.to.layout().bytes;
        let step = piece.strands.len();
        // Of the rows of a group, those before the piece.
        let before: usize = match self.alternate {
            true => step * piece.rows.start,
            false => {
                let earlier = self.strands.iter().take(piece.strands.start);
                earlier.map(|strand| strand.rows).sum::<usize>() + piece.rows.start
            }
        };
        let rows = step * piece.rows.len();
        let mut woven = vec![0; rows * self.columns * width];
        for (first, number) in piece.strands.clone().enumerate() {
            let Some(strand) = self.strands.get(number) else { continue };
            let made = self.strand(*strand, model, piece, keep_nan)?;
            for (i, number) in made.chunks_exact(width).enumerate() {
                let (row, column) = match strand.turned {
                    true => (i % strand.rows, i / strand.rows),
                    false => (i / self.columns, i % self.columns),
                };
                // In bands step is 1 and the row stays; alternating, row r of part p is row r * parts + p.
                let row = first + row * step;
                let at = match self.turned {
                    true => column * rows + row,
                    false => row * self.columns + column,
                } * width;
                if let Some(out) = woven.get_mut(at..at + width) {
                    out.copy_from_slice(number);
                }
            }
        }
        let all: usize = self.strands.iter().map(|strand| strand.rows).sum();
        let group = piece.group * (all * self.columns * width) as u64;
        if !self.turned {
            return write(group + (before * self.columns * width) as u64, &woven);
        }
        // Of each column the rows of the piece.
        woven.chunks_exact((rows * width).max(1)).enumerate().try_for_each(|(column, run)| {
            write(group + ((column * all + before) * width) as u64, run)
        })
    }

    /// The numbers of a part of a piece, as they are in the model, in the type that is written.
    fn strand(
        &self,
        strand: Strand,
        model: &Model,
        piece: &Piece,
        keep_nan: bool,
    ) -> Result<Vec<u8>> {
        let large =
            |_| Error::unsupported("a matrix is larger than memory", "use a 64-bit machine");
        let size = |n: u64| usize::try_from(n).map_err(large);
        let Some(tensor) = model.tensors.get(strand.tensor) else { return Ok(Vec::new()) };
        let all = tensor.rows() / self.groups.max(1);
        let (from, rows) = match self.whole {
            true => (0, all),
            false => (piece.rows.start as u64, piece.rows.len() as u64),
        };
        let first = piece.group * all + from;
        let mut raw = vec![0; size(rows * tensor.row_bytes())?];
        model.read_rows(tensor, first, rows, &mut raw)?;
        let row_len = size(tensor.row_len())?;
        let mut numbers = vec![0.0; size(rows)? * row_len];
        decode_rows(tensor.quant, Isa::best(), &raw, row_len, &mut numbers);
        let mut made = vec![0; numbers.len() * self.to.layout().bytes];
        (self.encode)(Isa::best(), &numbers, row_len, None, &mut made);
        if !keep_nan {
            check_rows(tensor, (self.to, row_len), first, &made, &numbers)?;
        }
        Ok(made)
    }
}
