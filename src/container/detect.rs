//! What a file is: candidates by their first bytes, each walked by its own rules to the last byte.
//!
//! ```text
//! first bytes, version       which formats can it be                        start::check
//! walk                       each by its own rules: whole, with gaps, or refused with a place
//! after                      a format that is tried where another left doubt
//! against                    one of the same sizes as another: tokens, rows or weights tell, or a person
//! ```
//!
//! Nothing is decided by a file's name or size. A candidate that is refused says why, at which offset;
//! candidates of equal sizes are decided by the weights, or stay two.

use std::collections::BTreeMap;

use super::{OpenOptions, RowStorage, keyed, lookalike, missing, plausible, start, stream};
use crate::{
    bytes::{Input, Source, journal},
    error::{Error, Result},
    format::{
        catalog,
        container::{
            Container,
            Skeleton::{self, Keyed, Stream},
        },
    },
    model::Model,
    remedy::{Call, Note, Remedy, Setting},
};

/// What a file is, and why.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detected {
    /// The verdict.
    pub verdict: Verdict,
    /// Every candidate that was tried, with the reason where it was refused.
    pub tried: Vec<Tried>,
    found: Vec<Found>,
}

/// The verdict on "what is this file?"
///
/// Two candidates that the bytes do not tell apart are an answer, too: none is taken in silence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is this.
    Sure(&'static Container),
    /// It is one of these; what decides.
    Either(Vec<&'static Container>, Remedy),
    /// It is nothing known; what it looks like.
    Unknown(Note),
}

/// A candidate.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tried {
    /// The format.
    pub format: &'static Container,
    /// Why the file is not of it; none where it is.
    pub refused: Option<Error>,
}

/// A format that the file may be of.
#[derive(Debug)]
struct Found {
    format: &'static Container,
    /// What the walk yields; none for formats that are only recognised.
    model: Option<Model>,
    /// Whether it was walked to the last byte and no byte was left out.
    exact: bool,
}

impl Detected {
    /// The model, where the verdict is sure.
    ///
    /// # Errors
    /// [`Error::Malformed`] from the candidate of a walk that came furthest; [`Error::Unknown`] where there is
    /// none or more than one; [`Error::Unsupported`] and [`Error::Foreign`] where there is nothing to convert.
    pub fn sure(self, input: &Input) -> Result<Model> {
        let unknown = |looks: String, next| Err(Error::Unknown { file: input.name(), looks, next });
        match self.verdict {
            Verdict::Sure(format) => {
                let found = self.found.into_iter().find(|f| f.format == format);
                found.and_then(|f| f.model).ok_or_else(|| {
                    let what = format!("{}: {}", input.name(), format.format.title);
                    match format.format.skeleton {
                        Skeleton::Checkpoint => {
                            let next = "it holds raw weights: convert it";
                            Error::unsupported(what, Call::Convert.to(next))
                        }
                        _ => Error::foreign(
                            what,
                            "it is known, but holds no model that can be converted",
                        ),
                    }
                })
            }
            Verdict::Either(formats, next) => {
                let titles: Vec<&str> = formats.iter().map(|f| f.format.title.as_str()).collect();
                unknown(format!("could be {}", titles.join(" or ")), next)
            }
            Verdict::Unknown(looks) => {
                let walked = |t: &Tried| matches!(t.format.format.skeleton, Stream | Keyed);
                // Of all that went wrong the error at the highest offset is of the format that it most likely is.
                let errors = self.tried.into_iter().filter(walked).filter_map(|t| t.refused);
                // Of several that came as far the first: from behind, for `max_by_key` takes the last.
                match errors.rev().max_by_key(|error| reached(error, input.len())) {
                    Some(error) => Err(error),
                    None => unknown(looks.text, looks.remedy),
                }
            }
        }
    }
}

