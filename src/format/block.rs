//! Descriptions of blocks: what the bytes of a row mean, one per quantization type and dialect.

use crate::format::{
    foreign::Foreign,
    schema::{self, Lived},
};
use serde::Deserialize;

/// One `formats/block/*.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Block {
    /// The ggml name in lower case: `q4_0`.
    pub name: String,
    /// Which of the storages that the name has had: `pairs-f32`; `plain` where there was but one.
    pub dialect: String,
    /// The program that alone writes it, where that is not llama.cpp.
    #[serde(default)]
    pub program: String,
    /// When it was written.
    pub lived: Lived,
    /// The ggml type number in GGUF, where GGUF ever held it.
    pub gguf: Option<u32>,
    /// The type number under which GGUF files hold it too, where another type has taken that number: sizes
    /// or statistics tell which of them a file means.
    pub once: Option<u32>,
    /// What `general.file_type` says of files of this type, where the program has a number of its own.
    pub file_type: Option<u32>,
    /// What a reader of files of this type should know.
    #[serde(default)]
    pub caveat: String,
    /// The dialects of containers in which this one is in force, beside that of its own name.
    #[serde(default)]
    pub under: Vec<String>,
    /// Weights of one row in a unit of coding.
    pub elements: usize,
    /// Rows that a unit of coding spans.
    #[serde(default = "one")]
    pub rows: usize,
    /// Where the fields of a row's units are.
    pub storage: Storage,
    /// Fields of a row that are before its units, as the scale of a whole row; of every row of a group
    /// where a unit spans several.
    #[serde(default)]
    pub front: Vec<Field>,
    /// The fields of a unit, in order.
    pub fields: Vec<Field>,
    /// Where each stored number `w` is found, for people.
    pub order: String,
    /// The weight that a stored number means, for people.
    pub value: String,
    /// What the programs of its time round activations to before they multiply them with its rows; none where
    /// they leave them float32.
    pub activations: Option<Activations>,
    /// The code that decodes it.
    pub kernel: String,
    /// The project, commit, file and function that defined it.
    pub source: String,
    /// Where every bit of it is in another type, which is then what decodes it.
    pub relaid: Option<Relaid>,
}

/// The same bits in the order of another type.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Relaid {
    /// That type, by name and dialect.
    pub to: String,
    /// Whether zeros come out without a sign, as of a program that adds the lowest level to the others.
    #[serde(default)]
    pub plain_zero: bool,
    /// All bits of a unit; none where they are the bytes of a type that is relaid itself.
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// Numbers of a unit that are in an order here and in another one there. All places are in bits, the low
/// bit of a byte first; a place that two parts reach is their exclusive or.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Part {
    /// What they are.
    pub name: String,
    /// Bits of one.
    pub bits: usize,
    /// Where number 0 of the first row is here.
    pub here: usize,
    /// Where number 0 of a row is there.
    pub there: usize,
    /// How far each bit of a number's index, the lowest first, moves it here and there.
    #[serde(default)]
    pub steps: Vec<[usize; 2]>,
    /// How far each bit of the row's number moves it here.
    #[serde(default)]
    pub rows: Vec<usize>,
    /// The bits of a number that are turned over on the way.
    #[serde(default)]
    pub flip: usize,
}

/// What activations are rounded to: ggml's `vec_dot_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum Activations {
    /// Halves.
    #[serde(rename = "f16")]
    F16,
    /// The upper halves of float32.
    #[serde(rename = "bf16")]
    Bf16,
    /// Eight bits and a scale for each 32, the scale a half.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// The same with a scale in float32, as until 19 May 2023.
    #[serde(rename = "q8_0-f32")]
    Q8_0F32,
    /// As Q8_0, and the sum of the 32 as a half, which meets the weights' minimum.
    #[serde(rename = "q8_1")]
    Q8_1,
    /// Eight bits and a scale in float32 for each super-block.
    #[serde(rename = "q8_k")]
    Q8K,
}

/// Where the fields of a row's units are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Storage {
    /// Unit after unit, each with all of its fields.
    Block,
    /// Field after field, each of all units of the row.
    Planar,
}

/// One field of a unit, written `name:kind` or `name:kind[count]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[non_exhaustive]
pub struct Field {
    /// The original's name.
    pub name: String,
    /// What each number of it is.
    pub kind: Kind,
    /// How many numbers it has.
    pub count: usize,
}

/// A number as stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
#[non_exhaustive]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    I64,
    F16,
    Bf16,
    F32,
    F64,
    /// A power of two, by its exponent (the scales of OCP's MX types).
    E8m0,
}

