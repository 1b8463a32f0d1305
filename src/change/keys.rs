//! Metadata across eras: header words to GGUF keys, old GGUF keys to today's, and back to headers.

use super::{Assumed, Plan, Step, Target, ftype::FileType, upgrade::Options, vocabulary};
use crate::{
    error::{Error, Result},
    format::{catalog, container::Skeleton},
    model::{Metadata, Model, Tensor, Value},
};

/// The version of GGUF's quantized blocks; it has not changed since GGUF began.
const QUANTIZATION_VERSION: u32 = 2;
/// LLaMA 1 was trained on this many tokens at a time, LLaMA 2 on twice as many.
const CONTEXT_1: u32 = 2048;
const CONTEXT_2: u32 = 4096;
/// Code Llama 7B and 13B have this vocabulary, a context of its own and another rope base.
const CODE_VOCAB: u64 = 32_016;

/// GGUF metadata for a ggml, ggmf or ggjt file: from the header and the shapes, the rest assumed.
pub(super) fn from_header(model: &Model, plan: &mut Plan, options: &Options) -> Result<()> {
    let word = |name: &str| {
        model.header(name).and_then(|v| u32::try_from(v).ok()).ok_or_else(|| {
            let what = format!("{}: the header word {name} is missing or negative", model.format);
            Error::unsupported(what, "get a fresh copy of the file")
        })
    };
    let (width, heads, layers) = (word("n_embd")?, word("n_head")?, word("n_layer")?);
    let rows =
        |name: &str| model.tensor(name).map(Tensor::rows).and_then(|n| u32::try_from(n).ok());
    let mut keys = Metadata::new();
    keys.set("general.architecture", "llama");
    keys.set("general.type", "model");
    keys.set("general.name", name_of(model).as_str());
    let kv_heads = match (rows("blk.0.attn_k.weight"), rows("blk.0.attn_q.weight")) {
        (Some(k), Some(q)) if q > 0 => {
            u32::try_from(u64::from(heads) * u64::from(k) / u64::from(q)).unwrap_or(heads)
        }
        _ => heads,
    };
    let guess = Guess::new(model, heads, kv_heads);
    let mut assumed = Vec::new();
    let mut assume =
        |keys: &mut Metadata, key: &str, given: Option<Value>, guess: (Value, &str), flag: &str| {
            let because = guess.1.to_owned();
            if given.is_none() {
                // As people write it, and as the flag takes it.
                let value = match guess.0 {
                    Value::F32(small) if small < 1e-3 => format!("{small:e}"),
                    ref value => value.to_string(),
                };
                let flag = flag.to_owned();
                assumed.push(Assumed { key: key.to_owned(), value, because, flag });
            }
            keys.set(key, given.unwrap_or(guess.0));
        };
    let (context, because) = guess.context;
    let (key, given) = ("llama.context_length", options.context.map(Value::U32));
    assume(&mut keys, key, given, (context.into(), because), "--context N");
    keys.set("llama.embedding_length", width);
    keys.set("llama.block_count", layers);
    if let Some(n_ff) = rows("blk.0.ffn_gate.weight").or_else(|| feed_forward(model)) {
        keys.set("llama.feed_forward_length", n_ff);
    }
    keys.set("llama.rope.dimension_count", width / heads.max(1));
    keys.set("llama.attention.head_count", heads);
    keys.set("llama.attention.head_count_kv", kv_heads);
    let (eps, because) = guess.eps;
    let (key, given) = ("llama.attention.layer_norm_rms_epsilon", options.eps.map(Value::F32));
    assume(&mut keys, key, given, (eps.into(), because), "--eps X");
    let (base, because) = guess.rope_base;
    let (key, given) = ("llama.rope.freq_base", options.rope_base.map(Value::F32));
    assume(&mut keys, key, given, (base.into(), because), "--rope-base X");
    keys.set("llama.vocab_size", word("n_vocab")?);
    plan.assumed.extend(assumed);
    stamp(&mut keys, model, plan, model.header("ftype"));
    plan.metadata = keys;
    Ok(())
}

