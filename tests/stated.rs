//! What a person says of a model, what must be assumed, and what follows: the same in every output.

use std::{fs, path::Path, path::PathBuf, process::Command};

use regguf::{
    change::{Plan, convert, export, quantize, upgrade},
    checkpoint,
    container::{self, OpenOptions},
    error::Error,
    infer::Weights,
    model::{Hyper, Metadata, Model, Stated, Value, Vocab},
};

const EPS: &str = "llama.attention.layer_norm_rms_epsilon";
const CONTEXT: &str = "llama.context_length";
const BASE: &str = "llama.rope.freq_base";
const FACTOR: &str = "llama.rope.scaling.factor";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn open(name: &str) -> Model {
    container::open(&golden(name), &OpenOptions::default()).unwrap()
}

fn old() -> Model {
    open("T/E4/ggml-model-f16.bin")
}

fn today() -> Model {
    open("T/E8/ggml-model-f16.gguf")
}

fn all() -> Stated {
    Stated {
        eps: Some(2e-5),
        context: Some(777),
        rope_base: Some(12345.0),
        rope_scale: Some(4.0),
        ..Stated::default()
    }
}

fn upgraded(model: Model, stated: &Stated) -> Result<Plan, Error> {
    let options = upgrade::Options { stated: stated.clone(), ..upgrade::Options::default() };
    upgrade::plan(model, &options).map(|(_, plan)| plan)
}

fn converted(model: Model, types: &[&str], stated: &Stated) -> Result<Vec<Plan>, Error> {
    let options = convert::Options {
        types: types.iter().map(|word| (*word).to_owned()).collect(),
        upgrade: upgrade::Options { stated: stated.clone(), ..upgrade::Options::default() },
        allow_requantize: true,
        ..convert::Options::default()
    };
    convert::plan(model, &options).map(|(_, plans)| plans)
}

fn quantized(model: Model, stated: &Stated) -> Result<Vec<Plan>, Error> {
    let types = vec![regguf::change::choose::ftype::FileType::parse("q8_0").unwrap()];
    let options =
        quantize::Options { types, stated: stated.clone(), ..quantize::Options::default() };
    quantize::plan(model, &options).map(|(_, plans)| plans)
}

fn exported(model: Model, stated: &Stated) -> Result<serde_json::Value, Error> {
    let export = export::plan(model, PathBuf::from("out"), "f16", stated)?;
    let (_, config) = export.files.iter().find(|(name, _)| *name == "config.json").unwrap();
    Ok(serde_json::from_slice(config).unwrap())
}

#[test]
fn what_is_stated_reaches_every_output_of_every_verb() {
    let raw = checkpoint::open(&golden("T/hf-st"), &checkpoint::Options::default()).unwrap();
    for model in [old(), today(), raw] {
        let mut plans = vec![upgraded(model.clone(), &all()).unwrap()];
        let types = ["f32", "f16", "q8_0", "q4_k_m", "q5_1"];
        plans.extend(converted(model.clone(), &types, &all()).unwrap());
        plans.extend(quantized(model.clone(), &all()).unwrap());
        for plan in &plans {
            let (keys, at) = (&plan.metadata, &plan.output);
            assert_eq!(keys.f32(EPS), Some(2e-5), "{at:?}");
            assert_eq!(keys.u64(CONTEXT), Some(777), "{at:?}");
            assert_eq!(keys.f32(BASE), Some(12345.0), "{at:?}");
            assert_eq!(keys.str("llama.rope.scaling.type"), Some("linear"), "{at:?}");
            assert_eq!(keys.f32(FACTOR), Some(4.0), "{at:?}");
            assert!(
                plan.assumed.iter().all(|a| !a.key.starts_with("llama.")),
                "{:?}",
                plan.assumed
            );
        }
        let config = exported(model, &all()).unwrap();
        assert_eq!(config["rms_norm_eps"], 2e-5);
        assert_eq!(config["max_position_embeddings"], 777);
        assert_eq!(config["rope_theta"], 12345.0);
        assert_eq!(config["rope_scaling"]["factor"], 4.0);
    }
}

