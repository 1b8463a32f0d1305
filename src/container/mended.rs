//! Faults that readers note of a file, and that a new file is free of.
//!
//! A reader that takes a file in spite of a fault says so in a note, which ends in one of the two sentences here. A
//! report of a file that was made of it says instead that the new one is mended: the note is the same, its end another.

use crate::{
    model::Model,
    remedy::{Note, Notes},
};

/// How the note of a fault ends that no written file has, whatever writes it.
pub(super) const FORM_MENDED: &str = "an upgrade mends it";
/// How the note of a fault ends that only goes where tensors are written anew.
pub(super) const WEIGHTS_MENDED: &str = "an upgrade mends them";

/// Whether an upgrade mends what a reader found wrong with a file.
pub fn upgrade_mends(model: &Model) -> bool {
    let mended = |note: &Note| note.contains(FORM_MENDED) || note.contains(WEIGHTS_MENDED);
    model.notes.iter().any(mended)
}

/// What readers noticed, as the report of a new file has it: that is free of their faults, but for those of weights that
/// are copied `as_stored`.
pub(crate) fn notes_of_new(model: &Model, as_stored: bool) -> Notes {
    let mut notes = model.notes.clone();
    for note in notes.iter_mut() {
        note.text = note.replace(FORM_MENDED, "the new one is mended");
        if !as_stored {
            note.text = note.replace(WEIGHTS_MENDED, "they are put right in the new one");
        }
    }
    notes
}
