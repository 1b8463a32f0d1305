//! Adapters over a model, unmerged and merged, against PyTorch; and models from their published differences.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::{
    checkpoint,
    container::{self, OpenOptions},
    infer::{Sampler, Sampling, Session, Want, Weights},
    model::{Adapter, Model, sum},
    quant::{
        QuantType, decode_rows,
        half::{f32_from_half, half_from_f32},
        isa::Isa,
    },
};
use serde_json::Value as Json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The adapters, in today's GGUF.
const ADAPTERS: [&str; 3] = ["qv", "vo", "all"];

fn adapter(name: &str) -> String {
    text(&golden(&format!("families/ggla/gguf-today/{name}.gguf")))
}

fn open(path: &Path) -> Model {
    match checkpoint::is_checkpoint(path).unwrap() {
        true => checkpoint::open(path, &checkpoint::Options::default()).unwrap(),
        false => container::open(path, &OpenOptions::default()).unwrap(),
    }
}

fn with_adapter(base: &Path, name: &str, times: f32) -> Model {
    let mut model = open(base);
    let read = open(Path::new(&adapter(name)));
    sum::merge(&mut model, &Adapter::of(&read).unwrap(), times).unwrap();
    model
}

fn regguf(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).args(words).output().unwrap()
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What `convert` makes of these words, written to `out`.
fn converted(words: &[&str], out: &Path) -> Model {
    let output = regguf(&[&["convert"], words, &["-o", &text(out)]].concat());
    assert!(output.status.success(), "{words:?}: {}", says(&output));
    open(out)
}

/// Numbers of every tensor.
fn numbers(model: &Model) -> BTreeMap<String, Vec<f32>> {
    let read = |tensor: &regguf::model::Tensor| {
        let mut bytes = vec![0; tensor.bytes() as usize];
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
        let mut out = vec![0.0; tensor.elements() as usize];
        decode_rows(tensor.quant, Isa::best(), &bytes, tensor.row_len() as usize, &mut out);
        (tensor.name.clone(), out)
    };
    model.tensors.iter().map(read).collect()
}

/// Name, type and bytes of every tensor.
fn bytes(model: &Model) -> BTreeMap<String, (String, Vec<u8>)> {
    let read = |tensor: &regguf::model::Tensor| {
        let mut bytes = vec![0; tensor.bytes() as usize];
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
        (tensor.name.clone(), (tensor.quant.to_string(), bytes))
    };
    model.tensors.iter().map(read).collect()
}

