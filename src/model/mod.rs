//! What every format means: a model as metadata, a vocabulary and tensors, wherever its bytes lie.
//!
//! A [`Model`] owns its small parts and only points at its weights: each [`Tensor`] says in which
//! file, at which offset and in which order its rows are, so that a multi-part set, a sharded
//! checkpoint and a single file are read by the same lines.
//!
//! ```text
//! a tensor is read through      pieces    where bytes lie, in which file
//!                               join      rows of pieces one below the other, or columns side by side
//!                               orders    rows moved inside of heads
//!                               sum       rows of other tensors added
//!                               swap      big-endian numbers turned
//! ```

pub(crate) mod adapter;
pub(crate) mod difference;
pub(crate) mod family;
pub(crate) mod glob;
pub(crate) mod hyper;
pub(crate) mod kept;
pub mod loader;
pub(crate) mod lora;
pub(crate) mod metadata;
pub(crate) mod pretokenizer;
pub mod printable;
pub(crate) mod role;
pub(crate) mod rows;
pub(crate) mod scaling;
pub(crate) mod sizes;
pub mod spelling;
pub mod sum;
pub(crate) mod tensor;
pub(crate) mod texts;
pub(crate) mod value;
pub(crate) mod vocab;
pub mod weights;

pub use adapter::{Adapter, Pair};
pub use hyper::{Assumed, Hyper, Stated};
pub use metadata::Metadata;
pub use role::{FeedForward, Naming, Role};
pub use scaling::Scaling;
pub use sizes::Sizes;
pub use tensor::{Join, Order, Piece, Sum, Tensor, Term};
pub use texts::Texts;
pub use value::{Array, Kind, Value};
pub use vocab::{TokenKind, Vocab};

use crate::{
    bytes::Input,
    error::{Error, Result},
    limits::Limits,
    quant::QuantType,
    remedy::{Note, Notes, Setting},
};

/// What is read at once to put rows in order.
const ORDERED: usize = 64 << 20;

/// A model file, or a set of files that together are one model.
///
/// ```
/// # fn main() -> regguf::error::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/T/E4/ggml-model-q4_0.bin");
/// # if !std::path::Path::new(path).exists() { return Ok(()); }
/// let model = regguf::open(path)?;
/// assert_eq!((model.format.as_str(), model.family.as_str()), ("ggjt-v1-llama", "llama"));
/// // Header words keep their names; what they mean has GGUF's keys.
/// assert_eq!(model.header("n_layer"), Some(2));
/// assert_eq!(model.metadata.u64("llama.block_count"), Some(2));
/// let q = model.tensor("layers.0.attention.wq.weight").expect("every layer has one");
/// assert_eq!((q.shape.as_slice(), q.quant.to_string().as_str()), (&[64, 64][..], "q4_0/pairs-f32"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The id of the format it was read by, as `ggjt-v1-llama`, `gguf-v3`, `pth-zip`.
    pub format: String,
    /// The id of its family in `formats/family`, as `llama`; empty where none fits.
    pub family: String,
    /// The files that hold it, first part first.
    pub files: Vec<Input>,
    /// The header words of a ggml, ggmf or ggjt file under their original names, in file order.
    pub header: Vec<(String, i64)>,
    /// Metadata under GGUF's keys: all of it for GGUF, what the header says for older files.
    pub metadata: Metadata,
    /// The vocabulary, in GGUF's terms where its family has them; empty where the file stores none.
    pub vocab: Vocab,
    /// The vocabulary as the file stores it, where `vocab` has it in GGUF's terms: a tokenizer's own file is one record.
    pub records: Vocab,
    /// The tensors in file order, under the names that the file gives them.
    pub tensors: Vec<Tensor>,
    /// Where files go on after the end of their data; what is there, `container::tail` tells.
    pub tails: Vec<Tail>,
    /// What the reader noticed and a person should know, as sentences.
    pub notes: Notes,
    /// What its files were allowed to ask for; so may files that are read beside it, or made of it.
    pub limits: Limits,
}

/// Bytes of a file after the last byte that its model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Index in [`Model::files`].
    pub file: usize,
    /// Where the model ends and the tail begins: the size that the file should have.
    pub at: u64,
    /// How many bytes follow.
    pub bytes: u64,
}

