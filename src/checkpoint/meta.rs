//! Meta's release: `consolidated.NN.pth`, one shard for each GPU that the model ran on, and
//! `params.json`.
//!
//! A matrix is cut between the shards along its rows or its columns; vectors are in each. Which
//! way is told by shapes: all matrices read or write the residual stream, whose width is known, so
//! if a shard has that width whole, the matrix was cut along its other dimension.
//!
//! ```text
//! LLaMA 13B, two shards, width 5120      consolidated.00    consolidated.01    joined
//! attention.wq   [5120, 5120]            [2560, 5120]       [2560, 5120]       rows, one below the other
//! attention.wo   [5120, 5120]            [5120, 2560]       [5120, 2560]       columns, side by side
//! norm           [5120]                  [5120]             [5120]             the first; all must be equal
//! ```

use serde_json::Value as Json;

use super::{
    Options, Stored,
    assemble::{Draft, Part},
    family::{family, is_constant, role},
    json,
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    model::{Hyper, Join, Model, Naming, Piece, Role, Scaling, Sizes},
};

/// LLaMA's heads have this many rows in every size: 32 of them in a width of 4096, 64 in one of 8192.
const HEAD_DIM: u32 = 128;

/// Bytes of a tensor that are compared between shards.
const LONGEST: u64 = 64 << 10;

/// Reads a checkpoint in Meta's layout.
///
/// # Errors
/// Where tensors are not those of a LLaMA, shards do not fit together, or numbers that the shapes leave open are neither
/// in params.json nor known of its width.
pub fn open(mut draft: Draft, shards: &[Vec<Stored>], options: &Options) -> Result<Model> {
    let params = json::read(&draft.folder.join("params.json"))?;
    let own = params.is_none() && draft.params.is_some();
    let params = params.or_else(|| draft.params.take());
    // Later releases put it one level deeper.
    let params = params.map(|p| p.get("model").filter(|m| m.is_object()).cloned().unwrap_or(p));
    let width = width(&draft, params.as_ref(), shards)?;
    let first = shards.first().map(Vec::as_slice).unwrap_or_default();
    let mut parts = Vec::new();
    let mut dropped = Vec::new();
    let unknown = |t: &&Stored| !is_constant(family(), &t.name) && role(&t.name).is_none();
    let unknown: Vec<&str> = first.iter().filter(unknown).map(|t| t.name.as_str()).collect();
    if !unknown.is_empty() {
        return Err(draft.unknown_tensors(&unknown, "Meta's LLaMA"));
    }
    // The first shard says which tensors there are: every shard has a piece of each, or all of it.
    for stored in first {
        let mut same = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            let Some(stored) = shard.iter().find(|t| t.name == stored.name) else {
                let what = format!("{}: shard {number} has no {}", draft.name(), stored.name);
                return Err(Error::refused(what, "check the download: the shards differ"));
            };
            same.push(stored);
        }
        check_copies(&draft.files, &same)?;
        match role(&stored.name) {
            Some(role) => parts.push(join(role, &same, width)?),
            None => dropped.push(stored.name.as_str()),
        }
    }
    if let [one, ..] = dropped.as_slice() {
        let more = if dropped.len() > 1 {
            format!(" and {} more", dropped.len() - 1)
        } else {
            String::new()
        };
        draft.notes.push(format!("{one}{more} dropped: readers compute rotary frequencies"));
    }
    let hyper = hyper(&mut draft, params.as_ref(), own, width, &parts, options)?;
    draft.finish(&parts, &hyper, Naming::Old, None, options)
}

/// The width of the residual stream: stated, or the length of a norm.
///
/// # Errors
/// Where the two differ, or nothing is a norm and nothing is stated.
/// A norm is whole in every shard, so its length needs no other knowledge.
fn width(draft: &Draft, params: Option<&Json>, shards: &[Vec<Stored>]) -> Result<u64> {
    let norm = shards.iter().flatten().find(|t| t.name.ends_with("norm.weight"));
    let found = norm.and_then(|t| t.shape.first().copied());
    let stated = params.and_then(|p| p.get("dim")).and_then(Json::as_u64);
    match (stated, found) {
        (Some(stated), Some(found)) if stated != found => {
            let wanted = format!("{found}, the length of the norms");
            Err(json::malformed(
                &draft.folder.join("params.json"),
                "dim",
                &stated.to_string(),
                &wanted,
            ))
        }
        (_, Some(width)) => Ok(width),
        (Some(width), None) => Ok(width),
        (None, None) => Err(draft.unknown_tensors(&[], "Meta's LLaMA")),
    }
}

