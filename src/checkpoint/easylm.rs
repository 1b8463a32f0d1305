//! Checkpoints of LLaMA as EasyLM streams them, as which Koala's differences were published.
//!
//! ```text
//! file     one record after the other up to the end, all of it msgpack
//! record   [ ["params", "transformer", "h", "0", "attention", "wq", "kernel"], bytes ]
//! bytes    extension 1 of [ [rows, columns], "bfloat16", bytes ]
//! ```
//!
//! Kernels are [in, out], so they are turned; rows of queries and keys are as in Meta's files. Neither numbers of
//! the model nor tokens are in it.
//! Source: EasyLM 75ca80ddb, checkpoint.py: StreamingCheckpointer; models/llama/convert_easylm_to_hf.py;
//! flax, serialization.py: _msgpack_ext_pack, _ndarray_to_bytes.

use std::{fmt::Display, path::Path};

use super::dtype::Dtype;
use crate::{
    bytes::{Input, Source},
    error::{Error, Result},
    format::catalog,
    model::{Model, Naming, Role, Tensor},
    quant::QuantType,
};

/// What its files are called here.
const FORMAT: &str = "easylm";
/// The most words in the name of a tensor.
const MOST_WORDS: u64 = 15;
/// The longest of these words.
const LONGEST: u64 = 64;

