//! LoRA adapters as PEFT publishes them: `adapter_model.safetensors` or `.bin`, and `adapter_config.json`.
//!
//! | in the file | read as |
//! |---|---|
//! | `base_model.model.X.lora_A.weight` [r, in] | `X.weight.loraA` |
//! | `base_model.model.X.lora_B.weight` [out, r] | `X.weight.loraB` |
//! | `base_model.model.X.lora_embedding_A` [r, tokens] | `X.weight.loraB`, transposed |
//! | `base_model.model.X.lora_embedding_B` [width, r] | `X.weight.loraA`, transposed |
//!
//! so that the change of `X.weight` [out, in] is `alpha / r` times B A in all of them. What changes a model in
//! another way than this (DoRA, whole tensors, a base that was changed before) is refused by its name.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{Stored, json, names, weights};
use crate::{
    bytes::replace::folder_of,
    error::{Error, Result},
    format::catalog,
    limits::Limits,
    model::{Model, Tensor, Value, adapter::MOST_RANK},
    remedy::{Call, Remedy},
};

/// The settings of an adapter.
const CONFIG: &str = "adapter_config.json";
/// Its weights, as PEFT looks for them.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// What is to be done with what no pair carries.
fn merge() -> Remedy {
    Call::Convert.to("merge it into its base with PEFT, then convert the model")
}

/// Whether `path` is such an adapter: its folder, its settings or its weights.
///
/// # Errors
/// Where a file cannot be read.
pub fn is_adapter(path: &Path, limits: &Limits) -> Result<bool> {
    if path.is_dir() {
        return Ok(path.join(CONFIG).is_file());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == CONFIG {
        return Ok(true);
    }
    if !super::is_weights(path)? {
        return Ok(false);
    }
    if WEIGHTS.contains(&name.as_str()) {
        return Ok(true);
    }
    let held = weights(path, limits).map(|held| held.tensors).unwrap_or_default();
    Ok(!held.is_empty() && held.iter().all(|t| t.name.contains(".lora_")))
}

/// Reads an adapter under the names of the matrices that it changes, as a ggla file has them.
///
/// # Errors
/// Where a file is missing or broken, or it changes its model in a way that is not carried.
pub fn open(path: &Path, limits: &Limits) -> Result<Model> {
    let (folder, file) = find(path)?;
    let held = weights(&file, limits)?;
    let config = Config::read(&folder.join(CONFIG))?;
    config.check()?;
    let name = file.display().to_string();
    let mut tensors = Vec::new();
    for stored in &held.tensors {
        let Some(tensor) = tensor(stored)? else { return Err(config.beside(&name, &stored.name)) };
        tensors.push(tensor);
    }
    if tensors.is_empty() {
        let what = format!("{name}: no tensor at all");
        return Err(Error::refused(what, "get a whole copy of the adapter"));
    }
    let families: Vec<_> = catalog::families().iter().filter(|family| family.is_read()).collect();
    let targets: Vec<&str> = tensors.iter().map(|(target, _, _)| target.as_str()).collect();
    let targets = names::unwrapped(&targets, &families);
    let named = tensors.into_iter().zip(targets).map(|((_, half, tensor), target)| Tensor {
        name: format!("{target}.lora{half}"),
        ..tensor
    });
    let tensors: Vec<Tensor> = named.collect();
    let mut model = Model {
        format: held.format.to_owned(),
        files: held.files,
        tensors,
        notes: held.notes,
        ..Model::default()
    };
    let alpha = config.alpha(&name, &model)?;
    let own = folder.canonicalize().unwrap_or(folder);
    if let Some(own) = own.file_name() {
        model.metadata.set("general.name", own.to_string_lossy().as_ref());
    }
    if let Some(base) = config.text("base_model_name_or_path").filter(|base| !base.is_empty()) {
        model.metadata.set("general.base_model.count", 1u32);
        model.metadata.set("general.base_model.0.name", base);
    }
    model.metadata.set("adapter.lora.alpha", Value::F32(alpha));
    Ok(model)
}

/// The file of an adapter's weights.
///
/// # Errors
/// Where there is none.
pub fn weights_of(path: &Path) -> Result<PathBuf> {
    find(path).map(|(_, weights)| weights)
}

/// The files of the adapter whose weights lie at `path`: they, and the settings where these are there.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    let settings = folder_of(path).join(CONFIG);
    let there = Some(settings).filter(|path| path.is_file());
    [path.to_owned()].into_iter().chain(there).collect()
}