/// Checks that a vector, which is whole in every shard, is the same in all, and that no shard's piece
/// of a matrix is another's: then one was copied over the other.
///
/// The first 64 KiB of each are compared. Vectors that differ are of different models, matrices that do not are one
/// part twice. A piece of a matrix with one value throughout says nothing, and is passed over.
fn check_copies(files: &[Input], shards: &[&Stored]) -> Result<()> {
    let [first, rest @ ..] = shards else { return Ok(()) };
    if rest.is_empty() {
        return Ok(());
    }
    let whole = first.shape.len() == 1;
    let begin = |stored: &Stored| {
        let piece = stored.piece()?;
        let len = piece.row_bytes.saturating_mul(piece.rows).min(LONGEST);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        if let Some(file) = files.get(piece.file).filter(|_| piece.is_dense()) {
            file.read_at(piece.at, &mut bytes)?;
        }
        Ok::<_, Error>(bytes)
    };
    let name = |stored: &Stored| files.get(stored.file).map(Input::name).unwrap_or_default();
    let mut seen = vec![(*first, begin(first)?)];
    for shard in rest {
        let bytes = begin(shard)?;
        let blank = bytes.iter().all(|byte| Some(byte) == bytes.first());
        let other = seen.iter().find(|(_, other)| (*other == bytes) != whole);
        if let Some((other, _)) = other.filter(|_| whole || !blank) {
            let how = if whole { "differs from that of" } else { "is the same as in" };
            let what = format!(
                "{}: {} {how} {}: these are parts of different models, or one part twice",
                name(shard),
                shard.name,
                name(other)
            );
            return Err(Error::refused(what, "put the parts of one model into one folder"));
        }
        seen.push((shard, bytes));
    }
    Ok(())
}

/// One tensor from its shards.
fn join(role: Role, shards: &[&Stored], width: u64) -> Result<Part> {
    let Some(first) = shards.first() else {
        return Err(Error::unsupported("a tensor without shards", ""));
    };
    let odd = |why: &str| {
        let shapes: Vec<_> = shards.iter().map(|s| format!("{:?}", s.shape)).collect();
        let what = format!("{}: {why}: shapes {}", first.name, shapes.join(", "));
        Error::refused(what, "check that all shards are of one model, and none is missing")
    };
    if shards.iter().any(|s| s.dtype != first.dtype || s.shape.len() != role.names.shape.len()) {
        return Err(odd("the shards differ"));
    }
    let quant = first.quant()?;
    let whole = |shape: Vec<u64>, pieces: Vec<Piece>, join| Part {
        role,
        shape,
        quant,
        big_endian: first.big_endian,
        pieces,
        join,
        orders: Vec::new(),
    };
    if shards.len() == 1 || first.shape.len() == 1 {
        // The only shard, or a vector, which is in each.
        if shards.iter().any(|s| s.shape != first.shape) {
            return Err(odd("the shards differ"));
        }
        return Ok(whole(first.shape.clone(), vec![first.piece()?], Join::Rows));
    }
    let pieces: Result<Vec<Piece>> = shards.iter().map(|s| s.piece()).collect();
    let sum =
        |axis: usize| shards.iter().map(|s| s.shape.get(axis).copied().unwrap_or(0)).sum::<u64>();
    // The axis of the residual stream: the rows of what writes it, the columns of what reads it.
    //
    //     shape [n_embd, x] in the description     its rows write the stream (`wo`, `w2`)       axis 0
    //     shape [x, n_embd]                        its columns read it (`wq`, `w1`, output)     axis 1
    //
    // So of a square matrix, too, the role decides and not the shape.
    let stream = usize::from(role.names.shape.first().is_none_or(|first| first != "n_embd"));
    let uncut = shards.iter().all(|s| s.shape.get(stream) == Some(&width));
    let axis = if uncut {
        1 - stream
    } else if sum(stream) == width {
        stream
    } else {
        return Err(odd(&format!("no axis gives a width of {width}")));
    };
    let other = |s: &&&Stored| s.shape.get(1 - axis) != first.shape.get(1 - axis);
    if shards.iter().any(|s| other(&s)) {
        return Err(odd("the shards differ"));
    }
    let mut shape = first.shape.clone();
    if let Some(n) = shape.get_mut(axis) {
        *n = sum(axis);
    }
    Ok(whole(shape, pieces?, if axis == 0 { Join::Rows } else { Join::Columns }))
}

