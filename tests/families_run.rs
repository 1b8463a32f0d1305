//! The runner on families beside LLaMA, against PyTorch's float32 pass over the checkpoint and against what
//! the programs of the time wrote: golden/families, of which golden/README.md says where each is from.

use std::{fs, path::Path};

use regguf::{
    Existing,
    change::{self, upgrade},
    container::{self, OpenOptions},
    infer::{Sampler, Sampling, Session, Special, Tokenizer, Want, Weights},
    model::Model,
};
use serde_json::Value as Json;

/// A model, and what is known of it.
fn families() -> Vec<(String, Model, Json)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families");
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "gguf") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let known = fs::read(path.with_extension("json")).unwrap();
            let known = serde_json::from_slice(&known).unwrap();
            let model = container::open(&path, &OpenOptions::default());
            out.push((name, model.unwrap(), known));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(out.len() >= 10, "{} models", out.len());
    out
}

fn numbers<T: From<u16>>(json: &Json, of: impl Fn(&Json) -> T) -> Vec<T> {
    json.as_array().unwrap().iter().map(of).collect()
}

fn tokens(json: &Json) -> Vec<u32> {
    numbers(json, |v| v.as_u64().unwrap() as u32)
}

fn likeliest(logits: &[f32]) -> u32 {
    Sampler::new(Sampling::GREEDY).choose(logits)
}

/// How far apart the likeliest tokens are.
fn lead(logits: &[f32]) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted[0] - sorted[1]
}

#[test]
fn logits_are_those_of_float32() {
    for (name, model, known) in families() {
        let weights = Weights::new(&model).unwrap_or_else(|error| panic!("{name}: {error}"));
        for case in known["float32"].as_array().unwrap() {
            let (read, argmax) = (tokens(&case["tokens"]), tokens(&case["argmax"]));
            let (mut last, mut at) = (Vec::new(), 0);
            Session::new(&weights, read.len())
                .read(&read, Want::All, |i, logits| {
                    let wanted = argmax[i];
                    assert!(
                        likeliest(logits) == wanted || lead(logits) < 0.02,
                        "{name}: position {i}: {} instead of {wanted}, {} ahead",
                        likeliest(logits),
                        lead(logits)
                    );
                    (last, at) = (logits.to_vec(), i + 1);
                })
                .unwrap();
            assert_eq!(at, read.len(), "{name}");
            let expected = numbers(&case["last_logits"], |v| v.as_f64().unwrap() as f32);
            let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
            let apart = last.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            println!("{name}: {:.1e} of the largest logit, {apart:.1e}", apart / largest);
            assert_eq!(last.len(), expected.len(), "{name}");
            // Other checkpoints than these hold numbers that halves round.
            let exact = ["bloom", "falcon"].iter().any(|exact| name.starts_with(exact));
            let most = if exact { 1e-5 } else { 1e-3 } * largest;
            assert!(apart <= most, "{name}: {apart} apart, largest {largest}");
        }
    }
}

/// ChatGLM's file of halves: PyTorch's logits over the same weights.
#[test]
fn chatglm_says_what_float32_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families");
    let facts: Json = serde_json::from_slice(&fs::read(root.join("facts.json")).unwrap()).unwrap();
    let files = facts["files"].as_array().unwrap().iter();
    let known: Vec<_> = files.filter(|fact| fact["float32"].is_object()).collect();
    assert!(!known.is_empty());
    for fact in known {
        let path = root.join(fact["path"].as_str().unwrap());
        let model = container::open(&path, &OpenOptions::default()).unwrap();
        let weights = Weights::new(&model).unwrap();
        let (read, argmax) =
            (tokens(&fact["float32"]["tokens"]), tokens(&fact["float32"]["argmax"]));
        let mut last = Vec::new();
        Session::new(&weights, read.len())
            .read(&read, Want::All, |i, logits| {
                assert_eq!(likeliest(logits), argmax[i], "{}: {i}", path.display());
                last = logits.to_vec();
            })
            .unwrap();
        let expected = numbers(&fact["float32"]["last_logits"], |v| v.as_f64().unwrap() as f32);
        let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
        let apart = last.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        // Weights are halves there too; the logits were written with five digits.
        assert!(apart <= 1e-5 * largest, "{apart} of {largest}");
    }
}

