//! What today's llama.cpp demands of a GGUF, and what of it a model does not meet.
//!
//! The demands are those of its loader (`formats/loader`), as far as they can be said of a file without
//! running it: keys, arrays, vocabulary, the set of blocks, names of tensors. Nothing is said of what
//! is not known; [`knows`] tells whether an architecture is.
//!
//! | code | what is wrong | damage |
//! |---|---|---|
//! | `long-name`, `dimensions`, `nested-array`, `foreign-type` | ggml has no room for it, or does not know it | no |
//! | `empty` | no tensor and no key | yes |
//! | `no-architecture` | tensors, and no `general.architecture` | no |
//! | `missing-key`, `array-length` | keys of the architecture, arrays of one item a block | yes |
//! | `no-tokenizer` | no tokenizer at all, which some files mean to be so | no |
//! | `no-tokens`, `vocabulary`, `no-merges` | tokens, their number, merges | yes |
//! | `token-twice` | two tokens of one text | no |
//! | `shape`, `missing-tensors` | tensors of a known family | yes |
//! | `missing-blocks`, `extra-blocks`, `lost-tensor` | blocks by their numbers, and by what their likes have | yes |
//! | `left-over`, `unknown-tensors` | tensors that nothing asks for | no |

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    hash::{BuildHasher, RandomState},
};

use super::{
    Array, Kind, Model, Role, Sizes, Tensor, Texts, Value,
    role::{expert_of, scaled_by},
};
use crate::{format::catalog, size::counted};

/// Layers whose tensors are looked for; no model has as many, and metadata may claim any number.
const MOST_LAYERS: u64 = 1 << 12;

/// What a GGUF holds.
///
/// All of these are written as GGUF, and a person is told which one a file is before anything else is said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// A model.
    Model,
    /// A model's vocabulary and no weights.
    Vocabulary,
    /// An encoder of images or sounds, which goes beside a model (`--mmproj`).
    Projector,
    /// A LoRA adapter.
    Adapter,
    /// A control vector.
    ControlVector,
    /// An importance matrix.
    Imatrix,
    /// A model that makes images or videos.
    Image,
    /// Tensors without `general.architecture`.
    Nameless,
}

impl Content {
    /// What `model` holds.
    ///
    /// Names of tensors count beside keys, for tools copy keys along when they change the rest.
    pub fn of(model: &Model) -> Content {
        let metadata = &model.metadata;
        let said = metadata.str("general.type").unwrap_or_default();
        let architecture = metadata.str("general.architecture").unwrap_or_default();
        let any = |end: &str| model.tensors.iter().any(|t| t.name.ends_with(end));
        let vector = |t: &Tensor| t.name.starts_with("direction.");
        let empty = model.tensors.is_empty();
        match (said, architecture) {
            ("imatrix", _) => Content::Imatrix,
            _ if any(".in_sum2") => Content::Imatrix,
            _ if model.tensors.iter().any(|t| t.name.contains(".lora")) => Content::Adapter,
            (_, "controlvector") => Content::ControlVector,
            _ if !empty && model.tensors.iter().all(vector) => Content::ControlVector,
            ("adapter", _) => Content::Adapter,
            (_, "clip") | ("mmproj", _) => Content::Projector,
            _ if catalog::mixture(architecture).is_some() => Content::Image,
            _ if empty && !model.vocab.is_empty() => Content::Vocabulary,
            (_, "") if is_keyed(model) => Content::Nameless,
            _ => Content::Model,
        }
    }

    /// What is no model, in words, with what takes it; none for a model.
    pub fn other(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Content::Model | Content::Nameless => return None,
            Content::Vocabulary => {
                ("a vocabulary without weights", "programs that only cut text take it")
            }
            Content::Projector => {
                ("an encoder of images or sounds", "llama.cpp takes it beside its model (--mmproj)")
            }
            Content::Adapter => ("a LoRA adapter", "llama.cpp takes it beside its model (--lora)"),
            Content::ControlVector => {
                ("a control vector", "llama.cpp takes it beside its model (--control-vector)")
            }
            Content::Imatrix => ("an importance matrix", "a quantizer takes it beside a model"),
            Content::Image => {
                ("a model of images or videos", "programs that make images and videos take it")
            }
        })
    }
}

