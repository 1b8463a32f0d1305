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
        let (model, said) = upgraded(&ggla(file), &["--base", &base()]);
        assert_is(&model, wanted);
        // A is turned, so it is not the bytes that the file had; B of values and outputs is.
        let reordered = said.contains("reordered  lossless: the same weights, bit for bit");
        assert!(reordered && said.contains("copied     the same bytes"), "{said}");
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
fn with_settings(name: &str, settings: &serde_json::Value) -> tempfile::TempDir {
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
    let folder = with_settings("vo", &serde_json::json!({ "use_rslora": true, "lora_alpha": 3 }));
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
        let folder = with_settings("vo", &settings);
        let path = folder.path().display().to_string();
        let output = regguf(&["upgrade", &path]);
        let said = says(&output);
        assert_eq!(output.status.code(), Some(code), "{settings}: {said}");
        assert!(said.contains(named) && said.lines().count() == 1, "{settings}: {said}");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2, "{settings}");
    }
    // Ranks of their own are carried: alpha is divided by each.
    let own = with_settings("vo", &json!({ "rank_pattern": { "v_proj": 8, "o_proj": 8 }, "r": 4 }));
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
fn nothing_is_claimed_of_a_broken_adapter_of_today() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf").display().to_string();
    let mut bytes = std::fs::read(ggla("gguf-today/vo.gguf")).unwrap();
    let key = b"adapter.lora.alpha";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    assert_eq!(bytes[at..at + 4], 16f32.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    for verb in ["inspect", "upgrade", "verify"] {
        let said = says(&regguf(&[verb, &path]));
        assert!(said.contains("alpha at 0x0: found NaN") && !said.contains("takes it"), "{said}");
    }
    let words = [
        "upgrade",
        &ggla("gguf-today/vo.gguf"),
        "--base",
        &golden("families/gpt2.gguf").display().to_string(),
    ];
    let said = says(&regguf(&words));
    assert!(said.contains("is for the architecture llama, the model is gpt2"), "{said}");
}

