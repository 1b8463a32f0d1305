//! Lists of values as a file holds them: one buffer, not one allocation for each of millions.
//!
//! Clones share the buffer, so that plans, headers and vocabularies made from one file hold it once.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{Kind, Value};

/// Texts, one behind the other in one buffer. All together they are shorter than 4 GiB, as
/// [`crate::limits::Limits`] has it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts(Arc<Packed>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packed {
    bytes: Vec<u8>,
    /// Where each text ends.
    ends: Vec<u32>,
}

impl Texts {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// The text at `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.0.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|i| self.0.ends.get(i)).copied().unwrap_or(0);
        self.0.bytes.get(start as usize..end as usize)
    }

    /// All texts in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Adds a text at the end.
    pub fn push(&mut self, text: impl AsRef<[u8]>) {
        let packed = Arc::make_mut(&mut self.0);
        packed.bytes.extend_from_slice(text.as_ref());
        packed.ends.push(u32::try_from(packed.bytes.len()).unwrap_or(u32::MAX));
    }

    /// The same texts but for those at the places in `others`.
    pub fn with(&self, others: &HashMap<usize, Vec<u8>>) -> Texts {
        let text = |(i, old)| others.get(&i).map_or(old, Vec::as_slice);
        self.iter().enumerate().map(text).collect()
    }

    /// Keeps the first `len` texts.
    pub fn truncate(&mut self, len: usize) {
        let packed = Arc::make_mut(&mut self.0);
        packed.ends.truncate(len);
        packed.bytes.truncate(packed.ends.last().map_or(0, |end| *end as usize));
    }

    /// Gives back memory that was kept for more texts.
    pub fn shrink(&mut self) {
        let packed = Arc::make_mut(&mut self.0);
        packed.bytes.shrink_to_fit();
        packed.ends.shrink_to_fit();
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Texts {
        let mut out = Texts::default();
        out.extend(texts);
        out
    }
}

impl<T: AsRef<[u8]>> Extend<T> for Texts {
    fn extend<I: IntoIterator<Item = T>>(&mut self, texts: I) {
        texts.into_iter().for_each(|text| self.push(text));
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

/// Values of one kind.
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
    fn texts_are_kept_in_order_and_changed_in_place() {
        let mut texts: Texts = ["a", "", "bcd"].into_iter().collect();
        let shared = texts.clone();
        texts = texts.with(&HashMap::from([(1, b"longer".to_vec())]));
        texts.push("e");
        assert_eq!(texts.iter().collect::<Vec<_>>(), [&b"a"[..], b"longer", b"bcd", b"e"]);
        texts.truncate(2);
        assert_eq!(texts, ["a", "longer"].into_iter().collect());
        assert_eq!(shared.get(2), Some(&b"bcd"[..]));
        assert_eq!(shared.get(3), None);
    }

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
