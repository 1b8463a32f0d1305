//! A tensor: its name, shape and type, and where its rows are. No weights are held.

use std::sync::Arc;

use super::kept::Kept;
use crate::{
    error::{Error, Result},
    quant::QuantType,
};

/// A tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape, outermost dimension first; the last is the row length in elements.
    pub shape: Vec<u64>,
    /// Whether the file gives this single number no dimensions; its shape is one 1.
    pub scalar: bool,
    /// The type of its rows, with its dialect.
    pub quant: QuantType,
    /// Whether the numbers in its bytes are big-endian.
    pub big_endian: bool,
    /// Where its bytes lie.
    pub pieces: Vec<Piece>,
    /// How many rows of the shape are coded as one. More than one only where super-blocks cross rows,
    /// as in the `output.weight` of some files of June 2023; [`Tensor::rows`], [`Tensor::row_len`] and
    /// all reading then speak of the longer rows.
    pub fold: u64,
    /// Its bytes where only the places of the data tell them, as for types of other programs. Rows are
    /// then stretches of bytes, which can be copied and nothing else.
    pub span: Option<u64>,
    /// How the pieces form the whole.
    pub join: Join,
    /// Permutations of the stored rows, applied first to last.
    pub orders: Vec<Order>,
    /// What it is the sum of, where its rows are made while they are read; its pieces then only say where
    /// the first term lies.
    pub sum: Option<Arc<Sum>>,
}

/// What a tensor is the sum of; [`super::sum`] makes its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    /// What is stored of it.
    pub base: Tensor,
    /// What is added, first to last, each time rounded to f32.
    pub terms: Vec<Term>,
}

/// What is added to the rows of a tensor.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Term {
    /// `scale * B A`, by an adapter.
    Product {
        /// [r, in].
        a: Tensor,
        /// [out, r].
        b: Tensor,
        /// What the product is multiplied with.
        scale: f32,
        /// `a`, while rows are made.
        kept: Kept,
    },
    /// The rows of another tensor, and beyond its last row always the same one.
    Rows {
        /// The other tensor.
        tensor: Tensor,
        /// What is added to each row that it does not have; empty for nothing.
        beyond: Arc<[f32]>,
    },
    /// Nothing: in place of the base's rows are its columns, band by band, as only decoded blocks can be turned.
    Turned {
        /// Rows of the base in a band, which are its columns then.
        rows: u64,
        /// Rows of the base from one band to the next.
        step: u64,
        /// What is below each band when it is turned: a tensor, and how many of its rows.
        below: Option<(Tensor, u64)>,
    },
}

/// A part of a tensor in one file.
///
/// ```text
/// at                row_bytes      row_stride - row_bytes: what belongs to others
/// [ row 0          ]..............[ row 1          ]..............[ row 2 ..
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index in `Model::files`.
    pub file: usize,
    /// Offset of its first row in that file.
    pub at: u64,
    /// Number of rows here.
    pub rows: u64,
    /// Bytes of one row here.
    pub row_bytes: u64,
    /// Bytes from the start of one row to the next; equal to `row_bytes` where rows are adjacent.
    pub row_stride: u64,
    /// For elements that are not adjacent: bytes of one and bytes from one to the next.
    pub element: Option<(u8, u64)>,
}

/// How pieces form a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Join {
    /// One below the other: the rows of the first, then those of the second.
    Rows,
    /// Side by side: each row is made of one row of every piece.
    Columns,
}

/// A permutation of rows inside each head, between the two layouts of rotary embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Stored in halves (Hugging Face), wanted in pairs (Meta, ggml): row `2i + j` of a head is the
    /// stored row `j * rows_per_head / 2 + i`.
    PairsFromHalves {
        /// Rows of one head.
        rows_per_head: u64,
    },
    /// Stored in pairs, wanted in halves.
    HalvesFromPairs {
        /// Rows of one head.
        rows_per_head: u64,
    },
}

impl Order {
    /// The row that is at `row` after this permutation, as it was numbered before.
    pub fn source(self, row: u64) -> u64 {
        match self {
            Order::PairsFromHalves { rows_per_head: n } => {
                let (head, r) = (row / n, row % n);
                head * n + (r % 2) * (n / 2) + r / 2
            }
            Order::HalvesFromPairs { rows_per_head: n } => {
                let (head, r) = (row / n, row % n);
                head * n + (r % (n / 2)) * 2 + r / (n / 2)
            }
        }
    }
}

