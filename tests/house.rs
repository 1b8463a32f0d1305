//! The rules of the house: what README shows is what the descriptions say, layers point downward, files
//! stay readable, unsafe code and printing stay where they belong.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::format::{catalog, container::Skeleton};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The table of formats that are read whole, as README has it.
fn table() -> String {
    let mut out = String::from("| format | written | by |\n|---|---|---|\n");
    for c in catalog::containers() {
        if matches!(c.format.skeleton, Skeleton::None) || c.detect.asked {
            continue;
        }
        let to = c.format.lived.to.as_deref().unwrap_or("today");
        let source = c.format.source.split([':', ',']).next().unwrap_or_default();
        out += &format!("| {} | {} to {to} | {source} |\n", c.format.title, c.format.lived.from);
    }
    out
}

#[test]
fn the_readme_shows_the_formats_that_are_described() {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- formats -->\n", "<!-- /formats -->");
    let (before, rest) = readme.split_once(begin).unwrap();
    let (now, after) = rest.split_once(end).unwrap();
    if std::env::var_os("GOLDEN_UPDATE").is_some() {
        fs::write(&path, format!("{before}{begin}{}{end}{after}", table())).unwrap();
        return;
    }
    assert_eq!(now, table(), "GOLDEN_UPDATE=1 cargo test --test house writes it");
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn layers_point_downward() {
    // Lower first; those of one group may use each other.
    const LAYERS: [&[&str]; 9] = [
        &["error", "limits", "size"],
        &["bytes"],
        &["format"],
        &["quant"],
        &["model"],
        &["container", "checkpoint"],
        &["change", "check", "infer"],
        &["batch"],
        &["cli"],
    ];
    let level = |name: &str| LAYERS.iter().position(|group| group.contains(&name));
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for path in files {
        let inside = path.strip_prefix(&src).unwrap();
        let layer = inside.iter().next().unwrap().to_string_lossy().replace(".rs", "");
        let Some(own) = level(&layer) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in code.split("crate::").skip(1).filter(|w| !w.starts_with('{')) {
            let used: String = word.chars().take_while(char::is_ascii_alphanumeric).collect();
            let above = level(&used).is_some_and(|l| l > own);
            assert!(!above, "{}: {layer} uses {used}, a higher layer", path.display());
        }
        for group in code.split("use crate::{").skip(1) {
            let group = group.split("\n};").next().unwrap();
            let direct = group.lines().filter(|l| l.starts_with("    ") && !l.starts_with("     "));
            for line in direct {
                let used: String =
                    line.trim().chars().take_while(char::is_ascii_alphanumeric).collect();
                let above = level(&used).is_some_and(|l| l > own);
                assert!(!above, "{}: {layer} uses {used}, a higher layer", path.display());
            }
        }
    }
}

/// What is code in a file: without its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

#[test]
fn files_stay_readable() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    for path in files.iter().filter(|p| !p.starts_with(root().join("tests/fuzz/target"))) {
        let lines = fs::read_to_string(path).unwrap().lines().count();
        assert!(lines < 600, "{}: {lines} lines", path.display());
    }
}

/// What is read through [`regguf::bytes`] is known as an input, and so never a target.
#[test]
fn inputs_are_read_in_one_way() {
    let src = root().join("src");
    let mut files = Vec::new();
    for room in ["batch", "change", "checkpoint", "cli", "container", "infer", "model"] {
        sources(&src.join(room), &mut files);
    }
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for call in ["fs::read(", "read_to_string(", "File::open("] {
            let own = path.ends_with("batch/find.rs") || path.ends_with("tests.rs");
            assert!(own || !code(&text).contains(call), "{}: {call}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stays_on_its_islands() {
    // Maps, loads and stores of kernels, calls into code compiled for another instruction set.
    let islands = ["bytes/map.rs", "quant/isa.rs"];
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(&src).unwrap();
        let mut said = false;
        for line in text.lines().map(str::trim) {
            let used = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|u| line.contains(u));
            let island = islands.iter().any(|known| place == Path::new(known));
            assert!(!used || island, "{}: {line}", place.display());
            assert!(!used || said, "{}: no SAFETY above {line}", place.display());
            // A comment goes on over the lines that follow it.
            said = ["// SAFETY:", "/// # Safety"].iter().any(|s| line.starts_with(s))
                || (said && (line.starts_with("//") || line.starts_with("#[")));
        }
    }
}

#[test]
fn only_the_command_prints_and_ends() {
    let words = [
        "println!",
        "eprintln!",
        "print!(",
        "eprint!(",
        "dbg!(",
        "process::exit",
        "process::abort",
    ];
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    // The build script speaks to cargo.
    let above = [src.join("cli"), src.join("format/embed.rs")];
    for path in files.iter().filter(|p| !above.iter().any(|a| p.starts_with(a))) {
        let text = fs::read_to_string(path).unwrap();
        for word in words {
            let used = code(&text).lines().any(|l| !l.trim().starts_with("//") && l.contains(word));
            assert!(!used, "{}: {word}", path.display());
        }
    }
}

#[test]
fn golden_files_stay_small() {
    let mut folders = vec![root().join("golden")];
    let mut total = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let size = entry.metadata().unwrap();
            if size.is_dir() {
                folders.push(entry.path());
                continue;
            }
            assert!(size.len() <= 1_000_000, "{}", entry.path().display());
            total += size.len();
        }
    }
    assert!(total <= 40_000_000, "{total} bytes");
}
