//! Matrices of eight-bit floats: a published checkpoint with its matrices stored so, against the same with
//! each number of them worked out here by the formula of the format's paper, as f32.

use std::{fs, path::Path};

use regguf::{
    change::report::Detail,
    change::{convert, report::Report},
    checkpoint::{self, Misfit, Options},
    error::Result,
    model::Model,
};
use serde_json::{Value as Json, json};

use super::golden::{Tensors, opened_with, original, rows, tensors};

/// The published folder with other tensors and settings of quantization.
fn opened(tensors: &Tensors, settings: Option<&Json>) -> Result<Model> {
    opened_with(tensors, |config| {
        if let Some(settings) = settings {
            config["quantization_config"] = settings.clone();
        }
    })
}

/// `(-1)^s 2^(e-7) (1 + m/8)`, and `(-1)^s 2^-6 m/8` where `e` is 0. Source: Micikevicius and others, FP8
/// Formats for Deep Learning, table 1.
fn e4m3(code: u8) -> f64 {
    let (sign, e, m) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = if e == 0 { m / 512.0 } else { (8.0 + m) * 2f64.powi(e - 10) };
    if sign == 1 { -size } else { size }
}

/// The upper byte of a half.
fn e5m2(code: u8) -> f64 {
    half::f16::from_bits(u16::from(code) << 8).to_f64()
}

/// How a matrix's scales are stored: name, shape, and which one a number has.
type Scales<'a> = (&'a str, fn(u64, u64) -> Vec<u64>, fn(u64, u64, u64) -> u64);

/// Every matrix of the layers in codes, and the same in f32.
fn pair(dtype: &str, value: fn(u8) -> f64, (end, shape_of, place): Scales) -> (Tensors, Tensors) {
    let mut coded = tensors(&fs::read(original().join("model.safetensors")).unwrap());
    let mut plain = coded.clone();
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let names: Vec<String> = coded.keys().filter(|n| n.contains("_proj.")).cloned().collect();
    assert_eq!(names.len(), 14);
    for name in names {
        let [rows, columns] = coded[&name].1[..] else { panic!("{name}") };
        let shape = shape_of(rows, columns);
        let n: u64 = shape.iter().product();
        let scales: Vec<f32> = (0..n).map(|_| (next() % 9973 + 1) as f32 / 7e5).collect();
        // Every code there is, but those that are no numbers.
        let code = |n: u32| match (n & 0xff) as u8 {
            code if value(code).is_finite() && code & 0x7f != 0x7f => code,
            code => code & 0x80 | 1,
        };
        let codes: Vec<u8> = (0..rows * columns).map(|_| code(next())).collect();
        let number = |(i, code): (u64, &u8)| {
            let scale = scales[place(i / columns, i % columns, columns) as usize];
            value(*code) as f32 * scale
        };
        let numbers = (0u64..).zip(&codes).map(number);
        let bytes = numbers.flat_map(f32::to_le_bytes).collect();
        plain.insert(name.clone(), ("F32".to_owned(), vec![rows, columns], bytes));
        let scales = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        coded.insert(format!("{name}{end}"), ("F32".to_owned(), shape, scales));
        coded.insert(name.clone(), (dtype.to_owned(), vec![rows, columns], codes));
    }
    (coded, plain)
}

/// Block `[128, 48]`, which fits neither 64 columns nor 192 rows.
const BLOCKS: Scales = (
    "_scale_inv",
    |rows, columns| vec![rows.div_ceil(128), columns.div_ceil(48)],
    |row, column, columns| row / 128 * columns.div_ceil(48) + column / 48,
);
const MATRIX: Scales = ("_scale", |_, _| Vec::new(), |_, _, _| 0);
const ROWS: Scales = ("_scale", |rows, _| vec![rows, 1], |row, _, _| row);

fn blocks() -> Json {
    json!({"quant_method": "fp8", "weight_block_size": [128, 48]})
}

#[test]
fn matrices_of_eight_bit_floats_are_the_numbers_of_the_formula() {
    let packed = json!({"quant_method": "compressed-tensors", "format": "float-quantized"});
    for (dtype, value, scales, settings) in [
        ("F8_E4M3", e4m3 as fn(u8) -> f64, BLOCKS, blocks()),
        ("F8_E4M3", e4m3, MATRIX, json!({"quant_method": "fp8"})),
        ("F8_E4M3", e4m3, ROWS, packed),
        ("F8_E5M2", e5m2, BLOCKS, blocks()),
    ] {
        let (coded, plain) = pair(dtype, value, scales);
        let (ours, wanted) =
            (opened(&coded, Some(&settings)).unwrap(), opened(&plain, None).unwrap());
        assert_eq!(ours.tensors.len(), 21);
        for tensor in &wanted.tensors {
            let found = ours.tensor(&tensor.name).unwrap();
            assert_eq!((&found.shape, found.quant), (&tensor.shape, tensor.quant));
            for step in [7, 1024] {
                let same = rows(&ours, &tensor.name, step) == rows(&wanted, &tensor.name, step);
                assert!(same, "{dtype}: {}", tensor.name);
            }
        }
        let note = ours.notes.iter().find(|note| note.contains("14 matrices"));
        assert!(note.is_some_and(|note| note.contains("FP8")), "{:?}", ours.notes);
        let auto = convert::Options { types: vec!["auto".to_owned()], ..Default::default() };
        let (ours, plans) = convert::plan(ours, &auto).unwrap();
        let said = Report::new(&ours, &plans[0], None).text(Detail::Kinds, None);
        assert!(said.contains("14 tensors  f32                          computed"), "{said}");
    }
}

