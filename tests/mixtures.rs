//! The types that llama-quantize gave every tensor of three models, in every file type and mode.
//!
//! `golden/newest-*.json` holds them: made by the llama-quantize that the Python package
//! llama-cpp-python 0.3.36 carries, with one hash a tensor.

use std::path::Path;

use regguf::change::choose::{
    ftype::FileType,
    mix::{Choice, Pattern, Rules, Shape, TypeName, Weight, choose, file_order},
};
use serde_json::Value;

/// A tensor's name and shape, outermost first.
type Named = (String, Vec<u64>);

/// Widths of the models: embedding, keys and values, feed-forward, vocabulary.
struct Dims(u64, u64, u64, u64);

const T: Dims = Dims(64, 64, 192, 512);
const G: Dims = Dims(128, 32, 448, 512);
const S: Dims = Dims(256, 256, 768, 2048);

impl Dims {
    fn of(&self, name: &str) -> Vec<u64> {
        let Dims(d, kv, feed_forward, vocab) = *self;
        match name.rsplit('.').nth(1).unwrap_or_default() {
            "token_embd" | "output" => vec![vocab, d],
            "attn_q" | "attn_output" => vec![d, d],
            "attn_k" | "attn_v" => vec![kv, d],
            "ffn_gate" | "ffn_up" => vec![feed_forward, d],
            "ffn_down" => vec![d, feed_forward],
            _ => vec![d],
        }
    }
}

fn llama(layers: u64, heads: u64, kv_heads: u64, experts: u64) -> Shape {
    let architecture = "llama".into();
    Shape { architecture, layers, heads, kv_heads, experts, extra_layers: 0 }
}

fn rules(word: &str) -> Rules {
    Rules::of(FileType::parse(word).unwrap())
}

/// Chooses types for tensors of these names and shapes, f16 but for vectors.
fn chosen(shape: &Shape, tensors: &[Named], rules: &Rules) -> Option<Vec<Choice>> {
    let present = |shape: &[u64]| -> TypeName { if shape.len() == 1 { "f32" } else { "f16" } };
    let weights: Vec<Weight> = tensors
        .iter()
        .map(|(name, shape)| Weight { name, shape, present: present(shape) })
        .collect();
    choose(shape, &weights, rules).ok()
}

fn agree(model: &str, dims: &Dims, shape: &Shape) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/newest-{model}.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let runs = golden["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 100);
    let listed = |run: &Value| -> Vec<(String, String)> {
        let tensors = run["tensors"].as_object().unwrap();
        tensors.iter().map(|(n, t)| (n.clone(), t[0].as_str().unwrap().to_lowercase())).collect()
    };
    let complete = runs.iter().find(|run| run["error"].is_null()).unwrap();
    let tensors: Vec<Named> =
        listed(complete).into_iter().map(|(n, _)| (n.clone(), dims.of(&n))).collect();
    assert!(tensors.is_sorted_by(|a, b| file_order(&a.0, &b.0).is_lt()));
    for run in runs {
        let (word, mode) = (run["type"].as_str().unwrap(), run["mode"].as_str().unwrap());
        let mut rules = rules(word);
        (rules.pure, rules.importance) = (mode == "pure", mode == "imatrix");
        let choices = chosen(shape, &tensors, &rules);
        let blind = |c: &Choice| c.needs_importance && !rules.importance;
        let refused = choices.as_ref().is_none_or(|c| c.iter().any(blind));
        assert_eq!(refused, !run["error"].is_null(), "{model} {word} {mode}");
        if refused {
            continue;
        }
        if !rules.file_type.copy {
            assert_eq!(run["file_type"], rules.file_type.number, "{word}");
        }
        for ((name, wanted), choice) in listed(run).iter().zip(choices.unwrap()) {
            assert_eq!(choice.becomes, wanted, "{model} {word} {mode} {name}");
        }
    }
}

#[test]
fn types_of_a_model_too_narrow_for_super_blocks() {
    agree("T", &T, &llama(2, 4, 4, 0));
}

#[test]
fn types_of_a_model_with_grouped_queries() {
    agree("G", &G, &llama(2, 8, 2, 0));
}

#[test]
fn types_of_a_model_with_rows_of_256() {
    agree("S", &S, &llama(4, 8, 8, 0));
}

/// A model of the S widths in this many blocks, with or without an output of its own.
fn model(layers: u64, output: bool, experts: u64) -> Vec<Named> {
    let parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_down", "ffn_gate", "ffn_up"];
    let mut names: Vec<String> = vec!["token_embd.weight".into()];
    names.extend(output.then(|| "output.weight".into()));
    names.extend((0..layers).flat_map(|n| parts.map(|p| format!("blk.{n}.{p}.weight"))));
    let mut tensors: Vec<Named> = names.into_iter().map(|n| (n.clone(), S.of(&n))).collect();
    for (name, shape) in &mut tensors {
        if experts > 0 && name.contains("ffn_") {
            *name = name.replace(".weight", "_exps.weight");
            shape.insert(0, experts);
        }
    }
    tensors.sort_by(|a, b| file_order(&a.0, &b.0));
    tensors
}