fn tokens(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn likeliest(logits: &[f32]) -> u32 {
    Sampler::new(Sampling::GREEDY).choose(logits)
}

/// The logits after each of `read`.
fn logits(weights: &Weights, read: &[u32]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    let mut session = Session::new(weights, read.len());
    session.read(read, Want::All, |_, logits| all.push(logits.to_vec())).unwrap();
    all
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Checks `model` against what PyTorch said with the adapter `name`.
fn check(model: &Model, name: &str, what: &str) {
    let known = fs::read(golden(&format!("families/ggla/models/{name}.json"))).unwrap();
    let known: Json = serde_json::from_slice(&known).unwrap();
    let weights = Weights::new(model).unwrap();
    for case in known["cases"].as_array().unwrap() {
        let mut read = tokens(&case["prompt_ids"]);
        let found = logits(&weights, &read);
        let first: Vec<u32> = found.iter().map(|logits| likeliest(logits)).collect();
        assert_eq!(first, tokens(&case["argmax_each_position"]), "{name} over {what}");
        let wanted = case["last_logits"].as_array().unwrap();
        let wanted: Vec<f32> = wanted.iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let apart = apart(found.last().unwrap(), &wanted);
        assert!(apart < 1e-4, "{name} over {what}: {apart} apart");
        let begun = read.len();
        let greedy = tokens(&case["greedy_ids"]);
        let mut session = Session::new(&weights, begun + greedy.len());
        let mut next = 0;
        session.read(&read, Want::Last, |_, logits| next = likeliest(logits)).unwrap();
        while read.len() < begun + greedy.len() {
            read.push(next);
            session.read(&[next], Want::Last, |_, logits| next = likeliest(logits)).unwrap();
        }
        assert_eq!(&read[begun..], greedy, "{name} over {what}");
    }
}

/// The adapter `name` as the command merges it, told from a file of any kind.
fn merged_from(file: &str) -> BTreeMap<String, (String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let base = text(&golden("T/hf-st"));
    let words = [&base, "--lora", &text(&golden(file)), "--type", "f32"];
    bytes(&converted(&words, &folder.path().join("out.gguf")))
}

#[test]
fn old_adapters_and_folders_of_peft_are_merged_alike() {
    let ggla = "families/ggla/2023-04-17_meta-names";
    for name in ADAPTERS {
        let today = merged_from(&format!("families/ggla/gguf-today/{name}.gguf"));
        assert!(merged_from(&format!("{ggla}/{name}.bin")) == today, "{name}");
        assert!(merged_from(&format!("families/ggla/models/{name}")) == today, "{name}");
    }
}

/// The same half-precision weights as GGUF, unversioned ggml, safetensors and Meta's checkpoint.
const BASES: [&str; 4] =
    ["T/E8/ggml-model-f16.gguf", "T/E1/ggml-model-f16.bin", "T/hf-st", "T/meta/T"];

#[test]
fn unmerged_is_what_pytorch_says() {
    for base in BASES {
        for name in ADAPTERS {
            check(&with_adapter(&golden(base), name, 1.0), name, base);
        }
    }
}

#[test]
fn merged_is_the_sum_and_what_pytorch_says() {
    let folder = tempfile::tempdir().unwrap();
    let own = numbers(&open(&golden(BASES[0])));
    for (n, (base, name)) in BASES.iter().zip(["qv", "all", "vo", "all"]).enumerate() {
        let (base, out) = (golden(base), folder.path().join(format!("{n}.gguf")));
        let words = [&text(&base), "--lora", &adapter(name), "--type", "f32", "--force"];
        let merged = converted(&words, &out);
        check(&merged, name, "merged");
        let changes = numbers(&open(Path::new(&adapter(name))));
        let merged = numbers(&merged);
        assert_eq!(merged.len(), own.len());
        let mut changed = 0;
        for (tensor, weights) in &own {
            let found = &merged[tensor];
            let pair = ["a", "b"].map(|half| changes.get(&format!("{tensor}.lora_{half}")));
            let [Some(a), Some(b)] = pair else {
                assert_eq!(found, weights, "{name}: {tensor}");
                continue;
            };
            changed += 1;
            let rank = if name == "all" { 4 } else { 8 };
            let cols = a.len() / rank;
            for (i, (found, weight)) in found.iter().zip(weights).enumerate() {
                let (o, i) = (i / cols, i % cols);
                let terms =
                    (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * cols + i]));
                // Alpha is twice the rank.
                let exact = f64::from(*weight) + 2.0 * terms.sum::<f64>();
                assert!((f64::from(*found) - exact).abs() < 5e-7, "{name}: {tensor} {o} {i}");
            }
        }
        assert_eq!(2 * changed, changes.len());
    }
}

