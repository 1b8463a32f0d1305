//! Whether files are whole: digests, what lists claim of them, and what is evident from the bytes.

pub mod digest;
pub mod download;
pub mod known;
pub mod lists;
pub mod search;
pub mod sums;
pub mod tensors;
pub mod verify;

mod diagnose;
mod forms;
mod gather;
mod holes;
mod inside;
mod stores;