/// How far into a file of `len` bytes a candidate was followed, and how much it knows of what it found there.
///
/// A candidate that fails at its first header word says nothing of the file; one that fails at the last tensor is most
/// likely the format, and the file is damaged there.
fn reached(error: &Error, len: u64) -> (u64, u8) {
    match error {
        Error::Malformed(m) => (m.at, 1),
        Error::Foreign { next, .. } if next.to_string() == missing::OTHER_FORM => (len, 0),
        _ => (len, 2),
    }
}

/// Returns what `input` is.
///
/// What a file is not is no error here: it is in [`Detected::tried`], with the reason.
///
/// # Errors
/// Only where the file cannot be read, or where `options` name a format that does not exist.
pub fn detect(input: &Input, options: &OpenOptions) -> Result<Detected> {
    if input.is_on_disk() {
        journal::check(input.path())?;
    }
    let mut state = Detected {
        verdict: Verdict::Unknown(Note::default()),
        tried: Vec::new(),
        found: Vec::new(),
    };
    if let Some(id) = &options.format {
        let format = catalog::container(id).ok_or_else(|| {
            Error::usage(Note::new(
                format!("no format {id:?}"),
                Call::Explain.to("see which there are"),
            ))
        })?;
        state.attempt(format, input, options)?;
    } else {
        // The first bytes leave a handful: all unversioned families share one magic, versions of one family share code.
        let candidates = candidates(input)?;
        //     after     ggjt v3 with super-blocks of 64 after ggjt v3: the same header, other sizes of blocks
        //     against   planar rows against blocks: the same header and the same sizes
        //     asked     GGUF v3 with the first blocks of IQ1_S: nothing in a file tells, so only a person can
        //
        // Those that stand for themselves; the others are tried on behalf of one of these.
        let first = |c: &&Container| {
            c.detect.after.is_none() && c.detect.against.is_none() && !c.detect.asked
        };
        for format in candidates.iter().copied().filter(first) {
            if !state.attempt(format, input, options)? {
                for other in &candidates {
                    if other.detect.after.as_deref() == Some(format.id()) {
                        state.second(format, other, input, options)?;
                    }
                }
            }
        }
        // The first dispute that is decided is the verdict.
        for rival in candidates.iter().copied() {
            if let Some(against) = &rival.detect.against
                && let Some(verdict) = state.choose(against, rival, input, options)?
            {
                state.verdict = verdict;
                return Ok(state);
            }
        }
    }
    state.verdict = state.decide(input)?;
    Ok(state)
}