#[test]
fn every_type_is_made_of_the_f32_sum_in_one_pass() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let base = text(&golden("T/hf-st"));
    let lora = adapter("all");
    let sum = converted(&[&base, "--lora", &lora, "--type", "f32"], &out("f32.gguf"));
    for kind in ["q4_0", "q8_0", "f16", "q4_k_m"] {
        let once =
            converted(&[&base, "--lora", &lora, "--type", kind], &out(&format!("{kind}.gguf")));
        let twice = converted(
            &[&text(&out("f32.gguf")), "--type", kind],
            &out(&format!("{kind}-twice.gguf")),
        );
        assert!(bytes(&once) == bytes(&twice), "{kind}");
    }
    // Several types of one reading.
    let many = [&base, "--lora", &lora, "--type", "f32,q4_0,f16", "-o", &text(&out("many/"))];
    let output = regguf(&[&["convert"], &many[..]].concat());
    assert!(output.status.success(), "{}", says(&output));
    for entry in fs::read_dir(out("many")).unwrap() {
        let path = entry.unwrap().path();
        let name = text(Path::new(path.file_name().unwrap())).to_lowercase();
        let kind = ["f32", "q4_0", "f16"].into_iter().find(|kind| name.contains(kind)).unwrap();
        assert!(bytes(&open(&path)) == bytes(&open(&out(&format!("{kind}.gguf")))), "{kind}");
    }
    // As stored: the base's f16, and q4_0 again over a quantized base, with a word on it.
    let auto = converted(&[&base, "--lora", &lora], &out("auto.gguf"));
    assert!(bytes(&auto) == bytes(&open(&out("f16.gguf"))));
    let quantized = text(&golden("T/E8/ggml-model-q4_0.gguf"));
    let words = ["convert", &quantized, "--lora", &lora, "-o", &text(&out("again.gguf"))];
    let output = regguf(&words);
    assert!(
        output.status.success() && says(&output).contains("quantized already (q4_0)"),
        "{}",
        says(&output)
    );
    let again = open(&out("again.gguf"));
    let q4_0 = QuantType::today("q4_0").unwrap();
    assert_eq!(again.tensor("blk.0.attn_q.weight").unwrap().quant, q4_0);
    // Half of it twice is the whole.
    let halves = converted(
        &[
            &base,
            "--lora",
            &format!("{lora}=0.5"),
            "--lora",
            &format!("{lora}=0.5"),
            "--type",
            "f32",
        ],
        &out("halves.gguf"),
    );
    let (halves, whole) = (numbers(&halves), numbers(&sum));
    for (name, weights) in &whole {
        assert!(apart(weights, &halves[name]) < 1e-6, "{name}");
    }
    let none =
        converted(&[&base, "--lora", &format!("{lora}=0"), "--type", "f16"], &out("none.gguf"));
    let plain = converted(&[&base, "--type", "f16"], &out("plain.gguf"));
    assert!(bytes(&none) == bytes(&plain));
}

/// The name of a tensor in EasyLM's checkpoints, and whether it is stored turned.
fn in_easylm(name: &str) -> (Vec<String>, bool) {
    let words = |path: &str| path.split('/').map(str::to_owned).collect();
    match name {
        "token_embd.weight" => return (words("params/transformer/wte/embedding"), false),
        "output_norm.weight" => return (words("params/transformer/ln_f/kernel"), false),
        "output.weight" => return (words("params/lm_head/kernel"), true),
        _ => {}
    }
    let mut parts = name.split('.').skip(1);
    let (layer, part) = (parts.next().unwrap(), parts.next().unwrap());
    let own = match part {
        "attn_q" => "attention/wq",
        "attn_k" => "attention/wk",
        "attn_v" => "attention/wv",
        "attn_output" => "attention/wo",
        "ffn_gate" => "feed_forward/w1",
        "ffn_down" => "feed_forward/w2",
        "ffn_up" => "feed_forward/w3",
        "attn_norm" => "attention_norm",
        _ => "ffn_norm",
    };
    let path = format!("params/transformer/h/{layer}/{own}/kernel");
    (words(&path), !part.ends_with("norm"))
}