impl Tensor {
    /// A tensor whose bytes are in one piece at `at` of file `file`.
    ///
    /// `None` where the row length does not fit the type or the size overflows.
    pub fn whole(
        name: String,
        shape: Vec<u64>,
        quant: QuantType,
        file: usize,
        at: u64,
    ) -> Option<Tensor> {
        let row_bytes = quant.row_bytes(*shape.last()?)?;
        let rows = shape.iter().rev().skip(1).try_fold(1u64, |n, d| n.checked_mul(*d))?;
        at.checked_add(rows.checked_mul(row_bytes)?)?;
        let piece = Piece { file, at, rows, row_bytes, row_stride: row_bytes, element: None };
        Some(Tensor::of_piece(name, shape, quant, piece))
    }

    /// A tensor of one piece, its rows as they are stored.
    pub(crate) fn of_piece(
        name: String,
        shape: Vec<u64>,
        quant: QuantType,
        piece: Piece,
    ) -> Tensor {
        Tensor {
            name,
            shape,
            scalar: false,
            quant,
            big_endian: false,
            pieces: vec![piece],
            fold: 1,
            span: None,
            join: Join::Rows,
            orders: Vec::new(),
            sum: None,
        }
    }

    /// A tensor of `bytes` bytes at `at` of file `file`, of which no more than that is known.
    pub fn opaque(
        name: String,
        shape: Vec<u64>,
        quant: QuantType,
        (file, at): (usize, u64),
        bytes: u64,
    ) -> Tensor {
        let row_bytes = stretch(bytes);
        let rows = bytes.checked_div(row_bytes).unwrap_or(0);
        let piece = Piece { file, at, rows, row_bytes, row_stride: row_bytes, element: None };
        Tensor { span: Some(bytes), ..Tensor::of_piece(name, shape, quant, piece) }
    }

    /// As [`Tensor::whole`], for blocks that may cross rows: `fold` is the fewest rows that blocks fill.
    ///
    /// Rows of 3200 weights in blocks of 256: two rows fill 25 blocks, so that `fold` is 2.
    pub fn folded(
        name: String,
        shape: Vec<u64>,
        quant: QuantType,
        file: usize,
        at: u64,
    ) -> Option<Tensor> {
        let (row_len, elements) = (*shape.last()?, quant.layout().elements as u64);
        let fold = elements / common_divisor(row_len, elements);
        let rows: u64 = shape.iter().rev().skip(1).try_fold(1u64, |n, d| n.checked_mul(*d))?;
        if !rows.is_multiple_of(fold) {
            return None;
        }
        let long = vec![rows / fold, row_len.checked_mul(fold)?];
        Some(Tensor { shape, fold, ..Tensor::whole(name, long, quant, file, at)? })
    }

    /// The same matrix with its rows as columns; none where it is no matrix of plain numbers in one piece.
    /// Nothing is moved: the distance from row to row becomes the one from number to number.
    pub fn transposed(&self) -> Option<Tensor> {
        let [rows, columns] = *self.shape.as_slice() else { return None };
        let (layout, [piece]) = (self.quant.layout(), self.pieces.as_slice()) else { return None };
        let plain = layout.elements == 1 && self.orders.is_empty() && self.span.is_none();
        let width = u8::try_from(layout.bytes).ok().filter(|_| plain)?;
        let step = piece.element.map_or(u64::from(width), |(_, step)| step);
        // A column whose numbers are adjacent, as of a matrix with one column, needs no step from one to the next.
        let dense = piece.row_stride == u64::from(width);
        let piece = Piece {
            rows: columns,
            row_bytes: rows.checked_mul(width.into())?,
            row_stride: step,
            element: (!dense).then_some((width, piece.row_stride)),
            ..piece.clone()
        };
        Some(Tensor { shape: vec![columns, rows], pieces: vec![piece], ..self.clone() })
    }

