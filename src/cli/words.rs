//! Words that a shell can complete: formats, types, tasks. Anything may be typed; what is no such word is refused
//! where it is used, with what there is.
//!
//! `clap` completes what an argument says are its possible values, and refuses all else; here it completes the same and
//! refuses nothing, so that the error is the library's own: which formats hold the model, which types there are.

use std::{ffi::OsStr, sync::LazyLock};

use clap::{
    Arg, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};

use crate::{
    change::{Target, choose::ftype::FileType},
    format::{
        catalog,
        container::{Container, Skeleton},
    },
};

/// A list of words, and any other text.
#[derive(Clone)]
pub struct Words(pub fn() -> &'static [String]);

impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().iter().map(|word| PossibleValue::new(word.as_str()))))
    }
}

/// The formats that can be written, as `--to` takes them.
pub fn targets() -> &'static [String] {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        let written = catalog::containers().iter().filter(|c| Target::find(c.id()).is_ok());
        let short = |c: &Container| c.id().strip_suffix("-llama").unwrap_or(c.id()).to_owned();
        ["gguf".to_owned(), "safetensors".to_owned()]
            .into_iter()
            .chain(written.map(short))
            .collect()
    });
    &ALL
}

/// The formats that are read, as `--format` takes them.
pub fn formats() -> &'static [String] {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        let read = |c: &&Container| c.format.skeleton != Skeleton::None;
        catalog::containers().iter().filter(read).map(|c| c.id().to_owned()).collect()
    });
    &ALL
}

/// The types of a whole file, as `--type` takes them; in the case in which people type them, for shells compare it.
pub fn types() -> &'static [String] {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        let named = FileType::all().map(|kind| kind.name.to_lowercase());
        ["auto".to_owned()].into_iter().chain(named).collect()
    });
    &ALL
}

/// Everything that `explain` draws.
pub fn explained() -> &'static [String] {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        let containers = catalog::containers().iter().map(|c| c.id().to_owned());
        let families = catalog::families().iter().map(|f| f.family.name.clone());
        let mut blocks: Vec<String> = catalog::blocks().iter().map(|b| b.name.clone()).collect();
        blocks.dedup();
        containers.chain(families).chain(blocks).collect()
    });
    &ALL
}

/// What `batch` does.
pub fn tasks() -> &'static [String] {
    use clap::ValueEnum;
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        let tasks = crate::batch::task::Task::value_variants().iter();
        tasks.map(|task| task.name().to_owned()).chain(["run".to_owned()]).collect()
    });
    &ALL
}
