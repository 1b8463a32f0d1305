//! The rules of the house: what README shows is what the descriptions say, layers point downward, files
//! stay readable, unsafe code and printing stay where they belong.

use std::{
    collections::{BTreeMap, BTreeSet},
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
        &["columns", "error", "remedy", "limits", "size"],
        &["bytes"],
        &["format"],
        &["quant"],
        &["model"],
        &["container", "checkpoint"],
        &["change", "check", "infer"],
        &["batch"],
        &["cli"],
    ];
    let level = |path: &str| {
        let name = path.split("::").nth(1)?;
        LAYERS.iter().position(|group| group.contains(&name))
    };
    for (file, paths) in &Uses::of_the_house().files {
        for path in paths.iter().filter(|path| path.starts_with("crate::")) {
            let above = level(file).zip(level(path)).is_some_and(|(own, used)| used > own);
            assert!(!above, "{file} uses {path}, of a higher layer");
        }
    }
}

/// What is code in a file: without its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// The string literals of a text without comments, each with its line.
fn literals(text: &str) -> Vec<(usize, String)> {
    let literal = regex::Regex::new(r#""(?:\\.|[^"\\])*""#).unwrap();
    let comment = regex::Regex::new(r"(?m)^\s*//.*$").unwrap();
    let text = comment.replace_all(text, "");
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    literal.find_iter(&text).map(|found| (line(found.start()), found.as_str().to_owned())).collect()
}

/// A library's errors and notes say what can be done as data; the command adds its flags and verbs.
#[test]
fn only_the_command_names_its_flags_and_verbs() {
    let verbs = "inspect|explain|upgrade|convert|quantize|verify|compare|run|batch|tensors|metadata|split|join";
    let typed =
        regex::Regex::new(&format!(r"(?:^|[^\w-])--[a-z]{{2}}|with -[a-z]\b|regguf (?:{verbs})\b"))
            .unwrap();
    // What another program is called with is a fact about that program; style sheets have names that begin so.
    let others = ["llama.cpp", ".py", "--mmproj", "var(--"];
    let cli = root().join("src/cli");
    let mut paths = Vec::new();
    sources(&root().join("src"), &mut paths);
    for path in paths.iter().filter(|path| !path.starts_with(&cli)) {
        let text = fs::read_to_string(path).unwrap();
        for (line, literal) in literals(code(&text)) {
            let of_another = others.iter().any(|name| literal.contains(name));
            let own = !of_another && typed.is_match(&literal);
            assert!(!own, "{}:{line}: {literal}", path.display());
        }
    }
}

/// The paths that a `use` tree names: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn branches(tree: &str, before: &str, out: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((stem, rest)) = tree.split_once('{').filter(|(stem, _)| !stem.contains(',')) else {
        let (first, others) = tree.split_once(',').unwrap_or((tree, ""));
        let path = first.split(" as ").next().unwrap().trim();
        if !path.is_empty() {
            out.push(format!("{before}{path}"));
        }
        if !others.is_empty() {
            branches(others, before, out);
        }
        return;
    };
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    let (inner, others) = rest.split_at(end.expect("braces are closed"));
    branches(inner, &format!("{before}{stem}"), out);
    branches(others[1..].trim_start_matches(','), before, out);
}

/// What every file of `src` uses, by the path of its module, and where the names in a module are from:
/// one that is only passed on (`pub use`) is no use.
struct Uses {
    files: BTreeMap<String, Vec<String>>,
    from: BTreeMap<String, String>,
}

impl Uses {
    fn of_the_house() -> Uses {
        let src = root().join("src");
        let mut paths = Vec::new();
        sources(&src, &mut paths);
        let texts = paths.iter().filter(|path| !path.ends_with("main.rs")).map(|path| {
            let place = path.strip_prefix(&src).unwrap().with_extension("");
            let names = place.iter().map(|name| name.to_str().unwrap());
            let module: Vec<&str> = names.filter(|n| !matches!(*n, "mod" | "lib")).collect();
            let text = fs::read_to_string(path).unwrap();
            let lines = code(&text).lines().map(|line| line.split("//").next().unwrap());
            (["crate"].into_iter().chain(module).collect::<Vec<_>>().join("::"), lines.collect())
        });
        Uses::read(&texts.collect())
    }

