//! LoRA adapters of before GGUF become those that today's converter makes, number by number.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::{
    container::{self, OpenOptions},
    model::Model,
    quant::{decode_rows, isa::Isa},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn ggla(name: &str) -> String {
    golden("families/ggla").join(name).display().to_string()
}

/// The model that the adapters belong to.
fn base() -> String {
    golden("T/E8/ggml-model-f16.gguf").display().to_string()
}

fn regguf(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).args(words).output().unwrap()
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Shape and numbers of every tensor.
fn numbers(model: &Model) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let read = |tensor: &regguf::model::Tensor| {
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
        let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
        let len = usize::try_from(tensor.row_len()).unwrap();
        decode_rows(tensor.quant, Isa::best(), &bytes, len, &mut out);
        (tensor.name.clone(), (tensor.shape.clone(), out))
    };
    model.tensors.iter().map(read).collect()
}

fn open(path: &str) -> Model {
    container::open(Path::new(path), &OpenOptions::default()).unwrap()
}

/// What `input` becomes, with these words behind it.
fn upgraded(input: &str, words: &[&str]) -> (Model, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf").display().to_string();
    let output = regguf(&[&["upgrade", input, "-o", &out], words].concat());
    assert!(output.status.success(), "{input}: {}", says(&output));
    let mut model = open(&out);
    // The bytes outlive the folder.
    let bytes = std::fs::read(&out).unwrap();
    model.files = vec![regguf::bytes::Input::memory("out.gguf", bytes)];
    (model, says(&output))
}

/// Checks an adapter against the one that llama.cpp's convert_lora_to_gguf.py made.
fn assert_is(found: &Model, wanted: &str) {
    let wanted = open(&ggla(wanted));
    let key = |model: &Model, key: &str| model.metadata.get(key).cloned();
    for name in ["general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"] {
        assert_eq!(key(found, name), key(&wanted, name), "{name}");
    }
    assert_eq!(numbers(found), numbers(&wanted));
}

#[test]
fn a_ggla_file_becomes_the_adapter_of_today() {
    for (file, wanted) in [
        ("2023-04-17_meta-names/qv.bin", "gguf-today/qv.gguf"),
        ("2023-04-17_meta-names/vo.bin", "gguf-today/vo.gguf"),
        ("2023-04-17_meta-names/all.bin", "gguf-today/all.gguf"),
        ("2023-12-16_gguf-names/all.bin", "gguf-today/all.gguf"),
    ] {
        let (model, _) = upgraded(&ggla(file), &["--base", &base()]);
        assert_is(&model, wanted);
    }
}

#[test]
fn a_folder_of_peft_becomes_the_adapter_of_today() {
    for name in ["qv", "vo", "all"] {
        let folder = ggla(&format!("models/{name}"));
        let wanted = format!("gguf-today/{name}.gguf");
        for input in ["", "/adapter_model.bin", "/adapter_config.json"] {
            let (model, _) = upgraded(&format!("{folder}{input}"), &["--base", &base()]);
            assert_is(&model, &wanted);
            assert_eq!(model.metadata.str("general.base_model.0.name"), Some("golden/T/hf-bin"));
        }
    }
    let (model, said) = upgraded(&ggla("models/vo"), &[]);
    assert_is(&model, "gguf-today/vo.gguf");
    assert!(said.contains("general.architecture = llama"), "{said}");
    // A checkpoint of Hugging Face is a base too.
    let checkpoint = golden("T/hf-bin").display().to_string();
    let (model, _) = upgraded(&ggla("models/qv"), &["--base", &checkpoint]);
    assert_is(&model, "gguf-today/qv.gguf");
}

