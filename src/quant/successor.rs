//! Which of today's types takes over the weights of a type that today's llama.cpp does not know.
//!
//! - Q4_2 and Q4_3 have a scale for every 16 weights, in f16: no present type of that width has one
//!   of its own, and a product of eleven and four bits does not fit f16. Q8_0 adds an error of a
//!   thirtieth of their step; only F32 is exact.
//! - Super-blocks of 64: four of them do not fit one of 256, whose single scale they would share.
//!   Q4_K of 64 is two blocks of 32 with a scale and a minimum each, which Q4_1 holds with the same
//!   quants, the product of the two scales rounded to f16. The others have a scale for every 16
//!   weights: as Q4_2.
//! - The first lives of IQ1_S and IQ3_S are integers times a scale, which K-quants hold; an IQ3_S
//!   whose scale is so small that half of it loses a bit is rounded by that bit.
//! - Q4_1_O has a weight of its own in every block: F16 is the smallest that is near it.
//! - Q8_1 is Q8_0 with a sum for dot products.
//! - IQ2_K and Q6_0 of ik_llama.cpp are whole numbers under scales that Q6_K and Q8_0 hold. The levels of its
//!   other types are not evenly spaced, so the next K-quant with more bits, or Q8_0, is near them.
//! - Trits under a scale of the row stay trits: that of IQ1_BN is an f16 already. PTQ1_0 has a scale for 128, which
//!   TQ1_0 has not; Q1_0 of 32 two levels that Q4_0 has under the same scale.
//! - Row-interleaved packings are their plain types in another order, and go where those go.

use super::{QuantType, permute::transform, relay};

/// Whether a successor holds every weight as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Every weight stays the same.
    Exact,
    /// Weights may be rounded.
    Nearest,
}

/// The present-day types for the weights of `q`, the preferred first; the last is exact.
///
/// A type whose blocks do not fill a row is left to the caller to skip. Where
/// [`transform`] knows no way, rows are decoded and encoded again.
///
/// ```text
/// q4_0/pairs-f32   q4_0 (nearest: scales become f16), f32 (exact)
/// q5_0/pairs       q5_0 (exact)
/// q4_2             q8_0 (nearest), f16 (nearest), f32 (exact)
/// ```
pub fn successors(q: QuantType) -> Vec<(QuantType, Fidelity)> {
    if q.is_today() {
        return vec![(q, Fidelity::Exact)];
    }
    let plain = relay::of(q).map_or(q, |relay| relay.to);
    let names: &[&str] = match (plain.name(), plain.dialect()) {
        (name, _) if plain.is_today() => &[name],
        ("q4_2" | "q4_3", _) => &["q8_0", "f16"],
        ("q4_1_o", _) => &["f16"],
        ("q8_1", _) => &["q8_0"],
        ("q4_k", "super-64") => &["q4_1", "f16"],
        (_, "super-64") => &["q8_0", "f16"],
        ("iq1_s", "v1") => &["q5_k", "f16"],
        ("iq1_s", _) => &["q3_k", "f16"],
        ("iq3_s", _) => &["q6_k", "f16"],
        ("q1_0", _) => &["q4_0"],
        ("ptq1_0", _) => &["q2_0"],
        ("q6_0", _) => &["q8_0"],
        ("iq2_k" | "iq2_ks" | "iq1_m_r4", _) => &["q6_k", "q8_0", "f16"],
        ("iq1_kt" | "iq2_kt", _) => &["q5_k", "f16"],
        ("iq3_k" | "iq3_ks" | "iq2_kl", _) => &["q5_k", "f16"],
        ("iq3_kt" | "iq4_kt", _) => &["q6_k", "f16"],
        ("iq4_k" | "iq4_ks" | "iq4_kss", _) => &["q6_k", "f16"],
        ("iq5_k" | "iq5_ks" | "iq6_k", _) => &["q8_0", "f16"],
        ("iq1_s_r4", _) => &["iq1_s", "q8_0"],
        ("iq1_bn", _) => &["tq1_0", "q2_0"],
        ("iq2_bn" | "i2_s", _) => &["tq2_0", "q2_0"],
        ("q8_kv", _) => &["q8_0"],
        (name, _) if name.starts_with("q4_0_") => &["q4_0"],
        (name, _) if name.starts_with("iq4_nl_") => &["iq4_nl"],
        (name, _) => &[name],
    };
    let mut all = Vec::new();
    for to in names.iter().filter_map(|name| QuantType::today(name)) {
        let exact = transform(q, to).is_some_and(|way| way.exact);
        all.push((to, if exact { Fidelity::Exact } else { Fidelity::Nearest }));
        // Where its blocks are longer it may not fill a row.
        if exact && to.layout().elements <= q.layout().elements {
            return all;
        }
    }
    all.extend(QuantType::today("f32").map(|to| (to, Fidelity::Exact)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_successor_and_an_exact_one() {
        for q in QuantType::all() {
            let all = successors(q);
            assert!(all.iter().all(|(to, _)| to.is_today()), "{q}: {all:?}");
            assert_eq!(all.last().unwrap().1, Fidelity::Exact, "{q}");
        }
        let first = |name, dialect| successors(QuantType::find(name, dialect).unwrap())[0];
        let today = |name| QuantType::today(name).unwrap();
        assert_eq!(first("q5_0", "pairs"), (today("q5_0"), Fidelity::Exact));
        assert_eq!(first("q4_0", "pairs-f32"), (today("q4_0"), Fidelity::Nearest));
        assert_eq!(first("q4_0_8_8", "plain"), (today("q4_0"), Fidelity::Exact));
    }
}
