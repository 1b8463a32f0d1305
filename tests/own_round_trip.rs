//! Models of every family whose container is written, of many widths, heads and vocabularies: from GGUF into the
//! container and back. Families and containers are those that are described, so a new one is tried by itself.

use std::path::Path;

use proptest::prelude::*;
use regguf::{
    Existing,
    bytes::Input,
    change::{self, Loss, Target, upgrade},
    container::{self, OpenOptions},
    format::{
        catalog,
        container::{Container, Skeleton},
        family::{Bias, Family, Kind},
    },
    model::{FeedForward, Metadata, Model, Naming, Role, Sizes, Tensor, TokenKind, Value, Vocab},
    quant::QuantType,
};

/// The containers of families that are written and are not GGUF.
fn written() -> Vec<(&'static Family, &'static Container)> {
    let of = |c: &'static Container| {
        let family = catalog::family(&c.format.family)?;
        let written = c.format.skeleton == Skeleton::Stream && Target::find(c.id()).is_ok();
        (written && family.tokenizer.is_some() && !family.family.gguf.is_empty())
            .then_some((family, c))
    };
    catalog::containers().iter().filter_map(of).collect()
}

/// What a model is made of.
#[derive(Clone, Debug)]
struct Made {
    heads: u64,
    shared: u64,
    head: u64,
    layers: u64,
    wider: u64,
    context: u64,
    merges: usize,
    seed: u32,
    flags: bool,
    half: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let numbers = (1u64..5, 1u64..3, 1u64..5, 1u64..4, 1u64..4, 4u64..40);
    let rest = (0usize..12, any::<u32>(), any::<bool>(), any::<bool>());
    (numbers, rest).prop_map(|(numbers, (merges, seed, flags, half))| {
        let (groups, shared, head, layers, wider, context) = numbers;
        let (heads, head) = (groups * shared, 4 * head);
        Made { heads, shared, head, layers, wider, context, merges, seed, flags, half }
    })
}

/// A vocabulary of the family's kind: bytes and what merges make of them, or pieces, or words.
fn vocab(family: &Family, made: &Made) -> Vocab {
    let rule = family.tokenizer.as_ref().unwrap();
    let mut vocab = Vocab { model: rule.model.clone(), pre: rule.pre.clone(), ..Vocab::default() };
    let mut put = |text: &str, kind: TokenKind| {
        vocab.tokens.push(text);
        vocab.kinds.push(kind);
    };
    let special: Vec<&String> = [rule.unknown.as_ref(), rule.begin.as_ref(), rule.padding.as_ref()]
        .into_iter()
        .flatten()
        .chain([&rule.end])
        .collect();
    let mut named: Vec<&String> = Vec::new();
    special.into_iter().for_each(|text| {
        if !text.is_empty() && !named.contains(&text) {
            named.push(text);
        }
    });
    match rule.model.as_str() {
        "gpt2" => {
            let letters = || ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
            letters().for_each(|letter| put(&letter.to_string(), TokenKind::Normal));
            let pairs = letters()
                .zip(letters().skip(1))
                .filter(|(a, b)| a.is_ascii_alphabetic() && b.is_ascii_alphabetic());
            for (a, b) in pairs.take(made.merges + 1) {
                put(&format!("{a}{b}"), TokenKind::Normal);
                vocab.merges.push(format!("{a} {b}"));
            }
        }
        "bert" => {
            for n in 0..made.merges {
                put(&format!("\u{2581}word{n}"), TokenKind::Normal);
                put(&format!("ed{n}"), TokenKind::Normal);
            }
        }
        _ => {
            for n in 0..made.merges {
                put(&format!("\u{2581}piece{n}"), TokenKind::Normal);
            }
        }
    }
    let mut put = |text: &str, kind: TokenKind| {
        vocab.tokens.push(text);
        vocab.kinds.push(kind);
    };
    for text in named {
        let unknown =
            rule.unknown.as_ref() == Some(text) && ["t5", "llama"].contains(&rule.model.as_str());
        put(text, if unknown { TokenKind::Unknown } else { TokenKind::Control });
    }
    if ["t5", "llama"].contains(&rule.model.as_str()) {
        vocab.scores = (0..vocab.len()).map(|id| -(id as f32)).collect();
    }
    vocab
}