/// The numbers of the model: what `params.json` states, what shapes say, and for the rest what LLaMA is known to have.
///
/// ```text
/// layers      n_layers, else the highest number of a tensor + 1
/// heads       n_heads, else width / 128
/// kv heads    n_kv_heads, else rows of the keys / rows of a head
/// epsilon     norm_eps, else as asked for, else 1e-6 (1e-5 where the settings are in the weights' own file)
/// context     max_seq_len, else as asked for, else what rotary base, vocabulary and epsilon tell
/// ```
///
/// Whatever is not stated is said in a note.
fn hyper(
    draft: &mut Draft,
    params: Option<&Json>,
    own: bool,
    width: u64,
    parts: &[Part],
    options: &Options,
) -> Result<Hyper> {
    let path = draft.folder.join("params.json");
    let stated = |key: &str| params.and_then(|p| p.get(key)).filter(|v| !v.is_null());
    let number = |key: &str| match stated(key) {
        None => Ok(None),
        Some(v) => match v.as_u64().and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0) {
            Some(v) => Ok(Some(v)),
            None => Err(json::malformed(&path, key, &v.to_string(), "a whole number above 0")),
        },
    };
    let float = |key: &str| stated(key).and_then(json::float);
    let rows = |name: &str| {
        let part = parts.iter().find(|p| p.role.name(Naming::Gguf).as_deref() == Some(name));
        part.and_then(|p| u32::try_from(*p.shape.first()?).ok())
    };
    let mut assumed = Vec::new();
    if params.is_none() {
        assumed.push("params.json is missing".to_owned());
    }
    let width = u32::try_from(width).unwrap_or(0);
    let layers = parts.iter().filter_map(|p| p.role.layer).max().map_or(0, |l| l + 1);
    let layers = number("n_layers")?.unwrap_or(u32::try_from(layers).unwrap_or(u32::MAX));
    let heads = match number("n_heads")? {
        Some(heads) => heads,
        None => {
            assumed.push(format!("heads of {HEAD_DIM} rows"));
            width / HEAD_DIM
        }
    };
    // Mistral's params.json states the rows of a head, which need not be the width over the heads.
    let head_dim = number("head_dim")?;
    let states_head_dim = head_dim.is_some();
    if heads == 0 || width == 0 || (head_dim.is_none() && !width.is_multiple_of(heads)) {
        if params.is_none() {
            let what = format!("{}: no params.json beside it", draft.name());
            let next = format!("copy it there: a width of {width} does not say how many heads");
            return Err(Error::refused(what, next));
        }
        let found = format!("{heads} heads for a width of {width}");
        return Err(json::malformed(&path, "n_heads", &found, "a divisor of the width"));
    }
    let head_dim = head_dim.unwrap_or_else(|| width / heads);
    let kv_heads = match number("n_kv_heads")? {
        Some(heads) => heads,
        None => rows("blk.0.attn_k.weight").map_or(heads, |rows| rows / head_dim),
    };
    let rope_base = float("rope_theta");
    let eps = match float("norm_eps").or(options.eps) {
        Some(eps) => eps,
        None => {
            // Scripts that save the settings with the weights have this one in their code.
            let (eps, who) = if own { (1e-5, "llama2.c") } else { (1e-6, "LLaMA 1") };
            assumed.push(format!("a norm epsilon of {eps:e}, as {who} has it"));
            eps
        }
    };
    let scaling = match stated("use_scaled_rope") {
        Some(Json::Bool(true)) => {
            // The factor is in Meta's code: 8, and 32 for the small models of LLaMA 3.2.
            let small = matches!((width, layers), (2048, 16) | (3072, 28));
            let usual = if small { 32.0 } else { 8.0 };
            let factor =
                stated("rope_scaling_factor").and_then(Json::as_f64).unwrap_or_else(|| {
                    let version = if small { "3.2" } else { "3.1" };
                    assumed.push(format!(
                        "a rope scaling factor of {usual}, as LLaMA {version} has it"
                    ));
                    usual
                });
            Scaling::Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 }
        }
        _ => Scaling::None,
    };
    let vocab = rows("token_embd.weight").unwrap_or(0);
    let (context, why) = match stated("sliding_window") {
        Some(_) => (32_768, "as Mistral has it"),
        None => context(eps, rope_base, vocab, &scaling),
    };
    let context = match number("max_seq_len")?.or(options.context) {
        Some(context) => context,
        None => {
            assumed.push(format!("a context of {context} tokens, {why}"));
            context
        }
    };
    let feed_forward = rows("blk.0.ffn_gate.weight").unwrap_or(0);
    if let Some(by_rule) = feed_forward_by_rule(width, params).filter(|n| *n != feed_forward) {
        draft.notes.push(format!(
            "the feed-forward layers have {feed_forward} rows where params.json would give {by_rule}"
        ));
    }
    if let Some(multiple) = number("multiple_of")? {
        draft.header.push(("n_mult".to_owned(), multiple.into()));
    }
    if !assumed.is_empty() {
        draft.notes.push(format!("assumed: {}", assumed.join("; ")));
    }
    let whole = |number: u32| u64::from(number);
    let mut stated = vec![
        ("n_layer", whole(layers)),
        ("n_ctx", whole(context)),
        ("n_embd", whole(width)),
        ("n_ff", whole(feed_forward)),
        ("n_head", whole(heads)),
        ("n_head_kv", whole(kv_heads)),
        ("n_vocab", whole(vocab)),
    ];
    if states_head_dim {
        stated.extend([("head", whole(head_dim)), ("head_v", whole(head_dim))]);
    }
    let mut sizes = Sizes::with(family(), &stated);
    sizes.set("eps", eps);
    if let Some(base) = rope_base {
        sizes.set("rope_base", base);
    }
    Ok(Hyper::new(family(), sizes, scaling))
}

