//! Sound files that are not quite as llama.cpp writes them: read, named and told from damage.

use std::{fs, path::Path};

use regguf::{
    Existing,
    bytes::Input,
    change::{self, upgrade},
    container::{self, OpenOptions, tail},
    model::{Array, Kind, Model, Value, loader},
};

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    fs::read(path).unwrap()
}

/// A container of each walk: record after record, and counted.
const WALKS: [&str; 2] = ["T/E4b/ggml-model-q4_0.bin", "T/E10/model-Q4_0.gguf"];

/// What opening `bytes` says of the tail, and where it begins.
fn tail_of(bytes: &[u8]) -> (tail::Kind, u64, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    fs::write(&path, bytes).unwrap();
    let model = container::open(&path, &OpenOptions::default()).unwrap();
    let [tail] = model.tails.as_slice() else { panic!("{:?}", model.tails) };
    let kind = tail::kind(&Input::open(&path).unwrap(), tail.at).unwrap();
    (kind, tail.at, tail::sentence(&model, tail).unwrap())
}

#[test]
fn bytes_after_the_data_are_told_apart() {
    for name in WALKS {
        let whole = golden(name);
        let len = whole.len();
        let with = |tail: &[u8]| tail_of(&[&whole, tail].concat());
        for (tail, kind) in [
            (&b"\n"[..], tail::Kind::Other),
            (&[0; 700], tail::Kind::Zeros),
            (&whole, tail::Kind::Model),
            (&whole[len - 5000..], tail::Kind::OwnEnd),
        ] {
            let (found, at, said) = with(tail);
            assert_eq!((found, at), (kind, len as u64), "{name}: {said}");
            assert!(said.contains(&format!("truncate -s {len} ")), "{name}: {said}");
            assert!(said.contains("tensors are whole"), "{name}: {said}");
        }
    }
}

#[test]
fn a_download_that_began_again_is_told() {
    let whole = golden(WALKS[1]);
    let half = whole.len() / 2;
    let (kind, _, said) = tail_of(&[&whole[..half], &whole].concat());
    assert_eq!(kind, tail::Kind::Restarted(half as u64), "{said}");
    assert!(said.contains(&format!("tail -c +{} ", half + 1)), "{said}");
    // Nothing is made of it, the header alone changed neither.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, [&whole[..half], &whole].concat()).unwrap();
    for verb in [&["upgrade"][..], &["metadata", "set", "general.name", "x"], &["inspect"]] {
        let mut words = verb.to_vec();
        words.insert(1, path.to_str().unwrap());
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_regguf"));
        let said = program.args(words).output().unwrap();
        let text =
            String::from_utf8_lossy(if verb == ["inspect"] { &said.stdout } else { &said.stderr });
        assert_eq!(said.status.code(), Some(if verb == ["inspect"] { 0 } else { 3 }), "{text}");
        assert!(text.lines().any(|line| line.contains("tail -c +")), "{text}");
        assert!(!text.contains("nothing to do"), "{text}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_dry_run_says_what_the_loader_will() {
    let folder = tempfile::tempdir().unwrap();
    let notes = |words: &[&str]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_regguf"));
        let said = program.args(words).arg("--json").output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        json[0]["notes"].clone()
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut said = 0;
    for name in ["families/gptj.gguf", "families/gpt2.gguf", "T/E1/ggml-model-f16.bin", "T/hf-st"] {
        let path = root.join(name).display().to_string();
        let out = folder.path().join("out.gguf").display().to_string();
        let words = ["convert", &path, "-o", &out, "--type", "q8_0", "--force"];
        let planned = notes(&[&words[..], &["--dry-run"]].concat());
        assert_eq!(planned, notes(&words), "{name}");
        said += usize::from(planned.to_string().contains("llama.cpp"));
    }
    assert!(said > 0, "of GPT-J there is something to say");
}

#[test]
fn what_is_no_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"mine").unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/hf-st");
    for out in [file.clone(), file.join("below"), "/dev/null".into()] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_regguf"));
        program.arg("convert").arg(&root).args(["--to", "safetensors", "--force", "-o"]).arg(out);
        let said = program.output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(4), "{text}");
        assert!(text.contains("is no folder"), "{text}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_shard_under_a_browser_s_name_is_of_its_set() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    for (n, name) in [(1, "s-00001-of-00003.gguf"), (2, "s-00002-of-00003 (1).gguf")] {
        let bytes = golden(&format!("T/E10/split-Q4_K_M-0000{n}-of-00003.gguf"));
        fs::write(place(name), bytes).unwrap();
    }
    let first = place("s-00001-of-00003.gguf");
    assert_eq!(container::first_of_set(&place("s-00002-of-00003 (1).gguf")), Some(first.clone()));
    assert_eq!(container::first_of_set(&first), None);
}