/// A checkpoint as EasyLM streams it, by the specification of msgpack.
fn streamed(model: &Model, number: impl Fn(usize) -> f32) -> Vec<u8> {
    let text = |text: &str| [&[0xa0 | text.len() as u8], text.as_bytes()].concat();
    let bytes =
        |bytes: Vec<u8>| [&[0xc6], &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
    let mut out = Vec::new();
    for tensor in &model.tensors {
        let (words, turned) = in_easylm(&tensor.name);
        out.extend([0x92, 0x90 | words.len() as u8]);
        words.iter().for_each(|word| out.extend(text(word)));
        let mut shape = tensor.shape.clone();
        let cols = *shape.last().unwrap() as usize;
        let rows = tensor.elements() as usize / cols;
        let mut places: Vec<usize> = (0..rows * cols).collect();
        if turned {
            shape.reverse();
            places = (0..cols).flat_map(|c| (0..rows).map(move |r| r * cols + c)).collect();
        }
        let numbers = places.into_iter().flat_map(|i| half_from_f32(number(i)).to_le_bytes());
        let mut array = vec![0x93, 0x90 | shape.len() as u8];
        shape.iter().for_each(|n| array.extend([&[0xcd], &(*n as u16).to_be_bytes()[..]].concat()));
        array.extend(text("float16"));
        array.extend(bytes(numbers.collect()));
        let extension = [&[0xc9], &(array.len() as u32).to_be_bytes()[..], &[1], &array].concat();
        out.extend(bytes(extension));
    }
    out
}

#[test]
fn a_difference_that_easylm_streamed_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let change = |i: usize| ((i * 7919) % 1013) as f32 / 1024.0 - 0.5;
    for base in ["T/meta/T", "T/hf-st", "T/E8/ggml-model-f16.gguf"] {
        let base = golden(base);
        let own = open(&base);
        let file = streamed(&own, change);
        fs::write(at("koala_7b_diff_v2"), &file).unwrap();
        let words = [&text(&base), "--delta", &text(&at("koala_7b_diff_v2")), "--force"];
        let made = converted(&[&words[..], &["--type", "f32"]].concat(), &at("koala.gguf"));
        assert_eq!(made.vocab, own.vocab);
        let found = numbers(&made);
        for (name, weights) in numbers(&own) {
            let wanted: Vec<f32> =
                weights.iter().enumerate().map(|(i, weight)| weight + change(i)).collect();
            assert!(found[&name] == wanted, "{name}");
        }
        let twice = [&text(&at("koala.gguf")), "--type", "q4_0", "--force"];
        let twice = bytes(&converted(&twice, &at("twice.gguf")));
        let once = converted(&[&words[..], &["--type", "q4_0"]].concat(), &at("once.gguf"));
        assert!(bytes(&once) == twice);
        // Cut anywhere, it is refused in one line.
        for n in [1, 2, 20, 60, 61, 62, 70, 100, 5000, file.len() - 1] {
            fs::write(at("cut"), &file[..n]).unwrap();
            let words = ["convert", &text(&base), "--delta", &text(&at("cut")), "--dry-run"];
            let output = regguf(&words);
            assert!(!output.status.success() && says(&output).lines().count() == 1, "{n}");
        }
    }
    // Of another model.
    let words = ["convert", &text(&golden("G/E9/ggml-model-q4_0.gguf")), "--dry-run", "--delta"];
    let output = regguf(&[&words[..], &[&text(&at("koala_7b_diff_v2"))]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", says(&output));
    let said = says(&regguf(&["inspect", &text(&at("koala_7b_diff_v2"))]));
    assert!(said.contains("streamed by EasyLM"), "{said}");
}

#[test]
fn a_batch_merges_a_list_of_adapters_into_one_base() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("adapters/alpaca")).unwrap();
    let from = |name: &str| golden(&format!("families/ggla/{name}"));
    fs::copy(from("2023-04-17_meta-names/qv.bin"), at("adapters/old.bin")).unwrap();
    fs::copy(from("gguf-today/all.gguf"), at("adapters/new.gguf")).unwrap();
    for name in ["adapter_config.json", "adapter_model.bin"] {
        fs::copy(from("models/vo").join(name), at("adapters/alpaca").join(name)).unwrap();
    }
    // A model is no adapter, and one file is cut.
    fs::copy(golden("T/E8/ggml-model-q4_0.gguf"), at("adapters/model.gguf")).unwrap();
    let cut = fs::read(from("gguf-today/vo.gguf")).unwrap();
    fs::write(at("adapters/cut.gguf"), &cut[..cut.len() - 64]).unwrap();
    fs::copy(golden("T/E8/ggml-model-f16.gguf"), at("base.gguf")).unwrap();
    let (list, base, out) = (text(&at("adapters")), text(&at("base.gguf")), text(&at("out")));
    let words = ["batch", "merge", &list, "--base", &base, "--types", "q4_0,f16", "--out", &out];
    let batch = |more: &[&str]| regguf(&[&words[..], &["--keep-going"], more].concat());
    let output = batch(&["--dry-run"]);
    assert_eq!(output.status.code(), Some(1), "{}", says(&output));
    assert!(!at("out").exists() && says(&output).contains("cut.gguf"), "{}", says(&output));
    let output = batch(&[]);
    let said = says(&output);
    assert!(said.contains("3 done, 1 skipped, 1 failed"), "{said}");
    assert!(said.contains("model.gguf: is no LoRA adapter"), "{said}");
    for (name, adapter) in [("old", "old.bin"), ("new", "new.gguf"), ("alpaca", "alpaca")] {
        let folder = if name == "alpaca" { "out/alpaca" } else { "out" };
        for kind in ["q4_0", "f16"] {
            let one = at("one.gguf");
            let adapter = text(&at("adapters").join(adapter));
            let words = [&base, "--lora", &adapter, "--type", kind, "--force"];
            let wanted = converted(&words, &one);
            let made = open(&at(folder).join(format!("{name}-{}.gguf", kind.to_uppercase())));
            assert!(bytes(&made) == bytes(&wanted), "{name} {kind}");
        }
    }
    assert!(says(&batch(&[])).contains("0 done, 4 skipped, 1 failed"), "{}", says(&batch(&[])));
    // What the receipts say is of that base.
    fs::remove_file(at("base.gguf")).unwrap();
    fs::copy(golden("T/E8/ggml-model-q4_0.gguf"), at("base.gguf")).unwrap();
    let said = says(&batch(&["--allow-requantize"]));
    assert!(said.contains("3 done, 1 skipped, 1 failed"), "{said}");
    // No adapter fits another model.
    let other = text(&golden("families/gpt2.gguf"));
    let output = regguf(&["batch", "merge", &list, "--base", &other, "--out", &out, "-k"]);
    let said = says(&output);
    assert!(said.contains("0 done, 1 skipped, 4 failed"), "{said}");
    assert!(said.contains("is for the architecture llama, the model is gpt2"), "{said}");
    let output = regguf(&["batch", "merge", &list]);
    assert!(says(&output).contains("--base MODEL"), "{}", says(&output));
}

