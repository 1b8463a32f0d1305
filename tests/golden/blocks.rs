//! Every block type against the original programs: random blocks and what those decode them to.

use std::fs;

use libtest_mimic::{Failed, Trial};
use regguf::quant::{QuantType, decode_rows, isa::Isa};

/// A test for each type that an original program decoded.
pub fn all() -> impl Iterator<Item = Trial> {
    QuantType::all()
        .filter(|q| !has_no_original(*q) && !is_of_a_fork(*q) || golden(*q, "bin").is_ok())
        .map(|q| Trial::test(format!("blocks/{}-{}", q.name(), q.dialect()), move || decodes(q)))
}

fn golden(q: QuantType, kind: &str) -> std::io::Result<Vec<u8>> {
    let root = env!("CARGO_MANIFEST_DIR");
    fs::read(format!("{root}/golden/blocks/{}-{}.{kind}", q.name(), q.dialect()))
}

/// Other programs' types, whose rows are in `golden/blocks/forks.json`: `forks.rs` looks at them.
fn is_of_a_fork(q: QuantType) -> bool {
    q.program().is_some()
}

/// Types that no original program ever decoded to `f32`: plain numbers, those of dot products only,
/// and packings that were made in memory.
fn has_no_original(q: QuantType) -> bool {
    matches!(q.name(), "f32" | "f64" | "i8" | "i16" | "i32" | "i64" | "q8_1")
        || q.name().starts_with("iq4_nl_")
}

/// On every instruction set, bit for bit.
fn decodes(q: QuantType) -> Result<(), Failed> {
    let (bytes, wanted) = (golden(q, "bin")?, golden(q, "f32")?);
    let wanted: Vec<u32> = wanted.as_chunks().0.iter().map(|x| u32::from_le_bytes(*x)).collect();
    let row_len = wanted.len() / q.row_group();
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; wanted.len()];
        decode_rows(q, isa, &bytes, row_len, &mut out);
        let bad = out.iter().zip(&wanted).position(|(x, w)| x.to_bits() != *w);
        if let Some(i) = bad {
            let wanted = f32::from_bits(wanted[i]);
            panic!("on {}: weight {i} is {}, not {wanted}", isa.name(), out[i]);
        }
    }
    Ok(())
}
