//! Files whose bytes stand for two models: what the runner says of either reading.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    check::pair::readings,
    container::{self, OpenOptions},
    model::Model,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name)
}

fn open(path: &Path, format: &str) -> Model {
    let options = OpenOptions { format: Some(format.to_owned()), ..OpenOptions::default() };
    container::open(path, &options).unwrap_or_else(|error| panic!("{error}"))
}

/// What the original program wrote with these models of GPT-NeoX, which learned little else.
const LEARNED: &str = " of the Program a copy of this License along with the Program.\n\nThese requirements apply to \
                       the modified work as a w";

/// Of 13 June 2023 and of the day after: rows in groups, and regrouped.
#[test]
fn falcons_weights_bear_out_the_order_in_which_their_program_wrote_them() {
    for (name, right) in [
        ("falcon/2023-06-13_jploski_hf-order/gqa-q4_0.bin", "ggml-falcon-hf-order"),
        ("falcon/2023-06-14_jploski_regrouped/gqa-q4_0.bin", "ggml-falcon"),
        ("falcon/2023-06-14_jploski_regrouped/gqa-q4_1.bin", "ggml-falcon"),
    ] {
        let said = readings::of_file(&golden(name), &OpenOptions::default()).unwrap().unwrap();
        assert!(said.ends_with(&format!("bear out {right}")), "{name}: {said}");
    }
    // Of what is sure nothing is asked.
    let sure = golden("falcon/2023-07-03_ggllm_ggcc10/gqa-q4_0.bin");
    assert_eq!(readings::of_file(&sure, &OpenOptions::default()).unwrap(), None);
}

/// Compared with each other, both are what `--format` says; without it what the weights bear out is told.
#[test]
fn what_is_said_of_the_reference_counts_for_the_others() {
    let file = golden("falcon/2023-06-13_jploski_hf-order/gqa-q4_0.bin").display().to_string();
    let compare = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_regguf"));
        command.args(["compare", &file, &file]).args(words).output().unwrap()
    };
    assert_eq!(compare(&["--format", "ggml-falcon-hf-order"]).status.code(), Some(0));
    let unsaid = compare(&[]);
    let said = String::from_utf8_lossy(&unsaid.stderr).into_owned();
    assert!(
        unsaid.status.code() == Some(3) && said.contains("bear out ggml-falcon-hf-order"),
        "{said}"
    );
}

/// RedPajama under the old header: the sequential model of today's header, without the word that says so.
#[test]
fn residuals_one_after_the_other_are_told_from_parallel_ones() {
    let folder = tempfile::tempdir().unwrap();
    for (name, right) in [
        ("gpt-neox-seq/2023-05-13_new-header_pairs-f32/ggml-model-q4_0.bin", "ggml-redpajama"),
        ("gpt-neox/2023-05-13_new-header_pairs-f32/ggml-model-q4_0.bin", "ggml-gptneox-old"),
    ] {
        let mut bytes = fs::read(golden(name)).unwrap();
        bytes.drain(4 + 6 * 4..4 + 7 * 4);
        let path = folder.path().join("old.bin");
        fs::write(&path, bytes).unwrap();
        let (one, two) = (open(&path, "ggml-gptneox-old"), open(&path, "ggml-redpajama"));
        let said = readings::said(&one, &two, LEARNED).unwrap();
        assert!(said.ends_with(&format!("bear out {right}")), "{name}: {said}");
    }
}
