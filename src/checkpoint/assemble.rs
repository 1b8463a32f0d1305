//! The last step of reading a checkpoint: its tensors checked against the hyperparameters, metadata and vocabulary put
//! together.
//!
//! ```text
//! meta, huggingface   tensors under roles, in GGUF's row order   --+
//! hyper               numbers of the model                       --+--> Draft::finish --> Model
//! vocabulary, card    tokenizer.ggml.*, general.*                --+
//! ```
//!
//! Every role is looked for in every layer, and each must be there once in the shape that the numbers say: a download
//! that lacks a shard, or files of two models in one folder, end here with the name of the tensor.
//!
//! Factors of rotary positions, which GGUF has as tensors and a checkpoint as numbers, become files in memory.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::{
    Options,
    beside::{self, Beside},
    card, cut,
    tokenizer::vocabulary,
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    format::catalog,
    model::{Hyper, Join, Metadata, Model, Naming, Order, Piece, Role, Scaling, Tensor, Value},
    quant::QuantType,
    remedy::{Notes, Setting},
};

/// A checkpoint while it is being read.
#[derive(Debug, Default)]
pub struct Draft {
    /// Where its small files lie.
    pub folder: PathBuf,
    /// The inputs that its tensors point into.
    pub files: Vec<Input>,
    /// The id of the weights' format.
    pub format: &'static str,
    /// Words of old headers that no key of GGUF holds.
    pub header: Vec<(String, i64)>,
    /// What a person should know.
    pub notes: Notes,
    /// The model's settings, where they are beside its tensors.
    pub params: Option<Json>,
    /// Numbers beside matrices.
    pub beside: Vec<Beside>,
}

/// A tensor with its role.
#[derive(Debug)]
#[allow(missing_docs, reason = "as in Tensor")]
pub struct Part {
    pub role: Role,
    pub shape: Vec<u64>,
    pub quant: QuantType,
    pub big_endian: bool,
    pub pieces: Vec<Piece>,
    pub join: Join,
    pub orders: Vec<Order>,
}

impl Part {
    /// The tensor of a model.
    pub fn tensor(&self) -> Tensor {
        Tensor {
            name: self.role.title(),
            shape: self.shape.clone(),
            quant: self.quant,
            big_endian: self.big_endian,
            pieces: self.pieces.clone(),
            join: self.join,
            orders: self.orders.clone(),
            fold: 1,
            span: None,
            sum: None,
            scalar: false,
        }
    }
}

impl Draft {
    /// What the checkpoint is called in messages.
    pub fn name(&self) -> String {
        self.files.first().map(Input::name).unwrap_or_default()
    }

    /// The refusal of an architecture, naming what there is no place for.
    pub fn unknown_tensors(&self, names: &[&str], what: &str) -> Error {
        let some: Vec<_> = names.iter().take(3).copied().collect();
        if !names.is_empty() && names.iter().all(|name| name.contains(".lora_")) {
            let what = format!(
                "{}: {} tensors of an adapter that were left in, as {}",
                self.name(),
                names.len(),
                some.join(", ")
            );
            let next = Setting::Drop.of("lora_").to("convert the model without them");
            return Error::refused(what, next);
        }
        let more = names.len().saturating_sub(some.len());
        let found = match some.as_slice() {
            [] => "no description here is of this architecture".to_owned(),
            some if more > 0 => {
                format!("there is no place yet for {} and {more} more", some.join(", "))
            }
            some => format!("there is no place yet for {}", some.join(", ")),
        };
        let read = catalog::families().iter().filter(|family| family.is_read());
        let read = read.flat_map(|family| &family.family.hf);
        let read: Vec<&str> = read.map(String::as_str).collect();
        Error::unsupported(
            format!("{}: not yet: {what}: {found}", self.name()),
            format!(
                "read are {}; for others use llama.cpp's convert_hf_to_gguf.py",
                read.join(", ")
            ),
        )
    }