    /// Elements of one row as it is coded.
    pub fn row_len(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1) * self.fold
    }

    /// Number of rows: the product of all dimensions but the last.
    pub fn rows(&self) -> u64 {
        if let Some(bytes) = self.span {
            return bytes.checked_div(stretch(bytes)).unwrap_or(0);
        }
        self.shape.iter().rev().skip(1).product::<u64>() / self.fold
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of one row, joined.
    pub fn row_bytes(&self) -> u64 {
        if let Some(bytes) = self.span {
            return stretch(bytes);
        }
        self.quant.row_bytes(self.row_len()).unwrap_or(0)
    }

    /// Bytes of the whole tensor.
    pub fn bytes(&self) -> u64 {
        self.rows() * self.row_bytes()
    }

    /// The bytes that it should have, where it is of another program's type and has others.
    pub fn misfit(&self) -> Option<u64> {
        let (foreign, bytes) = (self.quant.stranger()?, self.span?);
        let rows = self.shape.iter().rev().skip(1).product::<u64>();
        let wanted = foreign.size(rows, *self.shape.last()?)?;
        // What follows may be padding.
        (!(wanted..wanted.saturating_add(PADDING)).contains(&bytes)).then_some(wanted)
    }

    /// The same with the scale of the whole tensor, which is behind its rows, read before each of them: so it
    /// can be decoded. None where it is no such tensor, or not of the size that it should have.
    pub fn with_scale(&self) -> Option<Tensor> {
        let (name, dialect) = self.quant.stranger()?.rows.split_once('/')?;
        let quant = QuantType::find(name, dialect)?;
        let whole = self.misfit().is_none().then(|| self.pieces.first()).flatten()?;
        let (front, row_bytes) =
            (quant.layout().front as u64, quant.row_bytes(*self.shape.last()?)?);
        let rows = self.shape.iter().rev().skip(1).product::<u64>();
        let stored = row_bytes - front;
        let piece = |at: u64, row_bytes: u64, row_stride: u64| Piece {
            at,
            rows,
            row_bytes,
            row_stride,
            ..whole.clone()
        };
        // From one row to the next it is 0 bytes: the same scale before each of them.
        let scale = piece(whole.at + rows * stored, front, 0);
        Some(Tensor {
            quant,
            span: None,
            join: Join::Columns,
            pieces: vec![scale, piece(whole.at, stored, stored)],
            ..self.clone()
        })
    }

    /// What is wrong with it, where its rows are no whole blocks and the program that wrote it tears them.
    pub fn torn(&self) -> Option<&'static str> {
        let foreign = self.quant.stranger().filter(|foreign| !foreign.torn.is_empty())?;
        let torn = self.misfit().is_none() && self.with_scale().is_none();
        torn.then_some(foreign.torn.as_str())
    }

    /// Whether its weights can be had.
    pub fn is_decodable(&self) -> bool {
        self.quant.stranger().is_none() || self.with_scale().is_some()
    }

    /// Checks that it can be decoded: types of other programs are only named and copied.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where it cannot.
    pub fn check_decodable(&self) -> Result<()> {
        if self.quant.stranger().is_none() {
            return Ok(());
        }
        let what = format!("{} is {}, which is not decoded here", self.name, self.quant);
        let next = "inspect, verify, upgrade and quantize … COPY take such files; convert it with that program";
        Err(Error::unsupported(what, next))
    }

    /// The type in which it is stored; of a sum that of what others are added to.
    pub fn stored(&self) -> QuantType {
        self.sum.as_ref().map_or(self.quant, |sum| sum.base.quant)
    }

    /// Whether its numbers are f32.
    pub fn is_f32(&self) -> bool {
        self.quant.name() == "f32"
    }

    /// Number of dimensions as a file writes them.
    pub fn dims(&self) -> usize {
        self.shape.len()
    }

    /// File and offset where all its bytes are in a row and in order, if they do. Byte order is not
    /// looked at.
    pub fn contiguous(&self) -> Option<(usize, u64)> {
        let [piece] = self.pieces.as_slice() else { return None };
        (self.sum.is_none() && self.orders.is_empty() && piece.is_dense())
            .then_some((piece.file, piece.at))
    }

    /// Whether its bytes are in another order in their files.
    pub fn is_moved(&self) -> bool {
        let side_by_side = self.join == Join::Columns && self.rows() > 1 && self.pieces.len() > 1;
        let back = |before: &Piece, next: &Piece| (next.file, next.at) < (before.file, before.at);
        let mut pairs = self.pieces.iter().zip(self.pieces.iter().skip(1));
        !self.orders.is_empty()
            || side_by_side
            || self.pieces.iter().any(|piece| piece.element.is_some())
            || pairs.any(|(before, next)| back(before, next))
    }

    /// The stored row that is at `row` after all permutations.
    pub fn stored_row(&self, row: u64) -> u64 {
        self.orders.iter().rev().fold(row, |row, order| order.source(row))
    }
}

/// Bytes that padding may add to a tensor.
const PADDING: u64 = 32;

/// The length of the equal stretches that N bytes are read in: a power of two.
pub fn stretch(bytes: u64) -> u64 {
    1 << bytes.trailing_zeros().min(12)
}

/// The greatest number that divides both; `b` where `a` is zero.
fn common_divisor(a: u64, b: u64) -> u64 {
    if a == 0 { b } else { common_divisor(b % a, a) }
}

impl Piece {
    /// Whether its rows and elements are adjacent.
    pub fn is_dense(&self) -> bool {
        self.row_stride == self.row_bytes && self.element.is_none()
    }
}