#[test]
fn whole_files_have_no_tail_and_short_ones_stay_short() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    for name in WALKS {
        let whole = golden(name);
        fs::write(&path, &whole).unwrap();
        assert!(container::open(&path, &OpenOptions::default()).unwrap().tails.is_empty());
        for cut in [1, 100, 5000] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let error = container::open(&path, &OpenOptions::default()).unwrap_err();
            assert!(error.to_string().contains("short"), "{name}: {error}");
        }
    }
}

/// A GGUF of `golden`, opened, changed by `edit` and checked.
fn refused(edit: impl Fn(&mut Model)) -> Vec<loader::Breach> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E10/model-Q4_0.gguf");
    let mut model = container::open(&path, &OpenOptions::default()).unwrap();
    edit(&mut model);
    loader::breaches(&model)
}

/// The code of the one breach, and what it is about.
fn only(edit: impl Fn(&mut Model)) -> (&'static str, String) {
    let found = refused(edit);
    let [breach] = found.as_slice() else { panic!("{found:?}") };
    (breach.code, breach.about.clone())
}

#[test]
fn what_the_loader_demands_and_does_not_find_is_named() {
    assert_eq!(refused(|_| ()), []);
    for key in ["attention.layer_norm_rms_epsilon", "context_length", "block_count"] {
        let key = format!("llama.{key}");
        let (code, about) = only(|m| drop(m.metadata.remove(&key)));
        assert_eq!((code, about), ("missing-key", key));
    }
    let array = |n: usize| Value::from(Array::of(Kind::U32, vec![Value::U32(4); n]));
    let layers = 2;
    let heads = "llama.attention.head_count";
    assert_eq!(refused(|m| m.metadata.set(heads, array(layers))), []);
    assert_eq!(only(|m| m.metadata.set(heads, array(3))).0, "array-length");
    assert_eq!(only(|m| m.vocab.tokens.truncate(511)).0, "vocabulary");
    let twice = |m: &mut Model| {
        let again = m.vocab.tokens.get(8).unwrap().to_vec();
        m.vocab.tokens = m.vocab.tokens.with(&[(9, again)].into());
    };
    assert_eq!(only(twice).0, "token-twice");
    assert_eq!(only(|m| m.metadata.set("tokenizer.ggml.model", "gpt2")).0, "no-merges");
    let more = |m: &mut Model| {
        let name = "mm.0.weight".to_owned();
        m.tensors.push(regguf::model::Tensor { name, ..m.tensors[0].clone() });
    };
    assert_eq!(only(more).0, "unknown-tensors");
    let codes =
        |edit: fn(&mut Model)| refused(edit).into_iter().map(|b| b.code).collect::<Vec<_>>();
    let blocks = codes(|m| m.metadata.set("llama.block_count", 3));
    assert_eq!(blocks, ["missing-tensors", "missing-blocks"]);
    assert_eq!(codes(|m| m.tensors.retain(|t| t.name != LOST)), ["missing-tensors"]);
    assert_eq!(codes(|m| m.tensors[3].shape[0] -= 1), ["shape"]);
    assert_eq!(only(|m| m.metadata.set("llama.block_count", 1)).0, "extra-blocks");
    let nothing = |m: &mut Model| {
        m.tensors.clear();
        m.metadata = regguf::model::Metadata::new();
        m.vocab = regguf::model::Vocab::default();
    };
    assert_eq!(only(nothing).0, "empty");
    // Of what is not known nothing is claimed.
    let foreign = refused(|m| m.metadata.set("general.architecture", "foobar"));
    assert_eq!(foreign, []);
}

