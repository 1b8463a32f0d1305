//! `general.*`: what a model is called, who made it, from what and under which licence.
//!
//! The sources, first to last: the model card (`README.md` with a block of YAML at its top),
//! `_name_or_path` in `config.json`, the name of the folder. A name as `Org/Mistral-7B-Instruct-v0.2`
//! falls into parts by the form of each: `7B` is a size, `v0.2` a version, `Instruct` a fine-tune.
//!
//! Compare: llama.cpp, gguf-py metadata.py, utility.py.
//!
//! ```text
//! models/Mistral-7B-Instruct-v0.2/    general.name        Mistral 7B Instruct v0.2
//!                                     general.basename    Mistral          general.size_label  7B
//!                                     general.finetune    Instruct         general.version     v0.2
//! ```
//!
//! None of it changes what a model computes: it is what lists and file names are made of, and it is written as
//! llama.cpp's converter writes it, so that files can be compared byte for byte.

use std::{path::Path, sync::LazyLock};

use regex::Regex;
use serde_json::Value as Json;

use super::{json, yaml};
use crate::{
    error::Result,
    model::{Metadata, Naming, Value},
};

/// The parts of a model's name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Name {
    /// The name without the organisation.
    pub full: Option<String>,
    /// Who published it.
    pub organization: Option<String>,
    /// The family, as `Mistral`.
    pub basename: Option<String>,
    /// What it was tuned for.
    pub finetune: Option<String>,
    /// Its version, as `v0.2`.
    pub version: Option<String>,
    /// Its size, as `7B`.
    pub size_label: Option<String>,
}

/// Keys of the model card, in the order of the keys of GGUF that they fill; the first that is there
/// counts.
const CARD: [(&str, &[&str]); 12] = [
    ("name", &["name", "model_name"]),
    ("author", &["author", "model_author", "model_creator"]),
    ("version", &["version", "model_version"]),
    ("organization", &["organization", "model_organization"]),
    ("finetune", &["finetune", "model_finetune"]),
    ("basename", &["basename", "model_basename", "model_type"]),
    ("description", &["description", "model_description"]),
    ("size_label", &["size_label", "model_size_label"]),
    ("source.url", &["url", "model_url"]),
    ("source.doi", &["doi", "model_doi"]),
    ("source.uuid", &["uuid", "model_uuid"]),
    ("source.repo_url", &["repo_url", "model_repo_url"]),
];

/// How many weights a model has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// All of them.
    pub elements: u64,
    /// Those of its experts.
    pub experts: u64,
    /// How many experts a layer has; 1 where there are none.
    pub of: u64,
}

impl Size {
    /// `7B`, or of experts, what a model of one would have: `8x7B`.
    ///
    /// Mixtral 8x7B has 46.7 billion weights, of which experts are all but 1.6: 45.1 / 8 + 1.6 is `7.2B`, and so
    /// `8x7.2B`.
    fn label(self) -> String {
        let one = size_label(self.elements - self.experts + self.experts / self.of.max(1));
        if self.of > 1 { format!("{}x{one}", self.of) } else { one }
    }
}