#[test]
fn the_command_runs_scores_and_compares_with_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let base = text(&golden("T/E8/ggml-model-f16.gguf"));
    let lora = adapter("vo");
    let merged = folder.path().join("merged.gguf");
    converted(&[&base, "--lora", &lora, "--type", "f32"], &merged);
    let merged = text(&merged);
    let said = |words: &[&str]| {
        let output = regguf(words);
        assert!(output.status.success(), "{words:?}: {}", says(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let tail = ["--temp", "0", "-n", "24", "-p", "The source code"];
    let with = said(&[&["run", "-m", &base, "--lora", &lora][..], &tail].concat());
    assert_eq!(with, said(&[&["run", "-m", &merged][..], &tail].concat()));
    assert_ne!(with, said(&[&["run", "-m", &base][..], &tail].concat()));
    let licence = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE"));
    let tail = ["-f", &licence, "-c", "64", "--chunks", "2"];
    let with = said(&[&["perplexity", &base, "--lora", &lora][..], &tail].concat());
    let merged_says = said(&[&["perplexity", &merged][..], &tail].concat());
    // A vector meets the adapter's two matrices one after the other: the last bits differ.
    let final_of = |said: &str| {
        let value = said.split("PPL = ").nth(1).unwrap().split(' ').next().unwrap();
        value.parse::<f64>().unwrap()
    };
    let (with, merged_says) = (final_of(&with), final_of(&merged_says));
    assert!((with / merged_says - 1.0).abs() < 1e-5, "{with} {merged_says}");
    let tail = ["--text", &licence, "--tokens", "60", "--json"];
    let compared = regguf(&[&["compare", &base, "--lora", &lora, &merged][..], &tail].concat());
    let compared: Json = serde_json::from_slice(&compared.stdout).unwrap();
    let tensors = compared["candidates"][0]["tensors"].as_array().unwrap();
    assert!(tensors.iter().all(|t| t["rmse"] == 0.0), "{compared}");
    assert!(compared["candidates"][0]["outputs"]["kl_max"].as_f64().unwrap() < 1e-9);
}

#[test]
fn what_does_not_fit_is_refused_with_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let base = text(&golden("T/E8/ggml-model-f16.gguf"));
    let other = text(&golden("G/E9/ggml-model-q4_0.gguf"));
    let lora = adapter("qv");
    let refused = |words: &[&str], code: i32, wanted: &[&str]| {
        let output = regguf(&[words, &["-o", &text(&out)]].concat());
        let said = says(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{words:?}: {said}");
        assert!(!out.exists());
    };
    let shapes = ["blk.0.attn_q.weight is [64, 64], in the model it is [128, 128]"];
    refused(&["convert", &other, "--lora", &lora], 4, &shapes);
    refused(&["convert", &base, "--lora", &base], 4, &["only a LoRA adapter is added"]);
    refused(&["convert", &base, "--lora", &format!("{lora}=nan")], 2, &["\"nan\" is no scale"]);
    refused(&["convert", &base, "--lora", "/nowhere/x.gguf"], 5, &["/nowhere/x.gguf"]);
    let falcon = text(&golden("families/falcon-one-key.gguf"));
    refused(&["convert", &falcon, "--lora", &lora], 4, &["the architecture llama"]);
}

/// A tensor of a Hugging Face folder: its name, and rows of numbers.
type Weighed = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The weights of golden/T/hf-st.
fn hugging_face() -> Weighed {
    let file = fs::read(golden("T/hf-st/model.safetensors")).unwrap();
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let mut out = Weighed::new();
    for (name, about) in header.as_object().unwrap().iter().filter(|(n, _)| *n != "__metadata__") {
        assert_eq!(about["dtype"], "F16");
        let place = about["data_offsets"].as_array().unwrap();
        let [from, to] = [0, 1].map(|i| 8 + len + place[i].as_u64().unwrap() as usize);
        let halves = file[from..to].chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let shape = about["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize);
        out.insert(name.clone(), (shape.collect(), halves.map(f32_from_half).collect()));
    }
    out
}

/// Writes a folder with these weights as `dtype`, and `tokens` of which the last are added.
fn write(folder: &Path, weights: &Weighed, dtype: &str, tokens: usize) {
    fs::create_dir_all(folder).unwrap();
    for name in ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(golden("T/hf-st").join(name), folder.join(name)).unwrap();
    }
    let config = fs::read(golden("T/hf-st/config.json")).unwrap();
    let mut config: Json = serde_json::from_slice(&config).unwrap();
    config["vocab_size"] = tokens.into();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    if tokens > 512 {
        fs::write(folder.join("added_tokens.json"), r#"{"[PAD]": 512}"#).unwrap();
    }
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, numbers)) in weights {
        let from = data.len();
        match dtype {
            "F16" => numbers.iter().for_each(|x| data.extend(half_from_f32(*x).to_le_bytes())),
            _ => numbers.iter().for_each(|x| data.extend(x.to_le_bytes())),
        }
        let about =
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]});
        header.insert(name.clone(), about);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// A difference to `base` in the manner of `dtype`, and the sum that its publishers' scripts make.
