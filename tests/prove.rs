//! Proofs of new files: kept where they say what their source says, refused where they do not.

use std::{fs, path::Path};

use regguf::{
    change::{
        Act, Plan, carry_proved, convert,
        ftype::FileType,
        quantize::{self, Options},
    },
    check::prove::proof,
    container::{self, OpenOptions},
    model::Model,
};

fn source() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E8/ggml-model-f16.gguf");
    container::open(&path, &OpenOptions::default()).unwrap()
}

fn quantized(folder: &Path, types: &[&str]) -> (Model, Vec<Plan>) {
    let types = types.iter().map(|word| FileType::parse(word).unwrap()).collect();
    let options = Options { types, output: Some(folder.to_owned()), ..Options::default() };
    quantize::plan(source(), &options).unwrap()
}

#[test]
fn every_file_of_a_pass_has_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let (model, plans) = quantized(folder.path(), &["copy", "q8_0", "q4_k_m", "q2_k"]);
    let outcomes = carry_proved(&model, &plans, false, &(), &proof(&model, true)).unwrap();
    let verdicts: Vec<String> = outcomes.into_iter().map(|o| o.verdict.unwrap()).collect();
    assert_eq!(verdicts[0], "proved: identical outputs on 64 positions");
    for verdict in &verdicts[1..] {
        assert!(verdict.starts_with("proved: same likeliest token on "), "{verdict}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn a_conversion_is_proved_too() {
    let folder = tempfile::tempdir().unwrap();
    let options = convert::Options {
        types: ["f32", "bf16"].map(String::from).to_vec(),
        output: Some(folder.path().to_owned()),
        ..convert::Options::default()
    };
    let (model, plans) = convert::plan(source(), &options).unwrap();
    let outcomes = carry_proved(&model, &plans, false, &(), &proof(&model, true)).unwrap();
    let verdicts: Vec<String> = outcomes.into_iter().map(|o| o.verdict.unwrap()).collect();
    assert!(verdicts[0].contains("identical"), "{verdicts:?}");
    assert!(verdicts[1].contains("mean KL divergence"), "{verdicts:?}");
}

/// Two layers exchanged: every tensor is sound, and the model is another.
#[test]
fn one_failing_proof_keeps_no_file() {
    for word in ["q8_0", "q5_0"] {
        let folder = tempfile::tempdir().unwrap();
        let (model, mut plans) = quantized(folder.path(), &["f16", word]);
        let steps = &mut plans[1].steps;
        let at = |name: &str| steps.iter().position(|s| s.name == name).unwrap();
        let (a, b) = (at("blk.0.ffn_down.weight"), at("blk.1.ffn_down.weight"));
        assert!(matches!(steps[a].act, Act::Recode { .. }));
        (steps[a].source, steps[b].source) = (steps[b].source, steps[a].source);
        let error = carry_proved(&model, &plans, false, &(), &proof(&model, true)).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("the proof failed") && said.contains("is explained"), "{said}");
        assert_eq!(error.exit_code(), 4);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(carry_proved(&model, &plans, false, &(), &proof(&model, false)).is_ok());
    }
}
