//! The numbers that a runner computes with, as errors name them.
//!
//! Keys are asked for without the architecture in front: `embedding_length` is `llama.embedding_length` of a LLaMA.

use crate::{
    error::{Error, Result},
    format::family::Family,
    model::{Metadata, Value},
    remedy::Call,
};

/// The numbers of a model by GGUF's keys, behind its architecture.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'m> {
    family: &'m Family,
    metadata: &'m Metadata,
}

impl<'m> Numbers<'m> {
    /// Those that `metadata` state of a model of `family`.
    pub fn of(family: &'m Family, metadata: &'m Metadata) -> Numbers<'m> {
        Numbers { family, metadata }
    }

    /// The key with its architecture, as messages show it.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.architecture())
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&self.key(key))
    }

    /// An integer.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_u64)
    }

    /// A number.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64)
    }

    /// A number that something is multiplied with or bound by: none where it is 0.
    pub(super) fn factor(&self, key: &str) -> Option<f32> {
        self.f64(key).filter(|factor| *factor != 0.0).map(|factor| factor as f32)
    }

    /// What `yarn` multiplies queries and keys with before scores are made of them, where a key says it apart from
    /// what it does to positions: `1 + log_multiplier ln factor`.
    pub(super) fn stretch_of_scores(&self) -> f64 {
        let all = self.f64("rope.scaling.yarn_log_multiplier").unwrap_or(0.0);
        let factor = self.f64("rope.scaling.factor").filter(|factor| *factor > 1.0);
        1.0 + all * factor.map_or(0.0, libm::log)
    }

    /// A text.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Yes or no.
    pub(super) fn bool(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// An integer from 1 to `most`.
    ///
    /// # Errors
    /// Where it is not said, or out of these bounds: what is larger is damage, and would be allocated.
    pub(super) fn size(&self, key: &str, most: u64) -> Result<usize> {
        let found = self.u64(key);
        let fits = found.filter(|v| (1..=most).contains(v)).and_then(|v| v.try_into().ok());
        fits.ok_or_else(|| match found {
            None => self.missing(key),
            Some(found) => {
                let what = format!("{} is {found}; the runner takes 1 to {most}", self.key(key));
                Error::unsupported(what, Call::Verify.to("check the file"))
            }
        })
    }

    /// The error for a key that has to be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        let what = format!("the model cannot be run: {} is not said", self.key(key));
        Error::unsupported(what, Call::Verify.to("check the file"))
    }
}
