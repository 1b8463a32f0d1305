//! What stores of downloads say of files that should be there: Ollama's manifests, and the downloads that
//! `hf download --local-dir` has not ended.
//!
//! ```text
//! STORE/manifests/HOST/SPACE/MODEL/TAG     {"layers": [{"digest": "sha256:HEX", "mediaType": ..}, ..], "config": {..}}
//! STORE/blobs/sha256-HEX                   a layer; sha256:HEX in older stores, sha256-HEX-partial while it comes
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::check::Finding;

/// No manifest is larger.
const LARGEST: u64 = 1 << 20;

/// The layers that a manifest of Ollama names and that are not in its store; a layer that is being
/// downloaded is told of by itself.
pub(super) fn missing_layers(manifest: &Path) -> Vec<(PathBuf, Finding)> {
    let store = manifest.ancestors().find(|up| up.file_name().is_some_and(|n| n == "manifests"));
    let Some(store) = store.and_then(Path::parent) else { return Vec::new() };
    let small = manifest.metadata().is_ok_and(|m| m.is_file() && m.len() <= LARGEST);
    let text = small.then(|| std::fs::read(manifest).ok()).flatten().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let layers = json.get("layers").and_then(|l| l.as_array());
    let mut missing = Vec::new();
    for layer in layers.into_iter().flatten().chain(json.get("config")) {
        let text = |key: &str| layer.get(key).and_then(|v| v.as_str()).unwrap_or_default();
        let Some(hex) = text("digest").strip_prefix("sha256:") else { continue };
        let blob = |name: String| store.join("blobs").join(name);
        let path = blob(format!("sha256-{hex}"));
        let there = path.exists() || blob(format!("sha256:{hex}")).exists();
        if hex.contains(['/', '\\']) || there || blob(format!("sha256-{hex}-partial")).exists() {
            continue;
        }
        let part = text("mediaType").rsplit('.').next().unwrap_or("layer").to_owned();
        let name = |path: Option<&Path>| {
            path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
        };
        let model = format!("{}:{}", name(manifest.parent()), name(Some(manifest)));
        let message = format!("missing: the {part} of {model}: `ollama pull {model}` fetches it");
        missing.push((path, Finding::failure("missing-layer", message)));
    }
    missing
}

/// The downloads into the folders of these files that have not ended.
pub(super) fn unfinished(root: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    let folders = folders.into_iter().chain([root]).collect::<BTreeSet<&Path>>();
    let records = folders.iter().flat_map(|folder| {
        [".cache/huggingface/download", ".huggingface/download"].map(|store| folder.join(store))
    });
    let inside = records.filter(|store| store.is_dir()).flat_map(WalkDir::new);
    let files = inside.filter_map(|entry| Some(entry.ok()?.into_path()));
    files.filter(|path| path.extension().is_some_and(|e| e == "incomplete")).collect()
}
