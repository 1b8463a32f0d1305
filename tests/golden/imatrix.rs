//! Importance matrices as llama-imatrix converts them, puts them together and tells of them: `golden/imatrix/facts.json`
//! has the digests of what it wrote and the figures that it printed.

use std::{fs, process::Command};

use libtest_mimic::{Failed, Trial};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// The old files, which come back from GGUF byte for byte.
const OLD: [&str; 2] = ["T/E10/imatrix.dat", "G/E10/imatrix.dat"];

/// A test for each file that llama-imatrix wrote of these files, and for each that it told of.
pub fn all() -> impl Iterator<Item = Trial> {
    let facts = fs::read(super::golden().join("imatrix/facts.json")).unwrap();
    let facts: Json = serde_json::from_slice(&facts).unwrap();
    let runs = facts["written"].as_array().unwrap().clone();
    let told = facts["statistics"].as_object().unwrap().clone();
    assert!(runs.len() >= 8 && told.len() >= 3, "{} {}", runs.len(), told.len());
    let written = runs.into_iter().map(|run| {
        let name = format!("{} to {} of {}", inputs(&run), text(&run, "format"), run["context"]);
        Trial::test(name, move || is_written_so(&run))
    });
    let told = told.into_iter().map(|(name, golden)| {
        Trial::test(format!("{name} statistics"), move || tells_so(&name, &golden))
    });
    let back = OLD.map(|name| Trial::test(format!("{name} and back"), move || comes_back(name)));
    written.chain(told).chain(back)
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key].as_str().unwrap()
}

/// The files that a run read, as the command takes them.
fn inputs(run: &Json) -> String {
    let names: Vec<&str> =
        run["in"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    names.join(",")
}

/// What a call of the command with these words prints.
fn call(words: &[&str]) -> Result<String, Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    let out = command.current_dir(super::golden()).arg("imatrix").args(words).output()?;
    match out.status.success() {
        true => Ok(String::from_utf8(out.stdout)?),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned().into()),
    }
}

/// The bytes that a call with these words writes.
fn written(words: &[&str]) -> Result<Vec<u8>, Failed> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    let words: Vec<&str> = words.iter().copied().chain(["-o", out.to_str().unwrap()]).collect();
    call(&words)?;
    Ok(fs::read(out)?)
}

/// The file is llama-imatrix's, byte for byte.
fn is_written_so(run: &Json) -> Result<(), Failed> {
    let (inputs, context) = (inputs(run), run["context"].to_string());
    let words = ["--in-file", &inputs, "-c", &context, "--output-format", text(run, "format")];
    let bytes = written(&words)?;
    let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(digest, text(run, "sha256"));
    Ok(())
}

/// A `.dat` file that became a GGUF is the same file again.
fn comes_back(name: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let keyed = folder.path().join("keyed.gguf");
    for context in ["512", "128"] {
        fs::write(&keyed, written(&["--in-file", name, "-c", context])?)?;
        let back = written(&["--in-file", keyed.to_str().unwrap(), "--output-format", "dat"])?;
        assert!(back == fs::read(super::golden().join(name))?, "in chunks of {context}");
    }
    Ok(())
}

/// The measures of a tensor in the order in which llama-imatrix prints them, behind its layer and its name.
const MEASURES: [&str; 11] = [
    "sum",
    "min",
    "max",
    "mean",
    "deviation",
    "active",
    "columns",
    "entropy",
    "entropy_share",
    "zd",
    "cosine",
];

/// Its figures are those that llama-imatrix prints.
fn tells_so(name: &str, golden: &Json) -> Result<(), Failed> {
    let told = call(&["--in-file", name, "--show-statistics", "--json"])?;
    let told: Json = serde_json::from_str(&told)?;
    let rows = |what: &str| golden[what].as_array().unwrap();
    let own = |what: &str| told[what].as_array().unwrap();
    assert_eq!(own("tensors").len(), rows("tensors").len());
    assert_eq!(own("layers").len(), rows("layers").len());
    for row in rows("tensors") {
        let full = format!("blk.{}.{}.weight", row[0].as_str().unwrap(), row[1].as_str().unwrap());
        let own = own("tensors").iter().find(|own| own["name"] == full.as_str());
        let own = own.unwrap_or_else(|| panic!("no {full}"));
        for (measure, golden) in MEASURES.iter().zip(&row.as_array().unwrap()[2..]) {
            // A layer that is the first is like none before it.
            let found = own[measure].as_f64().unwrap_or(0.0);
            assert!(near(found, golden), "{full} {measure}: {found}, {golden}");
        }
    }
    for (row, own) in rows("layers").iter().zip(own("layers")) {
        assert_eq!(row[0].as_str().unwrap(), own["layer"].to_string());
        for (measure, golden) in ["sum", "zd", "cosine"].iter().zip(&row.as_array().unwrap()[1..]) {
            let found = own[measure].as_f64().unwrap();
            assert!(near(found, golden), "layer {} {measure}: {found}, {golden}", own["layer"]);
        }
    }
    Ok(())
}

/// Whether a figure is the one that is printed, in percent where that is. llama-imatrix adds up in float32: its last
/// digit may be one off.
fn near(found: f64, printed: &Json) -> bool {
    let text = printed.as_str().unwrap();
    let (text, factor) = match text.strip_suffix('%') {
        Some(text) => (text, 100.0),
        None => (text, 1.0),
    };
    let digits = text.split_once('.').map_or(0, |(_, rest)| rest.len());
    let unit = 0.1f64.powi(i32::try_from(digits).unwrap());
    (factor * found - text.parse::<f64>().unwrap()).abs() <= 1.01 * unit
}
