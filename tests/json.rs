//! What `--json` prints is JSON with a version, and every field of it is on the page that documents it.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

/// The page, which `cargo doc` shows under `cli::json`.
const PAGE: &str = include_str!("../src/cli/json.md");

/// What a call in `golden` prints, one value a line with `--events`.
fn printed(line: &str) -> Vec<Value> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    let done = command.current_dir(golden).args(line.split(' ')).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let values: Result<Vec<Value>, _> =
        serde_json::Deserializer::from_str(&text).into_iter().collect();
    let values = values.unwrap_or_else(|e| panic!("{line}: {e}: {text}{said}"));
    assert!(!values.is_empty(), "{line}: {said}");
    values
}

/// The names of all fields; those of maps whose keys are a file's or a person's are no fields.
fn fields(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| fields(item, out)),
        Value::Object(map) => {
            for (name, value) in map {
                out.insert(name.clone());
                let free = ["digests", "metadata", "stated", "sizes", "further", "header", "model"];
                if !free.contains(&name.as_str()) || value.is_array() && name == "metadata" {
                    fields(value, out);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_is_documented_and_every_object_has_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let calls = [
        "inspect --json --tensors --vocab --metadata T/E9/ggml-model-q4_0.gguf".to_owned(),
        "inspect --json T/meta/T".to_owned(),
        "inspect --json families/ggla".to_owned(),
        format!("upgrade --json T/E4/ggml-model-q4_0.bin -o {out}/up.gguf"),
        format!("convert --json T/meta/T --type q8_0 -o {out}/c.gguf"),
        format!("convert --json T/E9/ggml-model-f16.gguf --to safetensors -o {out}/hf"),
        format!("quantize --json --measure T/E9/ggml-model-f16.gguf {out}/q.gguf Q4_0"),
        "verify --json T/meta".to_owned(),
        format!("verify --json --write {out}"),
        "compare --json T/E4/ggml-model-q4_0.bin T/E9/ggml-model-q4_0.gguf --text ../LICENSE"
            .to_owned(),
        "tensors --json T/E9/ggml-model-q4_0.gguf".to_owned(),
        "tensors --json T/E9/ggml-model-q4_0.gguf output.weight --rows 0..2".to_owned(),
        format!("tensors --json T/E9/ggml-model-q4_0.gguf output.weight --npy {out}/o.npy"),
        "metadata --json T/E9/ggml-model-q4_0.gguf".to_owned(),
        "metadata --json --dry-run T/E9/ggml-model-q4_0.gguf set general.name x".to_owned(),
        format!("split --json T/E9/ggml-model-q4_0.gguf {out}/shard --max-tensors 8"),
        format!("join --json {out}/shard-00001-of-00003.gguf -o {out}/joined.gguf"),
        "perplexity --json T/E9/ggml-model-q4_0.gguf -f ../LICENSE -c 64 --chunks 2".to_owned(),
        format!(
            "imatrix --json T/E9/ggml-model-q4_0.gguf -f ../LICENSE -c 64 --chunks 2 -o {out}/i.gguf"
        ),
        "imatrix --json --in-file imatrix/T.gguf --show-statistics".to_owned(),
        "explain --json ggjt-v1-llama".to_owned(),
        format!("batch upgrade --json --dry-run T/E5 -o {out}/plan"),
        format!("batch upgrade --json T/E5 -o {out}/batch"),
        format!("batch upgrade --events T/E6 -o {out}/events"),
    ];
    let mut unknown = Vec::new();
    for call in &calls {
        for value in printed(call) {
            let objects = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            for object in &objects {
                assert_eq!(object["schema_version"], 1, "{call}");
            }
            let mut names = BTreeSet::new();
            fields(&value, &mut names);
            let told = |name: &String| PAGE.contains(&format!("`{name}`"));
            unknown.extend(names.into_iter().filter(|n| !told(n)).map(|n| format!("{call}: {n}")));
        }
    }
    assert!(unknown.is_empty(), "not in src/cli/json.md:\n{}", unknown.join("\n"));
}

#[test]
fn every_verb_with_json_is_on_the_page() {
    let help = Command::new(env!("CARGO_BIN_EXE_regguf")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let verbs = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let verbs = verbs.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    let mut with_json = 0;
    for verb in verbs.filter_map(|line| line.split_whitespace().next()) {
        let help =
            Command::new(env!("CARGO_BIN_EXE_regguf")).args([verb, "--help"]).output().unwrap();
        if String::from_utf8(help.stdout).unwrap().contains("--json") {
            assert!(PAGE.contains(&format!("`{verb}`")), "{verb}");
            with_json += 1;
        }
    }
    assert!(with_json >= 14, "{with_json}");
}
