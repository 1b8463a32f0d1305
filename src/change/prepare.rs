//! The model as its new file names it: tensors renamed, experts stacked, leftovers dropped.
//!
//! | what | to GGUF | to a container before it |
//! |---|---|---|
//! | `rope.freqs` | dropped: every loader computes them | the same |
//! | key and value heads, once for every query head | one of each is left ([`cut_repeated`]) | repeated where its programs want them ([`as_stored`]) |
//! | an output that is the embedding again | dropped ([`drop_tied`]) | added where it is wanted |
//! | queries, keys, values apart | as they are | joined ([`join_parts`]) |
//! | experts one by one | stacked ([`stack_experts`]) | as they are |
//!
//! No weight is moved for it: a tensor is a list of places in files, which are cut, put behind one another and put in
//! order. What is read is what has to be compared.
//!
//! The order counts: heads are cut before shapes are held against roles, and tensors get GGUF's names before experts
//! are stacked, which are found by these.

use std::{ops::Range, slice::from_ref};

use super::{Target, keys, latent};
use crate::{
    container::tail,
    error::{Error, Result},
    format::{
        catalog,
        container::Container,
        family::{Bias, Family, Names},
    },
    model::{
        Join, Model, Sizes, Tensor,
        role::{Naming, Role, expert_in, expert_of},
        rows,
    },
    remedy::{Note, Notes, Setting},
    size::counted,
};

/// Layouts that a person asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// Experts one by one.
    pub split_experts: bool,
    /// Keys and values of latent attention in one matrix.
    pub join_kv_b: bool,
    /// Nothing rounded: blocks that have to be turned become F32.
    pub exact: bool,
}

/// Brings the tensors of `model` into the terms of the target: GGUF's names or the ones before. `notes` get what a
/// person should know of it.
///
/// # Errors
/// Where the file begins again before its data ends, an old file has its matrices in shapes of other days, tensors
/// that are to become one are of several types, or an older container has no name for one.
pub(super) fn prepare(
    mut model: Model,
    target: Target,
    asked: Asked,
    notes: &mut Notes,
) -> Result<Model> {
    tail::check(&model)?;
    let to_gguf = target.is_keyed();
    let before = model.tensors.len();
    // Meta's checkpoints have them (`rope.freqs`); the factors of LLaMA 3.1 are another thing, and stay.
    model.tensors.retain(|t| !t.name.ends_with("freqs") || t.name == "rope_freqs.weight");
    if model.tensors.len() < before {
        notes.push("rope.freqs dropped: every loader computes them".to_owned());
    }
    if let Some(family) = catalog::family(&model.family) {
        // A family with `tokenizer` is one of ggml's examples and their like; LLaMA's containers repeat no heads, and
        // never stored a matrix transposed.
        if family.tokenizer.is_some() && to_gguf {
            cut_repeated(&mut model, notes)?;
            check_shapes(family, &model)?;
            drop_tied(family, &mut model, notes)?;
        }
        if !to_gguf {
            join_parts(family, &mut model)?;
        }
        if family.tokenizer.is_some() && !to_gguf {
            as_stored(family, target.container(), &mut model)?;
        }
        let order = &target.container().tensors.order;
        // These programs read records one after another into places that they know, whatever the records are called. A
        // file of theirs has that order already.
        if !order.is_empty() && keys::are_gguf(&model) {
            model.tensors.sort_by_key(|tensor| place(family, order, &tensor.name));
        }
        let naming = if to_gguf { Naming::Gguf } else { Naming::Old };
        let roles = |t: &Tensor| Role::find(family, &t.name).map(|(_, role)| role.id);
        // Some names depend on what else there is.
        let there: Vec<&str> = model.tensors.iter().filter_map(roles).collect();
        for tensor in &mut model.tensors {
            let role = Role::find(family, &tensor.name);
            let written =
                |(_, role): (Naming, Role)| role.written(naming, |id| there.contains(&id));
            match role.and_then(written) {
                Some(name) => tensor.name = name,
                None if to_gguf => {}
                None => {
                    let what =
                        format!("{}: older formats have no name for this tensor", tensor.name);
                    return Err(Error::unsupported(what, "keep it as GGUF"));
                }
            }
        }
    }
    if to_gguf {
        match asked.split_experts {
            true => split_experts(&mut model, notes)?,
            false => stack_experts(&mut model, notes)?,
        }
        match asked.join_kv_b {
            true => latent::join(&mut model, asked.exact, notes)?,
            false if !target.is_past() && latent::is_whole(&model, asked.exact) => {
                latent::split(&mut model, notes)?;
            }
            false if !target.is_past() => latent::note_coded(&model, notes),
            false => {}
        }
    }
    if may_have_confused_heads(&model) {
        notes.push(Note::new(
            "key rows may be in the wrong order: convert.py scrambled those of Hugging Face models with \
             grouped heads from 27 July to 28 September 2023",
            Setting::RepairRows.to("see whether it helps to put them right"),
        ));
    }
    Ok(model)
}

