//! GGUF: counts, key-values, tensor infos, padded data.
//!
//! | bytes | what (`N` is 32 bits in version 1, 64 in later ones) |
//! |---|---|
//! | 4, 4 | `GGUF`, version |
//! | N, N | number of tensors, number of key-values |
//! | N + n, 4, … | per key-value: key, kind, value; strings are length and bytes |
//! | N + n, 4, N each, 4, 8 | per tensor: name, dimensions, sizes innermost first, type, offset |
//! | … | zeros up to the alignment; then data, each tensor at a multiple of the alignment |
//!
//! `llama.cpp`'s own writer of version 1 (quantize, 21 to 27 August 2023) counted a NUL at the end of
//! every string; the header word [`NUL`] remembers it, so that such a file can be written again.
//!
//! Today's readers are strict and so is this one, but for two things that old files do and lose
//! nothing by: gaps between tensors and another order of data. Those are noted.
//!
//! ```text
//! 47 47 55 46  03 00 00 00                               GGUF, version 3
//! 01 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00       one tensor, two keys
//! 14 00 00 00 00 00 00 00  "general.architecture"        20 bytes of key
//!    08 00 00 00  05 00 00 00 00 00 00 00  "llama"       kind 8, a string of 5 bytes
//! ..
//! ```
//!
//! Of each count it is asked before anything is allocated whether it is within the limits and whether the file has as
//! many bytes left; of each string and array what it takes is added up against the limit of all metadata.

mod place;
mod write;

pub use write::layout;

use super::{OpenOptions, start};
use crate::{
    bytes::{Input, Source},
    error::Result,
    format::{catalog, container::Container, family::Family},
    limits::Limits,
    model::{Array, Kind, Metadata, Model, Texts, Value, Vocab},
    quant::QuantType,
    remedy::{Fault, Note, Notes},
};

/// The key that sets the alignment of tensor data.
const ALIGNMENT: &str = "general.alignment";

/// Other programs have longer names and more dimensions than llama.cpp's 63 bytes and 4 (stable-diffusion.cpp
/// is built for names of 128 bytes, weights of video models have five dimensions); such names and dimensions are read
/// and written.
const LONGEST_NAME: u64 = 1024;
const MOST_DIMS: u32 = 8;

/// The longest key, as the specification sets it.
const KEY: u64 = 65_535;

/// Arrays may be in arrays, N deep.
const DEEPEST: u32 = 4;

/// The header word that is 1 where every string ends in a NUL.
pub const NUL: &str = "strings_end_in_nul";

/// What was read, and whether offsets were exactly what a writer without gaps gives.
pub(super) struct Read {
    pub model: Model,
    pub exact: bool,
}

/// Reads `input` by the rules of `format`.
pub(super) fn read(
    format: &'static Container,
    input: &Input,
    options: &OpenOptions,
) -> Result<Read> {
    let source = Source::new(input, format.id()).ordered(format.detect.order());
    let mut walk = Walk {
        format,
        source: &source,
        limits: options.limits,
        read_as: &options.read_as,
        wide: format.detect.version != Some(1),
        nul: false,
        at: 0,
        spent: 0,
        notes: Notes::default(),
    };
    walk.at = start::check(&source, format)?;
    let n_tensors = walk.count("n_tensors", options.limits.tensors)?;
    let n_keys = walk.count("n_kv", options.limits.keys)?;
    // Infos begin where keys end: only a walk finds them.
    let metadata = walk.metadata(n_keys)?;
    let align = metadata.u64(ALIGNMENT).unwrap_or(DEFAULT_ALIGNMENT);
    let mut infos: Vec<Info> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for i in 0..n_tensors {
        let info = walk.info(i)?;
        if !seen.insert(info.name.clone()) {
            let field = format!("tensors[{i}].name");
            return Err(source.malformed(
                info.at,
                field,
                format!("{} again", info.name),
                "it once",
            ));
        }
        infos.push(info);
    }
    let architecture = metadata.str("general.architecture").unwrap_or_default();
    let of = |f: &&Family| !architecture.is_empty() && f.family.gguf == architecture;
    // Some families are another in GGUF, and the tokenizer tells them apart.
    let tokenizer = metadata.str("tokenizer.ggml.model");
    let by_tokenizer = |f: &&Family| f.tokenizer.as_ref().map(|t| t.model.as_str()) == tokenizer;
    let all = || catalog::families().iter().filter(of);
    let family = all().find(by_tokenizer).or_else(|| catalog::family(architecture).filter(of));
    let family = family.or_else(|| all().next());
    let mut model = Model {
        format: format.id().to_owned(),
        family: family.map(|f| f.family.name.clone()).unwrap_or_default(),
        files: vec![input.clone()],
        header: if walk.nul { vec![(NUL.to_owned(), 1)] } else { Vec::new() },
        vocab: Vocab::from_metadata(&metadata),
        metadata,
        notes: std::mem::take(&mut walk.notes),
        ..Model::default()
    };
    if let Some(widened) = walk.widened(&infos, align) {
        infos = widened;
        model.notes.push(Note::of(
            Fault::Form,
            "shapes were stored as if bytes were weights (convert_llama_ggml_to_gguf.py of 2024 and 2025 does that): \
             no llama.cpp reads it; read as the places of the data say",
        ));
    }
    let exact = walk.place(infos, align, &mut model)?;
    Ok(Read { model, exact })
}

