//! What is in the way of a quantization, gathered for all tensors before anything is written.
//!
//! A person who asks for a type learns of all tensors that stand in its way at once, not of the first one after an
//! hour. `quantize` looks at each tensor that is to be encoded while it plans, then asks once.
//!
//! | list | what is wrong | can it be waived |
//! |---|---|---|
//! | `unknown` | a type of another program, which nothing here decodes | no |
//! | `no_weights` | plain numbers that are no weights: indices | no |
//! | `unwritable` | a type that nothing here makes | no |
//! | `unfit` | rows that are no whole blocks | no, another type is |
//! | `quantized` | blocks already: rounded once, and again now | yes |
//! | `blind` | a type that needs imatrix data, of which there are none | yes, by a type that stands in |
//! | `unmeasured` | imatrix data that lack this tensor | it is only told |

use super::Step;
use crate::{
    error::{Error, Result},
    quant::{QuantType, encode::EncodeRows},
    remedy::{Call, Notes, Remedy, Setting},
    size::counted,
};

/// What is in the way of a quantization, for all tensors at once.
///
/// Each list has names of tensors, most with the type in brackets, as they are printed.
#[derive(Default)]
pub(super) struct Obstacles {
    unknown: Vec<String>,
    no_weights: Vec<String>,
    quantized: Vec<(String, QuantType)>,
    unwritable: Vec<String>,
    unfit: Vec<String>,
    blind: Vec<String>,
    unmeasured: Vec<String>,
}

/// The remedy for weights that would lose twice.
pub(super) fn again(instead: &str) -> Remedy {
    Remedy::from(instead).or(Setting::AllowRequantize.to("let them lose twice"))
}

impl Obstacles {
    /// Whether anything was quantized before.
    pub(super) fn requantizes(&self) -> bool {
        !self.quantized.is_empty()
    }

    /// Looks at one tensor that is to be encoded.
    pub(super) fn look_at(
        &mut self,
        step: &Step,
        source: QuantType,
        // What was asked for, in the person's words: also where there is no such encoder.
        wanted: &str,
        to: Option<(QuantType, EncodeRows)>,
    ) {
        let row = step.shape.last().copied().unwrap_or(1);
        match source.layout().elements {
            _ if source.stranger().is_some() => {
                self.unknown.push(format!("{} ({source})", step.name));
            }
            // Plain, but no weights: indices, say.
            1 if !matches!(source.name(), "f32" | "f16" | "bf16") => {
                self.no_weights.push(format!("{} ({source})", step.name));
            }
            1 => {}
            // Blocks: what they lost once they would lose again.
            _ => self.quantized.push((step.name.clone(), source)),
        }
        match to {
            None => self.unwritable.push(format!("{} ({wanted})", step.name)),
            Some((to, _)) if to.row_bytes(row).is_none() => {
                self.unfit.push(format!("{} (rows of {row}, {to})", step.name));
            }
            Some(_) => {}
        }
    }

    /// A tensor of a type that is useless without imatrix data has none.
    pub(super) fn lacks_imatrix_data(&mut self, name: &str, to: QuantType) {
        self.blind.push(format!("{name} ({to})"));
    }

    /// A tensor that the matrix does not know is encoded without imatrix data.
    pub(super) fn passed_over(&mut self, name: &str) {
        self.unmeasured.push(name.to_owned());
    }

    /// The first kind of obstacle as an error, with every tensor that has it; that some are quantized
    /// already is none where the person allows it.
    pub(super) fn check(&self, allow_requantize: bool) -> Result<()> {
        // In this order: what cannot be, what should not be, what would be useless.
        let no = |list: &[String], what: &str, next: Remedy| match list {
            [] => Ok(()),
            list => Err(Error::unsupported(format!("{what}: {}", list.join(", ")), next)),
        };
        let types = Setting::TensorType.to("choose other types for them");
        let copy = Call::Quantize.on("IN OUT COPY").to("keep them");
        no(
            &self.unknown,
            "these tensors are of types that are not decoded here",
            copy.or("convert them with their program"),
        )?;
        no(
            &self.no_weights,
            "these tensors hold no weights",
            Setting::TensorType.to("leave them out"),
        )?;
        no(&self.unwritable, "these types cannot be made here", "choose other types".into())?;
        no(&self.unfit, "rows are no whole number of blocks", types.clone())?;
        if !allow_requantize && let Some((name, quant)) = self.quantized.first() {
            let which = match self.quantized.len() {
                1 => format!("{name} is"),
                n => format!("{name} and {} more are", n - 1),
            };
            return Err(Error::refused(
                format!("{which} quantized already ({quant}), and would lose twice"),
                again("start from the F16 or F32 model"),
            ));
        }
        no(
            &self.blind,
            "these types are useless without an importance matrix, which has no data for",
            Setting::Imatrix
                .of("FILE")
                .to("give data for them")
                .or(Setting::FallbackType.of("q2_k").to("say what stands in for them"))
                .or(types),
        )
    }

    /// Says what is no error and should be known.
    pub(super) fn note(&self, notes: &mut Notes) {
        if let Some((_, quant)) = self.quantized.first() {
            notes.push(format!(
                "{} quantized before ({quant}): errors are relative to those weights, and \
                 the original weights would make them smaller",
                counted(self.quantized.len(), "tensor was", "tensors were")
            ));
        }
        if !self.unmeasured.is_empty() {
            notes.push(format!("no imatrix data for {}", self.unmeasured.join(", ")));
        }
    }
}