/// Whether a file is one: an array of two, of which the first is an array of short texts.
///
/// # Errors
/// Where it cannot be read.
pub fn is_streamed(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let input = Input::open(path)?;
    let mut head = vec![0; usize::try_from(input.len().min(512)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    Ok(begins_so(&head))
}

/// Whether a file of these first bytes is one.
pub fn begins_so(head: &[u8]) -> bool {
    let Some((&[0x92, words @ 0x91..=0x9f], rest)) = head.split_first_chunk() else { return false };
    let mut rest = rest;
    (0x90..words).all(|_| {
        let Some((len @ 0xa1..=0xbf, tail)) = rest.split_first() else { return false };
        let Some((word, tail)) = tail.split_at_checked(usize::from(len - 0xa0)) else {
            return false;
        };
        rest = tail;
        word.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_')
    })
}

/// The tensors of such a file under GGUF's names. Only what is before their numbers is read.
///
/// # Errors
/// Where it is broken, or holds what is no tensor of LLaMA.
pub fn open(path: &Path) -> Result<Model> {
    let input = Input::open(path)?;
    let mut walk = Walk { source: Source::new(&input, FORMAT), at: 0 };
    let mut tensors = Vec::new();
    while walk.at < input.len() {
        tensors.push(record(&mut walk, tensors.len())?);
    }
    let model = Model { format: FORMAT.to_owned(), family: "llama".to_owned(), ..Model::default() };
    Ok(Model { files: vec![input.clone()], tensors, ..model })
}

/// One tensor.
fn record(walk: &mut Walk, n: usize) -> Result<Tensor> {
    let field = |what: &str| format!("records[{n}].{what}");
    walk.array(2..=2, &field("items"))?;
    let words = walk.array(1..=MOST_WORDS, &field("name"))?;
    let words: Vec<String> =
        (0..words).map(|_| walk.text(&field("name"))).collect::<Result<_>>()?;
    let name = words.join(".");
    let name = name.strip_prefix("params.").unwrap_or(&name);
    let field = |what: &str| format!("{name}: {what}");
    // Three lengths that must agree: of the bytes, of the array in them, of the numbers in that.
    //
    //     c6 [length]  c9 [length] 01  93  92 [rows] [columns]  a8 bfloat16  c6 [length] numbers…
    //                                                                                   all three end here: ^
    let end = walk.bytes(&field("bytes"))?;
    let array_end = walk.extension(&field("array"))?;
    walk.array(3..=3, &field("array"))?;
    let dims = walk.array(1..=2, &field("shape"))?;
    let shape: Vec<u64> = (0..dims).map(|_| walk.number(&field("shape"))).collect::<Result<_>>()?;
    let dtype = walk.text(&field("dtype"))?;
    let at_dtype = walk.at;
    let data_end = walk.bytes(&field("data"))?;
    let odd = |what: String| {
        let what = format!("{}: {name}: {what}", walk.source.input().name());
        Error::unsupported(what, "not yet: f32, f16 and bf16 weights of LLaMA are read")
    };
    let quant =
        Dtype::of_torch(&format!("torch.{dtype}")).and_then(|dtype| QuantType::today(dtype.name));
    let quant = quant.ok_or_else(|| odd(format!("weights of type {dtype}")))?;
    let family = catalog::family("llama");
    let meta = meta_name(name);
    let role = family.and_then(|family| Role::of(family, Naming::Old, &meta));
    let own = role.and_then(|role| role.name(Naming::Gguf));
    let own = own.ok_or_else(|| odd("is no tensor of LLaMA".to_owned()))?;
    let tensor = Tensor::whole(own, shape.clone(), quant, 0, walk.at);
    let tensor = tensor.filter(|tensor| {
        walk.at + tensor.bytes() == data_end && data_end == end && array_end == end
    });
    let Some(tensor) = tensor else {
        let (found, wanted) = (data_end - walk.at, format!("{shape:?} numbers of {dtype}"));
        return Err(walk.malformed(&field("data"), at_dtype, format!("{found} bytes"), &wanted));
    };
    walk.at = end;
    match name.ends_with(".kernel") && dims == 2 {
        true => tensor.transposed().ok_or_else(|| odd("numbers that cannot be turned".to_owned())),
        false => Ok(tensor),
    }
}

/// A tensor's name as Meta's files have it.
fn meta_name(name: &str) -> String {
    match name {
        "transformer.wte.embedding" => "tok_embeddings.weight".to_owned(),
        "transformer.ln_f.kernel" => "norm.weight".to_owned(),
        "lm_head.kernel" => "output.weight".to_owned(),
        _ => {
            let stem = name.strip_suffix(".kernel").unwrap_or(name);
            format!("{}.weight", stem.replacen("transformer.h.", "layers.", 1))
        }
    }
}

/// A place in msgpack. Every number in it is big-endian.
struct Walk<'a> {
    source: Source<'a>,
    at: u64,
}

impl Walk<'_> {
    /// An error at a byte of msgpack.
    fn malformed(&self, field: &str, at: u64, found: impl Display, wanted: &str) -> Error {
        self.source.malformed(at, field, found.to_string(), wanted)
    }

    /// The next byte.
    fn next(&mut self, field: &str) -> Result<u8> {
        let byte = self.source.u8_at(self.at, field)?;
        self.at += 1;
        Ok(byte)
    }

    /// A number of `width` bytes.
    fn wide(&mut self, width: u32, field: &str) -> Result<u64> {
        (0..width).try_fold(0u64, |n, _| Ok(n << 8 | u64::from(self.next(field)?)))
    }

    /// The head of an array; returns how many items follow.
    fn array(&mut self, most: std::ops::RangeInclusive<u64>, field: &str) -> Result<u64> {
        let at = self.at;
        let n = match self.next(field)? {
            n @ 0x90..=0x9f => Some(u64::from(n - 0x90)),
            0xdc => Some(self.wide(2, field)?),
            _ => None,
        };
        n.filter(|n| most.contains(n)).ok_or_else(|| {
            let found = self.source.u8_at(at, field).unwrap_or(0);
            let wanted = format!("an array of {} to {}", most.start(), most.end());
            self.malformed(field, at, format!("{found:#04x}"), &wanted)
        })
    }

    /// A whole number that is not negative.
    fn number(&mut self, field: &str) -> Result<u64> {
        let at = self.at;
        match self.next(field)? {
            n @ 0..=0x7f => Ok(n.into()),
            0xcc => self.wide(1, field),
            0xcd => self.wide(2, field),
            0xce => self.wide(4, field),
            0xcf => self.wide(8, field),
            found => Err(self.malformed(field, at, format!("{found:#04x}"), "a number")),
        }
    }

    /// A text of at most 255 bytes.
    fn text(&mut self, field: &str) -> Result<String> {
        let at = self.at;
        let len = match self.next(field)? {
            len @ 0xa0..=0xbf => u64::from(len - 0xa0),
            0xd9 => self.wide(1, field)?,
            found => {
                return Err(self.malformed(field, at, format!("{found:#04x}"), "a short text"));
            }
        };
        let bytes = self.source.bytes_at(self.at, len, LONGEST, field)?;
        self.at += len;
        String::from_utf8(bytes).map_err(|_| self.malformed(field, at, "no UTF-8", "a short text"))
    }

    /// Goes into bytes; returns where they end.
    fn bytes(&mut self, field: &str) -> Result<u64> {
        let at = self.at;
        let len = match self.next(field)? {
            0xc4 => self.wide(1, field)?,
            0xc5 => self.wide(2, field)?,
            0xc6 => self.wide(4, field)?,
            found => return Err(self.malformed(field, at, format!("{found:#04x}"), "bytes")),
        };
        self.inside(len, at, field)
    }

    /// Goes into an array of numbers as flax writes it.
    ///
    /// msgpack leaves extensions to programs; flax calls its arrays kind 1.
    fn extension(&mut self, field: &str) -> Result<u64> {
        let at = self.at;
        let wanted = "an array of numbers (extension 1)";
        let len = match self.next(field)? {
            code @ 0xd4..=0xd8 => 1 << (code - 0xd4),
            0xc7 => self.wide(1, field)?,
            0xc8 => self.wide(2, field)?,
            0xc9 => self.wide(4, field)?,
            found => return Err(self.malformed(field, at, format!("{found:#04x}"), wanted)),
        };
        match self.next(field)? {
            1 => self.inside(len, at, field),
            kind => Err(self.malformed(field, at, format!("extension {kind}"), wanted)),
        }
    }

    /// Where `len` bytes from here on end, if the file has them.
    fn inside(&self, len: u64, at: u64, field: &str) -> Result<u64> {
        let left = self.source.left(self.at);
        if len > left {
            let wanted = format!("the {len} bytes that are stated");
            return Err(self.malformed(field, at, format!("{left} bytes to the end"), &wanted));
        }
        Ok(self.at + len)
    }
}