    fn read(texts: &BTreeMap<String, String>) -> Uses {
        let mut uses = Uses { files: BTreeMap::new(), from: BTreeMap::new() };
        for (module, text) in texts {
            let full = |path: &str| match path.split_once("::").unwrap_or((path, "")) {
                ("crate", _) => path.to_owned(),
                ("self", rest) => format!("{module}::{rest}"),
                ("super", _) => {
                    let names: Vec<&str> = path.split("::").collect();
                    let ups = names.iter().take_while(|name| **name == "super").count();
                    let above = module.rsplitn(ups + 1, "::").last().unwrap();
                    [&[above], &names[ups..]].concat().join("::")
                }
                _ => format!("{module}::{path}"),
            };
            let mut own = Vec::new();
            // Behind `use` comes a tree, behind `crate` or `super` elsewhere a path.
            for statement in text.split([';', '}']) {
                let Some(at) = statement.find("use ") else { continue };
                let before = statement[..at].rsplit(']').next().unwrap().trim();
                let passed_on = before.starts_with("pub") && !before.contains('{');
                if !before.is_empty() && !passed_on {
                    continue;
                }
                let from = statement.as_ptr() as usize - text.as_ptr() as usize + at + 4;
                let tree = text[from..].split(';').next().unwrap();
                let mut paths = Vec::new();
                branches(tree, "", &mut paths);
                for path in paths.iter().map(|path| full(path.trim_end_matches("::self"))) {
                    let name = path.rsplit_once("::").map_or("", |(_, name)| name);
                    uses.from.insert(format!("{module}::{name}"), path.clone());
                    if !passed_on {
                        own.push(path);
                    }
                }
            }
            for start in ["crate::", "super::"] {
                for (at, _) in text.match_indices(start) {
                    let letter = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
                    if text[..at].ends_with(letter) {
                        continue;
                    }
                    let path = text[at..].split(|c| !letter(c)).next().unwrap();
                    if text[at + path.len()..].starts_with('{') {
                        continue; // a tree of `use`, read above
                    }
                    own.push(full(path.trim_end_matches(':')));
                }
            }
            uses.files.insert(module.clone(), own);
        }
        uses
    }

    /// The file that a path leads into.
    fn file(&self, path: &str) -> Option<&str> {
        let mut at = path;
        loop {
            if let Some((file, _)) = self.files.get_key_value(at) {
                return Some(file.as_str());
            }
            if let Some(from) = self.from.get(at).filter(|from| *from != at) {
                return self.file(&format!("{from}{}", &path[at.len()..]));
            }
            at = at.rsplit_once("::")?.0;
        }
    }

    /// The files that use each other, if only by way of others.
    fn circle(&self) -> Option<Vec<&str>> {
        let next = |file: &str| {
            let paths = self.files[file].iter();
            paths.filter_map(|path| self.file(path)).filter(|to| *to != file).collect()
        };
        let uses: BTreeMap<&str, BTreeSet<&str>> =
            self.files.keys().map(|file| (file.as_str(), next(file))).collect();
        // What nobody in a circle uses, or uses nobody in one, is taken off from its ends.
        let mut left: BTreeSet<&str> = uses.keys().copied().collect();
        loop {
            let used: BTreeSet<&str> = left.iter().flat_map(|file| &uses[file]).copied().collect();
            let stays = |file: &&str| used.contains(file) && !uses[file].is_disjoint(&left);
            let kept: BTreeSet<&str> = left.iter().copied().filter(stays).collect();
            if kept == left {
                return (!left.is_empty()).then(|| left.into_iter().collect());
            }
            left = kept;
        }
    }
}

#[test]
fn files_use_each_other_in_no_circle() {
    let uses = Uses::of_the_house();
    assert!(uses.files.len() > 200 && uses.files.values().map(Vec::len).sum::<usize>() > 1000);
    assert_eq!(uses.circle(), None);
}

#[test]
fn a_circle_is_seen_however_it_is_written() {
    let circle = |a: &str, b: &str, room: &str| {
        let texts = [("crate::room", room), ("crate::room::a", a), ("crate::room::b", b)];
        let own = |(file, text): (&str, &str)| (file.to_owned(), text.to_owned());
        Uses::read(&texts.into_iter().map(own).collect()).circle().is_some()
    };
    let plain = "use super::a::A;";
    assert!(circle("use crate::room::b::B;", plain, ""));
    assert!(circle("use crate::{error::Error, room::{b::{self, B}}};", plain, ""));
    assert!(circle("fn f() -> super::b::B { todo }", plain, ""));
    assert!(circle("use super::B;", plain, "mod a;\nmod b;\npub use b::B;"));
    assert!(!circle("use super::C;", plain, "mod a;\nmod b;\npub struct C;"));
    assert!(circle("use super::C;", "", "mod a;\nuse a::A;\npub struct C;"));
    assert!(!circle("use super::{b::B};", "", "mod a;\nmod b;\nuse a::A;"));
    assert!(!circle("use crate::room::c::B;", plain, ""));
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
    let islands = [
        "bytes/map.rs",
        "quant/isa.rs",
        "quant/isa/bytes.rs",
        "quant/isa/points.rs",
        "quant/isa/row.rs",
        "quant/isa/stored.rs",
        "quant/isa/tiles.rs",
        "quant/isa/words.rs",
    ];
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