fn one<'a>(tensors: &[Named], choices: &'a [Choice], name: &str) -> &'a Choice {
    &choices[tensors.iter().position(|t| t.0 == name).unwrap()]
}

/// Layer counters run in file order: blocks by number, not by name.
#[test]
fn the_seventy_billion_model_favours_its_values() {
    let tensors = model(80, true, 0);
    let choices = chosen(&llama(80, 64, 8, 0), &tensors, &rules("Q4_K_M")).unwrap();
    let becomes = |name: &str| one(&tensors, &choices, name).becomes;
    assert_eq!(becomes("blk.9.attn_v.weight"), "q6_k");
    assert_eq!(becomes("blk.10.attn_v.weight"), "q5_k");
    assert_eq!(becomes("blk.12.attn_v.weight"), "q6_k");
    assert_eq!(becomes("blk.68.ffn_down.weight"), "q4_k");
    assert_eq!(becomes("blk.70.ffn_down.weight"), "q6_k");
    let whole = chosen(&llama(80, 64, 64, 0), &tensors, &rules("Q4_K_M")).unwrap();
    assert_eq!(one(&tensors, &whole, "blk.10.attn_v.weight").becomes, "q4_k");
}

#[test]
fn a_tied_embedding_is_treated_as_the_output() {
    let tied = model(4, false, 0);
    let becomes = |rules: &Rules| {
        let choices = chosen(&llama(4, 8, 8, 0), &tied, rules).unwrap();
        one(&tied, &choices, "token_embd.weight").becomes
    };
    assert_eq!(becomes(&rules("Q4_0")), "q6_k");
    assert_eq!(becomes(&Rules { output: Some("q8_0"), ..rules("Q4_0") }), "q8_0");
    assert_eq!(becomes(&Rules { embedding: Some("f16"), ..rules("Q4_0") }), "f16");
    assert_eq!(becomes(&Rules { pure: true, ..rules("Q4_0") }), "q4_0");
}

#[test]
fn eight_experts_keep_keys_and_values_finer() {
    let tensors = model(32, true, 8);
    let choose = |word| chosen(&llama(32, 32, 8, 8), &tensors, &rules(word)).unwrap();
    let choices = choose("Q4_K_M");
    let becomes = |name: &str| one(&tensors, &choices, name).becomes;
    assert_eq!(becomes("blk.20.attn_v.weight"), "q8_0");
    assert_eq!(becomes("blk.20.attn_k.weight"), "q8_0");
    assert_eq!(becomes("blk.20.attn_output.weight"), "q5_k");
    assert_eq!(becomes("blk.5.ffn_down_exps.weight"), "q4_k");
    assert_eq!(becomes("blk.6.ffn_down_exps.weight"), "q6_k");
    let choices = choose("MXFP4_MOE");
    assert_eq!(one(&tensors, &choices, "blk.3.ffn_up_exps.weight").becomes, "mxfp4");
    assert_eq!(one(&tensors, &choices, "blk.3.attn_q.weight").becomes, "q8_0");
}

#[test]
fn patterns_come_before_mixtures_but_not_before_what_is_never_quantized() {
    let mut tensors = model(4, true, 0);
    tensors.push(("blk.3.ffn_gate_inp.weight".into(), vec![8, 256]));
    let overrides = vec![
        (Pattern::new("ffn_(down|gate_inp)").unwrap(), "q8_0"),
        (Pattern::new("ffn").unwrap(), "q2_k"),
        (Pattern::new("output.weight").unwrap(), "q5_0"),
    ];
    let rules = Rules { overrides, output: Some("q4_1"), ..rules("Q4_K_M") };
    let choices = chosen(&llama(4, 8, 8, 0), &tensors, &rules).unwrap();
    let becomes = |name: &str| one(&tensors, &choices, name).becomes;
    assert_eq!(becomes("blk.0.ffn_down.weight"), "q8_0");
    assert_eq!(becomes("blk.0.ffn_up.weight"), "q2_k");
    assert_eq!(becomes("blk.0.attn_output.weight"), "q5_0");
    assert_eq!(becomes("output.weight"), "q4_1");
    assert_eq!(becomes("blk.3.ffn_gate_inp.weight"), "f16");
    let rules = Rules { leave_output: true, ..rules };
    let choices = chosen(&llama(4, 8, 8, 0), &tensors, &rules).unwrap();
    assert_eq!(one(&tensors, &choices, "output.weight").becomes, "f16");
}

#[test]
fn rows_that_fit_no_block_stay_at_sixteen_bits() {
    let odd: Vec<Named> = vec![("blk.0.attn_q.weight".into(), vec![8, 80])];
    let choose = |word| chosen(&llama(1, 1, 1, 0), &odd, &rules(word));
    let choice = Choice { becomes: "f16", instead_of: Some("q4_k"), needs_importance: false };
    assert_eq!(choose("Q4_K_S"), Some(vec![choice]));
    assert_eq!(choose("Q1_0"), None);
}
