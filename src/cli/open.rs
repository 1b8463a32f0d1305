//! Which file is meant, and flags that say what it is where it could be several things.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{Globals, remark};
use crate::{
    api::{Hints, open_with},
    check::pair::readings,
    container::{self, OpenOptions, RowStorage},
    error::{Error, Result, named},
    model::{Model, Stated},
    quant::QuantType,
};

/// The model that a verb runs.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArg {
    /// The model: a file of any era, the first of a set, or a folder
    #[arg(value_name = "MODEL", required_unless_present = "named")]
    model: Option<PathBuf>,
    /// The same, as the programs of llama.cpp take it
    #[arg(
        id = "named",
        short = 'm',
        long = "model",
        value_name = "MODEL",
        conflicts_with = "model"
    )]
    named: Option<PathBuf>,
}

impl ModelArg {
    /// Where it is.
    pub fn path(&self, globals: &Globals) -> Result<PathBuf> {
        let path = self.model.as_ref().or(self.named.as_ref());
        let path = path.ok_or_else(|| Error::usage("which model?".to_owned()))?;
        Ok(input(path, globals))
    }
}

/// The file that is meant by `path`: where there is none, that of the same name ending in `.gguf`, with a
/// note. So the commands of 2023 can be typed one after the other under the names of 2023.
pub fn input(path: &Path, globals: &Globals) -> PathBuf {
    let Some(today) = successor(path) else { return path.to_owned() };
    let (path, name) = (named(path), today.file_name().unwrap_or_default().to_string_lossy());
    remark(globals, &format!("note: {path} is not there: {name} is taken"));
    today
}

/// The GGUF of a file's name, where that is there and the file is not.
fn successor(path: &Path) -> Option<PathBuf> {
    let ending = path.extension()?;
    if ending == "gguf" || path.symlink_metadata().is_ok() {
        return None;
    }
    let exact = path.with_extension("gguf");
    if exact.is_file() {
        return Some(exact);
    }
    // llama-quantize writes types in capitals, people did not.
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let same = |name: &OsStr| exact.file_name().is_some_and(|own| own.eq_ignore_ascii_case(name));
    let mut names = folder.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
    names.find(|name| same(name)).map(|name| path.with_file_name(name))
}

/// How to read a file that could be several things.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What the input is")]
pub struct OpenArgs {
    /// Read it as this format (see `regguf explain`)
    #[arg(long, value_name = "FORMAT", value_parser = super::words::Words(super::words::formats), hide_possible_values = true)]
    format: Option<String>,
    /// How an unversioned file stores Q4 rows
    #[arg(long, value_name = "STORAGE")]
    blocks: Option<RowStorage>,
    /// Which of the types that shared a number and a size its tensors are (iq2_kt/v1)
    #[arg(long, value_name = "TYPE")]
    read_as: Vec<QuantType>,
    /// Of how many files a multi-part set consists
    #[arg(long, alias = "n_parts", value_name = "N")]
    n_parts: Option<u32>,
}

impl OpenArgs {
    /// What they say.
    pub fn options(&self) -> OpenOptions {
        OpenOptions {
            format: self.format.clone(),
            blocks: self.blocks,
            n_parts: self.n_parts,
            read_as: self.read_as.clone(),
            ..OpenOptions::default()
        }
    }

    /// The model at `path`.
    ///
    /// # Errors
    /// Where it cannot be opened; where it may be of two formats, with what the runner says of either.
    pub fn open(&self, path: &Path) -> Result<Model> {
        container::open(path, &self.options()).map_err(|error| self.told(path, error))
    }

    /// The model at `path`, which may be a checkpoint or an adapter too.
    ///
    /// # Errors
    /// As [`OpenArgs::open`].
    pub fn open_any(&self, path: &Path, stated: &Stated) -> Result<Model> {
        let hints = Hints { file: self.options(), stated: stated.clone() };
        open_with(path, &hints).map_err(|error| self.told(path, error))
    }

    /// An error of opening; where it leaves two formats open, with what the runner says of either.
    pub fn told(&self, path: &Path, error: Error) -> Error {
        readings::told(path, &self.options(), error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_of_2023_leads_to_the_file_of_today() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["ggml-model-Q4_0.gguf", "there.bin", "there.gguf"] {
            fs::write(at(name), "").unwrap();
        }
        assert_eq!(successor(&at("ggml-model-q4_0.bin")), Some(at("ggml-model-Q4_0.gguf")));
        assert_eq!(successor(&at("there.bin")), None);
        assert_eq!(successor(&at("nowhere.bin")), None);
        assert_eq!(successor(&at("ggml-model-q4_0.gguf")), None);
    }
}
