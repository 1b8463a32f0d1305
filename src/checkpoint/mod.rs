//! Checkpoints as they were published: raw weights and the small files beside them, read as a
//! [`Model`] in GGUF's terms.
//!
//! Nothing is converted here. Tensors get GGUF's names and point at their rows where these lie, in
//! the archive, the shards, in another order; metadata and vocabulary are what llama.cpp's
//! `convert_hf_to_gguf.py` would write.
//!
//! | publisher | weights | beside them |
//! |---|---|---|
//! | Meta | `consolidated.NN.pth` ([`torch`]) | `params.json` ([`meta`]), `tokenizer.model` |
//! | EasyLM | one file of msgpack ([`easylm`]): Koala's differences | |
//! | Hugging Face | `*.safetensors` ([`safetensors`]), `pytorch_model*.bin` ([`torch`]) | `config.json` ([`huggingface`]), `tokenizer*` |

pub mod adapter;
#[doc(hidden)]
pub mod assemble;
#[doc(hidden)]
pub mod card;
pub mod cut;
#[doc(hidden)]
pub mod dtype;
pub mod easylm;
#[doc(hidden)]
pub mod find;

#[doc(hidden)]
pub mod huggingface;
#[doc(hidden)]
pub mod hyper;
#[doc(hidden)]
pub mod json;
mod larger;
#[doc(hidden)]
pub mod meta;
#[doc(hidden)]
pub mod names;
mod packed;
#[doc(hidden)]
pub mod quantized;
pub mod safetensors;
pub mod tokenizer;
pub mod torch;
#[doc(hidden)]
pub mod yaml;

use std::path::Path;

use serde_json::Value as Json;

use assemble::Draft;
use dtype::Dtype;

use crate::{
    bytes::Input,
    error::{Error, Result},
    format::{
        catalog,
        family::{Family, Identity},
    },
    limits::Limits,
    model::{Join, Model, Naming, Piece, Role, Stated, Tensor},
    quant::QuantType,
    size::counted,
};

/// What the person asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What becomes of a vocabulary that does not fit the rows of the embedding.
    pub misfit: Misfit,
    /// Tensors whose names it finds are left out.
    pub drop: Option<regex::Regex>,
    /// The epsilon of the norms, where no file states one.
    pub eps: Option<f32>,
    /// The context length in tokens, where no file states one.
    pub context: Option<u32>,
    /// What the files may ask for.
    pub limits: Limits,
}

impl Options {
    /// How a checkpoint is read of which a person says this.
    pub fn of(stated: &Stated) -> Options {
        let misfit = match (&stated.vocab, stated.pad_vocab) {
            (Some(_), _) => Misfit::Leave,
            (None, true) => Misfit::Mend,
            (None, false) => Misfit::Refuse,
        };
        let (eps, context) = (stated.eps, stated.context);
        Options { misfit, eps, context, ..Options::default() }
    }
}

/// What becomes of a vocabulary that does not fit the rows of the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misfit {
    /// It is an error.
    #[default]
    Refuse,
    /// Unused tokens are added, tokens without a row left out.
    Mend,
    /// Nothing: whoever asked looks at it.
    Leave,
}

/// The directory of one file of weights.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// The id of the file's format.
    pub format: &'static str,
    /// The inputs that the tensors point into: the file, and unpacked entries of it.
    pub files: Vec<Input>,
    /// Its tensors in file order.
    pub tensors: Vec<Stored>,
    /// The model's settings, where they are beside the tensors: what params.json has.
    pub params: Option<Json>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A tensor as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name in the checkpoint.
    pub name: String,
    /// The type of its numbers.
    pub dtype: &'static Dtype,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Elements from one index to the next, for each dimension.
    pub stride: Vec<u64>,
    /// Index of its input.
    pub file: usize,
    /// Where its first number is there.
    pub at: u64,
    /// Whether its numbers are big-endian.
    pub big_endian: bool,
}

impl Stored {
    /// The type of its rows.
    pub fn quant(&self) -> Result<QuantType> {
        let float = self.dtype.is_float() || self.dtype.is_blocks();
        QuantType::today(self.dtype.name).filter(|_| float).ok_or_else(|| {
            let what = format!("{}: weights of type {}", self.name, self.dtype.name);
            Error::unsupported(what, "not yet: f16, bf16, f32 and f64 are read as weights")
        })
    }

    /// Bytes of N numbers side by side, where they fill whole bytes or blocks.
    pub fn bytes_of(&self, numbers: u64) -> Option<u64> {
        if !self.dtype.is_blocks() {
            return self.dtype.bytes(numbers);
        }
        let layout = QuantType::today(self.dtype.name)?.layout();
        let (elements, bytes) = (layout.elements as u64, layout.bytes as u64);
        let whole = numbers.is_multiple_of(elements);
        whole.then(|| (numbers / elements).checked_mul(bytes)).flatten()
    }