/// A walk along the header, from its first byte to the last tensor info.
struct Walk<'a> {
    format: &'static Container,
    source: &'a Source<'a>,
    limits: Limits,
    read_as: &'a [QuantType],
    /// Counts and lengths have 64 bits: since version 2.
    wide: bool,
    /// Strings end in a NUL that their lengths count.
    nul: bool,
    at: u64,
    /// What metadata has taken so far, in bytes of memory.
    spent: u64,
    notes: Notes,
}

/// A tensor info as it is stored, before anybody knows whether its type and its place make sense.
struct Info {
    at: u64,
    /// Where its sizes, its type and its offset are.
    fields: [u64; 3],
    name: String,
    shape: Vec<u64>,
    /// Whether no dimensions are stored.
    scalar: bool,
    id: u32,
    /// From the start of the data.
    offset: u64,
}

impl Walk<'_> {
    /// Four bytes at the walk's place, which moves on.
    fn u32(&mut self, field: impl std::fmt::Display) -> Result<u32> {
        let value = self.source.u32_at(self.at, field)?;
        self.at += 4;
        Ok(value)
    }

    /// A count or size: 32 bits in version 1, 64 since.
    fn size(&mut self, field: impl std::fmt::Display) -> Result<u64> {
        if !self.wide {
            return Ok(self.u32(field)?.into());
        }
        let value = self.source.u64_at(self.at, field)?;
        self.at += 8;
        Ok(value)
    }

    /// A count of at most `most`.
    fn count(&mut self, field: impl std::fmt::Display + Copy, most: u64) -> Result<u64> {
        let at = self.at;
        let value = self.size(field)?;
        // Before anything is allocated for it.
        if value > most {
            return Err(self.source.malformed(at, field, value, format!("at most {most}")));
        }
        Ok(value)
    }

    /// A length and as many bytes, at most `most`.
    fn string(&mut self, most: u64, field: impl std::fmt::Display + Copy) -> Result<Vec<u8>> {
        let len = self.count(field, most)?;
        let mut bytes = self.source.bytes_at(self.at, len, most, field)?;
        self.at += len;
        self.spend(len, field)?;
        // The NUL was counted in the length: it goes, and the writer puts it there again.
        if self.nul && bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    /// Counts what the metadata takes in memory against the limit.
    fn spend(&mut self, bytes: u64, field: impl std::fmt::Display) -> Result<()> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.limits.metadata {
            let wanted = format!("at most {} bytes of metadata", self.limits.metadata);
            return Err(self.source.malformed(self.at, field, self.spent, wanted));
        }
        Ok(())
    }

    /// `n` key-values. Of two with one key the first counts, and a note says so.
    fn metadata(&mut self, n: u64) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        let mut seen = std::collections::HashSet::new();
        for i in 0..n {
            let at = self.at;
            let field = format_args!("keys[{i}]").to_string();
            let mut bytes = self.string(KEY, field.as_str())?;
            // The first key tells: no name of a key ends in a NUL by itself.
            if i == 0 && !self.wide && bytes.last() == Some(&0) {
                self.nul = true;
                bytes.pop();
            }
            let key = String::from_utf8(bytes).ok().filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| {
                self.source.malformed(at, &field, "no text", "a key of one character or more")
            })?;
            let again = !seen.insert(key.clone());
            let kind = self.kind(&key)?;
            // An array says what its items are; a value is as wide as its kind.
            let value = match kind {
                Kind::Array => self.array(&key, 1)?.into(),
                kind => self.value(kind, &key)?,
            };
            if key == ALIGNMENT && !matches!(value, Value::U32(n) if is_alignment(n.into())) {
                let (found, wanted) = (kind.name(), "u32, a power of two up to 2^20");
                return Err(self.source.malformed(at, key, format!("{found} {value}"), wanted));
            }
            if again {
                self.notes.push(repeated(&key, metadata.get(&key), &value));
            } else {
                metadata.push(key, value);
            }
        }
        Ok(metadata)
    }

    /// The kind of a value, 0 to 12.
    fn kind(&mut self, key: &str) -> Result<Kind> {
        let at = self.at;
        let field = format!("{key}.type");
        let id = self.u32(&field)?;
        Kind::from_id(id).ok_or_else(|| self.source.malformed(at, field, id, "0 to 12"))
    }

    /// An array, itself in `depth` others.
    fn array(&mut self, key: &str, depth: u32) -> Result<Array> {
        let at = self.at;
        let kind = self.kind(key)?;
        if kind == Kind::Array && depth == DEEPEST {
            let wanted = format!("at most {DEEPEST} arrays in each other");
            return Err(self.source.malformed(at, key, "one more", wanted));
        }
        // Numbers are bounded by their bytes: those of the widest kind, as many as there may be items.
        let most = match kind.width() as u64 {
            0 => self.limits.array,
            width => self.limits.array.saturating_mul(size_of::<u64>() as u64) / width,
        };
        let n = self.count(key, most)?;
        // What an item takes at least in the file, and of that beside its bytes in memory.
        // string   u64 length, text       at least 8 bytes (4 in version 1), and a u32 beside the text in memory
        // array    u32 kind, u64 count, … at least 12 bytes
        let (least, beside) = match kind {
            Kind::String => (if self.wide { 8 } else { 4 }, size_of::<u32>()),
            Kind::Array => (if self.wide { 12 } else { 8 }, 4 * size_of::<Array>()),
            kind => (width(kind), kind.width()),
        };
        // A count of a billion in a file of a kilobyte ends here, and not in an allocation.
        let (left, needed) = (self.source.left(self.at), n.saturating_mul(least));
        if needed > left {
            let wanted = format!("{needed} bytes for {n} items");
            return Err(self.source.malformed(self.at, key, format!("{left} bytes"), wanted));
        }
        self.spend(n.saturating_mul(beside as u64), key)?;
        Ok(match kind {
            Kind::String => {
                let mut texts = Texts::default();
                for _ in 0..n {
                    texts.push(self.string(self.limits.string, key)?);
                }
                texts.shrink();
                texts.into()
            }
            Kind::Array => {
                Array::of_arrays((0..n).map(|_| self.array(key, depth + 1)).collect::<Result<_>>()?)
            }
            kind => Array::of_bytes(kind, self.numbers(kind, needed, key)?),
        })
    }

    /// The little-endian bytes of numbers or booleans that fill `len` bytes.
    fn numbers(&mut self, kind: Kind, len: u64, key: &str) -> Result<Vec<u8>> {
        let too_many = || self.source.malformed(self.at, key, len, "a size that fits in memory");
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_many())?];
        self.source.input().read_at(self.at, &mut bytes)?;
        // From here on as on a little-endian machine.
        if self.format.detect.big_endian {
            bytes.chunks_exact_mut(kind.width()).for_each(<[u8]>::reverse);
        }
        // A boolean that is neither is a sign of a wrong place: everything after it would be nonsense.
        let odd = bytes.iter().zip(self.at..).find(|(byte, _)| **byte > 1);
        if let Some((byte, at)) = odd.filter(|_| kind == Kind::Bool) {
            return Err(self.source.malformed(at, key, byte, "0 or 1"));
        }
        self.at += len;
        Ok(bytes)
    }

    /// One value of a kind that is no array.
    fn value(&mut self, kind: Kind, key: &str) -> Result<Value> {
        let (source, at) = (self.source, self.at);
        self.at += width(kind);
        Ok(match kind {
            Kind::U8 => Value::U8(source.u8_at(at, key)?),
            Kind::I8 => Value::I8(source.u8_at(at, key)?.cast_signed()),
            Kind::U16 => Value::U16(source.u16_at(at, key)?),
            Kind::I16 => Value::I16(source.u16_at(at, key)?.cast_signed()),
            Kind::U32 => Value::U32(source.u32_at(at, key)?),
            Kind::I32 => Value::I32(source.i32_at(at, key)?),
            Kind::U64 => Value::U64(source.u64_at(at, key)?),
            Kind::I64 => Value::I64(source.u64_at(at, key)?.cast_signed()),
            Kind::F32 => Value::F32(source.f32_at(at, key)?),
            Kind::F64 => Value::F64(source.f64_at(at, key)?),
            Kind::Bool => match source.u8_at(at, key)? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(source.malformed(at, key, other, "0 or 1")),
            },
            Kind::String => Value::String(self.string(self.limits.string, key)?),
            Kind::Array => return Err(source.malformed(at, key, "an array", "a single value")),
        })
    }

    /// One tensor info. Its type and place are not judged here: for that all infos must be known.
    fn info(&mut self, index: u64) -> Result<Info> {
        let at = self.at;
        let field = |what: &str| format!("tensors[{index}].{what}");
        let bytes = self.string(LONGEST_NAME, field("name").as_str())?;
        let name = String::from_utf8(bytes).ok().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| {
            self.source.malformed(at, field("name"), "no text", "a name in UTF-8")
        })?;
        let field = |what: &str| format!("tensors[{index}] ({name}).{what}");
        let dims_at = self.at;
        let n_dims = self.u32(field("n_dims"))?;
        if n_dims > MOST_DIMS {
            let wanted = format!("0 to {MOST_DIMS}");
            return Err(self.source.malformed(dims_at, field("n_dims"), n_dims, wanted));
        }
        let (sizes_at, mut shape) = (self.at, Vec::new());
        for _ in 0..n_dims {
            let at = self.at;
            let size = self.size(field("ne"))?;
            if size == 0 || size > i64::MAX as u64 {
                let wanted = format!("1 to {}", i64::MAX);
                return Err(self.source.malformed(at, field("ne"), size, wanted));
            }
            // The innermost size comes first in the file, the outermost first here.
            shape.insert(0, size);
        }
        let scalar = shape.is_empty();
        if scalar {
            // A single number.
            shape.push(1);
        }
        let type_at = self.at;
        let id = self.u32(field("type"))?;
        // Kept for errors that only the data can tell: they name the field that is at fault.
        let fields = [sizes_at, type_at, self.at];
        let offset = self.source.u64_at(self.at, field("offset"))?;
        self.at += 8;
        Ok(Info { at, fields, name, shape, scalar, id, offset })
    }

    /// What a type number means in this file's format.
    fn quant(&self, id: u32) -> Option<QuantType> {
        quant_of(self.format, id)
    }
}

