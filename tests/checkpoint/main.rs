//! Checkpoints read as the models that they are: every layout of one model gives the same tensors.

mod broken;
mod fp8;
#[path = "../golden/packed.rs"]
mod golden;
mod layouts;
mod packed;
mod published;
mod torch;
mod verdicts;
