//! Keys and values of latent attention: one matrix, as files of DeepSeek had it until 15 April 2025, or the two of which
//! today's llama.cpp computes without making keys and values (llama.cpp daa422881, `convert_hf_to_gguf.py`).
//!
//! ```text
//! attn_kv_b  [heads × (still + value), latent]   head by head the rows of its key, then those of its value
//! attn_k_b   [heads, latent, still]              the rows of keys, transposed
//! attn_v_b   [heads, value, latent]              the rows of values
//! ```
//!
//! With the two, a key in the cache is the latent vector beside what turns, one for all heads, and the metadata say so.
//! Why two serve better than one: with `c` the latent vector of a token, and of a head `K` [still, latent], the
//! score of a query `q` is
//!
//! ```text
//! q · (K c)  =  (Kᵀ q) · c        K c  for every token before: keys are made and kept
//!                                 Kᵀ q once: then the query meets the latent vectors as they are
//! ```
//!
//! so the cache holds `latent + turns` numbers a token and layer (DeepSeek V3: 512 + 64) in place of
//! `heads × (still + turns + value)` (128 × (128 + 64 + 128)). What is transposed in the file is that `Kᵀ`.
//!
//! Only plain numbers are transposed where they are: blocks of quantized weights would be rounded again, or are decoded
//! and become F32 where a person wants nothing rounded. Values stay in their blocks when they are taken apart.

use std::slice::from_ref;

use crate::{
    error::{Error, Result},
    format::{catalog, family::Family},
    model::{Join, Model, Naming, Role, Sum, Tensor, Term, sum::plain},
    remedy::{Note, Notes, Remedy, Setting},
    size::counted,
};

/// The sizes that either layout follows from.
///
/// Each is a count of numbers; for DeepSeek V3 128 heads, 128 still, 64 turning, 128 of a value, 512 latent.
struct Latent {
    heads: u64,
    /// Numbers of a head's key that do not turn.
    still: u64,
    turns: u64,
    value: u64,
    latent: u64,
}

/// The roles of the one matrix and of the two that take its place.
const WHOLE: &str = "both_of_short";
const KEYS: &str = "key_of_short";
const VALUES: &str = "value_of_short";

impl Latent {
    /// Of a model in the one layout or in the other.
    fn of(model: &Model, whole: bool) -> Option<Latent> {
        let word = |name: &str| model.metadata.own(name)?.as_u64();
        let (key, value) = match whole {
            true => ("attention.key_length", "attention.value_length"),
            false => ("attention.key_length_mla", "attention.value_length_mla"),
        };
        // A key is what stays still and, behind it, what turns.
        let turns = word("rope.dimension_count")?;
        Some(Latent {
            heads: word("attention.head_count")?,
            still: word(key)?.checked_sub(turns)?,
            turns,
            value: word(value)?,
            latent: word("attention.kv_lora_rank")?,
        })
    }

    /// What the metadata of either layout say.
    fn stamp(&self, model: &mut Model, whole: bool) -> Option<()> {
        // one matrix     key_length = still + turns       value_length = value     head_count_kv = heads
        // two            key_length = latent + turns      value_length = latent    head_count_kv = 1
        //                key_length_mla, value_length_mla: those of the first
        let key = self.still + self.turns;
        let short = self.latent + self.turns;
        let (own, heads) = match whole {
            true => ([key, self.value], self.heads),
            false => ([short, self.latent], 1),
        };
        let words = ["attention.key_length", "attention.value_length", "attention.head_count_kv"];
        let architecture = model.metadata.architecture().to_owned();
        for (word, n) in words.into_iter().zip([own[0], own[1], heads]) {
            model.metadata.set(format!("{architecture}.{word}"), u32::try_from(n).ok()?);
        }
        for (word, n) in [("key_length_mla", key), ("value_length_mla", self.value)] {
            let key = format!("{architecture}.attention.{word}");
            match whole {
                true => drop(model.metadata.remove(&key)),
                false => model.metadata.set(key, u32::try_from(n).ok()?),
            }
        }
        Some(())
    }
}

