//! A container as a target: which types it holds, and what comes nearest to those it does not.
//!
//! ```text
//! what a person types      what is meant
//! gguf-v3                  the container of that id
//! ggjt-v1                  that of the model's family, else the one whose short name it is
//! ggml                     the family's last container, where no id is meant
//! nothing                  today's GGUF; of a family that GGUF has no name for, the family's last container
//! ```
//!
//! Containers differ in what they hold: types by dialect, a vocabulary, scores, a byte order. All of it is asked here,
//! so that no plan has a table of its own.

use std::fmt;

use crate::{
    bytes::Input,
    container::keyed,
    error::{Error, Result},
    format::{
        catalog,
        container::{Container, Skeleton},
        family::Family,
    },
    model::Model,
    quant::{QuantType, encode::EncodeRows, recipe::recipes},
    remedy::{Call, Remedy, Setting},
};

/// Whether a container is ever written. Of a family with a tokenizer, where the header's numbers of types are
/// described.
fn is_written(container: &Container) -> bool {
    let described = container.header.file_type.is_some();
    let spelled = |family: &Family| family.tokenizer.is_none() || described;
    match container.format.skeleton {
        Skeleton::Stream => {
            catalog::family(&container.format.family).is_some_and(spelled)
                && container.read_only().is_none()
        }
        skeleton => skeleton == Skeleton::Keyed,
    }
}

/// Whether a file of its family is taken for it without more ado.
fn usual(container: &Container) -> bool {
    let detect = &container.detect;
    let against = detect.against.as_deref().and_then(catalog::container);
    let disputed = against.is_some_and(|other| other.format.family == container.format.family);
    detect.after.is_none() && !disputed && !detect.asked
}

/// The container that a family's programs wrote last.
fn present(family: &str) -> Option<&'static Container> {
    let named = !family.is_empty();
    let ours = |c: &&Container| named && c.format.family == family && c.format.lived.to.is_none();
    let all = catalog::containers().iter().filter(|c| ours(c) && is_written(c));
    all.max_by(|a, b| a.format.lived.from.cmp(&b.format.lived.from))
}

/// What "GGUF" means without a version.
const TODAY: &str = "gguf-v3";

