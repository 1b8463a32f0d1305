//! Values of the thirteen kinds that GGUF has, and lists of them: one buffer, not one allocation for each
//! of millions.
//!
//! ```text
//! a value in a file    number, bool    its bytes, in the order of the file
//!                      string          length, bytes
//!                      array           kind, count, items one behind the other; strings with their lengths
//! ```
//!
//! ```text
//! u32 7               07 00 00 00
//! string "ab"         02 00 00 00 00 00 00 00  61 62
//! array of u8 [5]     00 00 00 00  01 00 00 00 00 00 00 00  05
//! ```
//!
//! So in GGUF 2 and 3; lengths and counts of version 1 have four bytes.
//!
//! The tokens and merges of LLaMA 3 are 408,403 texts: one by one they would be as many allocations, and as many again
//! with every clone of the metadata.

use std::{fmt, sync::Arc};

use super::Texts;

/// The kind of a value; the numbers are GGUF's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
#[non_exhaustive]
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
///
/// Two values are equal only where their kinds are: `U32(1)` is not `I32(1)`, for a file that has one and is to have
/// the other differs. Whoever wants the number asks [`Value::as_u64`]. A NaN equals nothing by itself, but arrays are
/// held against each other as bytes, so that one of NaNs equals its copy.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
#[non_exhaustive]
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
    /// Writers have used every width for the same key, so that readers take any.
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
    /// Whole numbers above 2^53 are rounded.
    /// A boolean is no number.
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
    /// Texts are in quotes, with what does not print escaped; an array says its kind and length first:
    /// `u32[8] 1, 2, 3, 4, 5, 6, …`.
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

/// Values of one kind.
/// Numbers stay bytes and texts one buffer: a list of a million tokens is a few allocations, and a clone shares them.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    kind: Kind,
    items: Items,
}

#[derive(Clone, Debug, PartialEq)]
enum Items {
    /// Little-endian, each as wide as its kind is.
    Numbers(Arc<Vec<u8>>),
    Texts(Texts),
    Arrays(Arc<Vec<Array>>),
}

impl Array {
    /// Numbers, or booleans, of a kind from their little-endian bytes; what fills no value is left out.
    pub fn of_bytes(kind: Kind, bytes: Vec<u8>) -> Array {
        Array { kind, items: Items::Numbers(Arc::new(bytes)) }
    }

    /// Arrays as the values of an array.
    pub fn of_arrays(arrays: Vec<Array>) -> Array {
        Array { kind: Kind::Array, items: Items::Arrays(Arc::new(arrays)) }
    }

    /// The values of `kind` among `values`.
    /// Those of other kinds are passed over, as an array has one kind.
    pub fn of(kind: Kind, values: impl IntoIterator<Item = Value>) -> Array {
        let values = values.into_iter().filter(|value| value.kind() == kind);
        match kind {
            Kind::String => {
                let text = |v| if let Value::String(text) = v { text } else { Vec::new() };
                values.map(text).collect::<Texts>().into()
            }
            Kind::Array => {
                let array = |v| if let Value::Array(array) = v { Some(array) } else { None };
                Array::of_arrays(values.filter_map(array).collect())
            }
            _ => {
                let mut bytes = Vec::new();
                values.for_each(|value| put(&value, &mut bytes));
                Array::of_bytes(kind, bytes)
            }
        }
    }

    /// The kind of its values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Numbers(bytes) => bytes.len() / self.kind.width().max(1),
            Items::Texts(texts) => texts.len(),
            Items::Arrays(arrays) => arrays.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `index`.
    /// Made anew for each question; a loop over many numbers is better off with [`Array::bytes`].
    pub fn get(&self, index: usize) -> Option<Value> {
        match &self.items {
            Items::Numbers(bytes) => {
                let width = self.kind.width();
                bytes.get(index.checked_mul(width)?..)?.get(..width).map(|b| take(self.kind, b))
            }
            Items::Texts(texts) => texts.get(index).map(|text| Value::String(text.to_vec())),
            Items::Arrays(arrays) => arrays.get(index).cloned().map(Value::Array),
        }
    }

    /// The first value.
    pub fn first(&self) -> Option<Value> {
        self.get(0)
    }

    /// All values in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Its texts, where it holds such.
    pub fn texts(&self) -> Option<&Texts> {
        match &self.items {
            Items::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// The little-endian bytes of its numbers, where it holds such.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.items {
            Items::Numbers(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Its arrays, where it holds such.
    pub fn arrays(&self) -> Option<&[Array]> {
        match &self.items {
            Items::Arrays(arrays) => Some(arrays),
            _ => None,
        }
    }
}

impl From<Texts> for Array {
    fn from(texts: Texts) -> Array {
        Array { kind: Kind::String, items: Items::Texts(texts) }
    }
}

/// Adds the little-endian bytes of a number.
fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::String(_) | Value::Array(_) => {}
    }
}

/// The number of a kind in its little-endian bytes.
/// Strings and arrays have no width and are never asked here.
fn take(kind: Kind, bytes: &[u8]) -> Value {
    let mut eight = [0; 8];
    eight.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let [a, b, c, d, ..] = eight;
    match kind {
        Kind::U8 => Value::U8(a),
        Kind::I8 => Value::I8(a.cast_signed()),
        Kind::Bool => Value::Bool(a != 0),
        Kind::U16 => Value::U16(u16::from_le_bytes([a, b])),
        Kind::I16 => Value::I16(i16::from_le_bytes([a, b])),
        Kind::I32 => Value::I32(i32::from_le_bytes([a, b, c, d])),
        Kind::F32 => Value::F32(f32::from_le_bytes([a, b, c, d])),
        Kind::U64 => Value::U64(u64::from_le_bytes(eight)),
        Kind::I64 => Value::I64(i64::from_le_bytes(eight)),
        Kind::F64 => Value::F64(f64::from_le_bytes(eight)),
        Kind::U32 | Kind::String | Kind::Array => Value::U32(u32::from_le_bytes([a, b, c, d])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_kind_come_back() {
        let values = [
            Value::U8(200),
            Value::I8(-3),
            Value::U16(60_000),
            Value::I16(-2),
            Value::U32(1 << 31),
            Value::I32(-1),
            Value::F32(1.5),
            Value::Bool(true),
            Value::U64(1 << 63),
            Value::I64(-5),
            Value::F64(-0.25),
            Value::from("text"),
            Value::strings(["in", "an array"]),
        ];
        for value in values {
            let array =
                Array::of(value.kind(), [value.clone(), Value::from("other"), value.clone()]);
            let found: Vec<Value> = array.iter().filter(|v| *v != Value::from("other")).collect();
            assert_eq!(found, [value.clone(), value]);
        }
    }
}
