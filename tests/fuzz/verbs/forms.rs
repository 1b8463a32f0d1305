//! The forms of the command that are run, and what must hold after each.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output, Stdio},
};

/// IN is the damaged file, OTHER a sound one, OUT what is written.
pub const FORMS: [&[&str]; 16] = [
    &["inspect", "-v", "--metadata", "--tensors", "--vocab", "IN"],
    &["inspect", "--json", "--metadata", "--tensors", "--vocab", "IN"],
    &["verify", "IN"],
    &["verify", "--deep", "--json", "IN"],
    &["upgrade", "IN", "-o", "OUT"],
    &["upgrade", "IN", "--to", "ggjt-v3", "--json", "-o", "OUT"],
    &["convert", "IN", "--type", "f16", "--allow-requantize", "-o", "OUT"],
    &["quantize", "--allow-requantize", "IN", "OUT", "Q8_0"],
    &["compare", "--json", "IN", "OTHER"],
    &["run", "-m", "IN", "-p", "a b", "-n", "1"],
    &["metadata", "--json", "IN"],
    &["metadata", "IN", "set", "general.name", "str:x", "--anyway", "-o", "OUT"],
    &["join", "IN", "-o", "OUT"],
    &["tensors", "--json", "IN"],
    &["convert", "IN", "--to", "safetensors", "-o", "OUT"],
    &["batch", "upgrade", ".", "--dry-run", "--json"],
];

/// Memory in kilobytes and processor time in seconds that a run may take.
const LIMITS: &str = "ulimit -v 1500000; ulimit -t 20; exec \"$@\"";

/// Runs a form over a damaged file; its exit code, or what is wrong.
pub fn run(form: &[&str], bytes: &[u8], other: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // The name promises nothing, so that only the bytes speak.
    fs::write(path("in.bin"), bytes).unwrap();
    fs::write(path("other.bin"), other).unwrap();
    let words = form.iter().map(|word| match *word {
        "IN" => "in.bin",
        "OTHER" => "other.bin",
        "OUT" => "out.gguf",
        word => word,
    });
    let words: Vec<&str> = words.collect();
    let output = command(folder.path(), &words);
    let said = String::from_utf8_lossy(&output.stderr);
    let Some(code) = output.status.code() else {
        return Err(format!("signal {:?}: {said}", output.status.signal()));
    };
    if !(0..=5).contains(&code) || said.contains("panicked") {
        return Err(format!("exit code {code}: {said}"));
    }
    if code > 1 && said.trim().is_empty() && output.stdout.is_empty() {
        return Err(format!("exit code {code} without a word"));
    }
    let json = form.contains(&"--json") && !output.stdout.is_empty();
    if json && serde_json::from_slice::<serde_json::Value>(&output.stdout).is_err() {
        return Err("what it prints is no JSON".to_owned());
    }
    if fs::read(path("in.bin")).unwrap() != bytes || fs::read(path("other.bin")).unwrap() != other {
        return Err("an input was changed".to_owned());
    }
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !["in.bin", "other.bin"].contains(&name.as_str()))
        .collect();
    if code == 0 && form.contains(&"OUT") {
        names.retain(|name| name != "out.gguf");
        let inspect = command(folder.path(), &["inspect", "out.gguf"]);
        if !inspect.status.success() {
            let said = String::from_utf8_lossy(&inspect.stderr);
            return Err(format!("inspect refuses what was written: {said}"));
        }
    }
    if !names.is_empty() {
        return Err(format!("exit code {code} left {names:?}"));
    }
    Ok(code as usize)
}

fn command(folder: &Path, words: &[&str]) -> Output {
    let program = std::env::var("REGGUF_FUZZ_PROGRAM");
    let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_regguf").to_owned());
    Command::new("sh")
        .args(["-c", LIMITS, "sh", &program])
        .args(words)
        .current_dir(folder)
        .env("REGGUF_THREADS", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
