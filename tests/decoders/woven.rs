//! Experts that are too wide to be woven together at once.

use std::fs;

use regguf::{Existing, change::export, container, model::Stated};
use serde_json::{Value as Json, json};

use super::checkpoints::tensors_of;
use super::golden::{converted, known, safetensors, write};

/// Gates and rows that alternate in them, each a few pieces long, are those of the checkpoint again.
#[test]
fn wide_experts_come_back_from_their_pieces() {
    let (_, mut known) = known().into_iter().find(|(name, _)| name == "gpt-oss").unwrap();
    let wider = |size: &Json| match size.as_u64() {
        Some(5) => json!(2),
        Some(48) => json!(36_000),
        Some(96) => json!(72_000),
        _ => size.clone(),
    };
    for tensor in known["tensors"].as_array_mut().unwrap() {
        tensor[1] = tensor[1].as_array().unwrap().iter().map(wider).collect();
    }
    for field in ["intermediate_size", "num_local_experts"] {
        known["config"][field] = wider(&known["config"][field]);
    }
    let folder = tempfile::tempdir().unwrap();
    write(&known, folder.path());
    let model = container::open(&converted(folder.path()), &Default::default()).unwrap();
    let back = folder.path().join("back");
    let export = export::plan(model, back.clone(), "f32", &Stated::default()).unwrap();
    export.write(Existing::Keep, &()).unwrap();
    let made = tensors_of(&fs::read(back.join("model.safetensors")).unwrap());
    assert!(made == tensors_of(&safetensors(&known)), "another number");
}