#[test]
fn scales_that_cannot_be_right_are_named() {
    let (coded, _) = pair("F8_E4M3", e4m3, BLOCKS);
    let name = "model.layers.1.mlp.down_proj.weight";
    let scale = format!("{name}_scale_inv");
    let refused = |change: &dyn Fn(&mut Tensors), settings: &Json, words: &str| {
        let mut tensors = coded.clone();
        change(&mut tensors);
        let error = opened(&tensors, Some(settings)).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.lines().count() == 1, "{text}");
    };
    refused(
        &|t| drop(t.remove(&scale)),
        &blocks(),
        &format!("{name}: float8_e4m3fn weights without"),
    );
    let other = json!({"quant_method": "fp8", "weight_block_size": [64, 64]});
    refused(&|_| {}, &other, "wanted blocks of 64 × 64");
    refused(&|_| {}, &json!({"quant_method": "fp8"}), "config.json states no blocks");
    let nan = f32::NAN.to_le_bytes();
    refused(
        &|t| t.get_mut(&scale).unwrap().2[4..8].copy_from_slice(&nan),
        &blocks(),
        "down_proj.weight_scale_inv: a scale of NaN",
    );
    let stays = json!({"quant_method": "quark", "weight_block_size": [128, 48]});
    refused(&|_| {}, &stays, "weights quantized by quark");
}

/// A model that was only cast has no scales, its norms are eight bits too, and nothing is stated.
#[test]
fn casts_to_eight_bits_are_read_as_they_are() {
    let mut cast = tensors(&fs::read(original().join("model.safetensors")).unwrap());
    let mut plain = cast.clone();
    for (name, tensor) in &mut cast {
        let (count, mut state) = (tensor.1.iter().product::<u64>(), name.len() as u32);
        let codes: Vec<u8> = (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if state >> 24 & 0x7f == 0x7f { 1 } else { (state >> 24) as u8 }
            })
            .collect();
        let numbers = codes.iter().flat_map(|code| (e4m3(*code) as f32).to_le_bytes()).collect();
        plain.insert(name.clone(), ("F32".to_owned(), tensor.1.clone(), numbers));
        (tensor.0, tensor.2) = ("F8_E4M3".to_owned(), codes);
    }
    let (ours, wanted) = (opened(&cast, None).unwrap(), opened(&plain, None).unwrap());
    assert_eq!(ours.tensors.len(), 21);
    for tensor in &wanted.tensors {
        let same = rows(&ours, &tensor.name, 5) == rows(&wanted, &tensor.name, 5);
        assert!(same, "{}", tensor.name);
    }
    // Where scales are meant to be, one that is missing is an error.
    let error = opened(&cast, Some(&json!({"quant_method": "fp8"}))).unwrap_err().to_string();
    assert!(error.contains("without a weight_scale"), "{error}");
}

/// What torch itself pickled: a model of 16 columns that was only cast, with every code of each type in a matrix.
#[test]
fn pickles_of_eight_bit_floats_are_read_by_the_names_of_their_types() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let pickle = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families/float8.bin");
    fs::copy(pickle, folder.path().join("pytorch_model.bin")).unwrap();
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;
    put("config.json", config);
    put("tokenizer.json", crate::layouts::SPM);
    let options = Options { misfit: Misfit::Mend, ..Options::default() };
    let model = checkpoint::open(folder.path(), &options).unwrap();
    // Without infinities and negative zero, the exponents go one further down (Noune and others, 8-bit
    // Numerical Formats for Deep Neural Networks).
    let fnuz = |code: u8, size: f64| if code == 0x80 { f64::NAN } else { size };
    let wide = |code: u8| {
        let (e, m) = (i32::from(code >> 2 & 31), f64::from(code & 3));
        let size = if e == 0 { m * 2f64.powi(-17) } else { (4.0 + m) * 2f64.powi(e - 18) };
        fnuz(code, if code & 0x80 == 0 { size } else { -size })
    };
    for (name, value) in [
        (
            "attn_v",
            &(|code| if code & 0x7f == 0x7f { f64::NAN } else { e4m3(code) }) as &dyn Fn(u8) -> f64,
        ),
        ("attn_output", &e5m2),
        ("ffn_gate", &|code| fnuz(code, e4m3(code) / 2.0)),
        ("ffn_up", &wide),
    ] {
        let read = rows(&model, &format!("blk.0.{name}.weight"), 3);
        assert_eq!(read.len(), 4 * 256);
        for (code, read) in (0..=255).zip(read.as_chunks().0) {
            let (read, wanted) = (f32::from_le_bytes(*read), value(code) as f32);
            let same = read.to_bits() == wanted.to_bits() || read.is_nan() && wanted.is_nan();
            assert!(same, "{name}, {code:#x}: {read}, not {wanted}");
        }
    }
}