/// That a key is there twice.
fn repeated(key: &str, first: Option<&Value>, again: &Value) -> Note {
    let says = match first {
        Some(first) if first != again => format!(" ({first}, then {again}): the first counts"),
        _ => String::new(),
    };
    let text = format!("{key} is there twice{says}; today's llama.cpp refuses such a file");
    Note::of(Fault::Form, text)
}

/// What a stored type number means in `format`.
fn quant_of(format: &Container, id: u32) -> Option<QuantType> {
    match format.type_name(id, &[]) {
        Some(name) => name.split_once('/').and_then(|(name, d)| QuantType::find(name, d)),
        // What the format says nothing of is numbered as today.
        None => QuantType::from_gguf(id),
    }
}

/// The number that `format` stores for `quant`; none if it never had it.
pub fn type_id(format: &Container, quant: QuantType) -> Option<u32> {
    if quant.stranger().is_some() {
        return quant.gguf_id();
    }
    // In this order: the number that this format gave the type; today's; the one that it had before another took it.
    let replaced = format.type_id(&format!("{}/{}", quant.name(), quant.dialect()));
    let own = || quant.gguf_id().filter(|id| quant_of(format, *id) == Some(quant));
    replaced.or_else(own).or(quant.block().once)
}

/// Where data begins behind a header that is so long.
pub fn data_start(metadata: &Metadata, header: u64) -> u64 {
    let align = metadata.u64(ALIGNMENT).filter(|n| is_alignment(*n));
    header.next_multiple_of(align.unwrap_or(DEFAULT_ALIGNMENT))
}

/// Whether tensors may be aligned to `n` bytes. Padding of a megabyte between them would be absurd, but would
/// not hurt.
pub fn is_alignment(n: u64) -> bool {
    n.is_power_of_two() && n <= 1 << 20
}

/// Bytes of a value of this kind in a file.
fn width(kind: Kind) -> u64 {
    kind.width() as u64
}

/// The alignment of tensor data where the file says nothing else.
pub const DEFAULT_ALIGNMENT: u64 = 32;