    /// Its rows as one piece of a tensor.
    pub fn piece(&self) -> Result<Piece> {
        let width = self.dtype.width();
        let odd = |what: &str| {
            let what =
                format!("{}: {what}: shape {:?}, strides {:?}", self.name, self.shape, self.stride);
            Error::unsupported(what, "not yet: save it with .contiguous()")
        };
        let (Some(&columns), Some(&step)) = (self.shape.last(), self.stride.last()) else {
            return Err(odd("a single number"));
        };
        let outer = || self.shape.iter().zip(&self.stride).rev().skip(1);
        if self.shape.contains(&0) {
            return Err(odd("no elements"));
        }
        if self.shape.iter().zip(&self.stride).any(|(n, s)| *n > 1 && *s == 0) {
            return Err(odd("one number many times"));
        }
        let bytes = |numbers| self.bytes_of(numbers).ok_or_else(|| odd("rows of no whole blocks"));
        let row_bytes = bytes(columns)?;
        // Rows are found by one stride, so every outer dimension must continue the one inside it.
        let row_stride = outer().find(|(n, _)| **n > 1).map_or(columns, |(_, s)| *s);
        let mut next = row_stride;
        for (n, stride) in outer() {
            if *n > 1 && *stride != next {
                return Err(odd("rows at uneven distances"));
            }
            next = next.saturating_mul(*n);
        }
        if step == 1 && row_stride < columns && outer().any(|(n, _)| *n > 1) {
            return Err(odd("rows that overlap"));
        }
        let element = match u8::try_from(width) {
            _ if step != 1 && columns > 1 && self.dtype.is_blocks() => {
                return Err(odd("rows across blocks"));
            }
            Ok(width) if step != 1 && columns > 1 => Some((width, step * u64::from(width))),
            _ => None,
        };
        Ok(Piece {
            file: self.file,
            at: self.at,
            rows: outer().map(|(n, _)| n).product(),
            row_bytes,
            row_stride: bytes(row_stride)?,
            element,
        })
    }
}

/// Whether `path` is something that [`open`] reads: a folder, an index, or a file that begins as one
/// of the checkpoint formats does.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    if path.is_dir() || path.extension().is_some_and(|e| e == "json") {
        return Ok(true);
    }
    is_weights(path)
}