    /// The model of these tensors.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape than the hyperparameters say.
    pub fn finish(
        mut self,
        parts: &[Part],
        hyper: &Hyper,
        naming: Naming,
        config: Option<&Json>,
        options: &Options,
    ) -> Result<Model> {
        // Checked first: what follows takes every tensor for what its name says.
        self.check(parts, hyper, naming)?;
        let mut tensors = Vec::new();
        // The converter has these tensors before all others, so they come first here.
        let base = hyper.sizes.f32("rope_base").unwrap_or(ROPE_BASE);
        let head = hyper.sizes.get("head").and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let mut factors = Vec::new();
        factors.extend(hyper.scaling.divisors(base, head).map(|all| ("rope_freqs.weight", all)));
        if let Scaling::Long { long, short, .. } = &hyper.scaling {
            factors.push(("rope_factors_long.weight", long.clone()));
            factors.push(("rope_factors_short.weight", short.clone()));
        }
        for (name, factors) in factors {
            let bytes = factors.iter().flat_map(|d| d.to_le_bytes()).collect();
            self.files.push(Input::memory(name, bytes));
            let shape = vec![factors.len() as u64];
            let f32 = QuantType::today("f32");
            let file = self.files.len() - 1;
            let whole = |f32| Tensor::whole(name.to_owned(), shape, f32, file, 0);
            tensors.extend(f32.and_then(whole));
        }
        tensors.extend(parts.iter().map(Part::tensor));
        tensors.extend(beside::tensors(self.beside, hyper.family, &mut self.files));
        let elements = tensors.iter().map(Tensor::elements).sum();
        // Biases of experts count as shared, so does the converter.
        let of_experts = |t: &&Tensor| t.name.contains("_exps.") && t.shape.len() > 2;
        let experts = tensors.iter().filter(of_experts).map(Tensor::elements).sum();
        let size = card::Size { elements, experts, of: experts_of(hyper).unwrap_or(1) };
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", hyper.family.architecture());
        metadata.set("general.type", "model");
        // Keys in the converter's order: what it is, what it is called, its numbers, its tokens.
        card::write(&mut metadata, &self.folder, config, size, naming)?;
        let mut hyper = hyper.clone();
        hyper.sizes.set("ftype", Value::U32(file_type(&tensors)));
        let keys = hyper.keys(Naming::Hf)?;
        keys.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
        if hyper.family.family.gguf.is_empty() {
            self.header.extend(hyper.all_words());
        }
        let hyper = &hyper;
        let read = vocabulary::read(&self.folder, config, hyper, options)?;
        self.notes.extend(read.notes);
        read.vocab.to_metadata(&mut metadata);
        for (key, value) in read.more {
            metadata.set(key, value);
        }
        // The version of GGUF's blocks, stated even where nothing is quantized, as the converter does.
        metadata.set("general.quantization_version", 2u32);
        Ok(Model {
            format: self.format.to_owned(),
            family: hyper.family.family.name.clone(),
            files: self.files,
            header: self.header,
            metadata,
            vocab: read.vocab,
            tensors,
            notes: self.notes,
            ..Model::default()
        })
    }

    /// Every tensor of every layer once, each of the right shape.
    ///
    /// ```text
    /// none of a role         fine where the family may lack it, else an incomplete download
    /// two of a role          a file too many
    /// another shape          settings of another model, or a shard is missing
    /// a layer too high       settings of a smaller model
    /// ```
    fn check(&mut self, parts: &[Part], hyper: &Hyper, naming: Naming) -> Result<()> {
        let counted = |symbol: &str| hyper.sizes.get(symbol).unwrap_or(0);
        // Every role in every layer that the numbers count, so that what is missing is noticed by its absence.
        for role in Role::counted(hyper.family, counted, hyper.sizes.feed_forward()) {
            let wanted = role.shape(&hyper.sizes).unwrap_or_default();
            let whole = || cut::whole_of(hyper.family, &role).filter(|_| naming == Naming::Hf);
            let name = || whole().or_else(|| role.name(naming)).unwrap_or_default();
            let mut found = parts.iter().filter(|p| p.role == role);
            match (found.next(), found.next()) {
                (None, _) if role.is_optional() => {
                    if role.id == "output" && !role.bias {
                        let name = name();
                        self.notes.push(format!("no {name}: the output is the token embedding"));
                    }
                }
                (None, _) => {
                    let what = format!("{}: no {}", self.name(), name());
                    return Err(Error::refused(what, "check that the download is complete"));
                }
                (Some(_), Some(_)) => {
                    let what = format!("{}: {} is there twice", self.name(), name());
                    return Err(Error::refused(what, "remove the file that does not belong to it"));
                }
                (Some(part), None) if part.shape != wanted => {
                    let what = format!(
                        "{}: {} has the shape {:?}, its hyperparameters want {wanted:?}",
                        self.name(),
                        name(),
                        part.shape
                    );
                    let next = "check that config.json or params.json is of this model, and no shard missing";
                    return Err(Error::refused(what, next));
                }
                (Some(_), None) => {}
            }
        }
        let layers = |p: &Part| counted(p.role.names.counted_by());
        // Layers beyond the number that is stated: settings of a smaller model.
        let beyond = |p: &&Part| p.role.layer.is_some_and(|l| l >= layers(p));
        if let Some(part) = parts.iter().find(beyond) {
            let layers = layers(part);
            let tensor = part.role.name(naming).unwrap_or_default();
            let what = format!("{}: {tensor}, but {layers} layers", self.name());
            return Err(Error::refused(
                what,
                "check that config.json or params.json is of this model",
            ));
        }
        Ok(())
    }
}

/// The base of rotary positions where nothing states one.
const ROPE_BASE: f32 = 10_000.0;

/// The experts of a layer, in models that have them.
fn experts_of(hyper: &Hyper) -> Option<u64> {
    hyper.sizes.get("n_expert").filter(|n| *n > 0)
}

/// `general.file_type` of models with blocks of these types.
const OF_BLOCKS: [(&str, u32); 2] = [("mxfp4", 38), ("nvfp4", 39)];

/// `general.file_type` of weights as they are stored: by the type of most matrices' elements.
/// A file of blocks has the number of its blocks, however few they are: the converter says so of every such model.
fn file_type(tensors: &[Tensor]) -> u32 {
    let elements = |name: &str| -> u64 {
        let of_type = tensors.iter().filter(|t| t.quant.name() == name && t.shape.len() > 1);
        of_type.map(Tensor::elements).sum()
    };
    if let Some((_, number)) = OF_BLOCKS.iter().find(|(name, _)| elements(name) > 0) {
        return *number;
    }
    let types = [("f32", 0), ("f16", 1), ("bf16", 32)];
    types.into_iter().max_by_key(|(name, _)| elements(name)).map_or(0, |(_, number)| number)
}
