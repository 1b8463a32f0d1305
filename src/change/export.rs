//! The road back: any model as a Hugging Face checkpoint, `model.safetensors` with `config.json` and
//! the tokenizer's files.
//!
//! Query and key rows go back into halves, and quantized weights are decoded: transformers knows
//! neither pairs nor blocks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::{Progress, upgrade};
use crate::{
    bytes::{
        Input, Replace,
        replace::{check_interrupt, check_target, write_small},
    },
    checkpoint::{
        family,
        hyper::{Hyper, Scaling},
        tokenizer,
    },
    error::{Error, Result},
    model::{Metadata, Model, Naming, Order, Role, Tensor, Vocab},
    quant::{
        QuantType, decode_rows,
        encode::{EncodeRows, encoder},
        isa::Isa,
    },
};

/// What will be written.
#[derive(Debug)]
pub struct Export {
    /// The folder.
    pub folder: PathBuf,
    /// The small files by name.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// What a person should know.
    pub notes: Vec<String>,
    model: Model,
    weights: Vec<Weight>,
    header: Vec<u8>,
    total: u64,
}

/// One tensor of the output.
#[derive(Debug)]
struct Weight {
    tensor: usize,
    to: QuantType,
    encode: EncodeRows,
    at: u64,
}

/// Weights of a chunk; about one megabyte of f32.
const CHUNK: u64 = 256 << 10;

/// Plans the export of a model into `folder`, its weights as `dtype` (f16, bf16, f32; as stored where
/// `auto`, quantized ones f16).
///
/// # Errors
/// Where the model has tensors that transformers' LLaMA has no place for.
pub fn plan(model: Model, folder: PathBuf, dtype: &str) -> Result<Export> {
    let stated = upgrade::Options { output: Some(folder.join("x")), ..upgrade::Options::default() };
    let (mut model, plan) = upgrade::plan(model, &stated)?;
    model.metadata = plan.metadata;
    model.vocab = Vocab::from_metadata(&model.metadata);
    let mut notes = plan.notes;
    let hyper = hyper(&model)?;
    let mut weights = Vec::new();
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for step in &plan.steps {
        let Some(tensor) = model.tensors.get_mut(step.source) else { continue };
        if step.name == "rope_freqs.weight" {
            continue;
        }
        let role = Role::of(family(), Naming::Gguf, &step.name);
        let Some(role) = role.filter(|role| role.names.experts != Some(true)) else {
            let what = format!("{}: transformers' LLaMA has no place for it", step.name);
            return Err(Error::unsupported(what, "not yet: only LLaMA and Mistral go back"));
        };
        if role.names.rotary {
            let (rows, head) = (tensor.rows(), u64::from(hyper.head_dim));
            if head == 0 || head % 2 != 0 || !rows.is_multiple_of(head) {
                let what = format!("{}: {rows} rows in heads of {head}", step.name);
                return Err(Error::unsupported(
                    what,
                    "the file's metadata does not fit its tensors",
                ));
            }
            tensor.orders.push(Order::HalvesFromPairs { rows_per_head: head });
        }
        let stored = tensor.quant.name();
        let name = match dtype {
            "auto" if matches!(stored, "f32" | "f16" | "bf16") => stored,
            "auto" => "f16",
            other => other,
        };
        let (Some(to), Some(encode)) = (QuantType::today(name), encoder(name)) else {
            return Err(Error::Usage(format!("--type {name}: safetensors get f32, f16 or bf16")));
        };
        let bytes = tensor.elements() * to.layout().bytes as u64;
        entries.insert(
            role.name(Naming::Hf),
            json!({"dtype": name.to_uppercase(), "shape": step.shape, "data_offsets": [at, at + bytes]}),
        );
        weights.push(Weight { tensor: step.source, to, encode, at });
        at += bytes;
    }
    let mut header = serde_json::to_vec(&entries).unwrap_or_default();
    header.resize(header.len().next_multiple_of(8), b' ');
    let total = 8 + header.len() as u64 + at;
    let dtype = weights.iter().max_by_key(|w| w.to.layout().bytes).map_or("f16", |w| w.to.name());
    let config = config(&model, &hyper, dtype, &mut notes);
    let mut files = vec![("config.json", pretty(&config))];
    files.extend(tokenizer::files::files(&model.vocab, &mut notes));
    Ok(Export { folder, files, notes, model, weights, header, total })
}