/// Whether every tensor of an old file has the shape of its role: programs of the first months stored some transposed.
fn check_shapes(family: &'static Family, model: &Model) -> Result<()> {
    if model.header.is_empty() {
        return Ok(());
    }
    let sizes = Sizes::of(model);
    for tensor in &model.tensors {
        // Tensors without a role, or of sizes that are not known, are passed over.
        let wanted = Role::find(family, &tensor.name).and_then(|(_, role)| role.shape(&sizes));
        let Some(wanted) = wanted.filter(|wanted| *wanted != tensor.shape) else { continue };
        let what = format!(
            "{}: has the shape {:?}, its role wants {wanted:?}: not yet: matrices that are stored transposed",
            tensor.name, tensor.shape
        );
        return Err(Error::unsupported(what, "convert the original checkpoint"));
    }
    Ok(())
}

/// Puts rows as the programs of `container` have them: heads that they want again and again, and the embedding as an
/// output where they want one. Names are those of any naming.
///
/// # Errors
/// Where the rows of a tensor are no whole number of heads.
fn as_stored(family: &'static Family, container: &Container, model: &mut Model) -> Result<()> {
    let sizes = Sizes::of(model);
    let mut embedding = None;
    let mut has_output = false;
    for tensor in &mut model.tensors {
        let Some((_, role)) = Role::find(family, &tensor.name) else { continue };
        has_output |= role.id == "output";
        let old = role.name(Naming::Old).unwrap_or_default();
        let repeats = container.tensors.repeated.iter().any(|end| old.ends_with(end.as_str()));
        // Only a matrix that has one copy is repeated; one that was read from such a file has all.
        let one = |tensor: &Tensor| tensor.shape.first() == sizes.get("n_qkv").as_ref();
        // Where a size is not known nothing is repeated: the rows are put in order as for any other container.
        let heads = [sizes.get("n_head"), sizes.get("n_head_kv"), sizes.get("head")];
        let laid = match heads {
            [Some(heads), Some(kv), Some(head)] if repeats && one(tensor) => {
                repeat_heads(tensor, heads, kv, head)
            }
            _ => rows::from_gguf(&role, Naming::Old, &sizes, tensor),
        };
        laid.ok_or_else(|| {
            let what = format!("{}: its rows are no whole heads", tensor.name);
            Error::unsupported(what, "the file's metadata does not fit its tensors")
        })?;
        if role.id == "token_embedding" && !role.bias {
            embedding = Some(tensor.clone());
        }
    }
    let output = family.roles.get("output").map(Role::first);
    let name = output.and_then(|role| role.name(Naming::Old));
    // Files of GGUF leave out an output that is the embedding again; programs that look for one would fail without it.
    if let (Some(name), Some(mut again), false) = (name, embedding, has_output)
        && container.detect.needs.contains(&name)
    {
        again.name = name;
        model.tensors.push(again);
    }
    Ok(())
}

