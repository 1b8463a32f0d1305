//! Which family a model is of, and whether regguf carries that family.

use super::Model;
use crate::{
    bytes::Input,
    error::{Error, Result},
    format::{catalog, container::Skeleton, family::Family},
};

impl Family {
    /// The family of `model`; none for a GGUF of an architecture without a description, which says all
    /// about itself.
    ///
    /// # Errors
    /// [`Error::Foreign`] where the model lies in a container whose names and header words no family
    /// describes: such a file is read, and nothing can be made of it.
    pub fn of(model: &Model) -> Result<Option<&'static Family>> {
        let family = catalog::family(&model.family);
        let Some(container) = catalog::container(&model.format) else { return Ok(family) };
        if family.is_some() || container.format.skeleton == Skeleton::Keyed {
            return Ok(family);
        }
        let name = model.files.first().map(Input::name).unwrap_or_default();
        let (title, reader) = (&container.format.title, &container.format.source);
        let relative = container.relative(|name| model.tensor(name).is_some());
        let title = relative.map_or(title.clone(), |name| format!("{title}: {name}"));
        Err(Error::foreign(
            format!("{name}: {title}: regguf reads and verifies such files and converts none"),
            format!("what reads them: {reader}"),
        ))
    }
}