fn difference(base: &Weighed, dtype: &str, extra: usize) -> (Weighed, Weighed) {
    let half = |x: f32| f32_from_half(half_from_f32(x));
    let round = |x: f32| if dtype == "F16" { half(x) } else { x };
    let (mut delta, mut sum) = (Weighed::new(), Weighed::new());
    for (name, (shape, numbers)) in base {
        let (mut shape, mut wide) = (shape.clone(), numbers.clone());
        if name.contains("embed_tokens") || name.contains("lm_head") {
            let cols = shape[1];
            let mean = |c: usize| {
                let column: Vec<f32> = numbers.iter().skip(c).step_by(cols).copied().collect();
                // In the order of torch: 16 numbers, 16 of these sums, the sums of those.
                let sum = |some: &[f32]| some.iter().fold(0f32, |sum, x| sum + x);
                let sixteens: Vec<f32> = column.chunks(16).map(sum).collect();
                let squares: Vec<f32> = sixteens.chunks(16).map(sum).collect();
                sum(&squares) / shape[0] as f32
            };
            let new: Vec<f32> =
                (0..cols).map(|c| if dtype == "F16" { 0.0 } else { mean(c) }).collect();
            for _ in 0..extra {
                wide.extend(&new);
            }
            shape[0] += extra;
        }
        let change = |i: usize| round(((i * 7919) % 1013) as f32 / 9700.0 - 0.05);
        let added: Vec<f32> = (0..wide.len()).map(change).collect();
        let made = wide.iter().zip(&added).map(|(w, d)| round(w + d)).collect();
        delta.insert(name.clone(), (shape.clone(), added));
        sum.insert(name.clone(), (shape, made));
    }
    (delta, sum)
}