/// Joins what is one tensor in files from before GGUF.
///
/// ```text
/// blk.0.attn_q [n_embd, n_embd]   blk.0.attn_k, attn_v [n_kv, n_embd]
///   -> query_key_value [n_embd + 2 n_kv, n_embd]      and the biases, [n_embd + 2 n_kv]
/// ```
///
/// The joined tensor has three lists of places behind one another, and still GGUF's order of rows; [`as_stored`] puts
/// them in that of the container.
///
/// # Errors
/// Where a part is missing, or of another type than the rest: one tensor has one type.
fn join_parts(family: &'static Family, model: &mut Model) -> Result<()> {
    let wholes = family.roles.iter().filter(|(_, names)| !names.parts.is_empty());
    let layers = Sizes::of(model).get("n_layer").unwrap_or(0);
    for (id, names) in wholes {
        // The bias of a joined matrix is the biases of its parts, joined in the same order.
        let biases = [false, true].into_iter().take(1 + usize::from(names.bias != Bias::None));
        for (layer, bias) in (0..layers).flat_map(|n| biases.clone().map(move |bias| (n, bias))) {
            let whole = Role { id, names, layer: Some(layer), bias };
            let parts = rows::parts(family, &whole).unwrap_or_default();
            let of = |role: &Role| Naming::ALL.into_iter().find_map(|n| role.tensor(model, n));
            let there: Vec<&Tensor> = parts.iter().filter_map(of).collect();
            let Some(first) = there.first() else { continue };
            let joined = rows::together(&there).filter(|_| there.len() == parts.len());
            let Some(joined) = joined else {
                let what =
                    format!("{}: and the tensors beside it are of several types", first.name);
                let next = "convert it to one type, or keep it as GGUF";
                return Err(Error::unsupported(what, next));
            };
            let names: Vec<String> = there.iter().map(|t| t.name.clone()).collect();
            // In the place of the first part, so that a layer's tensors stay together.
            let place = model.tensors.iter().position(|t| names.contains(&t.name)).unwrap_or(0);
            model.tensors.retain(|t| !names.contains(&t.name));
            let joined = Tensor { name: whole.title(), ..joined };
            model.tensors.insert(place.min(model.tensors.len()), joined);
        }
    }
    Ok(())
}

/// Where a tensor is among others that are read in this order of roles: those of a layer behind those of the
/// layer before, a bias behind its matrix.
///
/// ```text
/// order   embedding, query, output_of_attention, final_norm       the two in the middle are of every layer
/// sorted  embedding | blk.0 query, blk.0 output_of_attention | blk.1 query, … | final_norm
/// ```
fn place(family: &'static Family, order: &[String], name: &str) -> (usize, u64, usize, bool) {
    let Some((_, role)) = Role::find(family, name) else { return (0, 0, 0, false) };
    let at = order.iter().position(|id| id == role.id).unwrap_or(order.len());
    // The place of a layered role is that of the first layered one, then the layer, then the role: layer by layer.
    let layered = |id: &String| family.roles.get(id).is_some_and(Names::is_layered);
    let first = match role.layer {
        // Of the layered roles side by side in the list.
        Some(_) => order.iter().take(at).rposition(|id| !layered(id)).map_or(0, |n| n + 1),
        None => at,
    };
    (first, role.layer.unwrap_or(0), at, role.bias)
}

/// Has each of `heads` queries its own copy of the key and the value head that it shares.
fn repeat_heads(tensor: &mut Tensor, heads: u64, kv: u64, head: u64) -> Option<()> {
    // Query heads that share one key head.
    let shared = heads.checked_div(kv).filter(|n| n * kv == heads)?;
    let queries = heads * head;
    let copies = |first: u64| {
        (0..heads).map(move |query| {
            let at = first + query / shared * head;
            at..at + head
        })
    };
    // GGUF   q0 q1 q2 q3 k0 k1 v0 v1        four query heads, two key heads
    // there  q0 q1 q2 q3 k0 k0 k1 k1 v0 v0 v1 v1
    let keys = copies(queries).chain(copies(queries + kv * head));
    let bands: Vec<Range<u64>> = std::iter::once(0..queries).chain(keys).collect();
    tensor.take(&bands)
}

/// Drops an output matrix whose bytes are those of the embedding, in families whose files may leave it out: readers
/// of GGUF take the embedding by themselves.
///
/// ggml's examples wrote the embedding twice where a model ties the two. Only bytes are compared, a megabyte of each
/// at a time; a second matrix of the same shape that differs is an output of its own, and stays.
fn drop_tied(family: &'static Family, model: &mut Model, notes: &mut Notes) -> Result<()> {
    if !family.roles.get("output").is_some_and(|names| names.optional_old) {
        return Ok(());
    }
    let place = |id: &str| {
        let is = |(_, role): (Naming, Role)| role.id == id && !role.bias;
        model.tensors.iter().position(|t| Role::find(family, &t.name).is_some_and(is))
    };
    let Some((output, embedding)) = place("output").zip(place("token_embedding")) else {
        return Ok(());
    };
    let (Some(a), Some(b)) = (model.tensors.get(output), model.tensors.get(embedding)) else {
        return Ok(());
    };
    // The same bytes, or it is an output of its own.
    if (a.quant, &a.shape) != (b.quant, &b.shape) || !same_bytes(model, a, b)? {
        return Ok(());
    }
    notes.push(format!("{} dropped: it is the token embedding again", a.name));
    model.tensors.remove(output);
    Ok(())
}

