//! RWKV v4 is run: a state in place of attention, the same in old files and new.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use regguf::{
    Existing,
    change::{self, upgrade},
    container::{self, OpenOptions},
    infer::{Session, Want, Weights},
    model::Model,
};
use serde_json::Value as Json;

const F16: &str = "rwkv/2023-04-02_v100_all-matrices/rwkv4-f16.bin";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name)
}

fn facts() -> Json {
    serde_json::from_slice(&fs::read(golden("rwkv4.json")).unwrap()).unwrap()
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// The logits after each of `tokens`, of which `step` are read at a time.
fn logits(weights: &Weights, tokens: &[u32], step: usize) -> Vec<Vec<f32>> {
    let mut session = Session::new(weights, tokens.len());
    let mut out = Vec::new();
    for part in tokens.chunks(step) {
        session.read(part, Want::All, |_, logits| out.push(logits.to_vec())).unwrap();
    }
    out
}

fn greedy(weights: &Weights, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut session = Session::new(weights, prompt.len() + count);
    let (mut said, mut next) = (Vec::new(), prompt.to_vec());
    while said.len() < count {
        let mut token = 0;
        session
            .read(&next, Want::Last, |_, logits| {
                let best =
                    (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
                token = u32::try_from(best.unwrap()).unwrap();
            })
            .unwrap();
        said.push(token);
        next = vec![token];
    }
    said
}

/// The numbers of the model's equations, in another program and another order of sums.
#[test]
fn logits_are_those_of_the_equations() {
    let weights = Weights::new(&open(&golden(F16))).unwrap();
    let facts = facts();
    for case in facts["logits"].as_array().unwrap() {
        let prompt = ids(&case["prompt_ids"]);
        let found = logits(&weights, &prompt, prompt.len()).pop().unwrap();
        let wanted = case["last_logits"].as_array().unwrap();
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            let apart = (f64::from(*found) - wanted.as_f64().unwrap()).abs();
            assert!(apart < 1e-4, "{found} for {wanted}");
        }
    }
}

/// What rwkv.cpp wrote of each file, in every stage of the container.
#[test]
fn the_likeliest_tokens_are_those_of_the_program() {
    let facts = facts();
    let mut seen = 0;
    for (name, run) in facts["greedy"].as_object().unwrap() {
        if !golden(name).exists() {
            continue;
        }
        let wanted = ids(&run["greedy_ids"]);
        let weights = Weights::new(&open(&golden(name))).unwrap();
        assert_eq!(greedy(&weights, &ids(&run["prompt_ids"]), wanted.len()), wanted, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}

/// How many tokens are read together changes no bit; nor does a text that was forgotten.
#[test]
fn a_batch_changes_no_bit() {
    let weights = Weights::new(&open(&golden(F16))).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 512).collect();
    let whole = logits(&weights, &tokens, 40);
    assert_eq!(whole, logits(&weights, &tokens, 1));
    assert_eq!(whole, logits(&weights, &tokens, 7));
    let mut session = Session::new(&weights, 80);
    session.read(&[5, 6, 7], Want::Last, |_, _| {}).unwrap();
    session.truncate(0);
    let mut again = Vec::new();
    session.read(&tokens, Want::All, |_, logits| again.push(logits.to_vec())).unwrap();
    assert_eq!(whole, again);
}

/// Where an upgrade loses nothing, the old file and the new one say the same, bit for bit.
#[test]
fn upgrades_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 101 % 512).collect();
    let facts = facts();
    for name in facts["greedy"].as_object().unwrap().keys().filter(|name| golden(name).exists()) {
        let output = Some(folder.path().join(name.replace('/', "-")));
        let options = upgrade::Options { output, exact: true, ..Default::default() };
        let (model, plan) = upgrade::plan(open(&golden(name)), &options).unwrap();
        change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
        let of = |model: &Model| logits(&Weights::new(model).unwrap(), &tokens, 24);
        assert_eq!(of(&model), of(&open(&plan.output)), "{name}");
    }
}

fn regguf(arguments: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_regguf")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

/// The file holds no vocabulary: texts are ids, or the person gives a tokenizer.
#[test]
fn texts_are_ids_or_the_tokenizer_is_given() {
    let facts = facts();
    let run = &facts["greedy"][F16];
    let words = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let (prompt, wanted) = (ids(&run["prompt_ids"]), ids(&run["greedy_ids"]));
    let (file, tokenizer) = (golden(F16), golden("rwkv4-tokenizer.json"));
    let (file, tokenizer) = (file.to_str().unwrap(), tokenizer.to_str().unwrap());
    let common = ["run", "-m", file, "--temp", "0", "-n", "32", "-p"];
    let prompted = |text: &str, more: &[&str]| regguf(&[&common[..], &[text], more].concat());
    let (code, said, remarks) = prompted(&words(&prompt), &[]);
    assert_eq!((code, said.trim()), (0, words(&[prompt, wanted].concat()).as_str()), "{remarks}");
    let (code, said, remarks) =
        prompted("You may reproduce and distribute copies", &["--vocab", tokenizer]);
    assert_eq!(code, 0, "{remarks}");
    assert!(
        said.contains("copies of the Work or Derivative Works thereof in any medium"),
        "{said}"
    );
    for text in ["You may", "58 512", ""] {
        let (code, _, remarks) = prompted(text, &[]);
        assert_eq!(code, 4, "{remarks}");
        assert!(remarks.contains("ids from 0 to 511"), "{remarks}");
    }
}

/// The proof of an upgrade runs both files over ids.
#[test]
fn upgrades_are_proved() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new.bin");
    for (name, proof) in [
        ("rwkv/2023-05-26_v100_last/rwkv4-q5_0.bin", "proved: identical outputs on 64 positions"),
        ("rwkv/2023-04-02_v100_all-matrices/rwkv4-q4_0.bin", "proved: "),
        ("rwkv/2023-04-22_v100_q4_2-q4_3/rwkv4-q4_3.bin", "proved: "),
    ] {
        let file = golden(name);
        let arguments =
            ["upgrade", file.to_str().unwrap(), "--prove", "--force", "-o", new.to_str().unwrap()];
        let (code, said, remarks) = regguf(&arguments);
        assert_eq!(code, 0, "{remarks}");
        assert!(format!("{said}{remarks}").contains(proof), "{said}{remarks}");
    }
}