/// BERT's vectors of a text, its mean of unit length: what bert.cpp said of its own files.
#[test]
fn vectors_are_those_of_the_program() {
    const TEXT: &str = "This license grants the freedom to share the software.";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families");
    let facts: Json = serde_json::from_slice(&fs::read(root.join("facts.json")).unwrap()).unwrap();
    let files = facts["files"].as_array().unwrap().iter();
    let known: Vec<_> = files.filter(|fact| fact["embedding"].is_array()).collect();
    assert_eq!(known.len(), 5);
    for fact in known {
        let path = fact["path"].as_str().unwrap();
        let model = container::open(&root.join(path), &OpenOptions::default()).unwrap();
        let tokenizer = Tokenizer::new(&model.vocab).unwrap();
        let read = tokenizer.encode_whole(TEXT, Special::Text);
        assert_eq!(read, tokens(&fact["prompt_ids"]), "{path}");
        assert_eq!(tokenizer.decode(&read), TEXT.to_lowercase().replace('.', " ."));
        let weights = Weights::new(&model).unwrap();
        let all = Session::new(&weights, read.len()).vectors(&read).unwrap();
        let mut mean = vec![0.0; weights.config.width];
        for vector in all.chunks_exact(mean.len()) {
            mean.iter_mut().zip(vector).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        let length = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        let wanted = numbers(&fact["embedding"], |v| v.as_f64().unwrap());
        let pairs = mean.iter().zip(&wanted);
        let cosine = pairs.clone().map(|(a, b)| a / length * b).sum::<f64>();
        let apart = pairs.map(|(a, b)| (a / length - b).abs()).fold(0.0, f64::max);
        println!("{path}: {apart:.1e} apart, cosine {cosine:.6}");
        // The program multiplied halves with halves, and blocks with blocks of 8 bits.
        let most = if path.ends_with("f16.bin") { 2e-4 } else { 0.02 };
        assert!(apart < most && cosine > 0.999, "{path}: {apart}, {cosine}");
    }
}

/// What greedy sampling goes on with, token for token.
#[test]
fn greedy_text_is_that_of_the_programs() {
    for (name, model, known) in families() {
        let weights = Weights::new(&model).unwrap();
        let cases = known["float32"].as_array().unwrap().iter();
        for case in cases.chain(known["programs"].as_array().unwrap()) {
            let Some(expected) = case.get("continuation").map(tokens) else { continue };
            let mut read = tokens(&case["tokens"]);
            let mut session = Session::new(&weights, read.len() + expected.len());
            let mut said = Vec::new();
            while said.len() < expected.len() {
                let mut token = 0;
                let mut ahead = 0.0;
                session
                    .read(&read, Want::Last, |_, l| (token, ahead) = (likeliest(l), lead(l)))
                    .unwrap();
                if token != expected[said.len()] && ahead < 0.05 {
                    println!("{name}: parts after {} tokens at a tie, {ahead}", said.len());
                    break;
                }
                said.push(token);
                read = vec![token];
            }
            assert_eq!(said, expected[..said.len()], "{name}: {}", case["program"]);
        }
    }
}

/// The vocabularies cut texts into the tokens that the original tokenizers cut them into, and back.
#[test]
fn texts_become_the_known_tokens() {
    for (name, model, known) in families() {
        let tokenizer = Tokenizer::new(&model.vocab).unwrap_or_else(|e| panic!("{name}: {e}"));
        let of_programs = known["programs"].as_array().unwrap();
        let mut compared = 0;
        for case in known["float32"].as_array().unwrap().iter().chain(of_programs) {
            let text = case.get("text").or(case.get("prompt")).and_then(Json::as_str);
            let Some(text) = text else { continue };
            let wanted = tokens(&case["tokens"]);
            let found = tokenizer.encode_whole(text, Special::Text);
            for tokens in [&found, &wanted] {
                assert_eq!(tokenizer.decode(tokens), text, "{name}");
            }
            // The programs took the longest token at each place, which differs inside long words.
            if text != "distribute them as separate" {
                assert_eq!(found, wanted, "{name}: {text:?}");
            }
            compared += 1;
        }
        assert!(compared > 0, "{name}");
    }
}

/// Texts that share each reading of the weights say what each says alone, bit for bit, however far each has come.
#[test]
fn texts_side_by_side_are_read_as_alone() {
    let rwkv = "golden/families/rwkv/2023-04-02_v100_all-matrices/rwkv4-f16.bin";
    let rwkv = Path::new(env!("CARGO_MANIFEST_DIR")).join(rwkv);
    let rwkv = container::open(&rwkv, &OpenOptions::default()).unwrap();
    let models = families().into_iter().map(|(name, model, _)| (name, model));
    for (name, model) in models.chain([("rwkv".to_owned(), rwkv)]) {
        let weights = Weights::new(&model).unwrap();
        let texts: [&[u32]; 4] = [&[5, 17, 3, 9, 9, 1], &[2], &[], &[30, 31, 32, 33]];
        let alone = texts.map(|text| {
            let mut logits = Vec::new();
            let take = |_: usize, found: &[f32]| logits.extend(found.iter().map(|v| v.to_bits()));
            Session::new(&weights, 6).read(text, Want::All, take).unwrap();
            logits
        });
        let mut session = Session::new(&weights, 6).side_by_side(60);
        assert_eq!(session.texts(), 4);
        let mut together = [const { Vec::new() }; 4];
        // The first two tokens of each, then what is left.
        for part in [texts.map(|t| &t[..t.len().min(2)]), texts.map(|t| &t[t.len().min(2)..])] {
            let take = |text: usize, _: usize, found: &[f32]| {
                together[text].extend(found.iter().map(|v| v.to_bits()));
            };
            session.read_each(&part, Want::All, take).unwrap();
        }
        assert!(together == alone, "{name}");
        // Of the last tokens alone only those are told, each with its place.
        let mut told = Vec::new();
        session.truncate(0);
        session.read_each(&texts, Want::Last, |text, at, _| told.push((text, at))).unwrap();
        assert_eq!(told, [(0, 5), (1, 0), (3, 3)], "{name}");
    }
}

/// A model of learned positions has no vector for the next one.
#[test]
fn learned_positions_end() {
    let (_, model, _) = families().into_iter().find(|(name, ..)| name == "gpt2").unwrap();
    let weights = Weights::new(&model).unwrap();
    let mut session = Session::new(&weights, 1000);
    session.read(&[1; 128], Want::Last, |_, _| {}).unwrap();
    let error = session.read(&[1], Want::Last, |_, _| {}).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("128 positions"), "{error}");
}

