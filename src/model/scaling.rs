//! How rotary positions are stretched over longer texts, as keys of GGUF and fields of `config.json` say it.

use serde_json::{Map, Value as Json, json};

use super::{Metadata, Value};
use crate::format::family::LongFactors;

/// Ways to stretch rotary frequencies over longer texts.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// Not at all.
    #[default]
    None,
    /// All by one factor.
    Linear(f32),
    /// By frequency, with optional fine tuning under GGUF's names after `rope.scaling.`.
    Yarn {
        /// The factor of the lowest frequencies.
        factor: f32,
        /// Context before stretching.
        original: Option<u32>,
        /// Further parameters.
        more: Vec<(&'static str, f32)>,
    },
    /// Each by a divisor of its own, of which there are two lists, stored as tensors: for texts longer than those of
    /// training, and for others.
    Long {
        /// Those for longer texts.
        long: Vec<f32>,
        /// Those for others.
        short: Vec<f32>,
        /// What queries and keys are multiplied with in either case.
        attention: f32,
        /// What keys say of it.
        said: LongFactors,
    },
    /// LLaMA 3.1's rule, stored as a tensor of divisors.
    Llama3 {
        /// The divisor of the lowest frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are divided by `factor`.
        low: f64,
        /// Wavelengths below `original / high` are left alone.
        high: f64,
        /// Context before stretching.
        original: f64,
    },
}

/// What `yarn` may be tuned by: in GGUF, and in `config.json`.
pub const YARN: [(&str, &str); 4] = [
    ("yarn_ext_factor", "extrapolation_factor"),
    ("yarn_attn_factor", "attention_factor"),
    ("yarn_beta_fast", "beta_fast"),
    ("yarn_beta_slow", "beta_slow"),
];
/// GGUF's name of a tenth of `mscale_all_dim`.
pub const YARN_LOG: &str = "yarn_log_multiplier";

impl Scaling {
    /// The scaling that keys of GGUF state.
    pub fn of(keys: &Metadata) -> Scaling {
        let key = |name: &str| format!("{}.rope.scaling.{name}", keys.architecture());
        let number = |name: &str| keys.f32(&key(name));
        let first = keys.f32(&format!("{}.rope.scale_linear", keys.architecture()));
        match (keys.str(&key("type")), number("factor").or(first)) {
            (Some("linear") | None, Some(factor)) => Scaling::Linear(factor),
            (Some("yarn"), Some(factor)) => Scaling::Yarn {
                factor,
                original: keys.u64(&key("original_context_length")).and_then(|n| n.try_into().ok()),
                more: {
                    let names = YARN.into_iter().map(|(gguf, _)| gguf).chain([YARN_LOG]);
                    names.filter_map(|name| Some((name, number(name)?))).collect()
                },
            },
            _ => Scaling::None,
        }
    }

    /// Sets the keys `ARCHITECTURE.rope.scaling.*`. LLaMA 3's scaling has none: its factors are a tensor.
    pub(super) fn put(&self, architecture: &str, keys: &mut Metadata) {
        let mut set = |key: &str, value: Value| {
            keys.set(format!("{architecture}.rope.scaling.{key}"), value);
        };
        match self {
            Scaling::None | Scaling::Llama3 { .. } => {}
            Scaling::Long { attention, said, .. } => {
                if *said == LongFactors::Type {
                    set("type", "longrope".into());
                }
                if *said == LongFactors::Attention || *attention != 1.0 {
                    set("attn_factor", (*attention).into());
                }
            }
            Scaling::Linear(factor) => {
                set("type", "linear".into());
                set("factor", (*factor).into());
            }
            Scaling::Yarn { factor, original, more } => {
                set("type", "yarn".into());
                set("factor", (*factor).into());
                if let Some(original) = original {
                    set("original_context_length", (*original).into());
                }
                for (key, value) in more {
                    set(key, (*value).into());
                }
            }
        }
    }

    /// `rope_scaling` of `config.json`.
    #[expect(clippy::cast_possible_truncation, reason = "rounded, as it was read")]
    pub fn config_json(&self) -> Json {
        // A float without a fraction as a whole number.
        let whole = |v: f64| format!("{v}").parse::<u64>().map_or_else(|_| v.into(), Json::from);
        match self {
            Scaling::None => Json::Null,
            Scaling::Long { long, short, said, .. } => {
                let all = |list: &[f32]| list.iter().map(|v| decimal(*v)).collect::<Vec<_>>();
                let kind = if *said == LongFactors::Type { "rope_type" } else { "type" };
                json!({kind: "longrope", "long_factor": all(long), "short_factor": all(short)})
            }
            Scaling::Linear(factor) => json!({"type": "linear", "factor": factor}),
            Scaling::Yarn { factor, original, more } => {
                let mut said = Map::new();
                said.insert("type".to_owned(), "yarn".into());
                said.insert("factor".to_owned(), json!(factor));
                said.insert("original_max_position_embeddings".to_owned(), json!(original));
                for (name, value) in more {
                    match YARN.iter().find(|(gguf, _)| gguf == name) {
                        Some((_, key)) => drop(said.insert((*key).to_owned(), decimal(*value))),
                        None => {
                            let all = decimal((f64::from(*value) / 0.1) as f32);
                            said.insert("mscale".to_owned(), all.clone());
                            said.insert("mscale_all_dim".to_owned(), all);
                        }
                    }
                }
                Json::Object(said)
            }
            Scaling::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                "high_freq_factor": high, "original_max_position_embeddings": whole(*original)
            }),
        }
    }

    /// The divisors of the rotary frequencies, one for each pair of `head` rows, where the scaling is stored
    /// as a tensor.
    ///
    /// ```text
    /// f = 1 / base^(2i / head)          w = 2π / f
    /// w < original / high               1
    /// w > original / low                factor
    /// else                              1 / ((1 - s) / factor + s),  s = (original / w - low) / (high - low)
    /// ```
    #[expect(clippy::cast_possible_truncation, reason = "the converter rounds to f32 here")]
    pub fn divisors(&self, base: f32, head: u32) -> Option<Vec<f32>> {
        let Scaling::Llama3 { factor, low, high, original } = *self else { return None };
        let (base, dim) = (f64::from(base), f64::from(head));
        let divisor = |i: u32| {
            // The converter computes in f32 from here on, and divides by multiplying with reciprocals.
            let frequency = (base.powf(f64::from((f64::from(2 * i) / dim) as f32)) as f32).recip();
            let wavelength = frequency.recip() * std::f32::consts::TAU;
            if f64::from(wavelength) < original / high {
                1.0
            } else if f64::from(wavelength) > original / low {
                factor as f32
            } else {
                let s = (wavelength.recip() * original as f32 - low as f32) / (high - low) as f32;
                ((1.0 - s) / factor as f32 + s).recip()
            }
        };
        Some((0..head / 2).map(divisor).collect())
    }
}

/// A number as people write it: the shortest decimal that is the same f32.
pub(super) fn decimal(number: f32) -> Json {
    number.to_string().parse::<f64>().unwrap_or_else(|_| number.into()).into()
}
