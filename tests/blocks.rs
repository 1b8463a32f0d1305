//! Block types on random blocks: on every instruction set, and from one type to another. Those of the original programs
//! are decoded in `golden`.

use regguf::quant::{QuantType, decode_rows, isa::Isa, permute::transform};
use std::fs;

fn golden(q: QuantType, kind: &str) -> Option<Vec<u8>> {
    let root = env!("CARGO_MANIFEST_DIR");
    fs::read(format!("{root}/golden/blocks/{}-{}.{kind}", q.name(), q.dialect())).ok()
}

/// Bytes without a pattern, the same every time.
fn random_bytes() -> impl FnMut() -> u8 {
    let mut state = 1u64;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    }
}

/// The bits of every weight; those of a NaN, which are the processor's choice, are made equal.
fn bits(q: QuantType, isa: Isa, bytes: &[u8], row_len: usize, rows: usize) -> Vec<u32> {
    let mut out = vec![0.0f32; row_len * rows];
    decode_rows(q, isa, bytes, row_len, &mut out);
    out.iter().map(|x| if x.is_nan() { !0 } else { x.to_bits() }).collect()
}

fn has_nan(q: QuantType, bytes: &[u8], row_len: usize, rows: usize) -> bool {
    bits(q, Isa::PORTABLE, bytes, row_len, rows).contains(&!0)
}

/// Rows of several lengths of random bytes: every instruction set gives the bits of the portable one.
#[test]
fn instruction_sets_agree_on_any_bytes() {
    let mut random = random_bytes();
    for q in QuantType::all() {
        for blocks in [1, 2, 3, 7, 16, 17] {
            let (row_len, rows) = (q.layout().elements * blocks, q.row_group() * 2);
            let row_bytes = q.row_bytes(row_len as u64).unwrap() as usize;
            let bytes: Vec<u8> = (0..row_bytes * rows).map(|_| random()).collect();
            let decode = |isa| bits(q, isa, &bytes, row_len, rows);
            let wanted = decode(Isa::PORTABLE);
            for isa in Isa::available() {
                assert!(decode(isa) == wanted, "{q}: {} differs from portable", isa.name());
            }
        }
    }
}

/// Every way that claims to be exact leaves every weight as it was, and ways back lead back.
#[test]
fn exact_transforms_keep_every_weight() {
    let mut random = random_bytes();
    let mut ways = 0;
    for (from, to) in QuantType::all().flat_map(|a| QuantType::all().map(move |b| (a, b))) {
        let Some(way) = transform(from, to) else { continue };
        ways += 1;
        for blocks in [1, 2, 5, 16] {
            let row_len = from.layout().elements.max(to.layout().elements) * blocks;
            let rows = from.row_group() * to.row_group() * 3;
            let bytes_of = |q: QuantType| q.row_bytes(row_len as u64).unwrap() as usize * rows;
            let input: Vec<u8> = (0..bytes_of(from)).map(|_| random()).collect();
            let mut out = vec![0; bytes_of(to)];
            let loss = way.run(Isa::PORTABLE, row_len, &input, &mut out);
            assert_eq!(
                loss.blocks,
                (row_len * rows / to.layout().elements) as u64,
                "{from} -> {to}"
            );
            for isa in Isa::available() {
                let mut again = vec![0; out.len()];
                assert_eq!(way.run(isa, row_len, &input, &mut again), loss, "{from} -> {to}");
                assert!(again == out, "{from} -> {to} on {}", isa.name());
            }
            if !way.exact {
                continue;
            }
            assert_eq!((loss.changed, loss.underflow, loss.overflow), (0, 0, 0), "{from} -> {to}");
            // A removed type in other blocks may turn a negative zero into a positive one.
            let zero = |x: u32| if x == 1 << 31 && from.name() != to.name() { 0 } else { x };
            let weights = |q, bytes: &[u8]| -> Vec<u32> {
                bits(q, Isa::PORTABLE, bytes, row_len, rows).into_iter().map(zero).collect()
            };
            assert!(weights(from, &input) == weights(to, &out), "{from} -> {to}");
            if let Some(back) =
                transform(to, from).filter(|_| !has_nan(from, &input, row_len, rows))
            {
                let mut round = vec![0; input.len()];
                back.run(Isa::PORTABLE, row_len, &out, &mut round);
                assert!(round == input, "{from} -> {to} -> {from}");
            }
        }
    }
    let forks = 33 + 5 + 16 + 4 + 2;
    assert_eq!(ways, 12 + 12 + 2 + 2 + 8 + 12 + 4 + 2 + forks);
}

