//! The encoders of every type of today against ggml's bytes.

use regguf::quant::encode::{encoder, needs_importance};
use regguf::quant::{QuantType, decode_rows, isa::Isa};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

const TYPES: [&str; 27] = [
    "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs",
    "tq1_0", "tq2_0", "mxfp4", "nvfp4", "q1_0", "q2_0",
];

struct Matrix {
    rows: Vec<f32>,
    importance: Vec<f32>,
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&golden(name)).unwrap()
}

fn model_tensor() -> Matrix {
    let rows = golden("S-tensors/blk.0.attn_k.weight.f16");
    let rows = rows.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
    let importance = golden("S-tensors/blk.0.attn_k.weight.importance.f32");
    let importance = importance.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Matrix { rows, importance }
}

/// Uniform 24-bit numbers from a linear congruence.
fn random() -> impl FnMut() -> u32 {
    let mut state = 1u64;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32
    }
}

/// Sub-blocks of zeros, signed zeros, ties, outliers, one sign, and magnitudes far apart.
fn hard_cases() -> Matrix {
    let mut random = random();
    let power = |exponent: usize| 0.5f32.powi(exponent as i32);
    let number = |i: usize, m: i32| {
        let (sub, x) = (i / 32, m as f32);
        match sub % 8 {
            0 => 0.0,
            1 => {
                if m < 0 {
                    -0.0
                } else {
                    3.0
                }
            }
            2 => (m >> 20) as f32,
            3 => x * power(24 + sub % 11),
            4 => x * if i % 32 == 7 { power(23) } else { power(36) },
            5 => x.abs() * power(22),
            6 => (m >> 21) as f32 * 0.25,
            _ => x * power(26),
        }
    };
    let rows = (0..64 * 512).map(|i| number(i, random() as i32 - (1 << 23))).collect();
    let mut importance: Vec<f32> =
        (0..512).map(|i| (random() >> (8 * (i % 3))) as f32 * power(16)).collect();
    (importance[5], importance[200]) = (0.0, 0.0);
    Matrix { rows, importance }
}

fn encode(name: &str, isa: Isa, rows: &[f32], row_len: usize, weights: Option<&[f32]>) -> Vec<u8> {
    let q = QuantType::today(name).unwrap();
    let row_bytes = q.row_bytes(row_len as u64).unwrap() as usize;
    let mut out = vec![0xAA; row_bytes * (rows.len() / row_len)];
    encoder(name).unwrap()(isa, rows, row_len, weights, &mut out);
    out
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_bytes_of_llama_quantize() {
    let tensor = model_tensor();
    let mut checked = Vec::new();
    for run in json("newest-S.json")["runs"].as_array().unwrap() {
        let entry = &run["tensors"]["blk.0.attn_k.weight"];
        let Some(name) = entry[0].as_str().map(str::to_lowercase) else { continue };
        if TYPES.contains(&name.as_str()) {
            let weights = (run["mode"] == "imatrix").then_some(&tensor.importance[..]);
            let found = sha256(&encode(&name, Isa::best(), &tensor.rows, 256, weights));
            assert_eq!(found, entry[1], "{name} {}", run["mode"]);
            checked.push(name);
        }
    }
    checked.sort();
    checked.dedup();
    assert_eq!(checked.len(), TYPES.len() - 1, "all but nvfp4, which no run makes: {checked:?}");
}

#[test]
fn the_bytes_of_ggml_on_every_instruction_set() {
    let digests = &json("S-tensors/ggml-chunks.json")["sha256"];
    for (what, matrix) in [("blk.0.attn_k.weight", model_tensor()), ("hard cases", hard_cases())] {
        let row_len = matrix.importance.len();
        for name in TYPES {
            for (mode, weights) in [("plain", None), ("weighted", Some(&matrix.importance[..]))] {
                let Some(wanted) = digests[what][name][mode].as_str() else {
                    assert!(weights.is_none() && needs_importance(name), "{name}: no digest");
                    continue;
                };
                for isa in Isa::available() {
                    let found = sha256(&encode(name, isa, &matrix.rows, row_len, weights));
                    assert_eq!(found, wanted, "{what}, {name}, {mode}, {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let Matrix { rows, importance } = hard_cases();
    for name in TYPES {
        let all = encode(name, Isa::best(), &rows, 512, Some(&importance));
        let row_bytes = all.len() / 64;
        for row in [0, 3, 63] {
            let alone = &rows[row * 512..][..512];
            let alone = encode(name, Isa::best(), alone, 512, Some(&importance));
            assert!(alone == all[row * row_bytes..][..row_bytes], "{name}, row {row}");
        }
    }
}

/// What ggml stops at or leaves undefined must neither panic nor write outside its bytes.
#[test]
fn nothing_panics() {
    let mut random = random();
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40];
    for name in TYPES {
        for x in strange {
            for every in [1, 2, 37, 300] {
                let rows: Vec<f32> = (0..512)
                    .map(|i| if i % every == 0 { x } else { random() as f32 / 1e7 - 0.8 })
                    .collect();
                let odd: Vec<f32> = (0..512).map(|i| if i % 50 == 0 { x } else { 1.0 }).collect();
                for isa in Isa::available() {
                    for weights in [None, Some(&odd[..]), Some(&[0.0; 512][..])] {
                        encode(name, isa, &rows, 512, weights);
                    }
                }
            }
        }
    }
}

/// The types that only divide by a scale: no level is nearer to a number than what it decodes to,
/// but for the rounding of the scale to a half.
#[test]
fn simple_types_take_the_nearest_level() {
    const TRITS: &[f32] = &[-1.0, 0.0, 1.0];
    const E2M1: &[f32] =
        &[-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let half = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
    let scale = |name: &str, block: &[u8]| match name {
        "tq1_0" => half(&block[52..]),
        "tq2_0" => half(&block[64..]),
        "mxfp4" => (f32::from(block[0]) - 127.0).exp2(),
        _ => half(block),
    };
    for Matrix { rows, .. } in [model_tensor(), hard_cases()] {
        for (name, levels) in [
            ("tq1_0", TRITS),
            ("tq2_0", TRITS),
            ("q2_0", TRITS),
            ("q1_0", &[-1.0, 1.0]),
            ("mxfp4", E2M1),
        ] {
            let layout = QuantType::today(name).unwrap().layout();
            let bytes = encode(name, Isa::best(), &rows, 256, None);
            let mut decoded = vec![0.0; rows.len()];
            let q = QuantType::today(name).unwrap();
            decode_rows(q, Isa::PORTABLE, &bytes, 256, &mut decoded);
            let blocks = bytes.chunks(layout.bytes).zip(rows.chunks(layout.elements));
            for ((block, xs), ys) in blocks.zip(decoded.chunks(layout.elements)) {
                let d = scale(name, block);
                for (x, y) in xs.iter().zip(ys) {
                    let best = levels.iter().map(|l| (l * d - x).abs()).fold(f32::MAX, f32::min);
                    assert!((y - x).abs() <= best + d * 0.001, "{name}: {x} became {y}, d = {d}");
                }
            }
        }
    }
}