fn pretty(value: &Json) -> Vec<u8> {
    serde_json::to_string_pretty(value).unwrap_or_default().into_bytes()
}

impl Export {
    /// Bytes of `model.safetensors`.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The model file's path.
    pub fn target(&self) -> PathBuf {
        self.folder.join("model.safetensors")
    }

    /// Writes the folder.
    pub fn write(&self, force: bool, progress: &dyn Progress) -> Result<()> {
        let inputs: Vec<&Input> = self.model.files.iter().collect();
        let path = |name: &str| self.folder.join(name);
        for (name, _) in &self.files {
            check_target(&path(name), force, &inputs)?;
        }
        fs::create_dir_all(&self.folder).map_err(|e| Error::io(&self.folder, "create", e))?;
        let out = Replace::begin(&self.target(), self.total, force, &inputs)?;
        out.write_at(0, &(self.header.len() as u64).to_le_bytes())?;
        out.write_at(8, &self.header)?;
        self.chunks().into_iter().par_bridge().try_for_each(|(weight, first, rows)| {
            check_interrupt()?;
            self.carry(weight, first, rows, &out, progress)
        })?;
        self.model.files.iter().try_for_each(Input::check_unchanged)?;
        out.commit()?;
        self.files.iter().try_for_each(|(name, bytes)| write_small(&path(name), bytes, force))
    }

    fn chunks(&self) -> Vec<(&Weight, u64, u64)> {
        let mut chunks = Vec::new();
        for weight in &self.weights {
            let Some(tensor) = self.model.tensors.get(weight.tensor) else { continue };
            let group = tensor.quant.row_group() as u64;
            let step = (CHUNK / tensor.row_len().max(1) / group * group).max(group);
            let firsts = (0..tensor.rows()).step_by(usize::try_from(step).unwrap_or(usize::MAX));
            chunks.extend(firsts.map(|first| (weight, first, step.min(tensor.rows() - first))));
        }
        chunks
    }

    fn carry(
        &self,
        weight: &Weight,
        first: u64,
        rows: u64,
        out: &Replace,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Some(tensor) = self.model.tensors.get(weight.tensor) else { return Ok(()) };
        let size = |bytes: u64| {
            let large =
                || Error::unsupported("a row is larger than memory", "use a 64-bit machine");
            usize::try_from(bytes).map_err(|_| large())
        };
        let mut raw = vec![0; size(rows * tensor.row_bytes())?];
        self.model.read_rows(tensor, first, rows, &mut raw)?;
        let row_len = size(tensor.row_len())?;
        let width = weight.to.layout().bytes as u64;
        let at = 8 + self.header.len() as u64 + weight.at + first * tensor.row_len() * width;
        progress.advance(rows * tensor.row_len() * width);
        if tensor.quant == weight.to {
            return out.write_at(at, &raw);
        }
        let isa = Isa::best();
        let mut numbers = vec![0.0; size(rows)? * row_len];
        decode_rows(tensor.quant, isa, &raw, row_len, &mut numbers);
        let mut made = vec![0; size(rows * tensor.row_len() * width)?];
        (weight.encode)(isa, &numbers, row_len, None, &mut made);
        out.write_at(at, &made)
    }
}