/// A folder with the weights of an adapter and these settings among its own.
fn with_settings(name: &str, settings: serde_json::Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = golden("families/ggla/models").join(name);
    let weights = folder.path().join("adapter_model.bin");
    std::fs::copy(from.join("adapter_model.bin"), weights).unwrap();
    let config = std::fs::read(from.join("adapter_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let own = config.as_object_mut().unwrap();
    own.extend(settings.as_object().unwrap().clone());
    own.retain(|_, value| *value != "remove");
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn rank_stabilised_adapters_get_the_alpha_that_scales_alike() {
    let folder = with_settings("vo", serde_json::json!({ "use_rslora": true, "lora_alpha": 3 }));
    let (model, _) = upgraded(&folder.path().display().to_string(), &[]);
    // 3 / sqrt(8) is alpha / 8.
    assert_eq!(model.metadata.f32("adapter.lora.alpha"), Some((3.0 * 8f64.sqrt()) as f32));
}

#[test]
fn what_no_pair_carries_is_refused_by_its_name() {
    use serde_json::json;
    for (settings, code, named) in [
        (json!({ "use_dora": true }), 4, "DoRA"),
        (json!({ "alpha_pattern": { "v_proj": 4 } }), 4, "alpha_pattern"),
        (json!({ "peft_type": "IA3" }), 4, "IA3"),
        (json!({ "init_lora_weights": "pissa_niter_4" }), 4, "pissa"),
        (json!({ "layer_replication": [[0, 2]] }), 4, "layer_replication"),
        (json!({ "r": 4 }), 4, "r = 4"),
        (json!({ "use_rslora": true, "rank_pattern": { "v_proj": 8 }, "r": 4 }), 4, "r = 4"),
        (json!({ "r": 0 }), 3, "r at"),
        (json!({ "r": 1_000_000_000 }), 3, "r at"),
        (json!({ "r": "8" }), 3, "r at"),
        (json!({ "lora_alpha": 0 }), 3, "lora_alpha at"),
        (json!({ "lora_alpha": "NaN" }), 3, "lora_alpha at"),
        (json!({ "lora_alpha": 1e300 }), 3, "lora_alpha at"),
        (json!({ "lora_alpha": "remove" }), 3, "lora_alpha at"),
    ] {
        let folder = with_settings("vo", settings.clone());
        let path = folder.path().display().to_string();
        let output = regguf(&["upgrade", &path]);
        let said = says(&output);
        assert_eq!(output.status.code(), Some(code), "{settings}: {said}");
        assert!(said.contains(named) && said.lines().count() == 1, "{settings}: {said}");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2, "{settings}");
    }
    // Ranks of their own are carried: alpha is divided by each.
    let own = with_settings("vo", json!({ "rank_pattern": { "v_proj": 8, "o_proj": 8 }, "r": 4 }));
    upgraded(&own.path().display().to_string(), &[]);
}

#[test]
fn a_base_that_is_none_is_refused() {
    let folder = ggla("models/qv");
    for base in [folder.clone(), ggla("2023-04-17_meta-names/qv.bin"), ggla("gguf-today/qv.gguf")] {
        let output = regguf(&["upgrade", &folder, "--base", &base]);
        let said = says(&output);
        assert!(matches!(output.status.code(), Some(3 | 4)), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn without_a_base_only_what_needs_no_heads_is_upgraded() {
    let (model, said) = upgraded(&ggla("2023-04-17_meta-names/vo.bin"), &[]);
    assert_is(&model, "gguf-today/vo.gguf");
    assert!(!said.contains("assumed"), "{said}");
    let output = regguf(&["upgrade", &ggla("2023-04-17_meta-names/qv.bin")]);
    let said = says(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("layers.0.attention.wq.weight") && said.contains("--base"), "{said}");
}

#[test]
fn rows_are_left_where_a_person_says_that_they_stand_as_in_ggml() {
    let file = ggla("2023-12-16_gguf-names/all.bin");
    let (by_script, said) = upgraded(&file, &["--base", &base()]);
    assert!(said.contains("--rows ggml"), "{said}");
    let (by_finetune, said) = upgraded(&file, &["--rows", "ggml"]);
    assert!(!said.contains("--rows"), "{said}");
    let (script, finetune) = (numbers(&by_script), numbers(&by_finetune));
    for (name, numbers) in &script {
        let turned =
            name.ends_with("attn_q.weight.lora_b") || name.ends_with("attn_k.weight.lora_b");
        assert_eq!(finetune[name] != *numbers, turned, "{name}");
    }
    let raw = numbers(&open(&file));
    assert_eq!(finetune["blk.0.attn_q.weight.lora_b"], raw["blk.0.attn_q.weight.loraB"]);
}

#[test]
fn adapters_are_shown_with_what_they_change() {
    for (file, named) in [
        ("2023-04-17_meta-names/qv.bin", "a LoRA adapter for LLaMA: rank 8, alpha 16"),
        ("2023-12-16_gguf-names/all.bin", "a LoRA adapter: rank 4, alpha 8"),
        ("models/qv", "a LoRA adapter: rank 8, alpha 16"),
        ("models/all/adapter_model.bin", "a LoRA adapter: rank 4, alpha 8"),
        ("gguf-today/qv.gguf", "a LoRA adapter for LLaMA: rank 8, alpha 16"),
    ] {
        let said = says(&regguf(&["inspect", &ggla(file)]));
        assert!(said.contains(named) && !said.contains("model       "), "{file}: {said}");
        let matrices =
            if file.contains("qv") { "attn_q, attn_v" } else { "attn_q, attn_k, attn_v" };
        let layers = "in 2 layers, 0 to 1";
        assert!(said.contains(&format!("changes     {matrices}")), "{file}: {said}");
        assert!(said.contains(layers), "{file}: {said}");
        let next = match file.contains("today") {
            true => "next        nothing to do: llama.cpp takes it".to_owned(),
            false => format!("next        regguf upgrade {} --base MODEL", ggla(file)),
        };
        assert!(said.contains(&next), "{file}: {said}");
    }
    let said = says(&regguf(&["inspect", &ggla("models/vo")]));
    assert!(said.contains("base        golden/T/hf-bin"), "{said}");
    assert!(
        said.ends_with(&format!("next        regguf upgrade {}\n", ggla("models/vo"))),
        "{said}"
    );
    let json = regguf(&["inspect", "--json", &ggla("models/vo")]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["adapter"]["matrices"], serde_json::json!(["attn_v", "attn_output"]));
    assert_eq!(json["adapter"]["ranks"], serde_json::json!([8]));
    let broken = with_settings("vo", serde_json::json!({ "use_dora": true }));
    let said = says(&regguf(&["inspect", &broken.path().display().to_string()]));
    assert!(said.contains("next        nothing:") && said.contains("DoRA"), "{said}");
}

#[test]
fn a_batch_upgrades_adapters_and_passes_over_them_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::copy(ggla("2023-04-17_meta-names/qv.bin"), path("ggml-adapter-model.bin")).unwrap();
    std::fs::copy(ggla("gguf-today/qv.gguf"), path("today.gguf")).unwrap();
    std::fs::create_dir(path("qv")).unwrap();
    for name in ["adapter_model.bin", "adapter_config.json"] {
        std::fs::copy(Path::new(&ggla("models/qv")).join(name), path("qv").join(name)).unwrap();
    }
    let root = folder.path().display().to_string();
    let out = path("out").display().to_string();
    let words = ["batch", "upgrade", &root, "--out", &out, "--base", &base()];
    let output = regguf(&words);
    let said = says(&output);
    assert!(output.status.success() && said.contains("2 done, 1 skipped, 0 failed"), "{said}");
    for made in ["out/ggml-adapter-model.gguf", "out/qv/adapter_model.gguf"] {
        assert_is(&open(&path(made).display().to_string()), "gguf-today/qv.gguf");
    }
    std::fs::remove_dir_all(path("out")).unwrap();
    for task in [&["quantize", "--types", "q4_0"][..], &["convert"]] {
        let output = regguf(&[&["batch"], task, &[&root, "--out", &out]].concat());
        let said = says(&output);
        assert!(output.status.success() && said.contains("0 done, 3 skipped, 0 failed"), "{said}");
        assert!(said.contains("is a LoRA adapter, not a model"), "{said}");
    }
    let output = regguf(&["batch", "verify", &root]);
    assert!(output.status.success(), "{}", says(&output));
}