impl Kind {
    const ALL: [(Kind, &str, usize); 12] = [
        (Kind::U8, "u8", 1),
        (Kind::I8, "i8", 1),
        (Kind::U16, "u16", 2),
        (Kind::I16, "i16", 2),
        (Kind::U32, "u32", 4),
        (Kind::I32, "i32", 4),
        (Kind::I64, "i64", 8),
        (Kind::F16, "f16", 2),
        (Kind::Bf16, "bf16", 2),
        (Kind::F32, "f32", 4),
        (Kind::F64, "f64", 8),
        (Kind::E8m0, "e8m0", 1),
    ];

    /// Its name in a description.
    #[expect(clippy::indexing_slicing, reason = "the table has an entry for every kind, in order")]
    pub fn name(self) -> &'static str {
        Kind::ALL[self as usize].1
    }

    /// Bytes of one number.
    #[expect(clippy::indexing_slicing, reason = "as above")]
    pub fn bytes(self) -> usize {
        Kind::ALL[self as usize].2
    }
}

impl Field {
    /// Bytes of the field.
    pub fn bytes(&self) -> usize {
        self.kind.bytes() * self.count
    }
}

impl TryFrom<String> for Field {
    type Error = String;

    fn try_from(text: String) -> Result<Field, String> {
        let wrong = || format!("field {text:?}: wanted name:kind or name:kind[count]");
        let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (kind, count) = match rest.split_once('[') {
            Some((kind, count)) => {
                let count = count.strip_suffix(']').ok_or_else(wrong)?;
                (kind, count.parse::<u16>().map_err(|_| wrong())?)
            }
            None => (rest, 1),
        };
        let known = Kind::ALL.into_iter().find(|(_, known, _)| *known == kind);
        let (kind, ..) = known.ok_or_else(|| format!("field {text:?}: no number kind {kind:?}"))?;
        if name.is_empty() || count == 0 {
            return Err(wrong());
        }
        Ok(Field { name: name.to_owned(), kind, count: count.into() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    block: Block,
}

/// Parses and checks one description; `stem` is its file's name without `.toml`.
pub(crate) fn parse(stem: &str, text: &str) -> Result<Block, String> {
    let File { block } = schema::toml(text)?;
    let id = format!("{}-{}", block.name, block.dialect);
    if id != stem {
        return Err(format!("describes {id}: the file must be named so"));
    }
    block.lived.check()?;
    if block.elements == 0 || block.rows == 0 || block.fields.is_empty() {
        return Err("elements, rows and fields may not be empty".into());
    }
    if block.storage == Storage::Planar && block.rows > 1 {
        return Err("a planar unit spans one row".into());
    }
    if block.storage == Storage::Planar && !block.front.is_empty() {
        return Err("planar units have nothing before them".into());
    }
    if block.gguf.is_some() && block.once.is_some() {
        return Err("gguf and once are one or the other".into());
    }
    Ok(block)
}

/// A block of which nothing but the size is known: another program's.
pub(crate) fn opaque(foreign: &Foreign) -> Block {
    let count = usize::try_from(foreign.bytes).unwrap_or(1).max(1);
    Block {
        name: foreign.name.clone(),
        dialect: foreign.program.clone(),
        program: foreign.program.clone(),
        lived: Lived { from: String::new(), to: Some(String::new()) },
        gguf: Some(foreign.id),
        once: None,
        file_type: None,
        caveat: String::new(),
        under: Vec::new(),
        // Weights that are alone are floats; whatever these are, they are none.
        elements: usize::try_from(foreign.elements).unwrap_or(1).max(2),
        rows: 1,
        storage: Storage::Block,
        front: Vec::new(),
        fields: vec![Field { name: "bytes".to_owned(), kind: Kind::U8, count }],
        order: String::new(),
        value: String::new(),
        activations: None,
        kernel: String::new(),
        source: foreign.program.clone(),
        relaid: None,
    }
}

fn one() -> usize {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [block]
        name = "x"
        dialect = "plain"
        lived = { from = 2023-03-10, to = 2023-03-11 }
        elements = 32
        storage = "block"
        fields = ["d:f16", "qs:u8[16]"]
        order = ""
        value = ""
        kernel = ""
        source = ""
    "#;

    #[test]
    fn a_description_is_read() {
        let block = parse("x-plain", GOOD).unwrap();
        assert_eq!(block.rows, 1);
        assert_eq!(block.lived.to.as_deref(), Some("2023-03-11"));
        assert_eq!(block.fields.iter().map(Field::bytes).sum::<usize>(), 18);
    }

    #[test]
    fn mistakes_are_named() {
        let broken = |from: &str, to: &str| parse("x-plain", &GOOD.replace(from, to)).unwrap_err();
        assert!(parse("y-plain", GOOD).unwrap_err().contains("x-plain"));
        assert!(broken("u8[16]", "u9[16]").contains("u9"));
        assert!(broken("u8[16]", "u8[0]").contains("name:kind"));
        assert!(broken("2023-03-11", "2023-03-01").contains("before"));
        assert!(broken("elements = 32", "elements = 0").contains("elements"));
        assert!(broken("value", "valeu").contains("valeu"));
    }
}