impl Model {
    /// A header word by its original name (`n_embd`).
    pub fn header(&self, name: &str) -> Option<i64> {
        self.header.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    /// A tensor by its name in the file.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Checks that every tensor can be decoded: types of other programs are only named and copied.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the first that cannot.
    pub fn check_decodable(&self) -> Result<()> {
        self.tensors.iter().try_for_each(Tensor::check_decodable)
    }

    /// Checks that its weights are what activations are multiplied with: the fork of PrismML stores some turned by
    /// a Hadamard transform, and turns activations to them. Read as they are they make a model that speaks
    /// nonsense.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where keys say that they are turned.
    pub fn check_unturned(&self) -> Result<()> {
        let Some(key) =
            self.metadata.iter().map(|(key, _)| key).find(|key| key.starts_with("prism.hadamard."))
        else {
            return Ok(());
        };
        let what = format!(
            "its weights are turned by a Hadamard transform ({key}), which only the fork of PrismML undoes"
        );
        let next = "inspect, verify, compare and quantize … COPY take such files; run them with that program";
        Err(Error::unsupported(what, next))
    }

    /// What nothing tells of a type that another program wrote and that is decoded here.
    pub fn unsure(&self) -> Option<Note> {
        let read = self.tensors.iter().filter(|tensor| tensor.with_scale().is_some());
        let quant = read.map(|tensor| tensor.quant);
        let told = |quant: QuantType| {
            let foreign = quant.stranger().filter(|foreign| !foreign.unsure.is_empty())?;
            let mut others = QuantType::foreign(foreign.id).filter_map(QuantType::stranger);
            let other = others.find(|o| o.name == foreign.name && o.rows != foreign.rows)?;
            let remedy = Setting::ReadAs
                .of(&other.rows)
                .to("where it speaks nonsense, read it in the other order");
            Some(Note::new(format!("{quant}: {}", foreign.unsure), remedy))
        };
        quant.into_iter().find_map(told)
    }

    /// The model with tensors as their weights are read: see [`Tensor::with_scale`].
    #[must_use]
    pub fn readable(&self) -> Model {
        let mut model = self.clone();
        for tensor in &mut model.tensors {
            if let Some(readable) = tensor.with_scale() {
                *tensor = readable;
            }
        }
        model
    }

    /// The files on disks that it is read from, each once.
    pub fn sources(&self) -> Vec<&Input> {
        let mut files: Vec<&Input> = Vec::new();
        for file in self.files.iter().flat_map(Input::sources) {
            if !files.iter().any(|known| known.path() == file.path()) {
                files.push(file);
            }
        }
        files
    }

    /// The bytes of all tensors together.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    /// Whether a tensor's rows can only be read one after the other, as from a compressed archive.
    pub fn only_forward(&self, tensor: &Tensor) -> bool {
        tensor.pieces.iter().any(|p| self.files.get(p.file).is_some_and(|f| !f.is_random()))
    }

    /// Reads rows `first .. first + n` of `tensor` into `out`, `n * tensor.row_bytes()` long, joined
    /// from their pieces, in the tensor's row order, little-endian.
    ///
    /// # Errors
    /// Where a file cannot be read or has changed; where `out` has the wrong length.
    pub fn read_rows(&self, tensor: &Tensor, first: u64, n: u64, out: &mut [u8]) -> Result<()> {
        let inside = first.checked_add(n).is_some_and(|end| end <= tensor.rows());
        if !inside || (out.len() as u64) != n.saturating_mul(tensor.row_bytes()) {
            let what = format!("{}: rows {first}+{n} do not exist", tensor.name);
            return Err(Error::unsupported(what, ""));
        }
        if out.is_empty() {
            return Ok(());
        }
        if let Some((file, at)) = tensor.contiguous() {
            self.file(file)?.read_at(at + first * tensor.row_bytes(), out)?;
        } else if tensor.orders.is_empty() {
            self.read_stored(tensor, first, n, out)?;
        } else {
            self.read_ordered(tensor, first, n, out)?;
        }
        if tensor.big_endian {
            tensor.quant.swap_bytes(out);
        }
        Ok(())
    }

    /// Reads rows through the tensor's permutations. These move rows inside a head only, so the rows
    /// wanted lie close together: all between the first and the last are read at once.
    fn read_ordered(&self, tensor: &Tensor, first: u64, n: u64, out: &mut [u8]) -> Result<()> {
        let row = usize::try_from(tensor.row_bytes()).unwrap_or(usize::MAX);
        let stored = || (first..first + n).map(|r| tensor.stored_row(r));
        let (low, high) = stored().fold((u64::MAX, 0), |(a, b), r| (a.min(r), b.max(r)));
        let span = (high - low + 1).saturating_mul(tensor.row_bytes());
        // Rows that lie further apart than fits in memory are read one by one.
        let Some(span) = usize::try_from(span).ok().filter(|span| *span <= ORDERED) else {
            for (r, out) in stored().zip(out.chunks_exact_mut(row)) {
                self.read_stored(tensor, r, 1, out)?;
            }
            return Ok(());
        };
        let mut rows = vec![0; span];
        self.read_stored(tensor, low, high - low + 1, &mut rows)?;
        for (r, out) in stored().zip(out.chunks_exact_mut(row)) {
            let from = usize::try_from(r - low).unwrap_or(usize::MAX).saturating_mul(row);
            if let Some(stored) = rows.get(from..from.saturating_add(row)) {
                out.copy_from_slice(stored);
            }
        }
        Ok(())
    }

    /// Reads rows in the order in which the pieces hold them.
    fn read_stored(&self, tensor: &Tensor, first: u64, n: u64, out: &mut [u8]) -> Result<()> {
        if let Some(sum) = &tensor.sum {
            return sum.read(self, tensor.quant, first, n, out);
        }
        let row = usize::try_from(tensor.row_bytes()).unwrap_or(usize::MAX);
        match tensor.join {
            // Whole pieces of the stretch that is wanted, each from its own file, straight to their place in `out`.
            Join::Rows => {
                let (mut base, mut out) = (0, out);
                let (mut first, end) = (first, first + n);
                for piece in &tensor.pieces {
                    let to = end.min(base + piece.rows);
                    if first < to {
                        let take = usize::try_from(to - first).unwrap_or(0) * row;
                        let (now, rest) = out.split_at_mut(take.min(out.len()));
                        self.read_piece(piece, first - base, now)?;
                        (first, out) = (to, rest);
                    }
                    base += piece.rows;
                }
                Ok(())
            }
            // Every piece has a part of each row: read by themselves, then put side by side.
            Join::Columns => {
                let mut parts = Vec::new();
                for piece in &tensor.pieces {
                    let width = usize::try_from(piece.row_bytes).unwrap_or(0);
                    let mut part = vec![0; width * usize::try_from(n).unwrap_or(0)];
                    self.read_piece(piece, first, &mut part)?;
                    parts.push((width, part));
                }
                for (r, out) in out.chunks_exact_mut(row).enumerate() {
                    let rows: Vec<&[u8]> = parts
                        .iter()
                        .filter_map(|(width, part)| part.get(r * width..(r + 1) * width))
                        .collect();
                    tensor.quant.layout().put_side_by_side(&rows, out);
                }
                Ok(())
            }
        }
    }

    /// Reads rows of one piece: adjacent ones at once, rows with gaps one by one, turned ones column by column.
    fn read_piece(&self, piece: &Piece, first: u64, out: &mut [u8]) -> Result<()> {
        let input = self.file(piece.file)?;
        if piece.is_dense() {
            return input.read_at(piece.at + first * piece.row_bytes, out);
        }
        let row = usize::try_from(piece.row_bytes).unwrap_or(usize::MAX);
        match piece.element {
            Some((width, step)) if piece.row_stride == u64::from(width) => {
                // Transposed: the numbers of a column are together.
                let width = usize::from(width);
                let mut column = vec![0; out.len() / row * width];
                for (c, left) in (0u64..).zip((0..row).step_by(width)) {
                    let at = piece.at + first * piece.row_stride + c * step;
                    input.read_at(at, &mut column)?;
                    for (out, value) in out.chunks_exact_mut(row).zip(column.chunks_exact(width)) {
                        if let Some(out) = out.get_mut(left..left + width) {
                            out.copy_from_slice(value);
                        }
                    }
                }
            }
            _ => {
                for (r, out) in (first..).zip(out.chunks_exact_mut(row)) {
                    let at = piece.at + r * piece.row_stride;
                    let Some((width, step)) = piece.element else {
                        input.read_at(at, out)?;
                        continue;
                    };
                    for (c, out) in (0u64..).zip(out.chunks_exact_mut(usize::from(width))) {
                        input.read_at(at + c * step, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The file with this number, as pieces state it.
    fn file(&self, index: usize) -> Result<&Input> {
        self.files
            .get(index)
            .ok_or_else(|| Error::unsupported(format!("no file {index} in this model"), ""))
    }
}
