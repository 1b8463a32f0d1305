//! All embedded descriptions, parsed once.

#![allow(clippy::panic, reason = "descriptions are part of the program, and a test reads them all")]

use crate::format::block::{self, Block};
use crate::format::container::{self, Container};
use crate::format::family::{self, Family};
use crate::format::foreign::{self, Foreign};
use crate::format::loader::{self, Loader};
use crate::format::mixture::{self, Kept, Mixture};
use crate::format::projector::{self, Projector};
use crate::format::vocabulary::{self, Published};
use std::sync::LazyLock;

include!(concat!(env!("OUT_DIR"), "/formats.rs"));

static BLOCKS: LazyLock<Vec<Block>> =
    LazyLock::new(|| load("block", block::parse).unwrap_or_else(|wrong| panic!("{wrong}")));

static CONTAINERS: LazyLock<Vec<Container>> = LazyLock::new(|| {
    let mut all = load("container", container::parse).unwrap_or_else(|wrong| panic!("{wrong}"));
    all.sort_by(|a, b| {
        let key = |c: &Container| (c.format.lived.from.clone(), c.format.name.clone());
        key(a).cmp(&key(b))
    });
    all
});

static FAMILIES: LazyLock<Vec<Family>> =
    LazyLock::new(|| load("family", family::parse).unwrap_or_else(|wrong| panic!("{wrong}")));

static LOADERS: LazyLock<Vec<Loader>> =
    LazyLock::new(|| load("loader", loader::parse).unwrap_or_else(|wrong| panic!("{wrong}")));

static MIXTURES: LazyLock<Vec<Mixture>> =
    LazyLock::new(|| load("mixture", mixture::parse).unwrap_or_else(|wrong| panic!("{wrong}")));

static PROJECTORS: LazyLock<Vec<Projector>> =
    LazyLock::new(|| load("projector", projector::parse).unwrap_or_else(|wrong| panic!("{wrong}")));

static FOREIGN: LazyLock<Vec<Foreign>> = LazyLock::new(|| {
    let lists = load("foreign", foreign::parse).unwrap_or_else(|wrong| panic!("{wrong}"));
    lists.into_iter().flatten().collect()
});

static VOCABULARIES: LazyLock<Vec<Published>> = LazyLock::new(|| {
    load("vocabulary", vocabulary::parse).unwrap_or_else(|wrong| panic!("{wrong}"))
});

/// Every vocabulary that is known by what files hold of it.
///
/// # Panics
/// If an embedded description breaks a rule of its schema, which a test rules out.
pub(crate) fn vocabularies() -> &'static [Published] {
    &VOCABULARIES
}

/// What llama.cpp demands of a GGUF.
///
/// # Panics
/// If the embedded description breaks a rule of its schema, which a test rules out.
pub(crate) fn loader() -> &'static Loader {
    LOADERS.first().unwrap_or_else(|| panic!("formats/loader holds a description"))
}

/// Another program's rules for the types of an architecture's tensors, where it has its own: a model of images or videos.
///
/// # Panics
/// If an embedded description breaks a rule of its schema, which a test rules out.
pub(crate) fn mixture(architecture: &str) -> Option<(&'static Mixture, &'static Kept)> {
    MIXTURES.iter().find_map(|mixture| Some((mixture, mixture.architectures.get(architecture)?)))
}

/// Models with their vision tensors in one file.
///
/// # Panics
/// If an embedded description breaks a rule of its schema, which a test rules out.
pub(crate) fn projectors() -> &'static [Projector] {
    &PROJECTORS
}

/// The tensor types of other programs' GGUF files.
///
/// # Panics
/// If an embedded description breaks a rule of its schema, which a test rules out.
pub(crate) fn foreign() -> &'static [Foreign] {
    &FOREIGN
}

/// Every container description, oldest first.
///
/// # Panics
/// If an embedded description breaks a rule of its schema, which a test rules out.
pub fn containers() -> &'static [Container] {
    &CONTAINERS
}

/// The container with this id.
pub fn container(id: &str) -> Option<&'static Container> {
    containers().iter().find(|c| c.format.name == id)
}

/// Every family description, in the order of their file names.
///
/// # Panics
/// If an embedded description breaks a rule of its schema, which a test rules out.
pub fn families() -> &'static [Family] {
    &FAMILIES
}

/// The family with this id.
pub fn family(id: &str) -> Option<&'static Family> {
    families().iter().find(|f| f.family.name == id)
}

/// Every block description, in the order of their file names.
///
/// # Panics
/// If an embedded description breaks a rule of its schema, which a test rules out.
pub(crate) fn blocks() -> &'static [Block] {
    &BLOCKS
}

/// Parses every embedded description of one kind; an error begins with the file's name.
pub(crate) fn load<T>(
    kind: &str,
    parse: impl Fn(&str, &str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    EMBEDDED
        .iter()
        .filter(|(found, _, _)| *found == kind)
        .map(|(_, stem, text)| {
            parse(stem, text).map_err(|wrong| format!("formats/{kind}/{stem}.toml: {wrong}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_description_parses() {
        let blocks = load("block", block::parse).unwrap();
        assert!(blocks.len() > 60, "{} descriptions", blocks.len());
    }
}