/// Narrowing a scale rounds it to the nearest f16 and says what happened.
#[test]
fn narrowed_scales_are_counted() {
    let from = QuantType::find("q4_1", "pairs-f32").unwrap();
    let way = transform(from, QuantType::today("q4_1").unwrap()).unwrap();
    assert!(!way.exact);
    let scales: [[f32; 2]; 6] = [
        [0.5, -0.25],    // held exactly
        [0.1, 0.0],      // rounded
        [1e-9, 0.5],     // underflow: the block becomes constant
        [1.0, 1e-9],     // a lost minimum beside a scale is only rounding
        [0.0, 1e-9],     // underflow: the block becomes zero
        [70_000.0, 0.0], // overflow
    ];
    let mut input = Vec::new();
    for scale in scales {
        input.extend(scale.iter().flat_map(|x| x.to_le_bytes()));
        input.extend([0x21; 16]);
    }
    let mut out = vec![0; 20 * scales.len()];
    let loss = way.run(Isa::PORTABLE, 32, &input, &mut out);
    assert_eq!((loss.blocks, loss.changed, loss.underflow, loss.overflow), (6, 5, 2, 1));
    let rounded = (half::f16::from_f32(0.1).to_f32() - 0.1).abs() / 0.1;
    assert_eq!(loss.max_relative_change, rounded);
    assert_eq!(out[20..22], half::f16::from_f32(0.1).to_le_bytes());
}

/// Removed types in other blocks, by the golden blocks of the originals: the weights stay the same.
#[test]
fn removed_types_keep_their_weights_in_present_blocks() {
    for (name, dialect, to) in
        [("iq1_s", "v1", "q5_k"), ("iq1_s", "v2", "q3_k"), ("iq3_s", "v1", "q6_k")]
    {
        let (from, to) = (QuantType::find(name, dialect).unwrap(), QuantType::today(to).unwrap());
        let bytes = golden(from, "bin").unwrap();
        let n = bytes.len() / from.layout().bytes;
        let mut out = vec![0; to.layout().bytes * n];
        let way = transform(from, to).unwrap();
        let loss = way.run(Isa::best(), 256, &bytes, &mut out);
        assert_eq!(loss.changed, 0, "{from}");
        let weights = |q, bytes: &[u8]| {
            let mut out = vec![0.0f32; n * 256];
            decode_rows(q, Isa::best(), bytes, 256, &mut out);
            out
        };
        assert_eq!(weights(from, &bytes), weights(to, &out), "{from} -> {to}");
    }
    let (from, to) =
        (QuantType::find("q4_k", "super-64").unwrap(), QuantType::today("q4_1").unwrap());
    let bytes = golden(from, "bin").unwrap();
    let mut out = vec![0; bytes.len() / 38 * 40];
    let loss = transform(from, to).unwrap().run(Isa::best(), 64, &bytes, &mut out);
    assert!(loss.max_relative_change <= 1.0 / 2048.0, "{loss:?}");
    let weights = |q, bytes: &[u8]| {
        let mut out = vec![0.0f32; bytes.len() / q_bytes_of_64(q) * 64];
        decode_rows(q, Isa::best(), bytes, 64, &mut out);
        out
    };
    let (old, new) = (weights(from, &bytes), weights(to, &out));
    let largest = old.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    assert!(old.iter().zip(&new).all(|(a, b)| (a - b).abs() <= largest / 1024.0));
}

fn q_bytes_of_64(q: QuantType) -> usize {
    q.row_bytes(64).unwrap() as usize
}