/// The hyperparameters that metadata states.
fn hyper(model: &Model) -> Result<Hyper> {
    let metadata = &model.metadata;
    let architecture = metadata.str("general.architecture").unwrap_or("llama");
    if architecture != "llama" {
        let what = format!("not yet: {architecture} as safetensors");
        return Err(Error::unsupported(what, "only LLaMA and Mistral go back"));
    }
    let number =
        |key: &str| metadata.u64(&format!("llama.{key}")).and_then(|v| u32::try_from(v).ok());
    let need = |key: &str| {
        let missing =
            || Error::unsupported(format!("llama.{key} is missing"), "upgrade the file first");
        number(key).filter(|v| *v > 0).ok_or_else(missing)
    };
    let (width, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let head_dim = number("attention.key_length");
    let rows = model.tensors.iter().find(|t| t.name == "token_embd.weight").map(Tensor::rows);
    Ok(Hyper {
        layers: need("block_count")?,
        context: number("context_length"),
        width,
        feed_forward: need("feed_forward_length")?,
        heads,
        kv_heads: number("attention.head_count_kv").unwrap_or(heads),
        head_dim: head_dim.unwrap_or(width / heads),
        states_head_dim: head_dim.is_some_and(|dim| dim != width / heads),
        experts: None,
        vocab: rows
            .and_then(|n| u32::try_from(n).ok())
            .or(u32::try_from(model.vocab.len()).ok())
            .unwrap_or(0),
        eps: metadata.f32("llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
        rope_base: metadata.f32("llama.rope.freq_base"),
        scaling: Scaling::None,
    })
}

fn config(model: &Model, hyper: &Hyper, dtype: &str, notes: &mut Vec<String>) -> Json {
    // As people write it: the shortest decimal that is the same f32.
    let decimal = |v: f32| v.to_string().parse::<f64>().unwrap_or_else(|_| v.into());
    let torch = match dtype {
        "f32" => "float32",
        "bf16" => "bfloat16",
        _ => "float16",
    };
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hyper.width,
        "intermediate_size": hyper.feed_forward,
        "max_position_embeddings": hyper.context,
        "num_attention_heads": hyper.heads,
        "num_hidden_layers": hyper.layers,
        "num_key_value_heads": hyper.kv_heads,
        "rms_norm_eps": decimal(hyper.eps),
        "rope_scaling": rope_scaling(model, hyper, notes),
        "tie_word_embeddings": model.tensor("output.weight").is_none(),
        "torch_dtype": torch,
        "bos_token_id": model.vocab.bos,
        "eos_token_id": model.vocab.eos,
        "pad_token_id": model.vocab.padding,
        "vocab_size": hyper.vocab,
    });
    let head_dim = hyper.states_head_dim.then(|| hyper.head_dim.into());
    let rope_theta = hyper.rope_base.map(|base| decimal(base).into());
    for (key, value) in [("head_dim", head_dim), ("rope_theta", rope_theta)] {
        if let (Some(value), Some(map)) = (value, config.as_object_mut()) {
            map.insert(key.to_owned(), value);
        }
    }
    config
}

/// Rope scaling from its keys, or from the tensor of divisors if one of LLaMA 3's factors gives it.
fn rope_scaling(model: &Model, hyper: &Hyper, notes: &mut Vec<String>) -> Json {
    let metadata: &Metadata = &model.metadata;
    let factor = metadata.f32("llama.rope.scaling.factor");
    match (metadata.str("llama.rope.scaling.type"), factor) {
        (Some("linear"), Some(factor)) => return json!({"type": "linear", "factor": factor}),
        (Some("yarn"), Some(factor)) => {
            let original = metadata.u64("llama.rope.scaling.original_context_length");
            return json!({"type": "yarn", "factor": factor, "original_max_position_embeddings": original});
        }
        _ => {}
    }
    let Some(tensor) = model.tensor("rope_freqs.weight") else { return Json::Null };
    let mut bytes = vec![0; usize::try_from(tensor.bytes().min(1 << 20)).unwrap_or(0)];
    let stored: Vec<f32> = match model.read_rows(tensor, 0, tensor.rows(), &mut bytes) {
        Ok(()) => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Err(_) => Vec::new(),
    };
    for factor in [8.0, 32.0] {
        let scaling = Scaling::Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 };
        let made = Hyper { scaling, ..hyper.clone() }.rope_divisors().unwrap_or_default();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * 1e-4;
        if made.len() == stored.len() && made.iter().zip(&stored).all(near) {
            return json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192
            });
        }
    }
    notes.push(
        "rope_freqs.weight fits no known rule: rope_scaling in config.json is yours to write"
            .to_owned(),
    );
    Json::Null
}

/// The folder beside `input` that an export goes to by default.
pub fn folder_beside(input: &Path) -> PathBuf {
    let stem = input.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    input.with_file_name(format!("{stem}-safetensors"))
}
