//! Tensors of Hugging Face whose parts GGUF has apart, with rows that alternate or are the other way round: woven
//! together again, a group at a time.
//!
//! ```text
//! parts of a group   a: rows of GGUF's first tensor, b: rows of its second
//! in bands           [a a a b b]          alternating   [a b a b a b]
//! turned             the columns of that are the rows
//! ```

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
}

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
        let mut wide = None;
        let mut strands = Vec::new();
        for (part, number) in cut.into.iter().zip(tensors) {
            let tensor = model.tensors.get(*number)?;
            let rows = sizes.get(&part.rows).filter(|rows| *rows > 0)?;
            let columns = tensor.elements().checked_div(groups)?.checked_div(rows)?;
            let (first, last) = (tensor.rows().checked_div(groups)?, tensor.row_len());
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
        let even = !cut.alternate || strands.iter().all(|strand| strand.rows == each);
        let columns = usize::try_from(columns).ok()?;
        let (alternate, turned) = (cut.alternate, cut.turned);
        let whole = strands.len() == cut.into.len() && even;
        whole.then_some(Weave {
            groups,
            shape,
            to,
            at,
            encode,
            strands,
            columns,
            alternate,
            turned,
        })
    }

    /// Bytes of a group.
    pub fn group_bytes(&self) -> u64 {
        let numbers = self.shape.iter().product::<u64>() / self.groups.max(1);
        numbers * self.to.layout().bytes as u64
    }

    /// The bytes of a group; numbers that are none are refused unless they are kept.
    ///
    /// # Errors
    /// Where the model cannot be read, or a number is infinite or none.
    pub fn group(&self, model: &Model, group: u64, keep_nan: bool) -> Result<Vec<u8>> {
        let width = self.to.layout().bytes;
        let all: usize = self.strands.iter().map(|strand| strand.rows).sum();
        let mut woven = vec![0; all * self.columns * width];
        let mut first = 0;
        for strand in &self.strands {
            let made = self.strand(*strand, model, group, keep_nan)?;
            let step = if self.alternate { self.strands.len() } else { 1 };
            let place = |row: usize, column: usize| match self.turned {
                true => column * all + first + row * step,
                false => (first + row * step) * self.columns + column,
            };
            for (i, number) in made.chunks_exact(width).enumerate() {
                let (row, column) = match strand.turned {
                    true => (i % strand.rows, i / strand.rows),
                    false => (i / self.columns, i % self.columns),
                };
                let at = place(row, column) * width;
                if let Some(out) = woven.get_mut(at..at + width) {
                    out.copy_from_slice(number);
                }
            }
            first += if self.alternate { 1 } else { strand.rows };
        }
        Ok(woven)
    }

    /// The numbers of a part of a group, as they are in the model, in the type that is written.
    fn strand(&self, strand: Strand, model: &Model, group: u64, keep_nan: bool) -> Result<Vec<u8>> {
        let large =
            |_| Error::unsupported("a matrix is larger than memory", "use a 64-bit machine");
        let size = |n: u64| usize::try_from(n).map_err(large);
        let Some(tensor) = model.tensors.get(strand.tensor) else { return Ok(Vec::new()) };
        let rows = tensor.rows() / self.groups.max(1);
        let mut raw = vec![0; size(rows * tensor.row_bytes())?];
        model.read_rows(tensor, group * rows, rows, &mut raw)?;
        let row_len = size(tensor.row_len())?;
        let mut numbers = vec![0.0; size(rows)? * row_len];
        decode_rows(tensor.quant, Isa::best(), &raw, row_len, &mut numbers);
        let mut made = vec![0; numbers.len() * self.to.layout().bytes];
        (self.encode)(Isa::best(), &numbers, row_len, None, &mut made);
        if !keep_nan {
            check_rows(tensor, (self.to, row_len), group * rows, &made, &numbers)?;
        }
        Ok(made)
    }
}
