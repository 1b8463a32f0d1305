//! From a model to a file: what will be written is planned first, shown, and then written exactly so.

pub mod ftype;
pub mod mix;
