//! What the command prints of one original file of each format, beside the texts in `tests/output`: one test a
//! format, named after it. `GOLDEN_UPDATE=1 cargo test --test output` writes them anew; whoever does reads the
//! difference.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use libtest_mimic::{Arguments, Failed, Trial};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Folders that are one model each, which the walk over files does not meet.
const FOLDERS: [(&str, &str); 3] =
    [("pth-zip", "T/meta/T"), ("pth-legacy", "T/meta-legacy/T"), ("safetensors", "T/hf-st")];

/// The smallest original file of each format, relative to `golden`.
fn files() -> BTreeMap<String, PathBuf> {
    let mut folders = vec![root().join("golden")];
    let mut smallest: BTreeMap<String, (u64, PathBuf)> = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // Imatrix data is in GGUF files too, which are no models.
            if path.is_dir() && !path.ends_with("imatrix") {
                folders.push(path);
                continue;
            }
            let ends = path.extension().is_some_and(|e| e == "bin" || e == "gguf" || e == "ggmm");
            let Some(model) = ends.then(|| regguf::open(&path).ok()).flatten() else { continue };
            if model.tensors.is_empty() || model.format.starts_with("pth") {
                continue;
            }
            let own = (fs::metadata(&path).unwrap().len(), path);
            let known = smallest.entry(model.format).or_insert_with(|| own.clone());
            if own < *known {
                *known = own;
            }
        }
    }
    let short = |path: PathBuf| path.strip_prefix(root().join("golden")).unwrap().to_owned();
    let files = smallest.into_iter().map(|(format, (_, path))| (format, short(path)));
    let folders = FOLDERS.map(|(format, path)| (format.to_owned(), PathBuf::from(path)));
    files.chain(folders).collect()
}

/// What the command prints of a file, call by call.
fn printed(format: &str, path: &Path) -> String {
    let path = path.to_str().unwrap();
    let upgrade = if Path::new("golden").join(path).is_dir() { "convert" } else { "upgrade" };
    let calls = [
        vec!["inspect", path],
        vec!["explain", format],
        vec![upgrade, "--dry-run", path],
        vec!["verify", path],
    ];
    let mut out = String::new();
    for words in calls {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
        let done = command.current_dir(root().join("golden")).args(&words).output().unwrap();
        out += &format!("$ regguf {}\n", words.join(" "));
        out += &String::from_utf8(done.stdout).unwrap();
        out += &String::from_utf8(done.stderr).unwrap();
        out += &format!("[{}]\n\n", done.status.code().unwrap());
    }
    out
}

fn compared(format: &str, path: &Path) -> Result<(), Failed> {
    let (stored, now) = (root().join(format!("tests/output/{format}.txt")), printed(format, path));
    if std::env::var_os("GOLDEN_UPDATE").is_some() {
        return Ok(fs::write(stored, now)?);
    }
    let then = fs::read_to_string(&stored).map_err(|e| format!("{}: {e}", stored.display()))?;
    let differs = then.lines().zip(now.lines()).position(|(a, b)| a != b);
    let at = differs.or((then.lines().count() != now.lines().count())
        .then(|| then.lines().count().min(now.lines().count())));
    let Some(at) = at else { return Ok(()) };
    let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
    Err(format!(
        "{}:{}\n  then: {}\n  now:  {}\nGOLDEN_UPDATE=1 cargo test --test output writes it anew",
        stored.display(),
        at + 1,
        line(&then),
        line(&now)
    )
    .into())
}

fn main() {
    let arguments = Arguments::from_args();
    let files = files();
    assert!(files.len() > 40, "{} formats", files.len());
    // A text without a file tests nothing.
    let mut tests = vec![Trial::test("every_text_has_its_file", {
        let files = files.clone();
        move || {
            for entry in fs::read_dir(root().join("tests/output"))? {
                let path = entry?.path();
                let name = path.file_stem().unwrap().to_str().unwrap();
                assert!(files.contains_key(name), "{}", path.display());
            }
            Ok(())
        }
    })];
    for (format, path) in files {
        tests.push(Trial::test(format.clone(), move || compared(&format, &path)));
    }
    libtest_mimic::run(&arguments, tests).exit();
}
