//! How the vectors of a text's tokens become one: what sentence-transformers keeps beside a model, as `modules.json` and
//! a folder for each step.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::json;
use crate::error::{Error, Result};

/// The name in `config.json` under which a family takes it.
pub const FIELD: &str = "pooling_mode";

/// The fields that say yes to a way, and its name where it is said as a word.
const WAYS: [(&str, &str); 3] = [
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_lasttoken", "lasttoken"),
];

/// The way that the files in `folder` say; none where they say nothing.
///
/// # Errors
/// Where a file is broken, or says another way than GGUF has.
pub fn read(folder: &Path) -> Result<Option<&'static str>> {
    let modules = json::read(&folder.join("modules.json"))?;
    let text = |json: &Json, name: &str| json.get(name).and_then(Json::as_str).map(str::to_owned);
    let pools = |module: &&Json| text(module, "type").is_some_and(|kind| kind.ends_with("Pooling"));
    let module = modules.as_ref().and_then(Json::as_array).and_then(|all| all.iter().find(pools));
    let Some(place) = module.and_then(|module| text(module, "path")) else { return Ok(None) };
    let path = folder.join(place).join("config.json");
    let Some(said) = json::read(&path)? else { return Ok(None) };
    let yes = |field: &str| said.get(field) == Some(&Json::Bool(true));
    let word = text(&said, FIELD);
    let flagged = WAYS.iter().find(|(field, _)| yes(field));
    let way = flagged.or_else(|| WAYS.iter().find(|(_, known)| word.as_deref() == Some(known)));
    way.map(|(_, way)| Some(*way)).ok_or_else(|| {
        let what = format!("{}: a way of pooling that GGUF has no number for", path.display());
        Error::unsupported(what, "only the mean, the first and the last token are carried")
    })
}

/// The files that say a way, of vectors of this width.
pub fn files(way: &str, width: Option<u64>) -> Vec<(&'static str, Json)> {
    let module = |n: u8, path: &str, kind: &str| {
        let kind = format!("sentence_transformers.models.{kind}");
        json!({"idx": n, "name": n.to_string(), "path": path, "type": kind})
    };
    let mut pooling = Map::new();
    pooling.insert("word_embedding_dimension".to_owned(), width.into());
    pooling.extend(WAYS.iter().map(|(field, known)| ((*field).to_owned(), (way == *known).into())));
    let modules = json!([module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")]);
    vec![("modules.json", modules), ("1_Pooling/config.json", pooling.into())]
}