#[test]
fn the_runner_tells_how_rows_stand() {
    // convert-lora-to-ggml.py left them as Hugging Face's model has them.
    for file in ["2023-04-17_meta-names/qv.bin", "2023-12-16_gguf-names/all.bin", "models/qv"] {
        let (model, said) = upgraded(&ggla(file), &["--base", &base(), "--prove"]);
        assert!(said.contains("evidence: ") && said.contains("they are taken as hf"), "{said}");
        let name = if file.contains("qv") { "qv" } else { "all" };
        assert_is(&model, &format!("gguf-today/{name}.gguf"));
        let words = ["--base", &base(), "--prove", "--rows", "ggml"];
        let (_, said) = upgraded(&ggla(file), &words);
        assert!(
            said.contains("they are ordered as hf, and are taken as ggml, as stated"),
            "{said}"
        );
    }
    // Without a proof the base is asked too, and the default stays.
    for (words, wanted) in [
        (&[][..], "they are ordered as hf; take them so with --rows hf"),
        (&["--rows", "hf"], "they are taken as hf"),
    ] {
        let base = base();
        let words: Vec<&str> = ["--base", &base].into_iter().chain(words.iter().copied()).collect();
        let (model, said) = upgraded(&ggla("models/qv"), &words);
        assert!(said.contains("evidence: ") && said.contains(wanted), "{said}");
        assert_is(&model, "gguf-today/qv.gguf");
    }
    // Values and outputs have one order; without a base nothing can be run.
    let (_, said) = upgraded(&ggla("models/vo"), &["--base", &base(), "--prove"]);
    assert!(!said.contains("evidence"), "{said}");
    let output = regguf(&["upgrade", &ggla("models/qv"), "--prove"]);
    assert!(says(&output).contains("name it with --base"), "{}", says(&output));
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
    let broken = with_settings("vo", &serde_json::json!({ "use_dora": true }));
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

/// A ggla file of these tensors, shapes outermost first as stored.
fn ggla_file(rank: i32, alpha: i32, tensors: &[(&str, [u32; 2], Vec<f32>)]) -> Vec<u8> {
    let mut out = b"algg".to_vec();
    out.extend([1i32, rank, alpha].into_iter().flat_map(i32::to_le_bytes));
    for (name, [rows, columns], numbers) in tensors {
        let len = u32::try_from(name.len()).unwrap();
        out.extend([2, len, 0, *columns, *rows].into_iter().flat_map(u32::to_le_bytes));
        out.extend(name.as_bytes());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    }
    out
}

fn counted(n: u16) -> Vec<f32> {
    (0..n).map(f32::from).collect()
}

#[test]
fn an_adapter_of_finetune_is_known_by_what_it_trains_beside() {
    let tensors = [
        ("token_embd.weight.loraA", [64, 4], counted(256)),
        ("token_embd.weight.loraB", [512, 4], counted(2048)),
        ("blk.0.attn_norm.weight.loraA", [64, 1], counted(64)),
        ("blk.0.attn_norm.weight.loraB", [1, 1], vec![3.0]),
        ("blk.0.attn_q.weight.loraA", [64, 4], counted(256)),
        ("blk.0.attn_q.weight.loraB", [64, 4], counted(256)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("finetuned.bin").display().to_string();
    std::fs::write(&path, ggla_file(4, 8, &tensors)).unwrap();
    for words in [&[][..], &["--base", &base()]] {
        let (model, said) = upgraded(&path, words);
        assert!(said.contains("llama.cpp's finetune"), "{said}");
        let found = numbers(&model);
        // Rows stay where they are, A is turned back.
        assert_eq!(found["blk.0.attn_q.weight.lora_b"], (vec![64, 4], counted(256)));
        let turned: Vec<f32> =
            (0..4u16).flat_map(|r| (0..64u16).map(move |c| f32::from(c * 4 + r))).collect();
        assert_eq!(found["blk.0.attn_q.weight.lora_a"], (vec![4, 64], turned));
        // Alpha is divided by the rank of each pair there, by that of the header here: 3 * 1/4.
        assert_eq!(found["blk.0.attn_norm.weight.lora_b"], (vec![1, 1], vec![0.75]));
        assert_eq!(found["blk.0.attn_norm.weight.lora_a"], (vec![1, 64], counted(64)));
        // llama.cpp has both halves of the embedding turned round.
        assert_eq!(found["token_embd.weight.lora_a"], (vec![512, 4], counted(2048)));
        assert_eq!(found["token_embd.weight.lora_b"], (vec![64, 4], counted(256)));
        assert_eq!(model.metadata.f32("adapter.lora.alpha"), Some(8.0));
    }
    let (model, _) = upgraded(&path, &["--base", &base(), "--rows", "hf"]);
    let rows = &numbers(&model)["blk.0.attn_q.weight.lora_b"].1;
    assert_eq!(rows[4..8], [32.0, 33.0, 34.0, 35.0]);
    // As finetune's own program did, norms get their product too: 2 * 3 * n.
    let merged = folder.path().join("merged.gguf").display().to_string();
    let output = regguf(&[
        "convert",
        &base(),
        "--lora",
        &path,
        "--type",
        "f32",
        "-o",
        &merged,
        "--rows",
        "ggml",
    ]);
    assert!(output.status.success(), "{}", says(&output));
    let (own, merged) = (numbers(&open(&base())), numbers(&open(&merged)));
    let name = "blk.0.attn_norm.weight";
    for (n, (was, is)) in own[name].1.iter().zip(&merged[name].1).enumerate() {
        assert_eq!(*is, was + 6.0 * n as f32, "{n}");
    }
    let output = regguf(&["run", "-m", &base(), "--lora", &path, "-p", "a", "-n", "1"]);
    assert!(output.status.success(), "{}", says(&output));
}

/// A broken adapter: its bytes, the exit code of `upgrade`, and what the one line says.
type Broken = (Vec<u8>, i32, &'static str);

#[test]
fn broken_adapters_are_refused_in_one_line() {
    let whole = std::fs::read(ggla("2023-04-17_meta-names/vo.bin")).unwrap();
    let word = |at: usize, value: i32| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let model = open(&ggla("2023-04-17_meta-names/vo.bin"));
    let end = |tensor: &regguf::model::Tensor| {
        usize::try_from(tensor.pieces[0].at + tensor.bytes()).unwrap()
    };
    let ends: Vec<usize> = model.tensors.iter().map(end).collect();
    let pair = |a: [u32; 2], b: [u32; 2]| {
        let numbers = |shape: [u32; 2]| counted(u16::try_from(shape[0] * shape[1]).unwrap());
        let name = "layers.0.attention.wv.weight";
        let (a_name, b_name) = (format!("{name}.loraA"), format!("{name}.loraB"));
        ggla_file(8, 16, &[(&a_name, a, numbers(a)), (&b_name, b, numbers(b))])
    };
    let broken: Vec<Broken> = vec![
        (word(8, 0), 3, "r at 0x8"),
        (word(8, -8), 3, "r at 0x8"),
        (word(8, 1_000_000_000), 3, "r at 0x8"),
        (word(12, 0), 4, "alpha is 0"),
        (word(12, -16), 3, "lora_alpha at 0xc"),
        (word(12, i32::MAX), 3, "lora_alpha at 0xc"),
        (whole[..ends[0]].to_vec(), 3, "it alone"),
        (whole[..ends[6]].to_vec(), 3, "it alone"),
        (whole[..ends[6] - 1].to_vec(), 3, "bytes"),
        (whole[..ends[6] + 7].to_vec(), 3, "tensors[7]"),
        (whole[..20].to_vec(), 3, "tensors[0]"),
        (pair([64, 8], [64, 4]), 3, "one rank of both"),
        (ggla_file(8, 16, &[]), 4, "without a pair"),
        (
            ggla_file(8, 16, &[("layers.0.attention.wz.weight.loraA", [64, 8], counted(512))]),
            4,
            "wz",
        ),
        (ggla_file(8, 16, &[("x.loraA.loraA", [64, 8], counted(512))]), 4, "x.loraA"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin").display().to_string();
    for (bytes, code, named) in broken {
        std::fs::write(&path, &bytes).unwrap();
        let output = regguf(&["upgrade", &path]);
        let said = says(&output);
        assert_eq!(output.status.code(), Some(code), "{named}: {said}");
        assert!(said.contains(named) && said.lines().count() == 1, "{named}: {said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{named}");
        if code == 3 {
            let output = regguf(&["verify", &path]);
            assert_eq!(output.status.code(), Some(1), "{named}: {}", says(&output));
        }
    }
}

#[test]
fn pairs_are_verified_against_each_other_and_the_base() {
    let all = ["2023-04-17_meta-names/all.bin", "models/all", "gguf-today/all.gguf"];
    let other = golden("families/gpt2.gguf").display().to_string();
    for name in all {
        let path = ggla(name);
        let output = regguf(&["verify", &path, "--deep"]);
        let said = says(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("a LoRA adapter of 14 pairs, alpha 8"), "{name}: {said}");
        assert!(!said.contains("no role"), "{name}: {said}");
        let output = regguf(&["verify", &path, "--base", &base()]);
        let said = says(&output);
        assert!(output.status.success() && said.contains("all fit the base"), "{name}: {said}");
        let output = regguf(&["verify", &path, "--base", &other]);
        let said = says(&output);
        assert_eq!(said.contains("FAILED"), !output.status.success(), "{name}: {said}");
        assert!(!said.contains("fit the base"), "{name}: {said}");
    }
    // Another width than the base has.
    let name = "layers.0.attention.wv.weight";
    let (a, b) = (format!("{name}.loraA"), format!("{name}.loraB"));
    let pair = ggla_file(8, 16, &[(&a, [96, 8], counted(768)), (&b, [64, 8], counted(512))]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin").display().to_string();
    std::fs::write(&path, pair).unwrap();
    for verb in ["verify", "upgrade"] {
        let output = regguf(&[verb, &path, "--base", &base()]);
        let said = says(&output);
        assert_ne!(output.status.code(), Some(0), "{said}");
        let shapes = "blk.0.attn_v.weight is [64, 96], in the model it is [64, 64]";
        assert!(said.contains(shapes), "{verb}: {said}");
    }
    // A number that is none.
    let mut bytes = std::fs::read(ggla("2023-04-17_meta-names/vo.bin")).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let output = regguf(&["verify", "--deep", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", says(&output));
    let said = says(&regguf(&["upgrade", &path]));
    assert!(said.contains("NaN weights were written: blk.1.attn_output.weight.lora_b"), "{said}");
}

/// A folder of PEFT with one pair or more, numbers counted from 0.
fn peft(tensors: &[(&str, [u16; 2])]) -> tempfile::TempDir {
    let (mut directory, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        data.extend(counted(shape[0] * shape[1]).iter().flat_map(|n| n.to_le_bytes()));
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        directory.insert(format!("base_model.model.{name}"), entry);
    }
    let head = serde_json::Value::Object(directory).to_string();
    let file = [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &data].concat();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_model.safetensors"), file).unwrap();
    let settings = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#;
    std::fs::write(folder.path().join("adapter_config.json"), settings).unwrap();
    folder
}

#[test]
fn rows_by_head_of_other_families_are_put_in_order_and_embeddings_turned() {
    let module = "gpt_neox.layers.0.attention.query_key_value";
    let (a, b) = (format!("{module}.lora_A.weight"), format!("{module}.lora_B.default.weight"));
    let folder = peft(&[(&a, [4, 64]), (&b, [192, 4])]);
    let path = folder.path().display().to_string();
    let output = regguf(&["upgrade", &path]);
    let said = says(&output);
    assert!(output.status.code() == Some(4) && said.contains("no number of heads"), "{said}");
    let gptneox = golden("families/gptneox.gguf").display().to_string();
    let (model, _) = upgraded(&path, &["--base", &gptneox]);
    assert_eq!(model.metadata.str("general.architecture"), Some("gptneox"));
    // Four heads of sixteen rows: of each its query, key and value; then all queries, keys, values.
    let heads =
        |part: u16| (0..4u16).flat_map(move |head| (0..16).map(move |r| head * 48 + part * 16 + r));
    let rows = (0..3u16).flat_map(heads);
    let wanted: Vec<f32> = rows.flat_map(|r| (0..4).map(move |c| f32::from(r * 4 + c))).collect();
    assert_eq!(numbers(&model)["blk.0.attn_qkv.weight.lora_b"], (vec![192, 4], wanted));

    let module = "model.embed_tokens.lora_embedding";
    let (a, b) = (format!("{module}_A"), format!("{module}_B"));
    let folder = peft(&[(&a, [4, 512]), (&b, [64, 4])]);
    let (model, _) = upgraded(&folder.path().display().to_string(), &["--base", &base()]);
    let found = numbers(&model);
    let turned = (0..512u16).flat_map(|c| (0..4).map(move |r| f32::from(r * 512 + c))).collect();
    assert_eq!(found["token_embd.weight.lora_a"], (vec![512, 4], turned));
    assert_eq!(found["token_embd.weight.lora_b"], (vec![64, 4], counted(256)));

    let folder = peft(&[("model.layers.0.self_attn.v_proj.lora_magnitude_vector", [1, 64])]);
    let said = says(&regguf(&["upgrade", &folder.path().display().to_string()]));
    assert!(said.contains("lora_magnitude_vector: the lengths of DoRA"), "{said}");
    let folder = peft(&[("lm_head.weight", [512, 64])]);
    let said = says(&regguf(&["upgrade", &folder.path().display().to_string()]));
    assert!(said.contains("lm_head.weight: a whole tensor"), "{said}");
}