/// Writes `general.*` for the checkpoint in `folder`, which has this many weights.
///
/// # Errors
/// Where README.md is there and cannot be read. Settings that are no JSON are as none.
pub fn write(
    metadata: &mut Metadata,
    folder: &Path,
    config: Option<&Json>,
    size: Size,
    naming: Naming,
) -> Result<()> {
    let weights = size.elements;
    let card = json::bytes(&folder.join("README.md"))?;
    let card = card.map(|b| yaml::front_matter(&String::from_utf8_lossy(&b))).unwrap_or_default();
    if let Some(settings) = json::read(&folder.join("generation_config.json")).ok().flatten() {
        sampling(metadata, &settings);
    }
    let mut found: Vec<(&str, Option<String>)> = CARD
        .into_iter()
        .map(|(key, names)| (key, names.iter().find_map(|n| card.get(n)?.text())))
        .collect();
    // What an earlier source said stays.
    let mut fill = |key: &str, value: Option<String>| {
        let slot = found.iter_mut().find(|(k, slot)| *k == key && slot.is_none());
        if let Some((_, slot)) = slot {
            *slot = value;
        }
    };
    // The card is written by people, so it counts first; the folder's name is what is always there.
    let path = config.and_then(|c| c.get("_name_or_path")?.as_str());
    // More than one slash is a path on the machine that it was saved on.
    let path = path.filter(|p| p.matches('/').count() <= 1);
    for id in path.map(str::to_owned).into_iter().chain([folder_name(folder, naming)]) {
        let name = Name::parse(&id, weights);
        fill("name", name.full.as_deref().map(title));
        fill("organization", name.organization.as_deref().map(title));
        fill("basename", name.basename);
        fill("finetune", name.finetune);
        fill("version", name.version);
        fill("size_label", name.size_label);
    }
    fill("name", Some(folder_name(folder, naming)));
    fill("size_label", Some(size.label()));
    for (key, value) in found.iter().filter(|(k, _)| !k.starts_with("source.")) {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            metadata.set(format!("general.{key}"), value);
        }
    }
    let licence = card.get("license").map(|l| l.texts().join(",")).filter(|l| !l.is_empty());
    for (key, value) in [
        ("license", licence),
        ("license.name", card.get("license_name").and_then(yaml::Yaml::text)),
        ("license.link", card.get("license_link").and_then(yaml::Yaml::text)),
    ] {
        if let Some(value) = value {
            metadata.set(format!("general.{key}"), value.as_str());
        }
    }
    for (key, value) in found.iter().filter(|(k, _)| k.starts_with("source.")) {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            metadata.set(format!("general.{key}"), value);
        }
    }
    sources(
        metadata,
        &card,
        "base_model",
        &["base_model", "base_models", "base_model_sources"],
        weights,
    );
    sources(metadata, &card, "dataset", &["datasets", "dataset", "dataset_sources"], weights);
    for (key, names) in
        [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])]
    {
        let items: Vec<String> =
            names.iter().filter_map(|n| card.get(n)).flat_map(yaml::Yaml::texts).collect();
        if !items.is_empty() {
            metadata.set(format!("general.{key}"), Value::strings(items));
        }
    }
    Ok(())
}

/// The recommended settings of samplers.
///
/// llama.cpp's programs take them where a person names none (`general.sampling.*`).
fn sampling(metadata: &mut Metadata, settings: &Json) {
    for (key, names) in [
        ("top_k", &["top_k"][..]),
        ("top_p", &["top_p"]),
        ("min_p", &["min_p"]),
        ("xtc_probability", &["xtc_probability"]),
        ("xtc_threshold", &["xtc_threshold"]),
        ("temp", &["temperature"]),
        ("penalty_last_n", &["penalty_last_n"]),
        ("penalty_repeat", &["penalty_repeat", "repetition_penalty"]),
        ("mirostat", &["mirostat"]),
        ("mirostat_tau", &["mirostat_tau"]),
        ("mirostat_eta", &["mirostat_eta"]),
    ] {
        let Some(value) = names.iter().find_map(|n| settings.get(n)?.as_f64()) else { continue };
        let whole = matches!(key, "top_k" | "penalty_last_n" | "mirostat");
        #[expect(clippy::cast_possible_truncation, reason = "out of range, the nearest is taken")]
        let value = if whole { Value::I32(value as i32) } else { Value::F32(value as f32) };
        metadata.set(format!("general.sampling.{key}"), value);
    }
}

/// Models or data sets that this one comes from: ids on Hugging Face, or addresses.
///
/// ```text
/// base_model: mistralai/Mistral-7B-v0.1    general.base_model.count         1
///                                          general.base_model.0.name        Mistral 7B v0.1
///                                          general.base_model.0.version     v0.1
///                                          general.base_model.0.organization Mistralai
///                                          general.base_model.0.repo_url    https://huggingface.co/…
/// ```
fn sources(metadata: &mut Metadata, card: &yaml::Yaml, kind: &str, names: &[&str], weights: u64) {
    let Some(listed) = names.iter().find_map(|n| card.get(n)) else { return };
    let ids = listed.texts();
    metadata.set(format!("general.{kind}.count"), u32::try_from(ids.len()).unwrap_or(u32::MAX));
    for (i, id) in ids.iter().enumerate() {
        let address = ["http://", "https://", "ssh://"].iter().any(|p| id.starts_with(p));
        let on_hub = id.split_once("huggingface.co/").map(|(_, rest)| rest);
        let on_hub = on_hub.filter(|rest| rest.matches('/').count() == 1);
        let name = match (address, on_hub) {
            (false, _) => Name::parse(id, weights),
            (true, Some(rest)) => Name::parse(rest, weights),
            (true, None) => Name::default(),
        };
        let repository = match (&name.organization, &name.full) {
            _ if address => Some(id.clone()),
            (Some(org), Some(full)) => Some(format!("https://huggingface.co/{org}/{full}")),
            _ => None,
        };
        for (key, value) in [
            ("name", name.full.as_deref().map(title)),
            ("version", name.version),
            ("organization", name.organization.as_deref().map(title)),
            ("repo_url", repository),
        ] {
            if let Some(value) = value {
                metadata.set(format!("general.{kind}.{i}.{key}"), value.as_str());
            }
        }
    }
}

