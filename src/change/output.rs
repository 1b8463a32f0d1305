//! Where an output goes: as a person names it, into the folder named, or to a place of its own.

use std::path::{self, Path, PathBuf};

use super::choose::ftype::FileType;

/// The output of a call that was told `named`: that file; `name` in that folder, if it is one, if it is
/// written as one (`out/`) or is for several, of the call's `count`; `name` in `folder` where nothing was named.
pub fn place(named: Option<&Path>, count: usize, folder: &Path, name: &str) -> PathBuf {
    match named {
        Some(named) if count > 1 || named.is_dir() || is_written_as_folder(named) => {
            named.join(name)
        }
        Some(named) => named.to_owned(),
        None => folder.join(name),
    }
}

/// Whether a path ends as only a folder's does.
pub fn is_written_as_folder(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    last.is_some_and(|byte| path::is_separator(char::from(*byte)))
}

/// The name of a model file without what says how it is stored: no ending, and no number of a shard, which
/// does not belong to the whole.
pub fn stem_of_model(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // `ggml-model-f16.bin.1` has the number of a part behind its own ending.
    let stem = stem.strip_suffix(".bin").unwrap_or(&stem);
    stem.split_once("-00001-of-").map_or(stem, |(whole, _)| whole).to_owned()
}

/// `base-Q4_0` for a stem that is `base-f16` or `base`; a dot stays where one was.
pub fn named_for(stem: &str, kind: &str) -> String {
    let cut = stem.rsplit_once(['-', '.']).filter(|(_, last)| {
        let is_float = ["fp16", "fp32"].contains(&last.to_ascii_lowercase().as_str());
        // A bare number would be read as the number of a type: `v0.1` is a version.
        let is_word = last.starts_with(|c: char| c.is_ascii_alphabetic());
        is_float || is_word && FileType::parse(last).is_ok_and(|t| !t.copy)
    });
    match cut {
        Some((base, _)) => {
            let separator = stem.get(base.len()..=base.len()).unwrap_or("-");
            format!("{base}{separator}{kind}")
        }
        None => format!("{stem}-{kind}"),
    }
}

/// The name that the scripts of 2023 gave: `ggml-model-f16`.
pub fn ggml_model(kind: &str) -> String {
    format!("ggml-model-{}", kind.to_lowercase()).trim_end_matches('-').to_owned()
}

/// Whether a folder holds raw weights as Meta published them.
pub fn is_meta_folder(folder: &Path) -> bool {
    folder.join("consolidated.00.pth").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_after_their_model() {
        for (path, expected) in [
            ("m/ggml-model-f16.bin", "ggml-model-Q4_0"),
            ("llama-7b.ggmlv3.q8_0.bin", "llama-7b.ggmlv3.Q4_0"),
            ("7B", "7B-Q4_0"),
            ("Mistral-7B-v0.1.gguf", "Mistral-7B-v0.1-Q4_0"),
            ("Mistral-7B-v0.1-BF16-00001-of-00003.gguf", "Mistral-7B-v0.1-Q4_0"),
        ] {
            assert_eq!(named_for(&stem_of_model(Path::new(path)), "Q4_0"), expected);
        }
        assert_eq!(
            (ggml_model("F16"), ggml_model("")),
            ("ggml-model-f16".into(), "ggml-model".into())
        );
    }
}