/// `model` with everything once that its container may hold again: key heads for each query head, the embedding as
/// the output.
///
/// # Errors
/// Where a file cannot be read.
pub fn once(model: &Model) -> Result<Model> {
    let mut model = model.clone();
    if let Some(family) = catalog::family(&model.family).filter(|f| f.tokenizer.is_some()) {
        let mut unsaid = Notes::default();
        cut_repeated(&mut model, &mut unsaid)?;
        drop_tied(family, &mut model, &mut unsaid)?;
    }
    Ok(model)
}

/// Leaves one key head and one value head where the container repeats them for every query head, in all layers
/// and byte for byte.
///
/// StarCoder has one key head and one value head for all queries; the converter in ggml's examples wrote a copy of them
/// for each query head, and the example runs the model as GPT-2.
///
/// ```text
/// stored, 3 heads    q0 q1 q2 | k k k | v v v        [3 * heads * head, n_embd]
/// kept               q0 q1 q2 | k | v                [(heads + 2) * head, n_embd]
/// ```
///
/// Where one copy differs from the others all are kept, in every layer: then they are heads of their own.
fn cut_repeated(model: &mut Model, notes: &mut Notes) -> Result<()> {
    let repeated = |t: &&Tensor| {
        let container = catalog::container(&model.format);
        let ends = container.map_or(&[][..], |container| &container.tensors.repeated);
        ends.iter().any(|end| t.name.ends_with(end.as_str()))
    };
    let heads = model.header("n_head").and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let mut cut = Vec::new();
    for tensor in model.tensors.iter().filter(repeated) {
        let rows = tensor.shape.first().copied().unwrap_or(0);
        // Rows are queries, keys and values, a third each.
        let head = rows.checked_div(3 * heads).filter(|head| head * 3 * heads == rows);
        let Some(head) = head else { return Ok(()) };
        let mut one = tensor.clone();
        let third = rows / 3;
        for n in 0..heads {
            let at = |from: u64| from..from + head;
            let mut other = tensor.clone();
            let bands = [at(third + n * head), at(2 * third + n * head)];
            if other.take(&bands).is_none() {
                return Ok(());
            }
            if n == 0 {
                one = other;
            } else if !same_bytes(model, &one, &other)? {
                notes.push(format!("{}: its key heads differ, all are kept", tensor.name));
                return Ok(());
            }
        }
        // All queries and the first key head, which follow one another, then the first value head.
        let mut short = tensor.clone();
        if short.take(&[0..third + head, 2 * third..2 * third + head]).is_none() {
            return Ok(());
        }
        cut.push(short);
    }
    if cut.is_empty() {
        return Ok(());
    }
    notes.push(format!(
        "one key head and one value head of {heads} equal ones kept in {} tensors",
        cut.len()
    ));
    for short in cut {
        if let Some(tensor) = model.tensors.iter_mut().find(|t| t.name == short.name) {
            *tensor = short;
        }
    }
    // What was said of the heads was counted from the rows.
    if let Some(key) = catalog::family(&model.family).and_then(|family| family.key("n_head_kv")) {
        model.metadata.remove(&key);
    }
    Ok(())
}

/// Whether two tensors of one type and shape hold the same bytes.
fn same_bytes(model: &Model, a: &Tensor, b: &Tensor) -> Result<bool> {
    let group = a.quant.row_group() as u64;
    // A megabyte of each at a time, from the front: what differs does so soon.
    let step = (CHUNK / a.row_bytes().max(1) / group * group).max(group);
    let mut first = 0;
    while first < a.rows() {
        let rows = step.min(a.rows() - first);
        let size = usize::try_from(rows * a.row_bytes()).unwrap_or(0);
        let (mut one, mut two) = (vec![0; size], vec![0; size]);
        model.read_rows(a, first, rows, &mut one)?;
        model.read_rows(b, first, rows, &mut two)?;
        if one != two {
            return Ok(false);
        }
        first += rows;
    }
    Ok(true)
}

/// What is compared at once, in bytes.
const CHUNK: u64 = 1 << 20;

