//! Whole folders of models: found, planned, worked through, resumed, split over machines.
//!
//! A batch can be killed at any moment and run again: an output appears whole under its name or not
//! at all, and a receipt beside it proves what it was made from. Nothing is decided by a service or a
//! database; the tree and the receipts are all there is.

pub mod events;
pub mod find;
pub mod lock;
pub mod receipt;
pub mod shard;