#[test]
fn an_architecture_without_a_description_gets_what_is_stated_under_its_own_names() {
    let mut model = today();
    model.family = String::new();
    let keys = model
        .metadata
        .iter()
        .map(|(key, value)| (key.replacen("llama.", "falcon.", 1), value.clone()));
    let mut metadata = Metadata::new();
    keys.for_each(|(key, value)| metadata.set(key, value));
    metadata.set("general.architecture", "falcon");
    let rms = metadata.remove("falcon.attention.layer_norm_rms_epsilon").unwrap();
    metadata.set("falcon.attention.layer_norm_epsilon", rms);
    model.metadata = metadata;
    let plan = upgraded(model, &all()).unwrap();
    assert_eq!(plan.metadata.f32("falcon.attention.layer_norm_epsilon"), Some(2e-5));
    assert_eq!(plan.metadata.u64("falcon.context_length"), Some(777));
    assert_eq!(plan.metadata.f32("falcon.rope.scaling.factor"), Some(4.0));
    assert!(plan.assumed.is_empty());
}

/// A model without tensors that says so much.
fn bare(words: &[(&str, i64)], kv: Option<u64>) -> Model {
    let mut model =
        Model { format: "ggjt-v3-llama".into(), family: "llama".into(), ..Model::default() };
    model.header = words.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    if let Some(kv) = kv {
        model.metadata.set("llama.attention.head_count_kv", Value::U64(kv));
    }
    model
}

#[test]
fn generations_are_told_apart_by_what_their_files_say() {
    let words = [("n_embd", 8192), ("n_head", 64), ("n_layer", 80), ("n_mult", 4096)];
    let with = |vocab| [&words[..], &[("n_vocab", vocab)]].concat();
    let is = |model: &Model, eps, context, base: f32| {
        let hyper = Hyper::of(model, &Stated::default()).unwrap();
        assert_eq!(hyper.sizes.f32("eps"), Some(eps));
        assert_eq!(hyper.sizes.get("n_ctx"), Some(context));
        assert_eq!(hyper.sizes.f32("rope_base"), Some(base));
        let said: Vec<&str> = hyper.assumed().iter().map(|a| a.key.as_str()).collect();
        assert_eq!(said, [CONTEXT, EPS, BASE, "llama.rope.scaling.type"]);
    };
    is(&bare(&with(32_000), None), 1e-6, 2048, 1e4);
    is(&bare(&with(32_000), Some(8)), 1e-5, 4096, 1e4);
    is(&bare(&with(32_016), None), 1e-5, 16_384, 1e6);
    // Meta's rule gives the width where there are no tensors.
    let hyper = Hyper::of(&bare(&with(32_000), None), &Stated::default()).unwrap();
    assert_eq!(hyper.sizes.get("n_ff"), Some(24_576));
}

#[test]
fn scaled_positions_are_hinted_at_where_a_name_speaks_of_them() {
    for (name, hinted) in [
        ("Wizard-13B-SuperHOT-8K-GGML.q4_0.bin", true),
        ("airoboros-33b-16k.bin", true),
        ("longchat-7b.bin", true),
        ("superhot8k.bin", true),
        ("llama-128k.bin", false),
        ("llama-7b.bin", false),
        ("v1.8kb.bin", false),
    ] {
        let mut model = bare(&[("n_vocab", 32_000)], None);
        model.files.push(regguf::bytes::Input::memory(format!("/8k/{name}"), Vec::new()));
        let hyper = Hyper::of(&model, &Stated::default()).unwrap();
        assert_eq!(hyper.notes().len(), usize::from(hinted), "{name}");
        let stated = Stated { rope_scale: Some(8.0), ..Stated::default() };
        assert!(Hyper::of(&model, &stated).unwrap().notes().is_empty(), "{name}");
    }
}