/// The folder's name; for Meta's `7B` and the like with what it is a size of.
/// A path that ends in `.` or `..` has a name only once it is followed.
fn folder_name(folder: &Path, naming: Naming) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match naming {
        Naming::Old if SIZE.is_match(&name) => format!("LLaMA-{name}"),
        _ => name,
    }
}

/// A name with capitals, as titles have them: `llama-2-7b-hf` is `Llama 2 7b Hf`.
pub fn title(id: &str) -> String {
    let word = |word: &str| {
        let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        if !lower || PLAIN.is_match(word) {
            return word.to_owned();
        }
        let mut after_letter = false;
        let mut out = String::new();
        for c in word.chars() {
            match after_letter {
                false => out.extend(c.to_uppercase()),
                true => out.push(c),
            }
            after_letter = c.is_alphabetic();
        }
        out
    };
    id.replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// A number of weights as people say it: `7B`, `1.1B`, `172K`.
///
/// At least two digits: `6.7B` for 6738415616, `13B` for 13015864320.
pub fn size_label(weights: u64) -> String {
    let n = weights as f64;
    let (scaled, unit) = match n {
        n if n > 1e12 => (n * 1e-12, "T"),
        n if n > 1e9 => (n * 1e-9, "B"),
        n if n > 1e6 => (n * 1e-6, "M"),
        n => (n * 1e-3, "K"),
    };
    // At least two digits that say something.
    let digits = format!("{}", scaled.round_ties_even()).trim_start_matches('0').len();
    format!("{scaled:.*}{unit}", 2usize.saturating_sub(digits))
}

/// The file name that GGUF's naming convention gives: base name or name, size, fine-tune, version,
/// type.
///
/// `Mistral-7B-Instruct-v0.2-Q4_0`, without an ending.
pub fn file_name(metadata: &Metadata, encoding: &str) -> String {
    let get = |key: &str| metadata.str(&format!("general.{key}"));
    let plain = |text: &str| text.trim().replace([' ', '/', '\\'], "-");
    let base = get("basename").or_else(|| get("name")).map_or("ggml-model".to_owned(), plain);
    let parts = ["size_label", "finetune", "version"].into_iter().filter_map(|k| get(k).map(plain));
    let parts: Vec<String> =
        [base].into_iter().chain(parts).chain([encoding.to_uppercase()]).collect();
    parts.join("-")
}

// The forms of parts of a name, as gguf-py's metadata.py has them: what may be a version or a number by itself,
// versions, types of weights, sizes, and words for what was made of a base model.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(v\d+(?:\.\d+)*|\d.*)$"));
static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^(v|iter)?\d+([.]\d+)*$"));
static TYPE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^(i?q\d(_\w)*|b?fp?(16|32))$"));
static SIZE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)$")
});
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^(chat|instruct|vision|lora)$"));

/// A pattern of this module; all are tested.
fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|e| unreachable!("{e}"))
}

/// What a part of a name may be; several at once until its place decides.
#[derive(Clone, Copy, Default, PartialEq)]
struct Kinds {
    basename: bool,
    size: bool,
    finetune: bool,
    version: bool,
    quant: bool,
}

impl Kinds {
    /// Whether its form says nothing.
    fn none(self) -> bool {
        self == Kinds::default()
    }
}

