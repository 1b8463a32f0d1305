//! Values as a person types them.
//!
//! ```text
//! u32      "1"               bool   "true"             [f32]  "1,2.5" or "[1, 2.5]"
//! str      "any text"        [str]  a text a line, or JSON
//! ```
//!
//! The kind comes from the key where the file or llama.cpp knows it, so that `set llama.rope.freq_base 1e6` writes an
//! f32; a number that its kind does not hold is an error, and nothing is rounded or cut.

use crate::{
    format::catalog,
    model::{Array, Kind, Metadata, Value},
};

/// What a text is read as: one value of a kind or a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    kind: Kind,
    list: bool,
}

impl Form {
    /// The form that `name` means: `u32`, `str`, `[f32]`.
    pub fn parse(name: &str) -> Option<Form> {
        let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let kind = Form::kind(inner.unwrap_or(name))?;
        Some(Form { kind, list: inner.is_some() })
    }

    /// A kind of single values by GGUF's name or the longer one of its specification.
    fn kind(name: &str) -> Option<Kind> {
        let short = match name {
            "string" => "str".to_owned(),
            name => name.replace("uint", "u").replace("float", "f").replace("int", "i"),
        };
        (0..13).filter_map(Kind::from_id).find(|k| k.name() == short && *k != Kind::Array)
    }

    /// The form of a key: as its value is, else as llama.cpp has it, else text for what describes the file.
    pub(super) fn of_key(metadata: &Metadata, key: &str) -> Option<Form> {
        match metadata.get(key) {
            Some(Value::Array(items)) => return Some(Form { kind: items.kind(), list: true }),
            Some(value) => return Some(Form { kind: value.kind(), list: false }),
            None => {}
        }
        let known = catalog::loader().kind(metadata.architecture(), key);
        let describes = || key.starts_with("general.").then_some("str");
        Form::parse(known.or_else(describes)?)
    }

    /// The value that `text` is in this form. A list is JSON, or values with commas between them; of
    /// texts, one a line.
    ///
    /// # Errors
    /// What was found and what is wanted.
    pub fn read(self, text: &str) -> Result<Value, String> {
        if !self.list {
            return single(self.kind, text);
        }
        if text.trim_start().starts_with('[') {
            let items: Vec<serde_json::Value> =
                serde_json::from_str(text).map_err(|e| format!("no list in JSON: {e}"))?;
            let item = |item: &serde_json::Value| match item {
                serde_json::Value::String(text) => single(self.kind, text),
                _ if self.kind == Kind::String => Err(format!("{item} is no text")),
                item => single(self.kind, &item.to_string()),
            };
            let values = items.iter().map(item).collect::<Result<Vec<Value>, String>>()?;
            return Ok(Array::of(self.kind, values).into());
        }
        let items: Vec<&str> = match self.kind {
            Kind::String => text.lines().collect(),
            _ => text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty()).collect(),
        };
        let values = items.into_iter().map(|item| single(self.kind, item));
        Ok(Array::of(self.kind, values.collect::<Result<Vec<Value>, String>>()?).into())
    }
}

/// One value of a kind.
fn single(kind: Kind, text: &str) -> Result<Value, String> {
    fn number<T: std::str::FromStr>(kind: Kind, text: &str) -> Result<T, String> {
        text.trim().parse().map_err(|_| format!("{text:?} is no {}", kind.name()))
    }
    Ok(match kind {
        Kind::U8 => Value::U8(number(kind, text)?),
        Kind::I8 => Value::I8(number(kind, text)?),
        Kind::U16 => Value::U16(number(kind, text)?),
        Kind::I16 => Value::I16(number(kind, text)?),
        Kind::U32 => Value::U32(number(kind, text)?),
        Kind::I32 => Value::I32(number(kind, text)?),
        Kind::F32 => Value::F32(number(kind, text)?),
        Kind::U64 => Value::U64(number(kind, text)?),
        Kind::I64 => Value::I64(number(kind, text)?),
        Kind::F64 => Value::F64(number(kind, text)?),
        Kind::Bool => Value::Bool(number(kind, text)?),
        Kind::String => Value::from(text),
        Kind::Array => return Err("lists in lists are read by no llama.cpp".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_name_and_comes_back_from_its_text() {
        for id in (0..13).filter(|id| *id != Kind::Array as u32) {
            let kind = Kind::from_id(id).expect("a kind");
            let text = if kind == Kind::Bool { "true" } else { "1" };
            let form = Form::parse(kind.name()).expect("a form");
            assert_eq!(form.read(text).expect("read").kind(), kind);
            let list = Form::parse(&format!("[{}]", kind.name())).expect("a form");
            let json =
                if kind == Kind::String { r#"["1"]"#.to_owned() } else { format!("[{text}]") };
            assert_eq!(list.read(&json), list.read(text));
            assert_eq!(list.read(&json).expect("read").as_array().map(Array::len), Some(1));
        }
        let long = [("uint32", "u32"), ("float64", "f64"), ("int8", "i8"), ("string", "str")];
        assert!(long.iter().all(|(long, short)| Form::parse(long) == Form::parse(short)));
        assert!(
            ["arr", "[arr]", "u33", "", "[u8", "text"].iter().all(|n| Form::parse(n).is_none())
        );
    }

    #[test]
    fn numbers_beyond_their_kind_are_none() {
        for (form, text) in
            [("u8", "256"), ("i8", "-129"), ("u32", "1.5"), ("bool", "1"), ("f32", "x")]
        {
            assert!(Form::parse(form).expect("a form").read(text).is_err(), "{form} {text}");
        }
        assert!(Form::parse("[u8]").expect("a form").read("[1,300]").is_err());
        assert!(Form::parse("[str]").expect("a form").read("[1").is_err());
    }
}