/// The family of a model whose keys and values may be in either layout.
fn family(model: &Model) -> Option<&'static Family> {
    let has =
        |family: &&Family| [WHOLE, KEYS, VALUES].iter().all(|id| family.roles.contains_key(*id));
    catalog::family(&model.family).filter(has)
}

/// What a tensor does, and in which layer.
fn role(family: &'static Family, tensor: &Tensor) -> Option<(&'static str, u64)> {
    let role = Role::of(family, Naming::Gguf, &tensor.name).filter(|role| !role.bias)?;
    Some((role.id, role.layer?))
}

/// GGUF's name of a role in a layer.
fn name(family: &'static Family, id: &str, layer: u64) -> Option<String> {
    let role = Role { layer: Some(layer), ..Role::first(family.roles.get(id)?) };
    role.name(Naming::Gguf)
}

/// Whether a model has keys and values in one matrix, of plain numbers or, with `coded`, of any that are decoded.
///
/// All layers or none: metadata say one layout for the whole model.
pub fn is_whole(model: &Model, coded: bool) -> bool {
    let all = wholes(model);
    let fits = |t: &&Tensor| !is_coded(t) || coded && is_turnable(t);
    !all.is_empty() && all.iter().all(fits)
}

/// The matrices that hold keys and values, of a model whose metadata are of that layout.
/// `key_length_mla` is in files of the new layout only.
fn wholes(model: &Model) -> Vec<&Tensor> {
    let known = family(model).filter(|_| {
        Latent::of(model, true).is_some()
            && model.metadata.own("attention.key_length_mla").is_none()
    });
    let whole =
        |t: &&Tensor| known.and_then(|family| role(family, t)).is_some_and(|(id, _)| id == WHOLE);
    model.tensors.iter().filter(whole).collect()
}

/// Whether its rows are blocks: those cannot be turned round without being rounded again.
fn is_coded(tensor: &Tensor) -> bool {
    tensor.quant.layout().elements > 1
}

/// Whether its blocks can be decoded row by row.
fn is_turnable(tensor: &Tensor) -> bool {
    let plain = tensor.orders.is_empty() && tensor.sum.is_none() && tensor.span.is_none();
    plain && tensor.fold == 1 && tensor.join == Join::Rows && tensor.quant.row_group() == 1
}

/// Says of quantized ones why they stay.
pub(super) fn note_coded(model: &Model, notes: &mut Notes) {
    let all = wholes(model);
    if let Some(first) = all.iter().find(|tensor| is_coded(tensor)) {
        notes.push(Note::new(
            format!(
                "attn_kv_b of {} stays one matrix: {} is {}, and to store its keys transposed, as llama.cpp computes \
                 latent attention since 15 April 2025, would round them again; today's reads it too, with a larger cache",
                counted(all.len(), "layer", "layers"),
                first.name,
                first.quant
            ),
            Setting::Exact
                .to("for the other layout write keys as F32")
                .or("upgrade the F16 or BF16 model and quantize the outcome"),
        ));
    }
}

/// Puts each such matrix into two.
///
/// Tensors keep their places: the two come where the one was. Metadata follow last, when all tensors fit.
///
/// # Errors
/// Where a matrix is not of the size that metadata say.
pub(super) fn split(model: &mut Model, notes: &mut Notes) -> Result<()> {
    let Some((family, sizes)) = family(model).zip(Latent::of(model, true)) else { return Ok(()) };
    let mut out = Vec::new();
    for tensor in &model.tensors {
        let Some((WHOLE, layer)) = role(family, tensor) else {
            out.push(tensor.clone());
            continue;
        };
        let halves = sizes.halves(tensor).ok_or_else(|| misfit(tensor))?;
        for (id, half) in [KEYS, VALUES].into_iter().zip(halves) {
            let name = name(family, id, layer).ok_or_else(|| misfit(tensor))?;
            out.push(Tensor { name, ..half });
        }
    }
    let count = out.len() - model.tensors.len();
    model.tensors = out;
    sizes.stamp(model, false);
    notes.push(format!(
        "attn_kv_b of {count} layers is attn_k_b and attn_v_b now, as llama.cpp computes latent attention since 15 \
         April 2025; key and value lengths and the count of key heads follow"
    ));
    Ok(())
}