/// Every tensor that the families describe as needed is: without it the model is refused, not run on less.
#[test]
fn no_tensor_is_done_without() {
    for (name, model, _) in families() {
        for lost in 0..model.tensors.len() {
            let mut less = model.clone();
            let tensor = less.tensors.remove(lost).name;
            // Outputs may be tied; a second norm of Falcon's is where it is.
            if ["output.weight", "blk.0.attn_norm_2.weight"].contains(&tensor.as_str()) {
                continue;
            }
            let found = Weights::new(&less).map(|_| ());
            let error = found.expect_err(&format!("{name} runs without {tensor}"));
            assert_eq!(error.exit_code(), 4, "{name} without {tensor}: {error}");
        }
    }
}

/// Old files, upgraded, go on from a prompt as their own programs did: text for text, up to the first place where the
/// two likeliest tokens are as near as those programs' arithmetic is coarse.
#[test]
fn upgraded_files_say_what_their_programs_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families");
    let facts: Json = serde_json::from_slice(&fs::read(root.join("facts.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (mut whole, mut all) = (0, 0);
    for fact in facts["files"].as_array().unwrap() {
        let path = fact["path"].as_str().unwrap();
        let of = |family: &&str| path.split('/').next() == Some(family);
        let told = |run: &&Json| run["prompt_ids"].is_array() && run.get("program_bug").is_none();
        let runs: Vec<&Json> = fact["runs"].as_array().into_iter().flatten().filter(told).collect();
        if !UPGRADED.iter().any(of) || runs.is_empty() {
            continue;
        }
        // Two orders of Falcon's rows lie in the same bytes.
        let format = fact.get("either").map(|_| fact["format"].as_str().unwrap().to_owned());
        let options = OpenOptions { format, ..OpenOptions::default() };
        let old = container::open(&root.join(path), &options).unwrap();
        let output = folder.path().join(path.replace('/', "-")).with_extension("gguf");
        let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
        let (old, plan) = upgrade::plan(old, &options).unwrap_or_else(|e| panic!("{path}: {e}"));
        change::carry(&old, &[plan], Existing::Keep, &()).unwrap();
        let model = container::open(&output, &OpenOptions::default()).unwrap();
        let weights = Weights::new(&model).unwrap();
        let tokenizer = Tokenizer::new(&model.vocab).unwrap();
        for run in runs {
            let mut read = tokens(&run["prompt_ids"]);
            // The text with the prompt before it, or what follows by itself; programs of the time printed bytes
            // that are no text by themselves in ways of their own.
            let text = match path {
                "bloom/2023-03-15_planar-q4_1/bloom-T-q4_0.bin" => FOUR_BITS,
                _ => run["text"].as_str().unwrap(),
            };
            let text = text.split(|c: char| !c.is_ascii() || c == '\\').next().unwrap();
            let prompt = tokenizer.decode(&read);
            let text = text.strip_prefix(&prompt).unwrap_or(text);
            let mut session = Session::new(&weights, 128);
            let (mut said, mut lead_at) = (Vec::new(), 0.0);
            while tokenizer.decode(&said).len() < text.len() && session.cache().free() > read.len()
            {
                let mut token = 0;
                session
                    .read(&read, Want::Last, |_, l| (token, lead_at) = (likeliest(l), lead(l)))
                    .unwrap();
                said.push(token);
                if !alike(&tokenizer.decode(&said), text) {
                    break;
                }
                read = vec![token];
            }
            let found = tokenizer.decode(&said);
            all += 1;
            if alike(&found, text) {
                whole += 1;
            } else {
                // The first program for blocks brought what it multiplied them with to 4 bits too.
                let first = run["program"].as_str().is_some_and(|name| name.contains("acd4aeee"));
                let near = if first { 1.0 } else { 0.25 };
                assert!(lead_at < near, "{path}: {lead_at} ahead\n{found:?}\n{text:?}");
                println!("{path}: parts at a lead of {lead_at}");
            }
        }
    }
    assert!(all > 60 && all - whole <= 3, "{whole} of {all}");
}

/// What llama.cpp of 2026 makes of the Q4_0 file of BLOOM, its blocks laid out anew by an independent script. Its own
/// program of March 2023 brought activations to 4 bits too, and says "with or withoutationsuce and".
const FOUR_BITS: &str =
    " of the Work or Derivative Works thereof in any medium, with or without modifications,";

/// Families of which old files are upgraded.
const UPGRADED: [&str; 14] = [
    "bloom",
    "falcon",
    "gpt-2",
    "gpt-j",
    "gpt-j-256",
    "starcoder",
    "gpt-neox",
    "gpt-neox-seq",
    "dolly-v2",
    "mpt",
    "ggmm",
    "replit",
    "replit-padded",
    "repl",
];

/// Whether one text begins as the other does; the last character may be cut.
fn alike(found: &str, wanted: &str) -> bool {
    let found = found.trim_end_matches('\u{fffd}');
    wanted.starts_with(found) || found.starts_with(wanted)
}
