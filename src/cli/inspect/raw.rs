//! What `inspect` says of raw weights: a file, or the set that it belongs to, as it would be converted.
//!
//! Weights alone are no model: `config.json` and the tokenizer beside them make them one. So the set is opened as
//! `convert` would open it, and what that says is what comes next; the tensors are told whether or not it can be.

use std::path::Path;

use super::{facts::Facts, facts::Share, facts::shell_word, sizes};
use crate::{
    checkpoint::{self, Options, Stored},
    cli::advice,
    error::{Error, Result},
    format::{catalog, container::Container},
    limits::Limits,
    model::{Model, loader::Content},
    size,
};

/// The facts about raw weights.
pub(super) fn facts(path: &Path, format: &'static Container) -> Result<Facts> {
    let word = shell_word(&path.display().to_string());
    // What comes next is what that command says.
    let limits = &Limits::DEFAULT;
    let opened = match checkpoint::adapter::is_adapter(path, &Limits::DEFAULT)? {
        true => checkpoint::adapter::open(path, limits),
        false => checkpoint::open(path, &Options::default()),
    };
    let family = |model: &Model| catalog::family(&model.family).map(|f| f.family.title.clone());
    let (family, (sizes, further)) = match &opened {
        Ok(model) => (family(model), sizes::of(model, Content::of(model))),
        Err(_) => Default::default(),
    };
    let next = match opened {
        Ok(model) if model.vocab.is_empty() => {
            "put the model's tokenizer beside its weights, then regguf convert".to_owned()
        }
        Ok(_) => format!("regguf convert {word}"),
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => format!("nothing: {}", advice::error(&error)),
    };
    let survey = checkpoint::survey(path, limits)?;
    let mut types: Vec<Share> = Vec::new();
    for stored in &survey.tensors {
        let name = stored.dtype.name;
        let bytes = bytes(stored);
        match types.iter_mut().find(|share| share.name == name) {
            Some(share) => {
                share.tensors += 1;
                share.bytes += bytes;
            }
            None => {
                types.push(Share { name: name.to_owned(), dialect: "plain", tensors: 1, bytes });
            }
        }
    }
    types.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    Ok(Facts {
        bytes: survey.files.iter().map(crate::bytes::Input::len).sum(),
        files: survey.files.iter().map(crate::bytes::Input::name).collect(),
        family: family.unwrap_or_default(),
        sizes,
        further,
        kind: survey.kind,
        parameters: survey.tensors.iter().map(elements).sum(),
        types,
        findings: survey
            .notes
            .into_iter()
            .map(|n| crate::check::Finding::note("reader", n))
            .collect(),
        raw: survey.tensors,
        next,
        ..Facts::about(path, format)
    })
}

/// Numbers of a tensor; the largest count there is where a header states more than that.
fn elements(stored: &Stored) -> u64 {
    stored.shape.iter().fold(1, |n, d| n.saturating_mul(*d))
}

/// Its bytes; 0 where its type has no size that is known.
fn bytes(stored: &Stored) -> u64 {
    stored.dtype.bytes(elements(stored)).unwrap_or(0)
}

/// The row of a raw tensor in a table.
pub(super) fn row(t: &Stored) -> Vec<String> {
    let shape: Vec<String> = t.shape.iter().map(u64::to_string).collect();
    let (shape, bytes) = (shape.join(" × "), size::text(bytes(t)));
    vec![format!("  {}", t.name), shape, t.dtype.name.to_owned(), bytes, format!("{:#x}", t.at)]
}

/// A raw tensor as data.
pub(super) fn json(t: &Stored) -> serde_json::Value {
    serde_json::json!({
        "name": t.name, "shape": t.shape, "type": t.dtype.name, "dialect": "plain",
        "bytes": bytes(t), "pieces": [[t.file, t.at]],
    })
}