/// Puts both matrices of each layer into one, as builds before 15 April 2025 read them.
///
/// # Errors
/// Where the model has no such, they are quantized and `exact` is not asked for, or not of the size that metadata say.
pub(super) fn join(model: &mut Model, exact: bool, notes: &mut Notes) -> Result<()> {
    let known = family(model).zip(Latent::of(model, false));
    let of = |id: &str| {
        let family = known.as_ref().map(|(family, _)| *family);
        let own = |t: &Tensor| family.and_then(|family| role(family, t)).map(|(own, _)| own);
        model.tensors.iter().filter(|t| own(t) == Some(id)).collect::<Vec<_>>()
    };
    let pairs = (of(KEYS), of(VALUES));
    let Some((family, sizes)) =
        known.filter(|_| !pairs.0.is_empty() && pairs.0.len() == pairs.1.len())
    else {
        let what = "the model has no attn_k_b and attn_v_b that could be joined";
        return Err(Error::refused(what, "write it as it is"));
    };
    let mut all = pairs.0.iter().chain(&pairs.1);
    if let Some(coded) = all.find(|t| is_coded(t) && !(exact && is_turnable(t))) {
        let what = format!("{} is {}: to join it would round it again", coded.name, coded.quant);
        let other = Remedy::from("start from the F16 or BF16 model and quantize the outcome");
        let next = match exact {
            true => other,
            false => Setting::Exact.to("write it as F32").or(other),
        };
        return Err(Error::refused(what, next));
    }
    let mut joined = Vec::new();
    for keys in &pairs.0 {
        let layer = role(family, keys).map_or(0, |(_, layer)| layer);
        let values = pairs.1.iter().find(|t| role(family, t).is_some_and(|(_, n)| n == layer));
        let whole = values.and_then(|values| match is_coded(keys) || is_coded(values) {
            true => sizes.whole_of_coded(keys, values),
            false => sizes.whole(keys, values),
        });
        let name = name(family, WHOLE, layer);
        let (whole, name) = whole.zip(name).ok_or_else(|| misfit(keys))?;
        joined.push((keys.name.clone(), Tensor { name, ..whole }));
    }
    let count = joined.len();
    // The one takes the place of the keys, so that the order of the file stays.
    let values: Vec<String> = pairs.1.iter().map(|t| t.name.clone()).collect();
    model.tensors.retain(|tensor| !values.contains(&tensor.name));
    for tensor in &mut model.tensors {
        if let Some(at) = joined.iter().position(|(name, _)| *name == tensor.name) {
            *tensor = joined.swap_remove(at).1;
        }
    }
    sizes.stamp(model, true);
    notes.push(format!(
        "attn_k_b and attn_v_b of {count} layers are attn_kv_b, as builds before 15 April 2025 read them"
    ));
    Ok(())
}

/// The error for a matrix that is not as large as heads and lengths say.
fn misfit(tensor: &Tensor) -> Error {
    let what =
        format!("{}: its shape {:?} is not what the metadata say", tensor.name, tensor.shape);
    Error::unsupported(what, "get a fresh copy of the file")
}

/// A tensor of these rows turned.
/// Blocks have no columns that could be read in place: such a tensor is made while it is read, decoded to f32 and then
/// turned, and its type is F32.
fn turned(base: &Tensor, term: Term, shape: Vec<u64>) -> Option<Tensor> {
    let sum = Sum { base: base.clone(), terms: vec![term] };
    Some(Tensor { shape, ..sum.tensor(plain().ok()?) })
}