#[test]
fn a_missing_epsilon_is_the_same_everywhere_and_said_aloud() {
    let mut model = today();
    model.metadata.remove(EPS).unwrap();
    let plan = upgraded(model.clone(), &Stated::default()).unwrap();
    assert_eq!(plan.metadata.f32(EPS), Some(1e-6));
    assert_eq!(plan.assumed.len(), 1);
    assert_eq!(exported(model.clone(), &Stated::default()).unwrap()["rms_norm_eps"], 1e-6);
    let config = Weights::new(&model).unwrap().config.clone();
    assert_eq!(config.epsilon, 1e-6);
    assert!(config.notes.iter().any(|note| note.contains(EPS)), "{:?}", config.notes);
    let stated = Stated { eps: Some(1e-5), ..Stated::default() };
    assert!(upgraded(model, &stated).unwrap().assumed.is_empty());
    assert!(upgraded(today(), &Stated::default()).unwrap().assumed.is_empty());
}

#[test]
fn a_vocabulary_that_does_not_fit_the_embedding_is_refused_or_padded() {
    let few = |mut model: Model| {
        let tokens = 500;
        model.vocab.fit(tokens);
        if let Some((_, word)) = model.header.iter_mut().find(|(name, _)| name == "n_vocab") {
            *word = 500;
        } else {
            model.vocab.to_metadata(&mut model.metadata);
        }
        model
    };
    let many = |mut model: Model| {
        model.vocab.fit(600);
        if let Some((_, word)) = model.header.iter_mut().find(|(name, _)| name == "n_vocab") {
            *word = 600;
        } else {
            model.vocab.to_metadata(&mut model.metadata);
        }
        model
    };
    let padded = Stated { pad_vocab: true, ..Stated::default() };
    for model in [few(old()), few(today()), many(old()), many(today())] {
        let refused = |error: Error| {
            let said = regguf::cli::advice::error(&error);
            assert_eq!(error.exit_code(), 4, "{said}");
            assert!(said.contains("512 rows") && said.contains("--pad-vocab"), "{said}");
        };
        let none = Stated::default();
        refused(upgraded(model.clone(), &none).unwrap_err());
        refused(converted(model.clone(), &["f16"], &none).unwrap_err());
        refused(converted(model.clone(), &["q4_k_m"], &none).unwrap_err());
        refused(quantized(model.clone(), &none).unwrap_err());
        refused(exported(model.clone(), &none).unwrap_err());
        for to in ["ggjt-v1", "ggml"] {
            let options = |stated: &Stated| upgrade::Options {
                to: Some(to.to_owned()),
                stated: stated.clone(),
                ..upgrade::Options::default()
            };
            refused(upgrade::plan(model.clone(), &options(&none)).unwrap_err());
            let (_, plan) = upgrade::plan(model.clone(), &options(&padded)).unwrap();
            assert_eq!(plan.vocab.len(), 512);
            assert_eq!(plan.header.iter().find(|(name, _)| name == "n_vocab").unwrap().1, 512);
        }
        let plan = upgraded(model.clone(), &padded).unwrap();
        assert_eq!(Vocab::from_metadata(&plan.metadata).len(), 512);
        for plan in quantized(model, &padded).unwrap() {
            assert_eq!(Vocab::from_metadata(&plan.metadata).len(), 512);
        }
    }
    // The tokenizer that belongs to the model mends it too.
    let vocab = Some(golden("T/hf-st/tokenizer.model"));
    let plan = upgraded(few(old()), &Stated { vocab: vocab.clone(), ..Stated::default() }).unwrap();
    assert_eq!(Vocab::from_metadata(&plan.metadata).len(), 512);
    let to = Some("ggjt-v1".to_owned());
    let stated = Stated { vocab, ..Stated::default() };
    let options = upgrade::Options { to, stated, ..upgrade::Options::default() };
    let (_, plan) = upgrade::plan(few(old()), &options).unwrap();
    assert_eq!(plan.vocab.tokens, old().vocab.tokens);
}

#[test]
fn nonsense_is_refused_before_anything_is_read() {
    let verbs =
        [&["upgrade", "x"][..], &["convert", "x"], &["quantize", "x", "q8_0"], &["run", "-m", "x"]];
    for verb in verbs {
        let words = ["--eps=nan", "--eps=0", "--eps=-1e-5", "--eps=inf", "--eps=2", "--context=0"]
            .into_iter()
            .chain(["--context=-1", "--rope-base=0", "--rope-base=nan", "--rope-scale=0"])
            .chain(["--rope-scale=-2", "--rope-scale=inf", "--rope-base=-inf"]);
        for word in words {
            let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
            let output = command.args(verb).arg(word).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{verb:?} {word}");
        }
    }
}