/// The formats that a file's first bytes and version allow.
fn candidates(input: &Input) -> Result<Vec<&'static Container>> {
    let mut out = Vec::new();
    for format in catalog::containers() {
        let source = Source::new(input, "").ordered(format.detect.order());
        match start::check(&source, format) {
            Ok(_) => out.push(format),
            Err(Error::Malformed(_)) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(out)
}

impl Detected {
    /// Walks `input` as `format`; returns whether it is one beyond doubt.
    fn attempt(
        &mut self,
        format: &'static Container,
        input: &Input,
        options: &OpenOptions,
    ) -> Result<bool> {
        let refused = match walk(format, input, options) {
            Ok(found) => {
                self.found.push(found);
                None
            }
            Err(error @ (Error::Malformed(_) | Error::Foreign { .. })) => Some(error),
            Err(other) => return Err(other),
        };
        // Exact: to the last byte, no gaps.
        let sure = refused.is_none() && self.found.last().is_some_and(|f| f.exact);
        self.tried.push(Tried { format, refused });
        Ok(sure)
    }

    /// Walks `input` as `other`, of which `first` left doubt; a walk without gaps replaces it.
    ///
    /// `other` is described as `after` `first`: it is tried where that was refused or left gaps.
    fn second(
        &mut self,
        first: &'static Container,
        other: &'static Container,
        input: &Input,
        options: &OpenOptions,
    ) -> Result<()> {
        // Both walked: the one without gaps stays; neither without, the first.
        if self.attempt(other, input, options)? {
            self.found.retain(|f| f.format != first);
        } else if self.found.iter().any(|f| f.format == first) {
            self.found.retain(|f| f.format != other);
        }
        Ok(())
    }

    /// Where `rival` has the same sizes as the format `against`: asks its tokens and rows, or the person,
    /// or the weights.
    ///
    /// None where this is no dispute: the base was not found, the rival's own words rule it out, its walk fails, or
    /// both read the same.
    fn choose(
        &mut self,
        against: &str,
        rival: &'static Container,
        input: &Input,
        options: &OpenOptions,
    ) -> Result<Option<Verdict>> {
        let Some(base) = self.found.iter().find(|f| f.format.id() == against) else {
            return Ok(None);
        };
        let Some(one) = &base.model else { return Ok(None) };
        let says =
            |words: &BTreeMap<String, i64>| words.iter().all(|(n, v)| one.header(n) == Some(*v));
        let only = &rival.detect.only;
        if !only.is_empty() && !only.iter().any(says) {
            return Ok(None);
        }
        // A walk of headers alone: the weights are the same bytes in both readings.
        let Ok(other) = walk(rival, input, options) else { return Ok(None) };
        let Some(two) = &other.model else { return Ok(None) };
        // Types that differ are told by scales; orders of rows, which do not, only by a person.
        let differ = one.tensors.iter().zip(&two.tensors).any(|(a, b)| a.quant != b.quant);
        let base = base.format;
        let either = |does: String| {
            Remedy::any(does, [base, rival].map(|format| Setting::Format.of(format.id())))
        };
        let (choice, next) = if !rival.detect.tokens.is_empty() {
            let rival = if plausible::bears_signs(rival, two)? { rival } else { base };
            (Some(rival), either("say which".to_owned()))
        } else if differ {
            let choice = match options.blocks {
                Some(RowStorage::Planar) => Some(rival),
                Some(RowStorage::Blocked) => Some(base),
                None => {
                    plausible::by_weights(one, two)?.map(|second| if second { rival } else { base })
                }
            };
            let orders = ["planar", "blocked"].map(|order| Setting::Blocks.of(order));
            (choice, Remedy::any("the weights do not tell: say which", orders))
        } else if one.tensors != two.tensors || one.header != two.header {
            (None, either(format!("nothing in the file tells: {}: say which", rival.detect.doubt)))
        } else {
            return Ok(None);
        };
        self.tried.push(Tried { format: rival, refused: None });
        self.found.push(other);
        Ok(Some(choice.map_or(Verdict::Either(vec![base, rival], next), Verdict::Sure)))
    }

    /// The verdict over all that were walked and not refused.
    fn decide(&self, input: &Input) -> Result<Verdict> {
        // A format that was walked to the last byte outweighs one that leaves gaps or bytes over, and
        // that one a format that was only recognised.
        let rank = |f: &&Found| f.model.is_some().then_some(f.exact);
        let best = self.found.iter().map(|f| rank(&f)).max();
        let found = self.found.iter().filter(|f| Some(rank(f)) == best);
        let formats: Vec<_> = found.map(|f| f.format).collect();
        Ok(match formats.as_slice() {
            [] => Verdict::Unknown(lookalike::like(input)?),
            [format] => Verdict::Sure(format),
            _ => {
                let all = formats.iter().map(|format| Setting::Format.of(format.id()));
                let next = Remedy::any("say which", all);
                Verdict::Either(formats, next)
            }
        })
    }
}

/// Reads `input` as `format`; of a format that is only recognised, its header.
fn walk(format: &'static Container, input: &Input, options: &OpenOptions) -> Result<Found> {
    let (model, exact) = match format.format.skeleton {
        Stream => {
            let model = stream::read(format, input, options)?;
            let exact = model.tails.is_empty();
            (Some(model), exact)
        }
        Keyed => {
            let read = keyed::read(format, input, options)?;
            (Some(read.model), read.exact)
        }
        Skeleton::Checkpoint | Skeleton::None => {
            stream::check_header(format, input, options.limits)?;
            (None, true)
        }
    };
    Ok(Found { format, model, exact })
}
