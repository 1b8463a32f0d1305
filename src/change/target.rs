//! A container as a target: which types it holds, and what comes nearest to those it does not.

use std::fmt;

use crate::{
    bytes::Input,
    container::keyed,
    error::{Error, Result},
    format::{
        catalog,
        container::{Blocks, Container, Skeleton},
    },
    model::Model,
    quant::QuantType,
};

/// A container that can be written.
#[derive(Clone, Copy, PartialEq)]
pub struct Target(&'static Container);

impl Target {
    /// The container that a person means: its id, or the id without the family (`ggjt-v1`).
    ///
    /// # Errors
    /// Where there is none, or it is only ever read.
    pub fn find(name: &str) -> Result<Target> {
        let wanted = name.to_ascii_lowercase();
        let named =
            |c: &&Container| c.id() == wanted || c.id().strip_suffix("-llama") == Some(&wanted);
        // A family says what stands in a header, but not by which version its blocks were laid out, and not how
        // its vocabulary was spelled.
        let writable = |c: &&Container| match c.format.skeleton {
            Skeleton::Stream => {
                catalog::family(&c.format.family).is_some_and(|family| family.tokenizer.is_none())
                    && matches!(c.format.blocks, Blocks::One(_))
                    && c.tensors.transposed.is_empty()
            }
            skeleton => skeleton == Skeleton::Keyed,
        };
        let usual = |c: &&Container| {
            c.detect.after.is_none() && c.detect.against.is_none() && !c.detect.asked
        };
        match catalog::containers().iter().find(named) {
            Some(container) if writable(&container) => Ok(Target(container)),
            Some(container) => Err(Error::unsupported(
                format!("{} is read, never written", container.format.title),
                "choose a GGUF or ggjt version with --to",
            )),
            None => {
                let short = |c: &'static Container| c.id().strip_suffix("-llama").unwrap_or(c.id());
                let all = catalog::containers().iter().filter(writable).filter(usual).map(short);
                let all = all.collect::<Vec<_>>().join(", ");
                Err(Error::Usage(format!("--to {name}: no such format; there are {all}")))
            }
        }
    }

    /// The GGUF that a model is in, to be written again as it is.
    ///
    /// # Errors
    /// Where it is none.
    pub fn own(model: &Model) -> Result<Target> {
        let keyed = Target::find(&model.format).ok().filter(|target| target.is_keyed());
        keyed.ok_or_else(|| {
            let name = model.files.first().map(Input::name).unwrap_or_default();
            let what = format!("{name}: is {}, and this is done to GGUF only", model.format);
            Error::unsupported(what, format!("`regguf upgrade {name}` makes one"))
        })
    }

    /// Its description.
    pub fn container(self) -> &'static Container {
        self.0
    }

    /// Its id: `ggjt-v1-llama`.
    pub fn id(self) -> &'static str {
        self.0.id()
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        &self.0.format.title
    }

    /// Whether it is a GGUF.
    pub fn is_keyed(self) -> bool {
        self.0.format.skeleton == Skeleton::Keyed
    }

    /// Whether it has been replaced by a later version.
    pub fn is_past(self) -> bool {
        self.0.format.lived.to.is_some()
    }

    /// Whether its numbers are big-endian.
    pub fn big_endian(self) -> bool {
        self.0.detect.big_endian
    }

    /// Whether its vocabulary has scores.
    pub fn stores_scores(self) -> bool {
        self.0.vocab.as_ref().is_some_and(|v| v.score)
    }

    /// Every type that it holds.
    pub fn types(self) -> Vec<QuantType> {
        if self.is_keyed() {
            return QuantType::all().filter(|q| self.holds(*q)).collect();
        }
        let era = self.0.dialect(&[]).unwrap_or_default();
        let mean = |name: &String| match name.split_once('/') {
            Some((name, dialect)) => QuantType::find(name, dialect),
            None => QuantType::in_force(name, era),
        };
        self.0.tensors.types.values().filter_map(mean).collect()
    }

    /// Whether it holds this type in this dialect. A GGUF version holds what was written while it was
    /// the newest one.
    pub fn holds(self, quant: QuantType) -> bool {
        if !self.is_keyed() {
            return self.types().contains(&quant);
        }
        let until = &self.0.format.lived.to;
        if quant.stranger().is_some() {
            return until.is_none() && !self.big_endian();
        }
        let own = self.0.type_id(&format!("{}/{}", quant.name(), quant.dialect())).is_some();
        let stored = keyed::type_id(self.0, quant).is_some();
        stored
            && (own || quant.is_today())
            && until.as_ref().is_none_or(|to| quant.block().lived.from < *to)
    }

    /// The type that has the same name here.
    pub fn same_name(self, quant: QuantType) -> Option<QuantType> {
        self.types().into_iter().find(|q| q.name() == quant.name())
    }

    /// The type here whose bits a weight are nearest, not fewer if there is one.
    pub fn nearest(self, quant: QuantType) -> Option<QuantType> {
        let bits = |q: QuantType| {
            let layout = q.layout();
            layout.bytes * 8000 / (layout.elements * layout.rows).max(1)
        };
        let wanted = bits(quant);
        let distance = |q: &QuantType| (bits(*q) < wanted, bits(*q).abs_diff(wanted));
        self.types().into_iter().min_by_key(distance)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(self.id())
    }
}
