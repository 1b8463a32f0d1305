//! The parts that a packed matrix is stored in, and the matrix that is made of them.
//!
//! ```text
//! files: NAME.qweight, NAME.scales, ..  --Part-->  Rows::rows(first, out)  -->  NAME.weight, f32, made when it is read
//! ```

use std::{collections::HashMap, ops::Range};

use serde_json::Value as Json;

use crate::{
    bytes::Input,
    checkpoint::{Stored, assemble::Draft, dtype::Dtype, safetensors},
    error::{Error, Result},
    quant::{decode_rows, isa::Isa},
};

/// The next step where parts do not fit each other.
pub const WHOLE: &str = "check that the download is complete";
/// The next step where parts do not fit the settings.
pub const OF_MODEL: &str = "check that config.json is of this model";
/// What to do about a tensor whose rows are apart.
const DENSE: &str = "save it with .contiguous()";

/// What decodes rows of a matrix from its parts.
pub trait Rows: Send + Sync {
    /// Fills `out` with rows from `first` on: whole ones.
    /// Its length is rows times columns; called by several threads at once.
    ///
    /// # Errors
    /// Where a part cannot be read, or a scale is no number.
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()>;
}

/// A matrix in place of its parts.
pub struct Matrix {
    /// Its name, as a model that was never quantized has it.
    pub name: String,
    /// Its shape, rows before columns.
    pub shape: Vec<u64>,
    /// The parts that it is made of, by name.
    pub parts: Vec<String>,
    /// What decodes it.
    pub rows: Box<dyn Rows>,
}

/// A tensor of GGUF's blocks in place of its parts.
pub struct Blocks {
    /// Its name, as a model that was never quantized has it.
    pub name: String,
    /// The type of its blocks.
    pub dtype: &'static Dtype,
    /// Its shape as such a model has it.
    pub shape: Vec<u64>,
    /// Numbers from one index to the next, for each dimension: in blocks the innermost is not always the last.
    pub stride: Vec<u64>,
    /// The parts that it is made of, by name.
    pub parts: Vec<String>,
    /// The numbers that it has beside it in GGUF, by what they are called there.
    pub beside: Vec<(&'static str, f32)>,
    /// Bytes of its blocks.
    pub len: u64,
    /// What computes whole blocks, from the byte on.
    pub fill: Fill,
}

/// Computes the blocks that are at a byte.
pub type Fill = Box<dyn Fn(u64, &mut [u8]) -> Result<()> + Send + Sync>;

/// Every tensor of a checkpoint by its name, and what its settings say of quantization.
pub struct Parts<'a> {
    draft: &'a Draft,
    all: HashMap<&'a str, &'a Stored>,
    stated: Option<&'a Json>,
}

impl<'a> Parts<'a> {
    /// The parts among these tensors.
    pub fn new(draft: &'a Draft, shards: &'a [Vec<Stored>], stated: Option<&'a Json>) -> Parts<'a> {
        let all = shards.iter().flatten().map(|t| (t.name.as_str(), t)).collect();
        Parts { draft, all, stated }
    }

    /// A setting.
    pub fn setting(&self, key: &str) -> Option<&'a Json> {
        self.stated?.get(key).filter(|value| !value.is_null())
    }

    /// Whether nothing is stated of quantization.
    pub fn is_unstated(&self) -> bool {
        self.stated.is_none()
    }

    /// Whether the name of any tensor has these letters.
    pub fn any(&self, letters: &str) -> bool {
        self.all.keys().any(|name| name.contains(letters))
    }

    /// What the settings call it.
    pub fn word(&self, key: &str) -> Option<&'a str> {
        self.setting(key)?.as_str()
    }

    /// A setting of weights that all groups of compressed-tensors agree in.
    ///
    /// ```text
    /// "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128, ..}, ..}, ..}
    /// ```
    pub fn of_groups(&self, key: &str) -> Option<&'a Json> {
        let groups = self.setting("config_groups")?.as_object()?;
        let mut all = groups.values().map(|group| group.get("weights")?.get(key));
        let first = all.next()??;
        (!first.is_null() && all.all(|other| other == Some(first))).then_some(first)
    }

    /// A tensor by its name.
    pub fn find(&self, name: &str) -> Option<&'a Stored> {
        self.all.get(name).copied()
    }

    /// The error about a tensor that does not fit the others, or the settings.
    pub fn odd(&self, name: &str, what: impl std::fmt::Display, next: &str) -> Error {
        Error::refused(format!("{}: {name}: {what}", self.draft.name()), next)
    }

    /// The error about a sound tensor that is not decoded.
    pub fn not_yet(&self, name: &str, what: impl std::fmt::Display, read: &str) -> Error {
        let what = format!("{}: {name}: {what}", self.draft.name());
        Error::unsupported(what, format!("not yet: {read}"))
    }

    /// A tensor of one of these types, for a matrix whose codes are called `codes`.
    ///
    /// # Errors
    /// Where it is missing, of another type or has gaps.
    pub fn part(&self, codes: &str, name: &str, types: &[&str]) -> Result<Part> {
        let end = name.rsplit('.').next().unwrap_or(name);
        let missing = || self.odd(codes, format_args!("no {end} beside it"), WHOLE);
        self.optional(name, types)?.ok_or_else(missing)
    }

    /// A tensor of bytes with gaps nowhere, whatever its dimensions: its last `inner` ones are a row.
    ///
    /// # Errors
    /// As [`Parts::optional`].
    pub fn flat(&self, stored: &Stored, inner: usize) -> Result<Part> {
        let Stored { name, dtype, shape, stride, file, at, .. } = stored;
        if dtype.bits != 8 || shape.contains(&0) || *stride != safetensors::dense(shape) {
            let what = format!("{} of shape {shape:?} with strides {stride:?}", dtype.name);
            return Err(self.not_yet(name, what, DENSE));
        }
        let missing = || self.odd(name, "its file is missing", WHOLE);
        let input = self.draft.files.get(*file).cloned().ok_or_else(missing)?;
        let split = shape.len().saturating_sub(inner);
        let count = |some: Option<&[u64]>| some.unwrap_or_default().iter().product();
        let (rows, columns) = (count(shape.get(..split)), count(shape.get(split..)));
        Ok(Part { name: name.clone(), input, at: *at, rows, columns, dtype, big_endian: false })
    }

    /// The same, of a tensor that need not be there.
    ///
    /// # Errors
    /// Where it is of another type or has gaps.
    pub fn optional(&self, name: &str, types: &[&str]) -> Result<Option<Part>> {
        let Some(stored) = self.find(name) else { return Ok(None) };
        let Stored { dtype, shape, stride, file, at, big_endian, .. } = stored;
        if !types.contains(&dtype.name) {
            let what = format!("numbers of type {}, wanted {}", dtype.name, types.join(" or "));
            return Err(self.not_yet(name, what, "this version does not read it"));
        }
        let empty = shape.contains(&0) || shape.len() > 2;
        if empty || *stride != safetensors::dense(shape) {
            let what = format!("shape {shape:?} with strides {stride:?}");
            return Err(self.not_yet(name, what, DENSE));
        }
        let missing = || self.odd(name, "its file is missing", WHOLE);
        let input = self.draft.files.get(*file).cloned().ok_or_else(missing)?;
        let (columns, rows) = match shape.as_slice() {
            [rows, columns] => (*columns, *rows),
            [columns] => (*columns, 1),
            _ => (1, 1),
        };
        let (at, big_endian, name) = (*at, *big_endian, name.to_owned());
        Ok(Some(Part { name, input, at, rows, columns, dtype, big_endian }))
    }
}

