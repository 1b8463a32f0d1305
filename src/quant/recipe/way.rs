//! One way of making the bytes of a type.

use crate::quant::encode::EncodeRows;

/// One way of making the bytes of a type.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Recipe {
    /// A name for the command line: `full-range`.
    pub name: &'static str,
    /// The days from and until which llama.cpp had it; still does if there is no second.
    pub lived: (&'static str, Option<&'static str>),
    /// Project, commit, file and function.
    pub source: &'static str,
    /// Encodes whole rows.
    pub encode: EncodeRows,
}