/// A demand that a model does not meet.
///
/// It shows as `llama.block_count is 32, and block 31 is not there: 31 of 32 are`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breach {
    /// What kind of thing it is, in kebab-case.
    pub code: &'static str,
    /// The key or tensor concerned; empty for the whole model.
    pub about: String,
    /// What is wrong, as a sentence.
    pub what: String,
    /// Whether something is missing or contradicts something else; otherwise the file may be as its
    /// writer meant it, for another program.
    pub damage: bool,
}

/// The demand in words: what it is about, and what is wrong with that.
impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.about.is_empty() { "" } else { " " };
        write!(f, "{}{gap}{}", self.about, self.what)
    }
}

impl Breach {
    /// Something that is missing or contradicts something else.
    fn damage(code: &'static str, about: impl Into<String>, what: impl Into<String>) -> Breach {
        Breach { code, about: about.into(), what: what.into(), damage: true }
    }

    /// Something that another program may read.
    fn other(code: &'static str, about: impl Into<String>, what: impl Into<String>) -> Breach {
        Breach { damage: false, ..Breach::damage(code, about, what) }
    }
}

/// Whether the demands on the architecture of `model` are known.
/// Of others nothing is demanded but what ggml itself needs.
pub fn knows(model: &Model) -> bool {
    let architecture = model.metadata.str("general.architecture").unwrap_or_default();
    catalog::loader().architectures.contains_key(architecture)
}

/// Why the loader of today's llama.cpp refuses `model`, a sentence each, or that nothing here knows whether it
/// does: for the report of whoever writes it.
pub fn objections(model: &Model) -> Vec<String> {
    let said = |breach: Breach| format!("today's llama.cpp refuses it: {breach}");
    breaches(model).into_iter().map(said).chain(doubt(model)).collect()
}

/// What is not known of a GGUF that holds a model: whether llama.cpp knows its architecture at all.
pub fn doubt(model: &Model) -> Option<String> {
    if !is_keyed(model) || Content::of(model) != Content::Model || knows(model) {
        return None;
    }
    let name = model.metadata.str("general.architecture").unwrap_or_default();
    let read_by = catalog::family(&model.family).map_or("", |family| &family.family.read_by);
    if !read_by.is_empty() {
        return Some(format!("a GGUF of the architecture {name}: {read_by}"));
    }
    Some(format!("whether llama.cpp knows {name} is not checked"))
}

/// The demands that `model`, a GGUF, does not meet.
///
/// Those of ggml itself first, which are of any GGUF, then by what it holds: keys before the arrays and tensors that
/// are counted by them.
pub fn breaches(model: &Model) -> Vec<Breach> {
    if !is_keyed(model) {
        return Vec::new();
    }
    let mut out = shapes(model);
    match Content::of(model) {
        Content::Nameless if model.tensors.is_empty() && model.metadata.is_empty() => {
            out.push(Breach::damage("empty", "", "holds nothing: no tensor and no key"));
        }
        Content::Nameless => {
            out.push(Breach::other("no-architecture", "", "has no general.architecture"));
        }
        Content::Model => {
            let of = Architecture::of(model);
            out.extend(of.keys());
            out.extend(of.arrays());
            out.extend(vocabulary(model));
            out.extend(tensors(model));
            out.extend(of.blocks());
            out.extend(of.strangers());
        }
        Content::Vocabulary => out.extend(vocabulary(model)),
        _ => {}
    }
    out
}

/// What of a known family's tensors is not there, or has another shape than its sizes give it; whatever
/// container the model lies in.
pub fn tensors(model: &Model) -> Vec<Breach> {
    let Some(family) = catalog::family(&model.family) else { return Vec::new() };
    let sizes = Sizes::of(model);
    let (mut out, mut misshapen) = (Vec::new(), Vec::new());
    let (mut present, mut unknown) = (BTreeSet::new(), 0);
    for tensor in &model.tensors {
        let stack = expert_of(&tensor.name).map(|(name, _)| name);
        let Some((_, role)) = Role::find(family, stack.as_ref().unwrap_or(&tensor.name)) else {
            let scales =
                scaled_by(&tensor.name).is_some_and(|name| Role::find(family, &name).is_some());
            unknown += usize::from(!scales);
            continue;
        };
        present.insert((role.id, role.layer, role.bias));
        if stack.is_some() {
            continue;
        }
        if let Some(wanted) = role.shape(&sizes).filter(|wanted| *wanted != tensor.shape) {
            misshapen.push((tensor, wanted));
        }
    }
    if let Some((tensor, wanted)) = misshapen.first() {
        let more = match misshapen.len() {
            1 => String::new(),
            n => format!("; {} more tensors have a wrong shape", n - 1),
        };
        let what = format!("has shape {:?}, its role wants {wanted:?}{more}", tensor.shape);
        out.push(Breach::damage("shape", &tensor.name, what));
    }
    let scaled = model.tensor("output.weight").is_some_and(|output| output.quant.name() == "nvfp4");
    if is_keyed(model) && model.tensor("output.scale").is_some() && !scaled {
        let what = "is looked for beside an output of NVFP4 alone".to_owned();
        out.push(Breach::other("left-over", "output.scale", what));
    }
    let layers = |symbol: &str| sizes.get(symbol).unwrap_or(0).min(MOST_LAYERS);
    let wanted = Role::counted(family, layers, sizes.feed_forward()).filter(|r| !r.is_optional());
    let missing: Vec<Role> =
        wanted.filter(|r| !present.contains(&(r.id, r.layer, r.bias))).collect();
    // Where most names are strange it is another model under a known name: then what is missing says nothing.
    let partial = unknown > model.tensors.len() / 2;
    if let Some(first) = missing.first().filter(|_| !partial && !model.tensors.is_empty()) {
        let tensors = counted(missing.len(), "tensor is", "tensors are");
        let what = format!("{tensors} missing, the first is {}", first.title());
        out.push(Breach::damage("missing-tensors", "", what));
    }
    out
}