/// The folder of an adapter and its weights.
fn find(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let settings = path.file_name().is_some_and(|name| name == CONFIG);
    if !path.is_dir() && !settings {
        return Ok((folder_of(path).to_owned(), path.to_owned()));
    }
    let folder = if settings { folder_of(path) } else { path };
    let there = WEIGHTS.iter().map(|name| folder.join(name)).find(|file| file.is_file());
    let there = there.ok_or_else(|| Error::Unknown {
        file: folder.display().to_string(),
        looks: format!("an adapter with {CONFIG}, but no {}", WEIGHTS.join(" or ")),
        next: "download its weights too".into(),
    })?;
    Ok((folder.to_owned(), there))
}

/// One half of a pair: the matrix that it changes, which half, and its numbers; none for anything else.
fn tensor(stored: &Stored) -> Result<Option<(String, char, Tensor)>> {
    let Some((stem, half, embedding)) = half(&stored.name) else { return Ok(None) };
    let (name, shape) = (stored.name.clone(), stored.shape.clone());
    let tensor = Tensor::of_piece(name, shape, stored.quant()?, stored.piece()?);
    let tensor = Tensor { big_endian: stored.big_endian, ..tensor };
    if tensor.shape.len() != 2 {
        let what = format!("{}: {} dimensions", stored.name, tensor.shape.len());
        return Err(Error::unsupported(what, "not yet: adapters of anything but matrices"));
    }
    let tensor = if embedding { tensor.transposed() } else { Some(tensor) };
    Ok(tensor.map(|tensor| (format!("{stem}.weight"), half, tensor)))
}

/// The module, the half that is read, and whether the module is an embedding.
///
/// ```text
/// ….self_attn.q_proj.lora_A.default.weight [r, in]    (….self_attn.q_proj, A)
/// ….embed_tokens.lora_embedding_A [r, vocabulary]     (….embed_tokens, B), turned to [vocabulary, r]
/// ```
///
/// An embedding is looked up, not multiplied, so PEFT's halves of it are the other way round.
fn half(name: &str) -> Option<(&str, char, bool)> {
    let marks = [(".lora_A", 'A', false), (".lora_B", 'B', false)];
    let of_embeddings = [(".lora_embedding_A", 'B', true), (".lora_embedding_B", 'A', true)];
    marks.into_iter().chain(of_embeddings).find_map(|(mark, half, embedding)| {
        let (stem, rest) = name.rsplit_once(mark)?;
        // A module has `.weight` behind it; in between is the name of the adapter or nothing.
        let own = if embedding { rest } else { rest.strip_suffix(".weight")? };
        let plain = own.is_empty() || own.strip_prefix('.').is_some_and(|own| !own.contains('.'));
        plain.then_some((stem, half, embedding))
    })
}

/// The settings beside an adapter's weights.
struct Config {
    path: PathBuf,
    json: Json,
}

impl Config {
    /// Reads the settings beside the weights.
    ///
    /// # Errors
    /// Where the file is missing: nothing else says alpha.
    fn read(path: &Path) -> Result<Config> {
        let json = json::read(path)?.ok_or_else(|| {
            let looks = format!("an adapter without {CONFIG}, which alone says alpha");
            let file = folder_of(path).display().to_string();
            Error::Unknown { file, looks, next: "copy it beside the weights".into() }
        })?;
        Ok(Config { path: path.to_owned(), json })
    }

    /// A setting that is there and not null.
    fn get(&self, key: &str) -> Option<&Json> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// The same as text.
    fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Whether a setting asks for something: neither null, nor false, nor empty.
    fn is_set(&self, key: &str) -> bool {
        match self.get(key) {
            None | Some(Json::Bool(false)) => false,
            Some(Json::Array(items)) => !items.is_empty(),
            Some(Json::Object(items)) => !items.is_empty(),
            Some(_) => true,
        }
    }

