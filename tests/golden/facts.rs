//! Files of ggml's other families and what an independent reader read of them: `golden/families/facts.json`.

use std::path::{Path, PathBuf};

use regguf::{
    bytes::Input,
    container::{self, OpenOptions, Verdict},
    model::{Model, Tensor},
    quant::{decode_rows, isa::Isa},
    remedy::Setting,
};

/// Where they are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families")
}

/// What is known of each.
pub fn facts() -> Vec<serde_json::Value> {
    let text = std::fs::read(folder().join("facts.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["files"].as_array().unwrap().clone()
}

/// A text among the facts.
pub fn text<'a>(json: &'a serde_json::Value, key: &str) -> &'a str {
    json[key].as_str().unwrap()
}

/// Opens a file as its facts say; the person decides what no file can tell.
pub fn open(facts: &serde_json::Value) -> Model {
    let (path, format) = (folder().join(text(facts, "path")), text(facts, "format"));
    let mut options = OpenOptions::default();
    if facts["either"].as_bool() == Some(true) {
        let detected = container::detect(&Input::open(&path).unwrap(), &options).unwrap();
        let Verdict::Either(formats, next) = detected.verdict else { panic!("{facts}") };
        assert!(formats.iter().any(|f| f.id() == format), "{}", path.display());
        assert!(next.steps()[0].means.contains(&Setting::Format.of(format)), "{next}");
        options.format = Some(format.to_owned());
    }
    container::open(&path, &options).unwrap()
}

/// The weights of a tensor, row after row.
pub fn weights(model: &Model, tensor: &Tensor) -> Vec<f32> {
    let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    let len = usize::try_from(tensor.row_len()).unwrap();
    decode_rows(tensor.quant, Isa::best(), &bytes, len, &mut out);
    out
}