impl Latent {
    /// The keys, transposed head by head, and the values of one matrix.
    ///
    /// ```text
    /// rows of the one   head 0: still × [latent], value × [latent]   head 1: still …
    /// keys              head 0: latent × [still]                     head 1: …
    /// values            head 0: value × [latent]                     head 1: …
    /// ```
    fn halves(&self, whole: &Tensor) -> Option<[Tensor; 2]> {
        let rows = self.still.checked_add(self.value)?;
        let all = self.heads.checked_mul(rows)?;
        if whole.shape != [all, self.latent] {
            return None;
        }
        let shape = vec![self.heads, self.latent, self.still];
        let keys = match is_coded(whole) {
            true => {
                turned(whole, Term::Turned { rows: self.still, step: rows, below: None }, shape)?
            }
            false => {
                let mut pieces = Vec::new();
                for head in 0..self.heads {
                    let mut keys = whole.clone();
                    keys.take(from_ref(&(head * rows..head * rows + self.still)))?;
                    // A transposed piece reads columns where rows were: nothing is computed, and nothing copied.
                    pieces.extend(keys.transposed()?.pieces);
                }
                Tensor { shape, pieces, ..whole.clone() }
            }
        };
        let mut values = whole.clone();
        // Of each head what is behind its key.
        let bands = (0..self.heads).map(|head| head * rows + self.still..(head + 1) * rows);
        values.take(&bands.collect::<Vec<_>>())?;
        values.shape = vec![self.heads, self.value, self.latent];
        Some([keys, values])
    }

    /// One matrix of both, decoded.
    fn whole_of_coded(&self, keys: &Tensor, values: &Tensor) -> Option<Tensor> {
        let fits = keys.shape == [self.heads, self.latent, self.still]
            && values.shape == [self.heads, self.value, self.latent];
        let below = Some((values.clone(), self.value));
        let term = Term::Turned { rows: self.latent, step: self.latent, below };
        let shape = vec![self.heads.checked_mul(self.still.checked_add(self.value)?)?, self.latent];
        fits.then(|| turned(keys, term, shape))?
    }

    /// One matrix of both.
    fn whole(&self, keys: &Tensor, values: &Tensor) -> Option<Tensor> {
        let fits = keys.shape == [self.heads, self.latent, self.still]
            && values.shape == [self.heads, self.value, self.latent]
            && keys.quant == values.quant
            && keys.big_endian == values.big_endian;
        let mut pieces = Vec::new();
        for head in (0..self.heads).take_while(|_| fits) {
            let part = |tensor: &Tensor, rows: u64| {
                let mut part = tensor.clone();
                part.take(from_ref(&(head * rows..(head + 1) * rows)))?;
                part.shape = vec![rows, *tensor.shape.last()?];
                Some(part)
            };
            // Back: a head's key turned again, then its value.
            pieces.extend(part(keys, self.latent)?.transposed()?.pieces);
            pieces.extend(part(values, self.value)?.pieces);
        }
        let shape = vec![self.heads * (self.still + self.value), self.latent];
        fits.then(|| Tensor { shape, pieces, ..keys.clone() })
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::{bytes::Input, quant::QuantType};

    const HEADS: usize = 2;
    const STILL: usize = 3;
    const VALUE: usize = 2;
    const LATENT: usize = 64;
    /// Blocks of a row, each a scale and 32 whole numbers.
    const ROW: usize = LATENT / 32 * 34;

    /// A model with one quantized matrix of keys and values.
    fn coded() -> Model {
        let rows = HEADS * (STILL + VALUE);
        let block = |n: usize| {
            let scale = f16::from_f32(0.5 + n as f32).to_le_bytes();
            let codes = (0..32).map(move |at| (n * 37 + at * 11 % 251) as u8);
            scale.into_iter().chain(codes).collect::<Vec<_>>()
        };
        let bytes: Vec<u8> = (0..rows * LATENT / 32).flat_map(block).collect();
        let shape = vec![rows as u64, LATENT as u64];
        let q8_0 = QuantType::today("q8_0").unwrap();
        let tensor = Tensor::whole("blk.0.attn_kv_b.weight".into(), shape, q8_0, 0, 0).unwrap();
        let mut model = Model {
            files: vec![Input::memory("x", bytes)],
            tensors: vec![tensor],
            family: "deepseek2".to_owned(),
            ..Model::default()
        };
        model.metadata.set("general.architecture", "deepseek2");
        let words = [
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", HEADS),
            ("attention.key_length", STILL + 4),
            ("attention.value_length", VALUE),
            ("attention.kv_lora_rank", LATENT),
            ("rope.dimension_count", 4),
        ];
        for (word, n) in words {
            model.metadata.set(format!("deepseek2.{word}"), n as u32);
        }
        model
    }

    fn read(model: &Model, name: &str, first: u64, rows: u64) -> Vec<u8> {
        let tensor = model.tensor(name).unwrap();
        let mut bytes = vec![0; usize::try_from(rows * tensor.row_bytes()).unwrap()];
        model.read_rows(tensor, first, rows, &mut bytes).unwrap();
        bytes
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|n| f32::from_le_bytes(*n.first_chunk().unwrap())).collect()
    }