impl Name {
    /// Takes a name apart. `weights` tells sizes from context lengths.
    ///
    /// ```text
    /// Org / Mistral  -7B         -Instruct  -v0.2
    /// organization   basename    size_label finetune   version
    /// ```
    ///
    /// Parts at the start that look like nothing are the base name, later ones a fine-tune. A size that is far from the
    /// number of weights (`128k`) is a context length, and so a fine-tune.
    pub fn parse(id: &str, weights: u64) -> Name {
        if id.contains(' ') {
            return Name { full: Some(id.to_owned()), ..Name::default() };
        }
        let (organization, full) = match id.split_once('/') {
            Some((org, full)) => (Some(org).filter(|o| !o.starts_with('.')), full),
            None => (None, id),
        };
        let mut parts: Vec<(String, Kinds)> = Vec::new();
        for part in full.split('-').filter(|p| !p.is_empty()) {
            let kinds = kinds(part, parts.is_empty(), weights);
            parts.push(kinds);
        }
        // With `7B` in the name `small` is no size any more.
        let number = |p: &(String, Kinds)| p.1.size && p.0.contains(|c: char| c.is_ascii_digit());
        if parts.iter().any(number) {
            for (part, kinds) in &mut parts {
                kinds.size &= !part.chars().all(char::is_alphabetic);
            }
        }
        let mut at_start = true;
        for (part, kinds) in &mut parts {
            let letter = part.chars().next().is_some_and(char::is_alphabetic);
            if at_start && ((kinds.none() && letter) || kinds.version) {
                kinds.basename = true;
            } else {
                at_start = false;
                kinds.finetune |= kinds.none();
            }
        }
        // A number at the end of the name is a version (`Llama-2`), before other parts it is of the base name
        // (`Llama-2-7b`).
        for (_, kinds) in parts.iter_mut().rev() {
            if !(kinds.basename && kinds.version) {
                break;
            }
            kinds.basename = false;
        }
        let join = |is: fn(&Kinds) -> bool| {
            let mut some: Vec<&str> = Vec::new();
            for (part, _) in parts.iter().filter(|(_, k)| is(k)) {
                some.push(part);
            }
            (!some.is_empty()).then(|| some.join("-"))
        };
        let size_label = join(|k| k.size).map(|sizes| {
            let mut seen = Vec::new();
            sizes
                .split('-')
                .filter(|s| {
                    !seen.contains(s) && {
                        seen.push(*s);
                        true
                    }
                })
                .collect::<Vec<_>>()
                .join("-")
        });
        let (finetune, version) = (join(|k| k.finetune), join(|k| k.version && !k.basename));
        // A name without any part that says something is a name, and not a family's.
        let ambiguous = size_label.is_none() && finetune.is_none() && version.is_none();
        Name {
            full: Some(full.to_owned()),
            organization: organization.map(str::to_owned),
            basename: join(|k| k.basename).filter(|_| !ambiguous),
            finetune,
            version,
            size_label,
        }
    }
}

/// What a part of a name is by its form, and the part in its usual spelling.
///
/// ```text
/// v0.2        version                        Q4_0     type, which is left out of names
/// 7b          size, spelled 7B               7b1      size, spelled 7.1B (BLOOM)
/// 128k        fine-tune, of a model of 7B    chat     fine-tune
/// Mistral     nothing: its place decides
/// ```
fn kinds(part: &str, first: bool, weights: u64) -> (String, Kinds) {
    let mut kinds = Kinds::default();
    let mut part = part.to_owned();
    if VERSION.is_match(&part) {
        kinds.version = true;
    } else if TYPE.is_match(&part) {
        kinds.quant = true;
        part = part.to_uppercase();
    } else if !first && part.is_ascii() && SIZE.is_match(&part) {
        part = part.replace('_', ".");
        // `7b1` is 7.1B.
        if part.ends_with(|c: char| c.is_ascii_digit()) {
            let (unit, digit) = part.split_at(part.len() - 1);
            let (head, unit) = unit.split_at(unit.len() - 1);
            part = format!("{head}.{digit}{unit}");
        }
        let (head, unit) = part.split_at(part.len() - 1);
        if head.ends_with(|c: char| c.is_ascii_digit()) {
            part = format!("{head}{}", unit.to_uppercase());
        }
        let (head, unit) = part.split_at(part.len() - 1);
        let power = (1..).zip("KMBT".chars()).find(|(_, c)| unit.starts_with(*c));
        if let (Ok(value), Some((power, _)), 1..) = (head.parse::<f64>(), power, weights) {
            let label = value * 1000f64.powi(power);
            if (label - weights as f64).abs() > (7 * weights / 8) as f64 {
                // Far from the number of weights: likely a context length.
                kinds.finetune = true;
                part = format!("{head}{}", unit.to_lowercase());
            }
        }
        kinds.size = kinds.none();
    } else if !first && FINETUNE.is_match(&part) {
        kinds.finetune = true;
    }
    (part, kinds)
}