/// What no params.json says: how long the texts were that the model was trained on.
///
/// Each release changed one thing that is stated: Code Llama the base of positions to 1e6, LLaMA 3 to 5e5 with a
/// vocabulary of 128,256, 3.1 scales them, LLaMA 2 has an epsilon of 1e-5 where LLaMA 1 has 1e-6.
fn context(eps: f32, rope_base: Option<f32>, vocab: u32, scaling: &Scaling) -> (u32, &'static str) {
    match rope_base {
        _ if *scaling != Scaling::None => (131_072, "as LLaMA 3.1 has it"),
        Some(1e6) => (16_384, "as Code Llama has it"),
        Some(5e5) => (8192, "as LLaMA 3 has it"),
        _ if vocab == 128_256 => (8192, "as LLaMA 3 has it"),
        _ if eps == 1e-5 => (4096, "as LLaMA 2 has it"),
        _ => (2048, "as LLaMA 1 has it"),
    }
}

/// Meta's rule: two thirds of four times the width, times a factor, rounded up to a multiple.
///
/// ```text
/// n = ceil(factor * (8 * width / 3) / multiple) * multiple       the quotient by 3 and the product are cut to whole
/// width 4096, multiple 256: 10922 -> 11008
/// ```
fn feed_forward_by_rule(width: u32, params: Option<&Json>) -> Option<u32> {
    let multiple = params?.get("multiple_of")?.as_u64().filter(|m| *m > 0)?;
    let factor = params?.get("ffn_dim_multiplier").and_then(Json::as_f64).unwrap_or(1.0);
    let plain = u64::from(width) * 8 / 3;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as Meta's int(); out of range, the nearest is taken"
    )]
    let scaled = (plain as f64 * factor) as u64;
    u32::try_from(scaled.div_ceil(multiple).checked_mul(multiple)?).ok()
}