/// Joins `blk.N.ffn_gate.E.weight` of the first Mixtral files into `blk.N.ffn_gate_exps.weight`, which
/// is all that llama.cpp reads since it stopped taking them one by one.
///
/// ```text
/// blk.0.ffn_gate.0.weight [r, c], .1. [r, c], …    ->    blk.0.ffn_gate_exps.weight [experts, r, c]
/// ```
///
/// # Errors
/// Where experts do not come in their order from 0 on, or differ in shape or type.
fn stack_experts(model: &mut Model, notes: &mut Notes) -> Result<()> {
    let mut stacked: Vec<Tensor> = Vec::new();
    let mut joined = 0usize;
    for tensor in std::mem::take(&mut model.tensors) {
        let Some((name, expert)) = expert_of(&tensor.name) else {
            stacked.push(tensor);
            continue;
        };
        joined += 1;
        match stacked.iter_mut().find(|t| t.name == name) {
            // Experts come in their order: the first opens the stack, the next must be the one that is missing.
            None if expert == 0 => {
                let mut first = tensor;
                first.name = name;
                first.shape.insert(0, 1);
                stacked.push(first);
            }
            Some(stack)
                if stack.shape.first() == Some(&expert)
                    && stack.shape.get(1..) == Some(tensor.shape.as_slice())
                    && stack.quant == tensor.quant
                    && tensor.join == Join::Rows
                    && stack.sum.is_none()
                    && tensor.sum.is_none() =>
            {
                // Stacking is but a list of places: the rows of one expert behind those of the other.
                stack.pieces.extend(tensor.pieces);
                if let Some(n) = stack.shape.first_mut() {
                    *n += 1;
                }
            }
            _ => {
                let what = format!("{}: does not fit the experts before it", tensor.name);
                return Err(Error::unsupported(what, "get a fresh copy of the file"));
            }
        }
    }
    model.tensors = stacked;
    if joined > 0 {
        notes.push(format!(
            "{} stacked, as llama.cpp reads them today",
            counted(joined, "tensor of experts", "tensors of experts")
        ));
    }
    Ok(())
}

/// Takes stacks of experts apart, as llama.cpp from 13 December 2023 to 3 April 2024 read them (799a1cb13 to
/// 08a0c0206).
///
/// # Errors
/// Where there is no stack, or its rows are not where they can be cut: those of a sum, say.
fn split_experts(model: &mut Model, notes: &mut Notes) -> Result<()> {
    let mut apart = Vec::new();
    let before = model.tensors.len();
    for tensor in &model.tensors {
        let [experts, rows, columns] = *tensor.shape.as_slice() else {
            apart.push(tensor.clone());
            continue;
        };
        for n in 0..experts {
            let Some(name) = expert_in(&tensor.name, n) else {
                apart.push(tensor.clone());
                break;
            };
            let mut one = tensor.clone();
            one.take(from_ref(&(n * rows..(n + 1) * rows))).ok_or_else(|| {
                let what = format!("{}: its experts cannot be taken apart", tensor.name);
                Error::unsupported(what, "upgrade the file first, then split its experts")
            })?;
            apart.push(Tensor { name, shape: vec![rows, columns], ..one });
        }
    }
    if apart.len() == before {
        let what = "the model has no stacks of experts that could be split";
        return Err(Error::refused(what, "write it as it is"));
    }
    model.tensors = apart;
    notes.push(
        "experts one by one, as llama.cpp read them from 13 December 2023 to 3 April 2024: today's reads only stacks"
            .to_owned(),
    );
    Ok(())
}

/// Whether a model has its experts one by one.
pub fn has_single_experts(model: &Model) -> bool {
    model.tensors.iter().any(|tensor| expert_of(&tensor.name).is_some())
}

/// Whether a file may have keys that the converter of 2023 put into the order of other heads.
///
/// convert.py from 7c529cede (2023-07-27) to e51962101 (2023-09-28) permuted key rows of Hugging Face
/// checkpoints by `n_head / n_kv` heads where `n_kv` was meant: the same only where both are equal. It wrote ggjt v1
/// until August 2023, of which there are quantized ggjt v3, then GGUF v1 and v2.
///
/// ```text
/// 32 heads over 8 key heads    4 taken, 8 meant: key rows are in a wrong order
/// 64 heads over 8 key heads    8 and 8: LLaMA 2 70B came through unharmed
/// ```
fn may_have_confused_heads(model: &Model) -> bool {
    let of_the_days = ["ggjt-v1", "ggjt-v3", "gguf-v1", "gguf-v2"];
    let sizes = Sizes::of(model);
    let [heads, kv] = ["n_head", "n_head_kv"].map(|symbol| sizes.get(symbol).unwrap_or(0));
    let wrong = heads.checked_div(kv).unwrap_or(0);
    let has_keys = model.tensors.iter().any(|t| t.name.ends_with("attn_k.weight"));
    has_keys
        && heads > kv
        && heads.is_multiple_of(kv)
        && wrong != kv
        && of_the_days.iter().any(|f| model.format.starts_with(f))
}
