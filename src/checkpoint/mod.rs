//! Checkpoints as they were published: raw weights and the small files beside them, read as a
//! [`Model`] in GGUF's terms.
//!
//! Nothing is converted here. Tensors get GGUF's names and point at their rows where these lie, in
//! the archive, the shards, in another order; metadata and vocabulary are what llama.cpp's
//! `convert_hf_to_gguf.py` would write.
//!
//! | publisher | weights | beside them |
//! |---|---|---|
//! | Meta | `consolidated.NN.pth` ([`torch`]) | `params.json` (`meta`), `tokenizer.model` |
//! | EasyLM | one file of msgpack (`easylm`): Koala's differences | |
//! | Hugging Face | `*.safetensors` ([`safetensors`]), `pytorch_model*.bin` ([`torch`]) | `config.json` (`huggingface`), `tokenizer*` |

pub(crate) mod adapter;
pub(crate) mod assemble;
pub(crate) mod beside;
pub(crate) mod card;
pub(crate) mod cut;
pub(crate) mod dtype;
pub(crate) mod easylm;
mod family;
pub(crate) mod find;
pub(crate) mod huggingface;
pub(crate) mod hyper;
pub(crate) mod json;
mod larger;
pub(crate) mod meta;
pub(crate) mod names;
mod options;
mod packed;
pub(crate) mod pooling;
pub(crate) mod quantized;
pub mod safetensors;
mod stored;
pub mod tokenizer;
pub mod torch;
mod weights;
pub(crate) mod yaml;

use std::path::Path;

use assemble::Draft;
pub use dtype::Dtype;
use family::role;
pub use family::{family, family_of};
pub use options::{Misfit, Options};
pub use stored::{Stored, Weights};
pub use weights::{is_weights, weights};

use crate::{
    bytes::Input,
    error::{Error, Result},
    limits::Limits,
    model::{Model, Tensor},
    quant::QuantType,
    remedy::{Call, Notes},
    size::counted,
};

/// Whether `path` is something that [`open`] reads: a folder, an index, or a file that begins as one
/// of the checkpoint formats does.
///
/// # Errors
/// Where a file cannot be read.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    if path.is_dir() || path.extension().is_some_and(|e| e == "json") {
        return Ok(true);
    }
    is_weights(path)
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
        return Err(Error::unsupported(what, Call::Upgrade.to("make an adapter of GGUF of it")));
    }
    if let Some(scheme) = quantized::scheme(&draft.folder, &shards.iter().flatten())? {
        quantized::decode(&mut draft, &mut shards, &scheme, options.blocks)?;
    }
    let names = || shards.iter().flatten().map(|t| t.name.as_str());
    let is_meta = names().any(|n| role(n).is_some_and(|r| r.layer.is_some()));
    let model = match is_meta {
        true => meta::open(draft, &shards, options)?,
        false => huggingface::open(draft, shards, options)?,
    };
    Ok(Model { limits: options.limits, ..model })
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
    pub notes: Notes,
}

/// Lists what a file of raw weights holds, with the others of its set where all are there.
///
/// # Errors
/// Where a directory is broken.
pub fn survey(path: &Path, limits: &Limits) -> Result<Survey> {
    let mut notes = Notes::default();
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
    let family = config.as_ref().and_then(family::architecture).and_then(family_of);
    let plain = names::unwrapped(&names, &[family.unwrap_or_else(self::family)]);
    shards.iter_mut().flatten().zip(plain).for_each(|(stored, name)| stored.name = name);
    Ok((draft, shards))
}

/// One file of weights by itself, its tensors under the names that it gives them. Numbers that are no
/// block are taken as the bytes that they are.
///
/// # Errors
/// Where its directory is broken.
pub fn alone(path: &Path, limits: &Limits) -> Result<Model> {
    let weights = weights(path, limits)?;
    let tensor = |stored: &Stored| {
        let (piece, mut shape) = (stored.piece().ok()?, stored.shape.clone());
        let block = QuantType::today(stored.dtype.name).filter(|q| q.block().elements == 1);
        let quant = block.or(QuantType::today("i8"))?;
        if let (None, Some(last)) = (block, shape.last_mut()) {
            *last = stored.dtype.bytes(*last)?;
        }
        let tensor = Tensor::of_piece(stored.name.clone(), shape, quant, piece);
        Some(Tensor { big_endian: stored.big_endian, ..tensor })
    };
    let tensors = weights.tensors.iter().filter_map(tensor).collect();
    let format = weights.format.to_owned();
    let notes = weights.notes;
    Ok(Model { format, files: weights.files, tensors, notes, ..Model::default() })
}