    #[test]
    fn blocks_are_turned_without_rounding_and_back() {
        let mut model = coded();
        let stored = read(&model, "blk.0.attn_kv_b.weight", 0, 10);
        let number = |row: usize, column: usize| {
            let block = &stored[row * ROW + column / 32 * 34..];
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            f32::from(block[2 + column % 32] as i8) * scale
        };
        assert!(!is_whole(&model, false) && is_whole(&model, true));
        let mut notes = Notes::default();
        split(&mut model, &mut notes).unwrap();
        // Head by head a row for each number of the latent vector.
        let keys: Vec<f32> = (0..HEADS * LATENT)
            .flat_map(|row| {
                (0..STILL).map(move |n| (row / LATENT * (STILL + VALUE) + n, row % LATENT))
            })
            .map(|(row, column)| number(row, column))
            .collect();
        let key = "blk.0.attn_k_b.weight";
        assert_eq!(model.tensor(key).unwrap().shape, [2, 64, 3]);
        assert!(floats(&read(&model, key, 0, 128)) == keys);
        assert!(
            floats(&read(&model, key, 60, 9)) == keys[60 * STILL..69 * STILL],
            "over a head's end"
        );
        let values = [&stored[3 * ROW..5 * ROW], &stored[8 * ROW..]].concat();
        assert!(read(&model, "blk.0.attn_v_b.weight", 0, 4) == values, "the same blocks");

        // Keys of numbers, values of blocks: numbers again.
        let bytes = [read(&model, key, 0, 128), values].concat();
        let at = bytes.len() as u64 - 4 * ROW as u64;
        model.files = vec![Input::memory("y", bytes)];
        let [f32, q8_0] = ["f32", "q8_0"].map(|name| QuantType::today(name).unwrap());
        let whole = |name: &str, shape: &[u64], quant, at| {
            Tensor::whole(name.to_owned(), shape.to_vec(), quant, 0, at).unwrap()
        };
        let value = whole("blk.0.attn_v_b.weight", &[2, 2, 64], q8_0, at);
        model.tensors = vec![whole(key, &[2, 64, 3], f32, 0), value];
        let refused = join(&mut model.clone(), false, &mut notes).unwrap_err().to_string();
        assert!(refused.contains("to join it would round it again"), "{refused}");
        join(&mut model, true, &mut notes).unwrap();
        let all: Vec<f32> = (0..10 * LATENT).map(|n| number(n / LATENT, n % LATENT)).collect();
        let name = "blk.0.attn_kv_b.weight";
        assert!(floats(&read(&model, name, 0, 10)) == all);
        assert!(floats(&read(&model, name, 2, 5)) == all[2 * LATENT..7 * LATENT]);
    }
}
