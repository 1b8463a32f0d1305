//! Every block type against the original programs: random blocks and what those decode them to.

use regguf::quant::{QuantType, decode_rows, isa::Isa};
use std::fs;

fn golden(q: QuantType, kind: &str) -> Option<Vec<u8>> {
    let root = env!("CARGO_MANIFEST_DIR");
    fs::read(format!("{root}/golden/blocks/{}-{}.{kind}", q.name(), q.dialect())).ok()
}

/// Types that no original program ever decoded to `f32`: plain numbers, those of dot products only,
/// and packings that were made in memory.
fn has_no_original(q: QuantType) -> bool {
    matches!(q.name(), "f32" | "f64" | "i8" | "i16" | "i32" | "i64" | "q8_1")
        || q.name().starts_with("iq4_nl_")
}

#[test]
fn decodes_as_the_originals_on_every_instruction_set() {
    for q in QuantType::all() {
        let (Some(bytes), Some(wanted)) = (golden(q, "bin"), golden(q, "f32")) else {
            assert!(has_no_original(q), "{q}: no golden blocks");
            continue;
        };
        let wanted: Vec<u32> =
            wanted.as_chunks().0.iter().map(|x| u32::from_le_bytes(*x)).collect();
        let row_len = wanted.len() / q.row_group();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; wanted.len()];
            decode_rows(q, isa, &bytes, row_len, &mut out);
            let bad = out.iter().zip(&wanted).position(|(x, w)| x.to_bits() != *w);
            if let Some(i) = bad {
                let wanted = f32::from_bits(wanted[i]);
                panic!("{q} on {}: weight {i} is {}, not {wanted}", isa.name(), out[i]);
            }
        }
    }
}

/// Rows of several lengths of random bytes: every instruction set gives the bits of the portable one.
#[test]
fn instruction_sets_agree_on_any_bytes() {
    let mut state = 1u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for q in QuantType::all() {
        for blocks in [1, 2, 3, 7, 16, 17] {
            let (row_len, rows) = (q.layout().elements * blocks, q.row_group() * 2);
            let row_bytes = q.row_bytes(row_len as u64).unwrap() as usize;
            let bytes: Vec<u8> = (0..row_bytes * rows).map(|_| random()).collect();
            let decode = |isa| {
                let mut out = vec![0.0; row_len * rows];
                decode_rows(q, isa, &bytes, row_len, &mut out);
                // The sign of a NaN that an operation makes is the processor's choice.
                out.iter().map(|x: &f32| if x.is_nan() { !0 } else { x.to_bits() }).collect()
            };
            let wanted: Vec<u32> = decode(Isa::PORTABLE);
            for isa in Isa::available() {
                assert!(decode(isa) == wanted, "{q}: {} differs from portable", isa.name());
            }
        }
    }
}
