//! From a model to a file: what will be written is planned first, shown, and then written exactly so.
//!
//! [`upgrade`] and its sisters turn a [`crate::model::Model`] into a [`Plan`]; [`carry()`] streams the
//! rows through it into one or several new files and checks them.
//!
//! ```text
//! Model --upgrade, convert, quantize, edit, split--> Plan      what is lost is known here, and refused or told
//!       --Report::new---------------------------->             the dry run
//! Plan  --carry---------------------------------->  file       exactly what was planned, then opened and compared
//! ```
//!
//! Who decides on a loss: rounding of scales and what no old file says are planned and told; what would be quantized a
//! second time, what does not fit a type, and numbers that are none are refused until a person allows them.

pub(crate) mod adapter;
#[doc(hidden)]
pub mod choose;
pub mod convert;
mod cuts;
pub mod edit;
pub mod execute;
pub mod export;
mod floats;
pub mod graft;
mod keys;
mod latent;
mod mend;
pub(crate) mod npy;
mod obstacles;
pub(crate) mod output;
pub(crate) mod pieces;
pub(crate) mod plan;
mod prepare;
mod prune;
mod published;
pub mod quantize;
mod recode;
pub mod report;
mod scales;
pub mod split;
mod target;
pub mod upgrade;
pub mod vision;
pub(crate) mod vocabulary;
mod weave;

pub use crate::{bytes::Progress, model::Assumed, quant::distance::Distance};
pub use execute::{Outcome, StepOutcome, Writing, carry, carry_proved, carry_with};
pub use plan::{Act, Loss, Plan, Step};
pub use prepare::{has_single_experts, once};
pub use target::Target;

/// Whether an upgrade changes what the metadata of a GGUF say, or the layout of its matrices, for the better.
pub fn mends(model: &crate::model::Model) -> bool {
    has_single_experts(model)
        || latent::is_whole(model, false)
        || mend::found(model, true).iter().any(|mend| !mend.keys.is_empty())
}