/// Whether it is a GGUF, of whatever version.
fn is_keyed(model: &Model) -> bool {
    model.format.starts_with("gguf")
}

/// Names, dimensions and arrays that ggml has no room for, types that it does not know.
fn shapes(model: &Model) -> Vec<Breach> {
    let mut out = Vec::new();
    // GGML_MAX_NAME is 64, with the zero at the end.
    let long = |t: &&Tensor| t.name.len() > 63;
    if let Some(t) = model.tensors.iter().find(long) {
        let what = "has a name of 64 bytes or more, as stable-diffusion.cpp and ComfyUI's tools write them";
        out.push(Breach::other("long-name", &t.name, what));
    }
    if let Some(t) = model.tensors.iter().find(|t| t.shape.len() > 4) {
        let n = t.shape.len();
        let what = format!("has {n} dimensions, as tools for image and video models write them");
        out.push(Breach::other("dimensions", &t.name, what));
    }
    let nested =
        |(_, v): &(&str, &Value)| matches!(v, Value::Array(array) if array.kind() == Kind::Array);
    if let Some((key, _)) = model.metadata.iter().find(nested) {
        out.push(Breach::other("nested-array", key, "is an array of arrays"));
    }
    if let Some(t) = model.tensors.iter().find(|t| t.quant.program().is_some()) {
        let what = format!("is {}, which only that program reads", t.quant);
        out.push(Breach::other("foreign-type", &t.name, what));
    }
    out
}

/// A model by the keys of its architecture.
///
/// llama.cpp's loader asks for keys and tensors by name in code of each architecture; `formats/loader` lists what it
/// asks for, as data.
struct Architecture<'a> {
    model: &'a Model,
    name: &'a str,
    /// Blocks that the model says it has, and how many of them only guess tokens ahead.
    blocks: Option<u64>,
    ahead: u64,
}

