//! Metadata: keys and values in the order of the file.

use std::sync::Arc;

use super::Value;

/// Keys and values in their order in the file. Clones share them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<Arc<(String, Value)>>);

impl Metadata {
    /// No keys.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value of `key` as a whole number.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_u64)
    }

    /// The value of `key` as a float.
    #[expect(clippy::cast_possible_truncation, reason = "rounded, as readers do")]
    pub fn f32(&self, key: &str) -> Option<f32> {
        self.get(key).and_then(Value::as_f64).map(|v| v as f32)
    }

    /// The value of `key` as text.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// The architecture that these are of; empty where they name none.
    pub fn architecture(&self) -> &str {
        self.str("general.architecture").unwrap_or_default()
    }

    /// The value of the key of this name behind the architecture.
    pub fn own(&self, name: &str) -> Option<&Value> {
        self.get(&format!("{}.{name}", self.architecture()))
    }

    /// Sets `key`, in its place where it exists, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let pair = Arc::new((key.into(), value.into()));
        match self.0.iter_mut().find(|old| old.0 == pair.0) {
            Some(old) => *old = pair,
            None => self.0.push(pair),
        }
    }

    /// Sets `key`, in its place where it exists, else where `other` has it: behind the nearest key before it there that
    /// is here too.
    pub fn set_as(&mut self, key: &str, value: impl Into<Value>, other: &Metadata) {
        let there = self.get(key).is_some();
        self.set(key, value);
        let before = other.iter().map(|(k, _)| k).take_while(|k| *k != key);
        let place = |k: &str| self.iter().position(|(own, _)| own == k);
        if let Some(at) = before.filter_map(place).last().filter(|_| !there)
            && let Some(pair) = self.0.pop()
        {
            self.0.insert(at + 1, pair);
        }
    }

    /// Appends without looking for the key, for readers that check duplicates themselves.
    pub fn push(&mut self, key: String, value: Value) {
        self.0.push(Arc::new((key, value)));
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.iter().position(|(k, _)| k == key)?;
        Some(Arc::unwrap_or_clone(self.0.remove(at)).1)
    }

    /// Gives `key` another name, in its place; whether it was there.
    pub fn rename(&mut self, key: &str, name: &str) -> bool {
        let found = self.0.iter_mut().find(|pair| pair.0 == key);
        found.map(|pair| Arc::make_mut(pair).0 = name.to_owned()).is_some()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|pair| (pair.0.as_str(), &pair.1))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
