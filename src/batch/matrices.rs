//! Which importance matrix belongs to which model of a batch.

use std::{fs, path::PathBuf};

use super::{find::Found, task::Settings};
use crate::{
    change::output::named_for,
    error::{Error, Result},
};

/// What stands for the model's own name in a path.
pub const STEM: &str = "{stem}";

impl Settings {
    /// The file with the imatrix data of a model: the one that was named, for every model; the one that a path with
    /// `{stem}` in it leads to; in a folder the one that is named after the model, with or without what says how that is
    /// stored: `NAME.imatrix`, `NAME-imatrix.gguf`, `imatrix_NAME.dat`.
    ///
    /// # Errors
    /// Where nothing is there under the path that was named.
    pub fn imatrix_of(&self, model: &Found) -> Result<Option<PathBuf>> {
        let Some(place) = &self.imatrix else { return Ok(None) };
        let stem = model.stem();
        let bare = named_for(&stem, "").trim_end_matches(['-', '.']).to_owned();
        if let Some(path) = place.to_str().filter(|path| path.contains(STEM)) {
            let paths = [&stem, &bare].map(|name| PathBuf::from(path.replace(STEM, name)));
            return Ok(paths.into_iter().find(|path| path.is_file()));
        }
        if !place.is_dir() {
            let there = place.metadata().map_err(|e| Error::io(place, "read", e));
            return there.map(|_| Some(place.clone()));
        }
        let entries = fs::read_dir(place).map_err(|e| Error::io(place, "list", e))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let named =
            |name: &String| files.iter().find(|file| model_of(file) == Some(name.to_lowercase()));
        Ok([&stem, &bare].into_iter().find_map(named).cloned())
    }
}

/// The model that an imatrix file is named after, in lower case.
fn model_of(file: &std::path::Path) -> Option<String> {
    let name = file.file_name()?.to_str()?.to_lowercase();
    let name = name.strip_suffix(".gguf").or(name.strip_suffix(".dat")).unwrap_or(&name);
    let separators = ['-', '_', '.'];
    let after =
        |name: &str| Some(name.strip_suffix("imatrix")?.trim_end_matches(separators).to_owned());
    let before =
        |name: &str| Some(name.strip_prefix("imatrix")?.trim_start_matches(separators).to_owned());
    after(name).or_else(|| before(name)).filter(|model| !model.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_their_models() {
        let of = |name: &str| model_of(std::path::Path::new(name));
        for name in
            ["Ll-7B.imatrix", "ll-7b-imatrix.gguf", "imatrix_Ll-7b.dat", "d/LL-7B.imatrix.gguf"]
        {
            assert_eq!(of(name).as_deref(), Some("ll-7b"), "{name}");
        }
        assert_eq!((of("ll-7b.gguf"), of("imatrix.dat"), of("imatrix.gguf")), (None, None, None));
    }
}