impl<'a> Architecture<'a> {
    /// What the keys of `model` say of its blocks.
    fn of(model: &'a Model) -> Architecture<'a> {
        let name = model.metadata.str("general.architecture").unwrap_or_default();
        let word = |key: &str| model.metadata.u64(&format!("{name}.{key}"));
        let ahead = word("nextn_predict_layers").unwrap_or(0);
        Architecture { model, name, blocks: word("block_count"), ahead }
    }

    /// A key of the architecture in full: `llama.block_count`.
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// Keys that must be there.
    fn keys(&self) -> Vec<Breach> {
        let loader = catalog::loader();
        let Some(own) = loader.architectures.get(self.name) else { return Vec::new() };
        let of_tensors = loader.needs.iter().filter(|(end, _)| {
            let own = |name: &str| block_of(name).is_some_and(|(_, rest)| rest == **end);
            self.model.tensors.iter().any(|t| own(&t.name))
        });
        let all = loader.always.iter().chain(own).chain(of_tensors.map(|(_, key)| key));
        let missing = |key: &&String| self.model.metadata.get(&self.key(key)).is_none();
        let absent: BTreeSet<String> = all.filter(missing).map(|key| self.key(key)).collect();
        let missing = |key: String| Breach::damage("missing-key", key, "is missing");
        absent.into_iter().map(missing).collect()
    }

    /// Arrays of one item a block.
    ///
    /// Those of further tokens may be counted or not: converters have written both.
    fn arrays(&self) -> Vec<Breach> {
        let Some(blocks) = self.blocks else { return Vec::new() };
        let mut out = Vec::new();
        for key in catalog::loader().per_block.iter().map(|key| self.key(key)) {
            let items = self.model.metadata.get(&key).and_then(Value::as_array);
            let Some(n) = items.map(Array::len) else { continue };
            let trunk = blocks.saturating_sub(self.ahead);
            if n as u64 != blocks && n as u64 != trunk {
                let what = format!("has {n} items for {blocks} blocks");
                out.push(Breach::damage("array-length", key, what));
            }
        }
        out
    }

    /// Blocks that are missing, too many, or lack what their likes have.
    fn blocks(&self) -> Vec<Breach> {
        let mut found: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for tensor in &self.model.tensors {
            if let Some((block, rest)) = block_of(&tensor.name) {
                found.entry(block).or_default().insert(rest);
            }
        }
        // Models of other parts (encoder and decoder, codecs) count them otherwise.
        let plain = self.model.tensor("token_embd.weight").is_some()
            && !self.model.tensors.iter().any(|t| is_in_another_part(&t.name));
        let Some(blocks) = self.blocks.filter(|_| plain) else { return Vec::new() };
        let key = self.key("block_count");
        let trunk = blocks.saturating_sub(self.ahead);
        let present = found.range(..trunk).count() as u64;
        if present < trunk {
            let first = (0..trunk).find(|n| !found.contains_key(n)).unwrap_or(0);
            let what =
                format!("is {blocks}, and block {first} is not there: {present} of {trunk} are");
            return vec![Breach::damage("missing-blocks", key, what)];
        }
        if let Some((last, _)) = found.last_key_value().filter(|(last, _)| **last >= blocks) {
            let what = format!("is {blocks}, but there is a block {last}");
            return vec![Breach::damage("extra-blocks", key, what)];
        }
        found.retain(|block, _| *block < trunk);
        // Of a known family the missing tensors are told one by one.
        if catalog::family(&self.model.family).is_some() { Vec::new() } else { self.lone(&found) }
    }

    /// A block that lacks what its likes have and has nothing in exchange.
    ///
    /// Blocks may differ by design: dense ones lead, attention and recurrence take turns, keys are
    /// shared at the end. Then a kind of block is there more than once, or has tensors of its own, or a key
    /// says that it differs. The first and the last are special in many models; there only what every
    /// block has by itself counts.
    fn lone(&self, found: &BTreeMap<u64, BTreeSet<&str>>) -> Vec<Breach> {
        let mut kinds: Vec<(&BTreeSet<&str>, Vec<u64>)> = Vec::new();
        for (block, names) in found {
            match kinds.iter_mut().find(|(known, _)| *known == names) {
                Some((_, of)) => of.push(*block),
                None => kinds.push((names, vec![*block])),
            }
        }
        let last = found.keys().next_back().copied().unwrap_or(0);
        let mut out = Vec::new();
        for (names, of) in &kinds {
            let [block] = of.as_slice() else { continue };
            let fuller = kinds.iter().filter(|(all, of)| of.len() > 1 && names.is_subset(all));
            let Some((all, like)) = fuller.max_by_key(|(_, of)| of.len()) else { continue };
            let lacks: Vec<&str> = all.difference(names).copied().collect();
            let edge = *block == 0 || *block == last;
            let usual = |lack: &&str| USUAL.contains(lack);
            if self.differs(*block, like) || edge && !(lacks.len() == 1 && lacks.iter().all(usual))
            {
                continue;
            }
            let Some(first) = lacks.first() else { continue };
            let more = match lacks.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let what = format!("is missing{more}: {} other blocks have it", like.len());
            out.push(Breach::damage("lost-tensor", format!("blk.{block}.{first}"), what));
        }
        out
    }

    /// Whether some array of one item a block says that `block` is not as the blocks `like`.
    ///
    /// As in Llama-Nemotron, where `head_count` is an array and blocks without attention have a 0 in it.
    fn differs(&self, block: u64, like: &[u64]) -> bool {
        let item = |items: &Array, n: u64| usize::try_from(n).ok().and_then(|n| items.get(n));
        let own = |(key, value): (&str, &Value)| {
            let items = value.as_array().filter(|_| key.starts_with(&format!("{}.", self.name)));
            items.filter(|items| Some(items.len() as u64) == self.blocks).is_some_and(|items| {
                like.iter().all(|other| item(items, *other) != item(items, block))
            })
        };
        self.model.metadata.iter().any(own)
    }

    /// Tensors that no architecture has: the loader counts what it asked for.
    ///
    /// llama.cpp ends with `wrong number of tensors` where a file has more than were asked for, and names none of them.
    fn strangers(&self) -> Vec<Breach> {
        let loader = catalog::loader();
        if !loader.architectures.contains_key(self.name) {
            return Vec::new();
        }
        let strange: Vec<&str> = self
            .model
            .tensors
            .iter()
            .map(|t| t.name.as_str())
            .filter(|name| !loader.has_tensor(name))
            .collect();
        let Some(first) = strange.first() else { return Vec::new() };
        let vision = strange.iter().any(|name| name.starts_with("v.") || name.starts_with("mm."));
        let why = if vision {
            " (Ollama keeps the image encoder in the model's file, llama.cpp in one of its own)"
        } else {
            ""
        };
        let which = match strange.len() {
            1 => "a tensor".to_owned(),
            n => format!("one of {n} tensors"),
        };
        let what = format!("is {which} that llama.cpp does not ask for{why}");
        vec![Breach::other("unknown-tensors", *first, what)]
    }
}

/// Matrices and norms that a block has by itself wherever its likes have them.
const USUAL: [&str; 8] = [
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_down.weight",
    "ffn_up.weight",
];

/// `blk.3.attn_q.weight` -> (3, `attn_q.weight`).
fn block_of(name: &str) -> Option<(u64, &str)> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn is_in_another_part(name: &str) -> bool {
    ["enc.", "dec.", "posnet.", "convnext."].iter().any(|part| name.starts_with(part))
}

/// The tokenizer's keys, and its tokens against the rows of the embedding.
///
/// Fewer tokens than rows would do no harm to a text that is written, but llama.cpp takes the number of tokens for that
/// of rows and refuses the shape.
fn vocabulary(model: &Model) -> Vec<Breach> {
    let metadata = &model.metadata;
    let Some(tokenizer) = metadata.str("tokenizer.ggml.model") else {
        // Of another program's model it is not known that it takes text at all.
        if !knows(model) && model.tensor("token_embd.weight").is_none() {
            return Vec::new();
        }
        let what = "is missing: the file has no tokenizer";
        return vec![Breach::other("no-tokenizer", "tokenizer.ggml.model", what)];
    };
    if matches!(tokenizer, "none" | "no_vocab") {
        return Vec::new();
    }
    let vocab = &model.vocab;
    if vocab.is_empty() {
        let what = "is missing or empty: there are no tokens";
        return vec![Breach::damage("no-tokens", "tokenizer.ggml.tokens", what)];
    }
    let mut out = Vec::new();
    let tokens = vocab.len();
    let rows = model.tensor("token_embd.weight").and_then(|t| t.shape.first().copied());
    if let Some(rows) = rows.filter(|rows| *rows != tokens as u64) {
        let what = format!("{tokens} tokens, but the embedding has {rows} rows");
        out.push(Breach::damage("vocabulary", "token_embd.weight", what));
    }
    let needs_merges = matches!(tokenizer, "gpt2" | "gemma4") && vocab.pre != "kimi-k2";
    if needs_merges && metadata.get("tokenizer.ggml.merges").is_none() {
        let what = format!("is missing: a tokenizer of the model {tokenizer} needs it");
        out.push(Breach::damage("no-merges", "tokenizer.ggml.merges", what));
    }
    if let Some(id) = repeated(&vocab.tokens) {
        let text = vocab.tokens.get(id).map(|t| String::from_utf8_lossy(t).into_owned());
        let text = text.unwrap_or_default();
        let what = format!("token {id} has a text that an earlier one has: {text:?}");
        out.push(Breach::other("token-twice", "tokenizer.ggml.tokens", what));
    }
    out
}

/// The first token whose text is before. Millions of tokens take eight bytes each here: only where two
/// hashes are equal are the texts themselves gathered.
fn repeated(tokens: &Texts) -> Option<usize> {
    let hasher = RandomState::new();
    let mut hashes: Vec<u64> = tokens.iter().map(|text| hasher.hash_one(text)).collect();
    hashes.sort_unstable();
    hashes.windows(2).any(|pair| pair.first() == pair.last()).then_some(())?;
    drop(hashes);
    let mut seen = HashSet::new();
    tokens.iter().position(|text| !text.is_empty() && !seen.insert(text))
}