/// A tensor that every block has.
const LOST: &str = "blk.1.ffn_up.weight";

/// What the report of an upgrade says of a changed model, and the file that was written.
fn told(edit: impl Fn(&mut Model)) -> (Vec<String>, Model) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E10/model-Q4_0.gguf");
    let mut model = container::open(&path, &OpenOptions::default()).unwrap();
    edit(&mut model);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
    let (model, plan) = upgrade::plan(model, &options).unwrap();
    let done = change::carry(&model, &[plan], Existing::Keep, &()).unwrap();
    let written = container::open(&output, &OpenOptions::default()).unwrap();
    (done.into_iter().flat_map(|outcome| outcome.refused).collect(), written)
}

#[test]
fn whoever_writes_says_what_llama_cpp_refuses() {
    assert_eq!(told(|_| ()).0, Vec::<String>::new());
    let (said, _) = told(|m| m.tensors.retain(|t| t.name != LOST));
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(said.contains("today's llama.cpp refuses it") && said.contains(LOST), "{said}");
    let (said, _) = told(|m| m.metadata.set("general.architecture", "foobar"));
    assert_eq!(said, ["whether llama.cpp knows foobar is not checked"]);
    // GGUF has room for more than llama.cpp: such tensors are kept, and it is said.
    let more = |m: &mut Model| {
        let norm = m.tensors.iter().find(|t| t.shape == [64]).unwrap().clone();
        let shape = vec![1, 2, 2, 2, 8];
        m.tensors.push(regguf::model::Tensor { name: "x".repeat(100), shape, ..norm });
    };
    let (said, written) = told(more);
    let has = |words: &str| said.iter().any(|said| said.contains(words));
    assert!(has("64 bytes or more") && has("5 dimensions") && has("does not ask for"), "{said:?}");
    let kept = written.tensors.last().unwrap();
    assert_eq!((kept.name.len(), kept.shape.as_slice()), (100, &[1, 2, 2, 2, 8][..]));
}

/// A model of an unknown architecture with blocks of these tensors.
fn of_blocks(blocks: &[&[&str]]) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E10/model-Q4_0.gguf");
    let mut model = container::open(&path, &OpenOptions::default()).unwrap();
    let some = model.tensors.iter().find(|t| t.name.starts_with("blk.")).unwrap().clone();
    model.tensors.retain(|t| !t.name.starts_with("blk."));
    model.family.clear();
    model.metadata.set("general.architecture", "foobar");
    model.metadata.set("foobar.block_count", blocks.len() as u32);
    for (n, names) in blocks.iter().enumerate() {
        let named = |name: &&str| regguf::model::Tensor {
            name: format!("blk.{n}.{name}.weight"),
            ..some.clone()
        };
        model.tensors.extend(names.iter().map(named));
    }
    model
}

#[test]
fn a_lost_tensor_is_told_from_blocks_that_differ_by_design() {
    let lost = |blocks: &[&[&str]]| {
        let found = loader::breaches(&of_blocks(blocks));
        found.into_iter().map(|b| b.about).collect::<Vec<_>>()
    };
    let (all, no_up) = (&["attn_q", "ffn_up", "ffn_down"][..], &["attn_q", "ffn_down"][..]);
    assert_eq!(lost(&[all, all, no_up, all]), ["blk.2.ffn_up.weight"]);
    assert_eq!(lost(&[all, all, all, no_up]), ["blk.3.ffn_up.weight"]);
    assert!(lost(&[all, all, all]).is_empty());
    let experts = &["attn_q", "ffn_gate_exps", "ffn_up_exps"][..];
    let recurrent = &["ssm_in", "ssm_out", "ffn_up", "ffn_down"][..];
    let keys = &["attn_q", "attn_k", "attn_v"][..];
    let shared = &["attn_q"][..];
    assert!(lost(&[all, experts, experts, experts]).is_empty(), "a dense block leads");
    assert!(lost(&[recurrent, recurrent, all, recurrent]).is_empty(), "attention now and then");
    assert!(lost(&[keys, keys, shared, shared]).is_empty(), "keys shared at the end");
    assert!(lost(&[keys, keys, keys, shared]).is_empty(), "one that shares");
}
