//! Metadata: ordered keys and typed values, with the thirteen kinds that GGUF has.

use std::{fmt, sync::Arc};

use super::{Array, Texts};

/// The kind of a value; the numbers are GGUF's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// The kind with this number.
    pub fn from_id(id: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| *k as u32 == id)
    }

    /// Bytes of a value of this kind; none of strings and arrays, which say so themselves.
    pub fn width(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::String | Kind::Array => 0,
        }
    }

    /// GGUF's name of it, lower case: `u32`, `str`, `arr`.
    #[expect(clippy::indexing_slicing, reason = "as many names as kinds, in order")]
    pub fn name(self) -> &'static str {
        ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64"]
            [self as usize]
    }
}

/// A value of some kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Bytes, as a rule UTF-8; nothing in the format promises it.
    String(Vec<u8>),
    /// Values of one kind.
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::F32(_) => Kind::F32,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(..) => Kind::Array,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F64(_) => Kind::F64,
        }
    }

    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(items: impl IntoIterator<Item = S>) -> Value {
        items.into_iter().collect::<Texts>().into()
    }

    /// Its value, where it is a whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// Its value as a float, where it is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            Value::I8(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            _ => self.as_u64().map(|v| v as f64),
        }
    }

    /// Its text, where it is a string of valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Its value, where it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// Its items, where it is an array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }
}

impl From<u32> for Value {
    fn from(v: u32) -> Value {
        Value::U32(v)
    }
}

impl From<f32> for Value {
    fn from(v: f32) -> Value {
        Value::F32(v)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Value {
        Value::Bool(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::String(v.as_bytes().to_vec())
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Value {
        Value::Array(v)
    }
}

impl From<Texts> for Value {
    fn from(v: Texts) -> Value {
        Value::Array(v.into())
    }
}

impl fmt::Display for Value {
    /// One line; long arrays are cut after a few items.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => write!(f, "{v}"),
            Value::I8(v) => write!(f, "{v}"),
            Value::U16(v) => write!(f, "{v}"),
            Value::I16(v) => write!(f, "{v}"),
            Value::U32(v) => write!(f, "{v}"),
            Value::I32(v) => write!(f, "{v}"),
            Value::F32(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::U64(v) => write!(f, "{v}"),
            Value::I64(v) => write!(f, "{v}"),
            Value::F64(v) => write!(f, "{v}"),
            Value::String(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Value::Array(items) => {
                write!(f, "{}[{}]", items.kind().name(), items.len())?;
                for (i, item) in items.iter().take(6).enumerate() {
                    write!(f, "{}{item}", if i == 0 { " " } else { ", " })?;
                }
                if items.len() > 6 { f.write_str(", …") } else { Ok(()) }
            }
        }
    }
}

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

    /// The architecture that these are of; llama where they name none.
    pub fn architecture(&self) -> &str {
        self.str("general.architecture").unwrap_or("llama")
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

    /// Appends without looking for the key, for readers that check duplicates themselves.
    pub fn push(&mut self, key: String, value: Value) {
        self.0.push(Arc::new((key, value)));
    }

    /// Removes `key` and answers its value.
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