/// A container that can be written.
#[derive(Clone, Copy, PartialEq)]
pub struct Target(&'static Container);

/// The remedy for what older containers do not hold.
pub(super) fn as_gguf() -> Remedy {
    let known = ["gguf-v3", "gguf-v2", "gguf-v1"];
    Remedy::any("keep it as GGUF", known.map(|id| Setting::Target.of(id)))
}

/// The remedy for what GGUF has no name for.
fn own(container: &Container) -> Remedy {
    Setting::Target.of(container.id()).to("leave it in its own")
}

impl Target {
    /// The container that a person means: its id, or the id without the family (`ggjt-v1`).
    ///
    /// # Errors
    /// Where there is none, or it is only ever read.
    pub fn find(name: &str) -> Result<Target> {
        Target::within("", name)
    }

    /// The container for `model`: the one that a person means, without the model's family in its id if they
    /// like; else today's GGUF, or the last container of a family that GGUF has no name for.
    ///
    /// # Errors
    /// Where there is none, it is only ever read, or it does not hold the model's family.
    pub fn of(name: Option<&str>, model: &Model) -> Result<Target> {
        let family = catalog::family(&model.family);
        let unknown = family.filter(|family| family.family.gguf.is_empty());
        let present = unknown.and_then(|family| present(&family.family.name));
        let Some(name) = name else {
            return present.map_or_else(|| Target::find(TODAY), |present| Ok(Target(present)));
        };
        let name = if name.eq_ignore_ascii_case("gguf") { TODAY } else { name };
        let target = Target::within(&model.family, name)?;
        let Some(family) = family else { return Ok(target) };
        if target.is_keyed() && family.family.gguf.is_empty() {
            let what = format!("GGUF has no architecture for {}", family.family.title);
            return Err(Error::unsupported(what, present.map(own).unwrap_or_default()));
        }
        if !target.is_keyed() && family.family.name != target.0.format.family {
            let what = format!("{} does not hold {}", target.title(), family.family.title);
            let next = match present {
                Some(container) => own(container),
                None => as_gguf(),
            };
            return Err(Error::unsupported(what, next));
        }
        Ok(target)
    }

    /// The container of this name: by its id, by the id without the family, by the short name of one.
    fn within(family: &str, name: &str) -> Result<Target> {
        let wanted = name.to_ascii_lowercase();
        let short = |c: &&'static Container| {
            let rest = c.id().strip_prefix(&wanted).and_then(|rest| rest.strip_prefix('-'));
            let ours = !family.is_empty() && c.format.family == family;
            rest.is_some() && ours && usual(c) && is_written(c)
        };
        let bare = |c: &&'static Container| c.format.short.as_deref() == Some(&wanted);
        let all = catalog::containers();
        // Of several of one name the last; `ggml` is also what a family calls otherwise.
        let last = present(family);
        let begins = |c: &&'static Container| {
            c.id().strip_prefix(&wanted).is_some_and(|rest| rest.starts_with('-'))
        };
        let own = all.iter().find(|c| c.id() == wanted).or_else(|| last.filter(begins));
        let own = own.or_else(|| all.iter().find(short));
        let own = own.or_else(|| last.filter(|_| wanted == "ggml"));
        match own.or_else(|| all.iter().find(bare)) {
            Some(container) if is_written(container) => Ok(Target(container)),
            Some(container) => Err(Error::unsupported(
                format!("{} is read, never written", container.format.title),
                Setting::Target.to("choose a GGUF or ggjt version"),
            )),
            None => {
                let ours = |c: &&'static Container| {
                    let keyed = c.format.skeleton == Skeleton::Keyed;
                    is_written(c) && usual(c) && (keyed || c.format.family == family)
                };
                let short = |c: &'static Container| match &c.format.short {
                    Some(short) if !c.format.family.is_empty() => short.as_str(),
                    _ => c.id(),
                };
                let all = all.iter().filter(ours).map(short).collect::<Vec<_>>().join(", ");
                Err(Error::usage(format!("{name}: no such format; there are {all}")))
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
            Error::unsupported(what, Call::Upgrade.on(name).to("make one of it"))
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

    /// Whether a vocabulary has a place in it.
    pub fn holds_vocab(self) -> bool {
        self.is_keyed() || self.0.vocab.is_some()
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
        let era = self.0.newest_dialect().unwrap_or_default();
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
            return self.copies(quant);
        }
        let own = self.0.type_id(&format!("{}/{}", quant.name(), quant.dialect())).is_some();
        let stored = keyed::type_id(self.0, quant).is_some();
        stored
            && (own || quant.is_today())
            && until.as_ref().is_none_or(|to| quant.block().lived.from < *to)
    }

    /// Whether another program's type can be copied into it.
    pub fn copies(self, quant: QuantType) -> bool {
        let newest = self.is_keyed() && self.0.format.lived.to.is_none();
        // They are of programs that write today's GGUF in little-endian, and of no other.
        let theirs = quant.program().is_some() || quant.block().once.is_some();
        theirs && newest && !self.big_endian()
    }

    /// The type that has the same name here.
    pub fn same_name(self, quant: QuantType) -> Option<QuantType> {
        self.types().into_iter().find(|q| q.name() == quant.name())
    }

    /// The type here whose bits a weight are nearest, not fewer if there is one.
    pub fn nearest(self, quant: QuantType) -> Option<QuantType> {
        let bits = |q: QuantType| {
            let layout = q.layout();
            // In thousandths of a bit, whole: 18 bytes for 32 weights are 4500.
            layout.bytes * 8000 / (layout.elements * layout.rows).max(1)
        };
        let wanted = bits(quant);
        // Types of at least as many bits come before those of fewer; then the one that is nearest.
        let distance = |q: &QuantType| (bits(*q) < wanted, bits(*q).abs_diff(wanted));
        self.types().into_iter().min_by_key(distance)
    }

    /// How the bytes of a type were made: as `asked` for, else in the last way of the container's era.
    ///
    /// # Errors
    /// Where it was never made in the way that is asked for.
    pub fn recipe(self, quant: QuantType, asked: Option<&str>) -> Result<Option<EncodeRows>> {
        let known = recipes(quant);
        // An encoder that came after the container's last day never wrote such a file.
        let until = self.container().format.lived.to.as_deref();
        let Some(name) = asked else {
            let then = known.iter().rev().find(|r| until.is_none_or(|until| r.lived.0 < until));
            return Ok(then.map(|r| r.encode));
        };
        match known.iter().find(|r| r.name == name) {
            Some(recipe) => Ok(Some(recipe.encode)),
            None => {
                let known: Vec<_> = known.iter().map(|r| r.name).collect();
                let known = known.join(", ");
                Err(Error::usage(format!(
                    "no way to make {quant} is called {name}; it was made by {known}"
                )))
            }
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(self.id())
    }
}
