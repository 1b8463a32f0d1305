//! One file on its way through the readers of its parts.

use crate::{bytes::Source, format::container::Container, limits::Limits};

/// What every reader of a part asks.
///
/// There is no cursor: each part is given where it begins and returns where it ends.
pub(super) struct Walk<'a> {
    pub format: &'static Container,
    pub source: &'a Source<'a>,
    pub limits: Limits,
}