/// What the header cannot say, each with its reason, by what tells the generations apart.
struct Guess {
    eps: (f32, &'static str),
    context: (u32, &'static str),
    rope_base: (f32, &'static str),
}

impl Guess {
    fn new(model: &Model, heads: u32, kv_heads: u32) -> Guess {
        let n_vocab = model.header("n_vocab").unwrap_or(0);
        if u64::try_from(n_vocab) == Ok(CODE_VOCAB) {
            let why = "Code Llama's: the vocabulary has 32016 tokens";
            return Guess { eps: (1e-5, why), context: (16_384, why), rope_base: (1e6, why) };
        }
        if kv_heads != heads {
            let why = "LLaMA 2's, with which grouped heads came";
            return Guess { eps: (1e-5, why), context: (CONTEXT_2, why), rope_base: (1e4, why) };
        }
        Guess {
            eps: (1e-6, "LLaMA 1's; LLaMA 2 has 1e-5"),
            context: (CONTEXT_1, "LLaMA 1's; LLaMA 2 has 4096"),
            rope_base: (1e4, "LLaMA's; Code Llama has 1e6"),
        }
    }
}

/// The feed-forward width by Meta's rule, for files without tensors: two thirds of four times the
/// width, rounded up to a multiple of `n_mult`.
fn feed_forward(model: &Model) -> Option<u32> {
    let (width, multiple) = (model.header("n_embd")?, model.header("n_mult")?);
    if multiple <= 0 {
        return None;
    }
    u32::try_from((8 * width / 3 + multiple - 1) / multiple * multiple).ok()
}

/// A model's name from its file name: `ggml-` and what describes the format are not part of it.
fn name_of(model: &Model) -> String {
    let path = model.files.first().map(|f| f.path().to_owned()).unwrap_or_default();
    let stem = |p: &std::path::Path| p.file_stem().map(|s| s.to_string_lossy().into_owned());
    let own = stem(&path).unwrap_or_default();
    // `models/7B/ggml-model-q4_0.bin` says nothing; its folder does.
    match own.starts_with("ggml-model") {
        true => path.parent().and_then(stem).filter(|s| !s.is_empty()).unwrap_or(own),
        false => own.trim_start_matches("ggml-").to_owned(),
    }
}

/// Sets `general.file_type`, and `general.quantization_version` where anything is quantized.
fn stamp(keys: &mut Metadata, model: &Model, plan: &Plan, stated: Option<i64>) {
    if plan.steps.is_empty() {
        return;
    }
    keys.set("general.file_type", file_type(model, plan, stated));
    if plan.steps.iter().any(|s| !matches!(s.quant.name(), "f32" | "f16" | "bf16" | "f64")) {
        keys.set("general.quantization_version", QUANTIZATION_VERSION);
    }
}

/// The `llama_ftype` of a file: what the source says where every tensor kept the name of its type,
/// else the one named after the type that holds most weights.
fn file_type(model: &Model, plan: &Plan, stated: Option<i64>) -> u32 {
    let kept =
        |s: &Step| model.tensors.get(s.source).is_some_and(|t| t.quant.name() == s.quant.name());
    let stated = stated.and_then(|f| u32::try_from(f).ok());
    if let Some(known) = stated.filter(|f| FileType::all().any(|known| known.number == *f))
        && plan.steps.iter().all(kept)
    {
        return known;
    }
    let mut sizes: Vec<(&str, u64)> = Vec::new();
    for step in plan.steps.iter().filter(|s| s.shape.len() > 1) {
        match sizes.iter_mut().find(|(name, _)| *name == step.quant.name()) {
            Some((_, n)) => *n += step.bytes(),
            None => sizes.push((step.quant.name(), step.bytes())),
        }
    }
    let main = sizes.iter().max_by_key(|(_, n)| *n).map_or("f32", |(name, _)| *name);
    FileType::usual(main)
}

/// Today's metadata for a GGUF file of any version; what a file says is kept as it stands where it stays
/// in an older version.
pub(super) fn modernise(model: &Model, plan: &mut Plan, options: &Options) {
    let mut keys = model.metadata.clone();
    let arch = keys.str("general.architecture").unwrap_or("llama").to_owned();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        keys.remove(key);
    }
    let changed = plan.steps.iter().any(|s| !matches!(s.act, super::Act::Copy));
    let stays = plan.target.id() == model.format && plan.target.is_past() && !changed;
    let given = [
        ("attention.layer_norm_rms_epsilon", options.eps.map(Value::F32)),
        ("context_length", options.context.map(Value::U32)),
        ("rope.freq_base", options.rope_base.map(Value::F32)),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            keys.set(format!("{arch}.{key}"), value);
        }
    }
    if let Some(vocab) = &options.vocab {
        vocab.to_metadata(&mut keys);
    }
    if stays {
        (plan.metadata, plan.header) = (keys, model.header.clone());
        return;
    }
    // llama.cpp 898aeca90 (2023-11-01) gave rope scaling a family of keys.
    if let Some(scale) = keys.remove(&format!("{arch}.rope.scale_linear")) {
        keys.set(format!("{arch}.rope.scaling.type"), "linear");
        keys.set(format!("{arch}.rope.scaling.factor"), scale);
        plan.notes.push(format!("{arch}.rope.scale_linear became {arch}.rope.scaling.factor"));
    }
    if options.vocab.is_none()
        && let Some(mended) = vocabulary::mend(&model.vocab)
    {
        plan.notes.extend(mended.notes);
        plan.assumed.extend(mended.canonical_scores.then(vocabulary::assumed_scores));
        mended.vocab.to_metadata(&mut keys);
    }
    let byte_pairs = keys.str("tokenizer.ggml.model") == Some("gpt2");
    if byte_pairs && keys.get("tokenizer.ggml.pre").is_none() {
        let note = "tokenizer.ggml.pre is missing: llama.cpp will guess how to split words; convert the \
                    original checkpoint again if its answers are odd";
        plan.notes.push(note.to_owned());
    }
    let before = keys.clone();
    let stated = keys.u64("general.file_type").and_then(|v| i64::try_from(v).ok());
    stamp(&mut keys, model, plan, stated);
    // A mix keeps the number that its maker gave it.
    if let (Some(old), false) = (before.get("general.file_type"), changed) {
        keys.set("general.file_type", old.clone());
    }
    if plan.steps.is_empty() {
        keys = before;
    }
    plan.metadata = keys;
}

/// Header words and vocabulary records of an older target.
pub(super) fn to_header(
    model: &Model,
    from_gguf: bool,
    target: Target,
    plan: &mut Plan,
) -> Result<()> {
    if !from_gguf {
        plan.header = model.header.clone();
        plan.vocab = model.vocab.clone();
    } else {
        plan.vocab = vocabulary::from_gguf(&model.vocab).ok_or_else(|| {
            Error::unsupported(
                format!(
                    "{} holds SentencePiece vocabularies only, this model has another kind",
                    target.title()
                ),
                "keep it as GGUF: --to gguf-v3, gguf-v2 or gguf-v1",
            )
        })?;
        plan.header = words(model)?;
    }
    let stated = plan.header.iter().find(|(n, _)| n == "ftype").map(|(_, v)| *v);
    let ftype = file_type(model, plan, stated);
    if let Some((_, word)) = plan.header.iter_mut().find(|(n, _)| n == "ftype") {
        *word = ftype.into();
    }
    if plan.vocab.scores.is_empty() && target.stores_scores() {
        plan.vocab.scores = vocabulary::to_gguf(&plan.vocab, plan.vocab.len()).vocab.scores;
        plan.assumed.push(vocabulary::assumed_scores());
    }
    Ok(())
}

/// Whether a model comes with GGUF's metadata, as checkpoints do; only ggml, ggmf and ggjt have all they
/// know in a header.
pub(super) fn are_gguf(model: &Model) -> bool {
    catalog::container(&model.format).is_none_or(|c| c.format.skeleton != Skeleton::Stream)
}

/// LLaMA's header words from GGUF metadata.
fn words(model: &Model) -> Result<Vec<(String, i64)>> {
    let arch = model.metadata.str("general.architecture").unwrap_or_default();
    if arch != "llama" {
        let what = format!("older formats are written for LLaMA only, this is {arch:?}");
        return Err(Error::unsupported(what, "keep it as GGUF"));
    }
    let key = |name: &str| {
        model.metadata.u64(&format!("llama.{name}")).and_then(|v| i64::try_from(v).ok())
    };
    let need = |name: &str| {
        key(name).ok_or_else(|| {
            Error::unsupported(format!("llama.{name} is missing"), "get a whole model")
        })
    };
    let (width, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let n_ff = need("feed_forward_length")?;
    // Old loaders compute the feed-forward width from n_mult; 256 is LLaMA's own.
    let fits = |m: &i64| *m > 0 && (8 * width / 3 + m - 1) / m * m == n_ff;
    let likely = model.header("n_mult").into_iter().chain([256]);
    let n_mult = likely.chain((1..8192).rev()).find(fits).ok_or_else(|| {
        Error::unsupported(
            format!("no multiple makes the feed-forward width {n_ff} from the width {width}, as old loaders compute it"),
            "keep it as GGUF",
        )
    })?;
    Ok(vec![
        ("n_vocab".to_owned(), i64::try_from(model.vocab.len()).unwrap_or(0)),
        ("n_embd".to_owned(), width),
        ("n_mult".to_owned(), n_mult),
        ("n_head".to_owned(), heads),
        ("n_layer".to_owned(), need("block_count")?),
        ("n_rot".to_owned(), width / heads.max(1)),
        ("ftype".to_owned(), key_file_type(model)),
    ])
}

fn key_file_type(model: &Model) -> i64 {
    model.metadata.u64("general.file_type").and_then(|v| i64::try_from(v).ok()).unwrap_or(1)
}
