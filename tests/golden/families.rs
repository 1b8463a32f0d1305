//! Files of ggml's other families, as their original programs wrote them, are read as an independent reader read them:
//! format, header words, tokens, types, shapes, weights.

use libtest_mimic::Trial;
use regguf::model::{Model, Tensor, TokenKind, Value};
use sha2::{Digest, Sha256};

use super::facts::{facts, open, text, weights};

/// A test for each.
pub fn all() -> impl Iterator<Item = Trial> {
    facts().into_iter().map(|facts| {
        Trial::test(format!("families/{}", text(&facts, "path")), move || {
            let model = open(&facts);
            header_and_weights(&facts, &model);
            vocabulary(&facts, &model);
            Ok(())
        })
    })
}

fn digest(bytes: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut sum = Sha256::new();
    bytes.into_iter().for_each(|bytes| sum.update(bytes));
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn floats<'a>(all: impl IntoIterator<Item = &'a f32>) -> String {
    digest(all.into_iter().map(|number| number.to_le_bytes()))
}

/// The weights in the order in which they are: GPT-NeoX's queries, keys and values are read as GGUF has them,
/// and so are the matrices of adapters that ggla has transposed.
fn as_stored(model: &Model, tensor: &Tensor) -> Vec<f32> {
    let read = weights(model, tensor);
    if is_turned(tensor) {
        let width = usize::try_from(tensor.row_len()).unwrap();
        let column = |c: usize| read.iter().skip(c).step_by(width).copied();
        return (0..width).flat_map(column).collect();
    }
    if model.family != "gptneox" || !tensor.name.contains("query_key_value") {
        return read;
    }
    let heads = usize::try_from(model.header("n_head").unwrap()).unwrap();
    let rows = usize::try_from(tensor.shape[0]).unwrap();
    let (head, width) = (rows / heads / 3, read.len() / rows);
    let mut stored = Vec::new();
    for h in 0..heads {
        for part in 0..3 {
            let first = (part * heads + h) * head;
            stored.extend(&read[first * width..(first + head) * width]);
        }
    }
    stored
}

fn is_turned(tensor: &Tensor) -> bool {
    tensor.name.ends_with(".loraA")
}

fn header_and_weights(facts: &serde_json::Value, model: &Model) {
    assert_eq!(model.format, text(facts, "format"));
    let header = facts["header"].as_object().unwrap();
    assert_eq!(model.header.len(), header.len(), "{:?}", model.header);
    for (word, value) in header {
        assert_eq!(model.header(word), value.as_i64(), "{word}");
    }
    let tensors = facts["tensors"].as_array().unwrap();
    assert_eq!(model.tensors.len(), tensors.len());
    for (tensor, wanted) in model.tensors.iter().zip(tensors) {
        let mut shape = tensor.shape.clone();
        if is_turned(tensor) {
            shape.reverse();
        }
        let quant = format!("{}/{}", tensor.quant.name(), tensor.quant.dialect());
        let sum = floats(&as_stored(model, tensor))[..32].to_owned();
        let found = serde_json::json!([tensor.name, shape, quant, sum]);
        assert_eq!(found, *wanted);
    }
}

/// Every token keeps its bytes.
fn vocabulary(facts: &serde_json::Value, model: &Model) {
    // A family that is carried has its tokens in GGUF's terms too: tests/carried.rs compares those.
    let stored = Some(model.records.len() as u64) == facts["tokens"].as_u64();
    let vocab = if stored { &model.records } else { &model.vocab };
    if !vocab.model.is_empty() {
        return;
    }
    assert_eq!(vocab.len() as u64, facts["tokens"].as_u64().unwrap());
    let record = |token: &[u8]| {
        let len = u32::try_from(token.len()).unwrap().to_le_bytes();
        [&len, token].concat()
    };
    let tokens = digest(vocab.tokens.iter().map(record));
    assert_eq!(tokens, text(facts, "tokens_sha256"));
    match facts["scores_sha256"].as_str() {
        Some(scores) => assert_eq!(floats(&vocab.scores), scores),
        None => assert!(vocab.scores.is_empty()),
    }
    assert_eq!(vocab.merges.len() as u64, facts["merges"].as_u64().unwrap_or(0));
    if let Some(merges) = facts["merges_sha256"].as_str() {
        assert_eq!(digest([vocab.merges.iter().collect::<Vec<_>>().join(&b'\n')]), merges);
    }
    if let Some(special) = facts["special"].as_array() {
        let ids: Vec<usize> =
            (0..vocab.len()).filter(|id| vocab.kind(*id) == TokenKind::Control).collect();
        assert_eq!(serde_json::json!(ids), serde_json::json!(special));
    }
    if let Some(filters) = facts["filters_sha256"].as_str() {
        let items = model.metadata.get("filters").and_then(Value::as_array).unwrap();
        let number = |item: Value| if let Value::F32(v) = item { v } else { panic!("{item}") };
        let numbers: Vec<f32> = items.iter().map(number).collect();
        assert_eq!(floats(&numbers), filters);
    }
}