/// A model of the family as GGUF has it.
fn model(family: &'static Family, made: &Made) -> Model {
    let vocab = vocab(family, made);
    let width = made.heads * made.head;
    let stated = [
        ("n_vocab", vocab.len() as u64),
        ("n_ctx", made.context),
        ("n_embd", width),
        ("n_head", made.heads),
        ("n_head_kv", made.heads / made.shared),
        ("n_layer", made.layers),
        ("n_ff", width * made.wider),
        ("n_rot", made.head / 2),
        ("n_types", 2),
    ];
    let stated: Vec<(&str, u64)> =
        stated.into_iter().filter(|(symbol, _)| family.sizes.contains_key(*symbol)).collect();
    let sizes = Sizes::with(family, &stated);
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", family.architecture());
    for (symbol, size) in &family.sizes {
        let Some(key) = family.key(symbol).filter(|key| !key.starts_with("general.")) else {
            continue;
        };
        let known = stated.iter().find(|(known, _)| known == symbol).map(|(_, value)| *value);
        match (size.kind, known) {
            (Kind::Whole, Some(value)) => metadata.set(key, u32::try_from(value).unwrap()),
            (Kind::Float, _) if symbol == "eps" => metadata.set(key, 2e-5f32),
            (Kind::Float, _) if symbol == "clamp" && !made.flags => {}
            (Kind::Float, _) => metadata.set(key, 4.0f32),
            (Kind::Flag, _) => metadata.set(key, Value::Bool(made.flags)),
            (Kind::Whole, None) => {}
            (kind, _) => panic!("{symbol}: a number of the kind {kind:?}"),
        }
    }
    metadata.remove("tokenizer.ggml.token_type_count");
    vocab.to_metadata(&mut metadata);
    // Whatever some models lack others have: here all or none.
    let has = |role: &Role| match role.bias {
        true => role.names.bias == Bias::Always || made.flags,
        false => {
            !role.names.optional
                || made.flags && role.names.gguf.as_deref() != Some("position_embd.weight")
        }
    };
    let (mut tensors, mut bytes) = (Vec::new(), Vec::new());
    let mut state = made.seed | 1;
    for role in Role::all(family, made.layers, FeedForward::Dense).filter(has) {
        let Some((name, shape)) = role.name(Naming::Gguf).zip(role.shape(&sizes)) else {
            continue;
        };
        let wide = shape.len() == 1 || role.names.float32 || !made.half;
        let quant = QuantType::today(if wide { "f32" } else { "f16" }).unwrap();
        let tensor = Tensor::whole(name, shape, quant, 0, bytes.len() as u64).unwrap();
        for _ in 0..tensor.elements() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Few bits, so that halves hold every number.
            let number = ((state >> 24) as f32 - 127.0) / 64.0;
            match wide {
                true => bytes.extend(number.to_le_bytes()),
                false => bytes.extend(half::bits(number).to_le_bytes()),
            }
        }
        tensors.push(tensor);
    }
    Model {
        format: "gguf-v3".to_owned(),
        family: family.family.name.clone(),
        files: vec![Input::memory("made.gguf", bytes)],
        metadata,
        vocab,
        tensors,
        ..Model::default()
    }
}

mod half {
    /// A number of few bits as a half.
    pub fn bits(number: f32) -> u16 {
        let bits = number.to_bits();
        if number == 0.0 {
            return 0;
        }
        let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
        ((bits >> 16) & 0x8000 | (exponent as u32) << 10 | (bits >> 13) & 0x3ff) as u16
    }
}

fn stored(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    bytes
}

fn write(model: Model, to: &str, folder: &Path, name: &str) -> Result<Model, String> {
    let output = Some(folder.join(name));
    let options = upgrade::Options { output, to: Some(to.into()), ..Default::default() };
    let (model, plan) = upgrade::plan(model, &options).map_err(|error| error.to_string())?;
    assert!(plan.steps.iter().all(|step| step.loss() != Loss::Rounded));
    change::carry(&model, std::slice::from_ref(&plan), Existing::Replace, &()).unwrap();
    let options = OpenOptions { format: Some(to.to_owned()), ..OpenOptions::default() };
    container::open(&folder.join(name), &options).map_err(|error| format!("opened: {error}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_family_goes_into_its_containers_and_back(made in made()) {
        let mut seen = std::collections::BTreeSet::new();
        for (family, container) in written() {
            let id = container.id();
            // Programs that want a key head again and again know one, or as many as there are queries.
            let once = !container.tensors.repeated.is_empty();
            let made = Made { shared: if once { made.heads } else { made.shared }, ..made.clone() };
            let first = model(family, &made);
            let folder = tempfile::tempdir().unwrap();
            let old = match write(first.clone(), id, folder.path(), "old.bin") {
                // What a container cannot hold is refused in words.
                Err(why) if !why.starts_with("opened") => {
                    prop_assert!(why.contains(&container.format.title) || why.contains("older formats"), "{id}: {why}");
                    continue;
                }
                old => old.unwrap_or_else(|why| panic!("{id}: {why}")),
            };
            prop_assert_eq!(&old.format, id);
            let new = write(old, "gguf-v3", folder.path(), "new.gguf");
            let new = new.unwrap_or_else(|why| panic!("{id}: {why}"));
            let sizes = [Sizes::of(&first), Sizes::of(&new)];
            for symbol in sizes[0].symbols().filter(|symbol| *symbol != "ftype") {
                let kept = container.header.fields.iter().any(|word| family.sizes[symbol].word.contains(&word.name));
                if kept || family.sizes[symbol].key.is_none() {
                    prop_assert_eq!(sizes[0].value(symbol), sizes[1].value(symbol), "{}: {}", id, symbol);
                }
            }
            for tensor in &first.tensors {
                let Some(made) = new.tensor(&tensor.name) else {
                    prop_assert!(tensor.name.starts_with("output."), "{}: {}", id, tensor.name);
                    continue;
                };
                prop_assert_eq!(&made.shape, &tensor.shape, "{}: {}", id, &tensor.name);
                prop_assert!(stored(&new, made) == stored(&first, tensor), "{}: {}", id, &tensor.name);
            }
            prop_assert_eq!(&new.vocab.tokens, &first.vocab.tokens, "{}", id);
            prop_assert_eq!(&new.vocab.merges, &first.vocab.merges, "{}", id);
            seen.insert(family.family.name.as_str());
        }
        prop_assert!(seen.len() >= 9, "{:?}", seen);
    }
}