/// The types that scales are stored in.
pub const FLOATS: [&str; 3] = ["f16", "bf16", "f32"];

/// One stored part: a matrix of numbers, row by row.
#[derive(Clone)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its rows; 1 where it is a vector or a number.
    pub rows: u64,
    /// Numbers of a row.
    pub columns: u64,
    /// The type of its numbers.
    pub dtype: &'static Dtype,
    input: Input,
    at: u64,
    big_endian: bool,
}

impl Part {
    /// Its shape in words.
    pub fn shape(&self) -> String {
        format!("[{}, {}]", self.rows, self.columns)
    }

    /// Every number.
    pub fn len(&self) -> u64 {
        self.rows.saturating_mul(self.columns)
    }

    /// The bytes of some columns of some rows.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn bytes(&self, rows: Range<u64>, columns: Range<u64>) -> Result<Vec<u8>> {
        let width = self.dtype.width();
        let wide = (columns.end - columns.start) * width;
        let (long, row) = (in_memory((rows.end - rows.start) * wide)?, in_memory(wide)?);
        let mut bytes = vec![0; long];
        let at = |row: u64| self.at + (row * self.columns + columns.start) * width;
        // Whole rows follow one another: one read.
        if wide == self.columns * width {
            self.input.read_at(at(rows.start), &mut bytes)?;
        } else {
            for (row, out) in rows.zip(bytes.chunks_exact_mut(row.max(1))) {
                self.input.read_at(at(row), out)?;
            }
        }
        // From here on everything is little-endian.
        if self.big_endian && width > 1 {
            bytes.chunks_exact_mut(in_memory(width)?).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }

    /// The numbers there as words of 32 bits.
    ///
    /// # Errors
    /// As [`Part::bytes`].
    pub fn words(&self, rows: Range<u64>, columns: Range<u64>) -> Result<Vec<u32>> {
        let bytes = self.bytes(rows, columns)?;
        let words = bytes.chunks_exact(4).filter_map(|b| b.first_chunk());
        Ok(words.map(|b| u32::from_le_bytes(*b)).collect())
    }

    /// The numbers there as floats, none of them infinite or no number.
    ///
    /// # Errors
    /// As [`Part::bytes`]; where one is not finite.
    pub fn floats(&self, rows: Range<u64>, columns: Range<u64>) -> Result<Vec<f32>> {
        let bytes = self.bytes(rows, columns)?;
        let mut floats = vec![0.0; bytes.len() / in_memory(self.dtype.width())?];
        let len = floats.len();
        if let (Some(quant), true) = (self.quant(), len > 0) {
            decode_rows(quant, Isa::best(), &bytes, len, &mut floats);
        }
        match floats.iter().find(|float| !float.is_finite()) {
            Some(bad) => Err(self.bad(bad)),
            None => Ok(floats),
        }
    }

    /// The refusal of a scale.
    pub fn bad(&self, found: impl std::fmt::Display) -> Error {
        let what = format!("{}: {}: a scale of {found}", self.input.name(), self.name);
        Error::refused(what, "check the download against its published SHA-256")
    }

    /// The plain type of its numbers, where GGUF has it.
    fn quant(&self) -> Option<crate::quant::QuantType> {
        crate::quant::QuantType::today(self.dtype.name)
    }
}

/// A size as one of memory.
///
/// # Errors
/// On machines whose memory is smaller.
pub fn in_memory(size: u64) -> Result<usize> {
    let large = |_| Error::unsupported("a row is larger than memory", "use a 64-bit machine");
    usize::try_from(size).map_err(large)
}