/// Whether a file begins as one of torch or safetensors does.
pub fn is_weights(path: &Path) -> Result<bool> {
    let input = Input::open(path)?;
    let mut head = vec![0; usize::try_from(input.len().min(512)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    Ok(torch::is_torch(&head) || safetensors::is_safetensors(&head, input.len()))
}

/// Reads a checkpoint: a folder, an index, one shard of a set or a file.
///
/// # Errors
/// Where a file is missing or broken, or the architecture is not one that is read yet.
pub fn open(path: &Path, options: &Options) -> Result<Model> {
    let found = find::find(path)?;
    let (mut draft, mut shards) = gather(&found, &options.limits)?;
    if let Some(drop) = &options.drop {
        let mut dropped = 0;
        shards.iter_mut().for_each(|shard| {
            let before = shard.len();
            shard.retain(|t| !drop.is_match(&t.name));
            dropped += before - shard.len();
        });
        draft.notes.push(format!(
            "{} left out, whose names match {drop}",
            counted(dropped, "tensor", "tensors")
        ));
    }
    if is_adapter(&shards) {
        let what = format!("{}: a LoRA adapter, no model by itself", draft.name());
        return Err(Error::unsupported(what, "`regguf upgrade` makes an adapter of GGUF of it"));
    }
    if let Some(scheme) = quantized::scheme(&draft.folder, &shards.iter().flatten())? {
        quantized::decode(&mut draft, &mut shards, &scheme)?;
    }
    let names = || shards.iter().flatten().map(|t| t.name.as_str());
    let is_meta = names().any(|n| role(n).is_some_and(|r| r.layer.is_some()));
    if is_meta {
        meta::open(draft, &shards, options)
    } else {
        huggingface::open(draft, shards, options)
    }
}

/// Whether every tensor is one of an adapter.
fn is_adapter(shards: &[Vec<Stored>]) -> bool {
    let mut names = shards.iter().flatten().map(|t| t.name.as_str()).peekable();
    names.peek().is_some() && names.all(|name| name.contains(".lora_"))
}

/// What a checkpoint holds, whether or not it can be read as a model.
#[derive(Debug)]
#[non_exhaustive]
pub struct Survey {
    /// Its files with weights.
    pub files: Vec<Input>,
    /// Its tensors, file by file.
    pub tensors: Vec<Stored>,
    /// What it is where it is no plain model: quantized for another program, an adapter.
    pub kind: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Lists what a file of raw weights holds, with the others of its set where all are there.
///
/// # Errors
/// Where a directory is broken.
pub fn survey(path: &Path, limits: &Limits) -> Result<Survey> {
    let mut notes = Vec::new();
    let found = find::find(path).unwrap_or_else(|error| {
        notes.push(error.to_string());
        let folder = crate::bytes::replace::folder_of(path).to_owned();
        find::Found { folder, files: vec![path.to_owned()], index: None }
    });
    let (draft, shards) = gather(&found, limits)?;
    notes.extend(draft.notes);
    let scheme = quantized::scheme(&draft.folder, &shards.iter().flatten())?;
    let kind = scheme.map(|scheme| format!("weights quantized by {scheme}"));
    let left = || shards.iter().flatten().any(|t| t.name.contains(".lora_"));
    let kind = kind.or_else(|| match is_adapter(&shards) {
        true => Some("a LoRA adapter".to_owned()),
        false => left().then(|| "a model with tensors of an adapter left in".to_owned()),
    });
    let files = draft.files.into_iter().filter(Input::is_on_disk).collect();
    Ok(Survey { files, tensors: shards.into_iter().flatten().collect(), kind, notes })
}

/// Reads the directories of a checkpoint's files: its tensors file by file, under their own names without
/// what training put before them.
fn gather(found: &find::Found, limits: &Limits) -> Result<(Draft, Vec<Vec<Stored>>)> {
    let mut draft = Draft { folder: found.folder.clone(), ..Draft::default() };
    let mut shards = Vec::new();
    for file in &found.files {
        let mut weights = weights(file, limits)?;
        found.check_shard(file, &weights.tensors)?;
        weights.tensors.iter_mut().for_each(|t| t.file += draft.files.len());
        draft.files.append(&mut weights.files);
        draft.notes.append(&mut weights.notes);
        draft.params = draft.params.or(weights.params);
        draft.format = weights.format;
        shards.push(weights.tensors);
    }
    let names: Vec<&str> = shards.iter().flatten().map(|t: &Stored| t.name.as_str()).collect();
    let config = json::read(&draft.folder.join("config.json")).ok().flatten();
    let family = config.as_ref().and_then(architecture).and_then(family_of);
    let plain = names::unwrapped(&names, &[family.unwrap_or_else(self::family)]);
    shards.iter_mut().flatten().zip(plain).for_each(|(stored, name)| stored.name = name);
    Ok((draft, shards))
}

/// The family whose checkpoints Meta published, with which Hugging Face's came up.
pub fn family() -> &'static Family {
    // Every description is read when the tests run.
    catalog::family("llama").unwrap_or_else(|| unreachable!("no description of llama"))
}

/// The family whose checkpoints name this architecture in `config.json`.
pub fn family_of(architecture: &str) -> Option<&'static Family> {
    let named = |family: &&Family| {
        let Identity { hf, within, .. } = &family.family;
        hf.iter().chain(within).any(|known| known == architecture)
    };
    catalog::families().iter().find(named)
}

/// The architecture that a `config.json` names.
fn architecture(config: &Json) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

/// What the tensor that Meta calls `name` does.
fn role(name: &str) -> Option<Role> {
    Role::of(family(), Naming::Old, name)
}

/// Whether a tensor is a table that readers compute themselves.
fn is_constant(family: &Family, name: &str) -> bool {
    family.family.ignored.iter().any(|end| name.ends_with(end.as_str()))
}

/// One file of weights by itself, its tensors under the names that it gives them. Numbers that are no
/// block are taken as the bytes that they are.
///
/// # Errors
/// Where its directory is broken.
pub fn alone(path: &Path, limits: &Limits) -> Result<Model> {
    let weights = weights(path, limits)?;
    let tensor = |stored: &Stored| {
        let (pieces, orders) = (vec![stored.piece().ok()?], Vec::new());
        let (name, mut shape, join) = (stored.name.clone(), stored.shape.clone(), Join::Rows);
        let block = QuantType::today(stored.dtype.name).filter(|q| q.block().elements == 1);
        let (quant, big_endian) = (block.or(QuantType::today("i8"))?, stored.big_endian);
        if let (None, Some(last)) = (block, shape.last_mut()) {
            *last = stored.dtype.bytes(*last)?;
        }
        let (fold, span, sum) = (1, None, None);
        Some(Tensor { name, shape, quant, big_endian, pieces, join, orders, fold, span, sum })
    };
    let tensors = weights.tensors.iter().filter_map(tensor).collect();
    let format = weights.format.to_owned();
    let notes = weights.notes;
    Ok(Model { format, files: weights.files, tensors, notes, ..Model::default() })
}

/// The directory of one file of weights, whatever its format.
pub fn weights(path: &Path, limits: &Limits) -> Result<Weights> {
    let input = Input::open(path)?;
    let mut head = vec![0; usize::try_from(input.len().min(512)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    if torch::is_torch(&head) {
        torch::open(&input, limits)
    } else if safetensors::is_safetensors(&head, input.len()) {
        safetensors::open(&input, limits)
    } else {
        Err(Error::Unknown {
            file: input.name(),
            looks: "not a file of torch.save, nor safetensors".to_owned(),
            next: "regguf inspect says what it looks like".to_owned(),
        })
    }
}
