//! JSON on stdout: one way for every verb, so that it is always JSON, and safe on a terminal.
#![doc = include_str!("json.md")]

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::{Serialize, Serializer as Serialization};
use serde_json::{
    Serializer,
    ser::{Formatter, PrettyFormatter},
};

use super::stdout_failed;
use crate::{error::Result, model::Value};

/// The version of what `--json` prints.
pub const VERSION: u32 = 1;

/// Prints a value as it is made, whatever its size.
pub fn print(value: &impl Serialize) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(value, &mut out)?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(stdout_failed)
}

/// A list that is printed item by item.
/// A folder may hold thousands of models, and what is said of each is let go once it is printed.
pub(super) struct List {
    out: BufWriter<StdoutLock<'static>>,
    before: &'static [u8],
}

impl List {
    /// A list without items yet.
    pub fn new() -> List {
        List { out: BufWriter::new(io::stdout().lock()), before: b"[\n" }
    }

    /// Prints the next item.
    pub fn item(&mut self, value: &impl Serialize) -> Result<()> {
        self.out.write_all(std::mem::replace(&mut self.before, b",\n")).map_err(stdout_failed)?;
        write(value, &mut self.out)
    }

    /// Prints the end.
    pub fn end(mut self) -> Result<()> {
        let end: &[u8] = if self.before == b",\n" { b"\n]\n" } else { b"[]\n" };
        self.out.write_all(end).and_then(|()| self.out.flush()).map_err(stdout_failed)
    }
}

fn write(value: &impl Serialize, out: impl Write) -> Result<()> {
    let mut to = Serializer::with_formatter(out, Plain(PrettyFormatter::new()));
    value.serialize(&mut to).map_err(|e| stdout_failed(e.into()))
}

/// As people read it, with every control character escaped: DEL and those above it are none of JSON's, but
/// a terminal obeys them.
struct Plain<'a>(PrettyFormatter<'a>);

// Texts alone are written otherwise; all else is what the pretty formatter makes of it.
impl Formatter for Plain<'_> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let mut from = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| c.is_control()) {
            out.write_all(text.get(from..at).unwrap_or_default().as_bytes())?;
            write!(out, "\\u{:04x}", u32::from(c))?;
            from = at + c.len_utf8();
        }
        out.write_all(text.get(from..).unwrap_or_default().as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

/// A metadata value: text that is no UTF-8 with U+FFFD in it, floats that are no numbers as text.
pub struct Shown<'a>(pub &'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serialization>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(v) => to.serialize_bool(*v),
            Value::String(bytes) => to.serialize_str(&String::from_utf8_lossy(bytes)),
            Value::Array(items) => to.collect_seq(items.iter().map(Owned)),
            Value::F32(v) if v.is_finite() => to.serialize_f32(*v),
            Value::F64(v) if v.is_finite() => to.serialize_f64(*v),
            Value::F32(_) | Value::F64(_) => to.serialize_str(&self.0.to_string()),
            Value::U64(v) => to.serialize_u64(*v),
            Value::I64(v) => to.serialize_i64(*v),
            Value::I8(v) => to.serialize_i8(*v),
            Value::I16(v) => to.serialize_i16(*v),
            Value::I32(v) => to.serialize_i32(*v),
            Value::U8(v) => to.serialize_u8(*v),
            Value::U16(v) => to.serialize_u16(*v),
            Value::U32(v) => to.serialize_u32(*v),
        }
    }
}

struct Owned(Value);

impl Serialize for Owned {
    fn serialize<S: Serialization>(&self, to: S) -> Result<S::Ok, S::Error> {
        Shown(&self.0).serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_is_escaped_and_comes_back() {
        let odd: String = (0..=0xa0).filter_map(char::from_u32).chain(['é', '\u{2028}']).collect();
        let value = serde_json::json!({ "odd": odd, "list": [1, {}, []] });
        let mut out = Vec::new();
        write(&value, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\\u007f") && !text.chars().any(|c| c.is_control() && c != '\n'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