    /// The error for a setting that is none.
    fn malformed(&self, key: &str, wanted: &str) -> Error {
        let found = self.json.get(key).map_or("nothing".to_owned(), Json::to_string);
        json::malformed(&self.path, key, &found, wanted)
    }

    /// The error for what GGUF's adapters cannot do.
    fn not_carried(&self, what: &str) -> Error {
        Error::unsupported(format!("{}: {what}", self.path.display()), merge())
    }

    /// Refuses what changes a model in another way than by products of pairs.
    fn check(&self) -> Result<()> {
        if let Some(kind) = self.text("peft_type").filter(|kind| *kind != "LORA") {
            return Err(self.not_carried(&format!("peft_type {kind}, no LoRA adapter")));
        }
        for (key, what) in [
            (
                "use_dora",
                "DoRA (use_dora): weights are scaled to a length after the product is added",
            ),
            ("alpha_pattern", "alpha_pattern: an alpha for each module, GGUF has one for all"),
            ("layer_replication", "layer_replication: the model has layers that its base has not"),
            ("use_qalora", "QA-LoRA (use_qalora): A is of grouped columns"),
        ] {
            if self.is_set(key) {
                return Err(self.not_carried(what));
            }
        }
        let start = self.text("init_lora_weights").unwrap_or_default();
        if let Some(start) = ["pissa", "olora", "corda"].iter().find(|s| start.starts_with(**s)) {
            let what =
                format!("init_lora_weights {start}: the pairs were taken out of the base first");
            return Err(self.not_carried(&what));
        }
        Ok(())
    }

    /// What is said of a tensor that is no half of a pair.
    /// The name tells what a pair of matrices cannot say of it.
    fn beside(&self, file: &str, name: &str) -> Error {
        let kind = match name {
            _ if name.contains("lora_magnitude_vector") => "the lengths of DoRA",
            _ if name.contains(".lora_") => "of an adapter of another kind",
            _ if name.ends_with(".bias") => "a bias that was trained too",
            _ if self.is_set("modules_to_save") => "a whole tensor (modules_to_save)",
            _ => "a whole tensor",
        };
        Error::unsupported(format!("{file}: {name}: {kind}, which no pair carries"), merge())
    }

    /// Alpha as GGUF has it: divided by the rank of a pair, it is what the product is multiplied with.
    ///
    /// ```text
    /// PEFT              W + lora_alpha / r · B A
    /// rank-stabilised   W + lora_alpha / sqrt(r) · B A      alpha here: lora_alpha · sqrt(r)
    /// GGUF              W + alpha / r · B A                 r of each pair
    /// ```
    fn alpha(&self, file: &str, model: &Model) -> Result<f32> {
        let rank = self.get("r").and_then(Json::as_u64).filter(|r| (1..=MOST_RANK).contains(r));
        let rank =
            rank.ok_or_else(|| self.malformed("r", &format!("a rank of 1..={MOST_RANK}")))?;
        let alpha = self.get("lora_alpha").and_then(Json::as_f64);
        let alpha = alpha.filter(|alpha| alpha.is_finite() && *alpha != 0.0);
        let alpha = alpha.ok_or_else(|| self.malformed("lora_alpha", "a number other than 0"))?;
        let by_root = self.is_set("use_rslora");
        if by_root || !self.is_set("rank_pattern") {
            for tensor in &model.tensors {
                let of_a = tensor.name.ends_with('A');
                let own = if of_a { tensor.shape.first() } else { tensor.shape.last() };
                if own != Some(&rank) {
                    let (name, shape) = (&tensor.name, &tensor.shape);
                    let what = format!("{file}: {name} is {shape:?}, {CONFIG} says r = {rank}");
                    return Err(Error::refused(what, "get a whole copy of the adapter"));
                }
            }
        }
        // Rank-stabilised: alpha / sqrt(r) is what counts.
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let alpha = if by_root { alpha * (rank as f64).sqrt() } else { alpha };
        #[expect(clippy::cast_possible_truncation, reason = "rounded, as the key has it")]
        let alpha = alpha as f32;
        if !alpha.is_finite() || alpha == 0.0 {
            return Err(self.malformed("lora_alpha", "a number that 32 bits hold"));
        }
        Ok(alpha)
    }
}
