//! Trits of other programs in the types of llama.cpp that hold trits: the same digits under the row's scale.

use super::{
    QuantType, decode_rows,
    encode::encoder,
    half::{half_at, put_half},
    isa::Isa,
    loss::{Run, ScaleLoss},
};

/// The ways from rows that begin with N bytes of scale.
macro_rules! ways {
    ($($name:literal $dialect:literal $front:literal: $($to:literal)+;)+) => {
        /// The way of one of them into another, and whether it keeps every weight whatever the bytes are: a scale
        /// in f32 is rounded to f16.
        pub(super) fn way(from: QuantType, to: QuantType) -> Option<(Run, bool)> {
            match (from.name(), from.dialect(), to.name()) {
                $($(($name, $dialect, $to) => {
                    let run: Run = |isa, row_len, input, out| {
                        recast::<$front>([$name, $dialect, $to], isa, row_len, input, out)
                    };
                    Some((run, $front < 4))
                })+)+
                _ => None,
            }
        }
    };
}

ways! {
    "iq1_bn" "ik" 2: "tq1_0" "tq2_0" "q2_0";
    "iq1_bn" "v1" 0: "tq1_0" "tq2_0" "q2_0";
    "iq2_bn" "ik" 4: "tq2_0" "q2_0";
    "iq2_bn" "v1" 0: "tq2_0" "q2_0";
    "i2_s" "bitnet" 4: "tq2_0" "q2_0";
    "i2_s" "arm" 4: "tq2_0" "q2_0";
}

/// Rows that begin with `FRONT` bytes of scale. With a scale of 1 the weights are the digits, less 1.
fn recast<const FRONT: usize>(
    [name, dialect, to]: [&str; 3],
    isa: Isa,
    row_len: usize,
    input: &[u8],
    out: &mut [u8],
) -> ScaleLoss {
    let from = QuantType::find(name, dialect).expect("the type that this was chosen for");
    let to = QuantType::today(to).expect("a type of today");
    let bytes = |q: QuantType| q.row_bytes(row_len as u64).map_or(1, |n| n as usize).max(1);
    let layout = to.layout();
    let scale = layout.fields.iter().find(|(_, field)| field.name == "d").map_or(0, |(at, _)| *at);
    // 1.0 as f16 and as f32.
    let one: &[u8] = if FRONT == 2 { &[0, 0x3c] } else { &[0, 0, 0x80, 0x3f] };
    let mut loss = ScaleLoss::default();
    let (mut ones, mut digits) = (vec![0; bytes(from)], vec![0.0; row_len]);
    for (row, out) in input.chunks_exact(bytes(from)).zip(out.chunks_exact_mut(bytes(to))) {
        ones.copy_from_slice(row);
        ones[..FRONT].copy_from_slice(&one[..FRONT]);
        decode_rows(from, isa, &ones, row_len, &mut digits);
        match to.name() {
            "tq2_0" => put_tq2_0(&digits, out),
            "q2_0" => put_q2_0(&digits, out),
            // Five digits to a byte, as its encoder puts them.
            name => {
                let encode = encoder(name).expect("a type with an encoder");
                encode(isa, &digits, row_len, None, out);
            }
        }
        // The row's scale becomes that of each of its blocks.
        let d = match FRONT {
            2 => half_at(row, 0),
            4 => f32::from_le_bytes([row[0], row[1], row[2], row[3]]),
            _ => 1.0,
        };
        for block in out.chunks_exact_mut(layout.bytes) {
            let new = put_half(block, scale, d);
            loss.count([d, 0.0], [new, 0.0]);
        }
    }
    loss
}

/// The bits of a digit.
fn pair(digit: f32) -> u8 {
    (digit + 1.0) as u8
}

/// Pair `l` of byte `32h + m` is weight `128h + 32l + m`.
fn put_tq2_0(digits: &[f32], out: &mut [u8]) {
    for (digits, out) in digits.as_chunks::<256>().0.iter().zip(out.as_chunks_mut::<66>().0) {
        out.fill(0);
        for (e, digit) in digits.iter().enumerate() {
            out[32 * (e / 128) + e % 32] |= pair(*digit) << (2 * (e % 128 / 32));
        }
    }
}

/// Pair `e % 4` of byte `e / 4` is weight `e`.
pub(super) fn put_q2_0(digits: &[f32], out: &mut [u8]) {
    for (digits, out) in digits.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<18>().0) {
        out.fill(0);
        for (e, digit) in digits.iter().enumerate() {
            out[2 + e / 4] |= pair(*digit) << (2 * (e % 4));
        }
    }
}