/// A checkpoint whose config.json is changed.
fn changed(change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("T/hf-st")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    fs::write(path, config.to_string()).unwrap();
    folder
}

#[test]
fn the_first_conversions_of_llama_are_read_as_they_were_meant() {
    let folder = changed(|config| {
        let context = config.remove("max_position_embeddings").unwrap();
        config.insert("max_sequence_length".into(), context);
        for (key, id) in [("bos_token_id", 0), ("eos_token_id", 1), ("pad_token_id", -1)] {
            config.insert(key.into(), id.into());
        }
        config.insert("architectures".into(), serde_json::json!(["LLaMAForCausalLM"]));
    });
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let model = checkpoint::open(folder.path(), &checkpoint::Options::default()).unwrap();
    let usual = checkpoint::open(&golden("T/hf-st"), &checkpoint::Options::default()).unwrap();
    assert_eq!(model.metadata.u64(CONTEXT), usual.metadata.u64(CONTEXT));
    assert_eq!((model.vocab.bos, model.vocab.eos), (Some(1), Some(2)));
    assert!(model.notes.iter().any(|n| n.contains("0 (<unk>)") && n.contains("1 (<s>)")));
    assert!(usual.notes.iter().all(|n| !n.contains("knows better")));
}

#[test]
fn what_a_config_lacks_is_stated_or_assumed_aloud() {
    let folder = changed(|config| {
        config.remove("max_position_embeddings").unwrap();
        config.remove("rms_norm_eps").unwrap();
    });
    let model = checkpoint::open(folder.path(), &checkpoint::Options::default()).unwrap();
    let plan = upgraded(model.clone(), &Stated::default()).unwrap();
    let said: Vec<&str> = plan.assumed.iter().map(|a| a.key.as_str()).collect();
    assert_eq!(said, [CONTEXT, EPS]);
    assert_eq!((plan.metadata.u64(CONTEXT), plan.metadata.f32(EPS)), (Some(2048), Some(1e-6)));
    let stated = Stated { eps: Some(1e-5), context: Some(99), ..Stated::default() };
    for plan in converted(model, &["f16", "q4_k_m"], &stated).unwrap() {
        assert_eq!((plan.metadata.u64(CONTEXT), plan.metadata.f32(EPS)), (Some(99), Some(1e-5)));
        assert!(plan.assumed.is_empty());
    }
    let broken = changed(|config| {
        config.insert("rms_norm_eps".into(), "small".into());
    });
    let error = checkpoint::open(broken.path(), &checkpoint::Options::default()).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}

/// A vocabulary that is given is one: nobody is told that there is none.
#[test]
fn a_checkpoint_without_a_tokenizer_takes_the_one_given() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("T/hf-st").join(name), folder.path().join(name)).unwrap();
    }
    let vocab = Some(golden("T/hf-st/tokenizer.model"));
    let stated = Stated { vocab, ..Stated::default() };
    let open = |stated: &Stated| {
        checkpoint::open(folder.path(), &checkpoint::Options::of(stated)).unwrap()
    };
    let none = |model: &Model| model.notes.iter().any(|note| note.contains("no vocabulary"));
    assert!(none(&open(&Stated::default())));
    let model = open(&stated);
    assert!(!none(&model), "{:?}", model.notes);
    let plans = converted(model, &["f16"], &stated).unwrap();
    assert_eq!(Vocab::from_metadata(&plans[0].metadata).len(), 512);
    assert!(!plans[0].notes.iter().any(|note| note.contains("no vocabulary")));
}

#[test]
fn the_files_of_a_checkpoint_may_ask_for_what_the_caller_allows() {
    for name in ["T/hf-st", "T/meta/T"] {
        let mut options = checkpoint::Options::default();
        options.limits.tensors = 3;
        let error = checkpoint::open(&golden(name), &options).unwrap_err().to_string();
        assert!(error.contains("more than 3 tensors") || error.contains("at most 3"), "{error}");
    }
}