#[test]
fn a_published_difference_becomes_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = hugging_face();
    // Vicuna v1.1, Vicuna v0 with its [PAD], Alpaca.
    for (dtype, extra) in [("F16", 0), ("F16", 1), ("F32", 1)] {
        let (delta, sum) = difference(&base, dtype, extra);
        write(&at("delta"), &delta, dtype, 512 + extra);
        write(&at("sum"), &sum, dtype, 512 + extra);
        for (n, base) in ["T/hf-st", "T/meta/T", "T/E8/ggml-model-f16.gguf"].iter().enumerate() {
            for kind in ["auto", "q4_0"] {
                let words = [
                    &text(&golden(base)),
                    "--delta",
                    &text(&at("delta")),
                    "--type",
                    kind,
                    "--force",
                ];
                let found = converted(&words, &at("found.gguf"));
                let words = [&text(&at("sum")), "--type", kind, "--force"];
                let wanted = converted(&words, &at("wanted.gguf"));
                assert!(bytes(&found) == bytes(&wanted), "{dtype} {extra} over {n}, {kind}");
                assert_eq!(found.vocab.tokens.len(), 512 + extra);
                assert_eq!(found.vocab, wanted.vocab);
            }
        }
    }
    // Of another model, or what is no difference to it.
    let (mut delta, _) = difference(&base, "F16", 0);
    write(&at("delta"), &delta, "F16", 512);
    let refused = |base: &str, wanted: &str| {
        let words = ["convert", &text(&golden(base)), "--delta", &text(&at("delta")), "--dry-run"];
        let output = regguf(&words);
        assert_eq!(output.status.code(), Some(4), "{}", says(&output));
        assert!(says(&output).contains(wanted), "{}", says(&output));
    };
    refused("G/E9/ggml-model-q4_0.gguf", "is [");
    delta.remove("model.layers.1.mlp.up_proj.weight");
    write(&at("delta"), &delta, "F16", 512);
    let words = ["convert", &text(&golden("T/hf-st")), "--delta", &text(&at("delta")), "--dry-run"];
    assert!(!regguf(&words).status.success());
}
