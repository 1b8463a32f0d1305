//! Build script: lists `formats/` and emits every description as a string constant.
//!
//! The catalog parses them once at run time, so adding a format touches no Rust.

use std::{env, fs, path::Path};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let formats = Path::new(&root).join("formats");
    println!("cargo::rerun-if-changed={}", formats.display());
    let mut out = String::from("pub(crate) const EMBEDDED: &[(&str, &str, &str)] = &[\n");
    for kind in
        ["container", "family", "block", "loader", "mixture", "projector", "foreign", "vocabulary"]
    {
        let folder = formats.join(kind);
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut names: Vec<_> = fs::read_dir(&folder)
            .expect("formats/ has a folder per kind")
            .map(|entry| entry.expect("formats/ is readable").path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        names.sort();
        for path in names {
            let stem = path.file_stem().and_then(|s| s.to_str()).expect("ASCII file names");
            println!("cargo::rerun-if-changed={}", path.display());
            out += &format!("    ({kind:?}, {stem:?}, include_str!({:?})),\n", path.display());
        }
    }
    out += "];\n";
    let target = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("formats.rs");
    fs::write(target, out).expect("OUT_DIR is writable");
}
