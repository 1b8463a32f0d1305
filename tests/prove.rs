//! Proofs of new files: kept where they say what their source says, refused where they do not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{
        Act, Loss, Plan, carry_proved,
        choose::ftype::FileType,
        convert,
        quantize::{self, Options},
        upgrade,
    },
    check::pair::{
        compare::compare,
        prove::{Proof, proof},
    },
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
    let outcomes =
        carry_proved(&model, &plans, Existing::Keep, &(), &proof(&model, Proof::Text, &()))
            .unwrap();
    let verdicts: Vec<String> = outcomes.into_iter().map(|o| o.verdict.unwrap()).collect();
    assert_eq!(verdicts[0], "proved: identical outputs on 64 positions");
    for verdict in &verdicts[1..] {
        assert!(verdict.starts_with("proved: the same likeliest token on "), "{verdict}");
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
    let outcomes =
        carry_proved(&model, &plans, Existing::Keep, &(), &proof(&model, Proof::Text, &()))
            .unwrap();
    let verdicts: Vec<String> = outcomes.into_iter().map(|o| o.verdict.unwrap()).collect();
    assert!(verdicts[0].contains("identical"), "{verdicts:?}");
    assert!(verdicts[1].contains("mean KL divergence"), "{verdicts:?}");
}

/// The files of model T in every era's own folder, each set once.
fn files_of_eras() -> Vec<(String, PathBuf)> {
    let eras = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T")).unwrap();
    let mut files = Vec::new();
    for folder in eras.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let era = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let model = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("ggml-model") && (name.ends_with(".bin") || name.ends_with(".gguf"))
        };
        files.extend(paths.filter(model).map(|path| (era.clone(), path)));
    }
    files
}

#[test]
fn a_lossless_upgrade_gives_the_same_logits_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let (mut exact, mut rounded) = (BTreeSet::new(), BTreeSet::new());
    for (era, path) in files_of_eras() {
        let name = path.display().to_string();
        let model = container::open(&path, &OpenOptions::default()).unwrap();
        let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
        let (model, plan) = upgrade::plan(model, &options).unwrap();
        let lossless = plan.steps.iter().all(|step| step.loss() == Loss::Exact);
        let plans = [plan];
        let outcome = match carry_proved(
            &model,
            &plans,
            Existing::Keep,
            &(),
            &proof(&model, Proof::Text, &()),
        ) {
            Ok(mut outcomes) => outcomes.remove(0),
            // June 2023 wrote Q6_K across the rows of 64: the runner multiplies whole rows.
            Err(error) => {
                assert!(
                    era == "E6k" && error.to_string().contains("output.weight"),
                    "{name}: {error}"
                );
                continue;
            }
        };
        let verdict = outcome.verdict.unwrap();
        // Rounding may change nothing, too.
        assert!(!lossless || verdict.contains("identical outputs on 64 "), "{name}: {verdict}");
        let new = container::open(&output, &OpenOptions::default()).unwrap();
        assert_eq!(compare(&model, &new, &()).unwrap().vocab, Vec::<String>::new(), "{name}");
        if lossless { &mut exact } else { &mut rounded }.insert(era);
        fs::remove_file(&output).unwrap();
    }
    for era in ["E1", "E2", "E2-2part", "E3", "E4", "E4b", "E5", "E6", "E6l-q64", "E7", "E8", "E10"]
    {
        assert!(exact.contains(era) || rounded.contains(era), "no file of {era}");
    }
    assert!(exact.len() >= 9, "{exact:?}");
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
        let error =
            carry_proved(&model, &plans, Existing::Keep, &(), &proof(&model, Proof::Text, &()))
                .unwrap_err();
        let said = error.to_string();
        assert!(said.contains("the proof failed") && said.contains("is explained"), "{said}");
        assert_eq!(error.exit_code(), 4);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(
            carry_proved(&model, &plans, Existing::Keep, &(), &proof(&model, Proof::Header, &()))
                .is_ok()
        );
    }
}
