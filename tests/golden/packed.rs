//! The published folder with other tensors in it, and matrices packed by other programs: parts whose integers a
//! generator makes (`golden/families/packed.json`, of which golden/README.md says how).

use std::{collections::BTreeMap, fs, path::Path};

use regguf::{
    checkpoint::{self, Options},
    error::Result,
    model::Model,
};
use serde_json::{Value as Json, json};

/// A tensor: dtype, shape, bytes.
pub type Tensor = (String, Vec<u64>, Vec<u8>);
pub type Tensors = BTreeMap<String, Tensor>;

pub fn original() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/hf-st")
}

/// The tensors of a safetensors file.
pub fn tensors(file: &[u8]) -> Tensors {
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    entries
        .map(|(name, entry)| {
            let at = |n: usize| 8 + len + entry["data_offsets"][n].as_u64().unwrap() as usize;
            let shape = serde_json::from_value(entry["shape"].clone()).unwrap();
            let dtype = entry["dtype"].as_str().unwrap().to_owned();
            (name.clone(), (dtype, shape, file[at(0)..at(1)].to_vec()))
        })
        .collect()
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let at = data.len();
        data.extend(bytes);
        let ends = [at, data.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": ends}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.extend(data);
    out
}

/// The published folder with other tensors, and a config.json that is changed.
pub fn opened_with(tensors: &Tensors, change: impl Fn(&mut Json)) -> Result<Model> {
    opened_as(&Options::default(), tensors, change)
}

/// The same, read in a certain way.
pub fn opened_as(
    options: &Options,
    tensors: &Tensors,
    change: impl Fn(&mut Json),
) -> Result<Model> {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(original()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut config: Json =
        serde_json::from_slice(&fs::read(original().join("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fs::write(folder.path().join("model.safetensors"), file(tensors)).unwrap();
    checkpoint::open(folder.path(), options)
}

/// The bytes of a tensor, read `step` rows at a time.
pub fn rows(model: &Model, name: &str, step: u64) -> Vec<u8> {
    let tensor = model.tensor(name).unwrap();
    let mut all = Vec::new();
    for first in (0..tensor.rows()).step_by(step as usize) {
        let n = step.min(tensor.rows() - first);
        let mut bytes = vec![0; (n * tensor.row_bytes()) as usize];
        model.read_rows(tensor, first, n, &mut bytes).unwrap();
        all.extend(bytes);
    }
    all
}

/// Words from a generator that the name seeds: the upper halves of splitmix64.
fn words(name: &str, count: u64) -> Vec<u32> {
    let seed = name.bytes().fold(7u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
    let word = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 32) as u32
    };
    (0..count).map(word).collect()
}

/// A number as a safetensors file has it.
fn number(dtype: &str, value: f64) -> Vec<u8> {
    match dtype {
        "F16" => half::f16::from_f64(value).to_le_bytes().to_vec(),
        "BF16" => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        "F32" => (value as f32).to_le_bytes().to_vec(),
        "I32" => (value as i32).to_le_bytes().to_vec(),
        "I64" => (value as i64).to_le_bytes().to_vec(),
        "U8" => vec![value as u8],
        "I8" => vec![value as i8 as u8],
        other => panic!("{other}"),
    }
}

/// The bytes of a part of a case.
pub fn part(case: &str, name: &str, dtype: &str, shape: &[u64], kind: &Json) -> Vec<u8> {
    if let Some(values) = kind["values"].as_array() {
        return values.iter().flat_map(|v| number(dtype, v.as_f64().unwrap())).collect();
    }
    let words = words(&format!("{case} {name}"), shape.iter().product());
    let byte = |word: u32| word as u8;
    let code = |code: u8| if code & 0x7f > 0x78 { code & 0x80 | 1 } else { code };
    match (kind.as_str(), kind[0].as_str()) {
        (Some("any"), _) if dtype.ends_with("32") => {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        }
        (Some("any"), _) => words.into_iter().map(byte).collect(),
        (Some("codes"), _) => words.into_iter().map(|word| code(byte(word))).collect(),
        (Some("scales"), _) => words.into_iter().map(|word| code(byte(word)) & 0x7f).collect(),
        (_, Some("below")) => {
            let most = kind[1].as_u64().unwrap() as u32;
            words.iter().flat_map(|word| number(dtype, f64::from(word % most))).collect()
        }
        (_, Some("from")) => {
            let (first, most) = (kind[1].as_f64().unwrap(), kind[2].as_u64().unwrap() as u32);
            words.iter().flat_map(|word| number(dtype, f64::from(word % most) + first)).collect()
        }
        (_, Some("times")) => {
            let most = kind[1].as_u64().unwrap() as u32;
            let times = 2f64.powi(kind[2].as_i64().unwrap() as i32);
            let signed = kind[3].as_bool().unwrap();
            let value = |word: &u32| {
                let size = f64::from(word % most + 1) * times;
                if signed && word >> 31 == 1 { -size } else { size }
            };
            words.iter().flat_map(|word| number(dtype, value(word))).collect()
        }
        _ => panic!("{kind}"),
    }
}

pub fn known() -> Vec<Json> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families/packed.json");
    let known: Vec<Json> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(known.len() >= 40, "{}", known.len());
    known
}

/// The matrix of the published folder that has such a shape: its stem, and its name in GGUF.
pub fn place(shape: &Json) -> (&'static str, &'static str) {
    match (shape[0].as_u64().unwrap(), shape[1].as_u64().unwrap()) {
        (64, 192) => ("model.layers.1.mlp.down_proj", "blk.1.ffn_down.weight"),
        (192, 64) => ("model.layers.1.mlp.gate_proj", "blk.1.ffn_gate.weight"),
        other => panic!("{other:?}"),
    }
}

/// The published folder with one matrix packed as a case has it.
pub fn packed(case: &Json) -> Tensors {
    let mut all = tensors(&fs::read(original().join("model.safetensors")).unwrap());
    let (stem, _) = place(&case["shape"]);
    all.remove(&format!("{stem}.weight")).unwrap();
    for (end, about) in case["parts"].as_object().unwrap() {
        let dtype = about[0].as_str().unwrap();
        let shape: Vec<u64> = serde_json::from_value(about[1].clone()).unwrap();
        let bytes = part(case["name"].as_str().unwrap(), end, dtype, &shape, &about[2]);
        all.insert(format!("{stem}.{end}"), (dtype.to_owned(), shape, bytes));
    }
    all
}

/// Opens the folder with the settings of a case.
pub fn opened(tensors: &Tensors, case: &Json) -> Result<Model> {
    let key = case["key"].as_str().unwrap_or("quantization_config");
    opened_with(tensors, |config| config[key] = case["settings"].clone())
}
