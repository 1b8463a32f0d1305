//! Faults that readers note of a file, and that a new file is free of.
//!
//! A reader that takes a file in spite of a fault says so in a note, which ends in one of the two sentences here. A
//! report of a file that was made of it says instead that the new one is mended: the note is the same, its end another.

use crate::{
    model::Model,
    remedy::{Fault, Note, Notes},
};

/// Whether an upgrade mends what a reader found wrong with a file.
pub fn upgrade_mends(model: &Model) -> bool {
    model.notes.iter().any(|note| note.fault.is_some())
}

/// What readers noticed, as the report of a new file has it: that is free of their faults, but for those of weights that
/// are copied `as_stored`.
pub(crate) fn notes_of_new(model: &Model, as_stored: bool) -> Notes {
    let stays = |note: &Note| as_stored && note.fault == Some(Fault::Weights);
    let told = |note: &Note| if stays(note) { note.clone() } else { note.clone().mended() };
    model.notes.iter().map(told).collect()
}
