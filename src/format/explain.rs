//! Descriptions laid out for people: the catalogue, a container as a byte table, a block, a family.
//!
//! ```text
//! formats/*.toml  --catalog-->  Container, Block, Family  --about-->  sections of rows of cells
//! ```
//!
//! Nothing is printed here and no width is known: a cell is a text, and who shows it aligns the columns. What tells
//! one format from another comes out of the descriptions that files are read by.

use std::collections::BTreeMap;

use super::{
    block::{Block, Field, Storage},
    catalog,
    container::{Blocks, Container, Record, Skeleton, VocabShape, WordKind},
    family::{Assumed, Family, Size, Split},
    schema::Lived,
};

/// Rows of cells under a heading.
///
/// In JSON it is the same: headings and rows of texts, in the order of the page.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Section {
    /// The heading; empty for the first.
    pub title: &'static str,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Section {
    fn new(title: &'static str, rows: Vec<Vec<String>>) -> Section {
        Section { title, rows }
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// When something was written: `2023-03-30 to 2023-08-21`, or to today.
fn dates(lived: &Lived) -> String {
    format!("{} to {}", lived.from, lived.to.as_deref().unwrap_or("today"))
}

/// Every format that has a description: containers oldest first, then families, then blocks.
pub fn catalogue() -> Vec<Section> {
    let container = |c: &Container| row([c.id(), &dates(&c.format.lived), &c.format.title]);
    let containers = catalog::containers().iter().map(container).collect();
    let family = |f: &Family| row([&f.family.name, &f.family.title]);
    let families = catalog::families().iter().map(family).collect();
    let block = |b: &Block| {
        let id = format!("{}/{}", b.name, b.dialect);
        // 18 bytes for 32 weights are 4.5 bits. Where several rows share a block, all of their weights count.
        let bits = 8.0 * size(b) as f64 / (b.elements * b.rows) as f64;
        row([&id, &dates(&b.lived), &format!("{bits:.4} bits per weight")])
    };
    let blocks = catalog::blocks().iter().map(block).collect();
    vec![
        Section::new("containers", containers),
        Section::new("families", families),
        Section::new("blocks", blocks),
    ]
}

/// Bytes of a block: those of its fields, without what stands once before a row.
fn size(block: &Block) -> usize {
    block.fields.iter().map(Field::bytes).sum()
}

/// The sections about `id`: a container, a family, a block type or one of its dialects.
///
/// Containers are looked through first, then families, then blocks. A block without a dialect gives the sections of all
/// its dialects, as `q4_0` does.
pub fn about(id: &str) -> Option<Vec<Section>> {
    // As people say it: `ggjt-v1`.
    let llama = || catalog::container(&format!("{id}-llama"));
    if let Some(found) = catalog::container(id).or_else(llama) {
        return Some(container(found));
    }
    if let Some(found) = catalog::family(id) {
        return Some(family(found));
    }
    let id = id.to_ascii_lowercase();
    let (name, dialect) = id.split_once('/').map_or((id.as_str(), None), |(n, d)| (n, Some(d)));
    let fits = |b: &&Block| b.name == name && dialect.is_none_or(|d| d == b.dialect);
    let found: Vec<Section> = catalog::blocks().iter().filter(fits).flat_map(block).collect();
    (!found.is_empty()).then_some(found)
}

/// Ids that contain `word`, for a person who mistyped.
pub fn similar(word: &str) -> Vec<&'static str> {
    let containers = catalog::containers().iter().map(Container::id);
    let blocks = catalog::blocks().iter().map(|b| b.name.as_str());
    let mut out: Vec<&str> = containers.chain(blocks).filter(|id| id.contains(word)).collect();
    // Dialects of one block stand side by side in the catalogue.
    out.dedup();
    out
}

/// A container: what it is, its bytes from the first on, who reads it, and what goes wrong with it.
fn container(c: &Container) -> Vec<Section> {
    let format = &c.format;
    let mut about = vec![
        row(["format", &format.name]),
        row(["title", &format.title]),
        row(["written", &dates(&format.lived)]),
        row(["source", &format.source]),
    ];
    if !format.family.is_empty() {
        about.push(row(["family", &format.family]));
    }
    match &format.blocks {
        Blocks::One(name) if !name.is_empty() => about.push(row(["blocks", name])),
        Blocks::One(_) => {}
        Blocks::By(map) => {
            // Which dialect of blocks a file has is told by a word of its header; `by` names it, the other entries
            // its values.
            let eras = map.iter().filter(|(k, _)| *k != "by").map(|(k, v)| format!("{k} {v}"));
            let by = map.get("by").map_or("", String::as_str);
            let text = format!("by {by}: {}", eras.collect::<Vec<_>>().join(", "));
            about.push(row(["blocks", &text]));
        }
    }
    // A checkpoint is described by its first bytes alone: the rest is what its own program says it is.
    let bytes = match format.skeleton {
        Skeleton::Stream => stream(c),
        Skeleton::Keyed => keyed(c),
        Skeleton::Checkpoint | Skeleton::None => start(c),
    };
    let mut out = vec![Section::new("", about), Section::new("bytes", bytes)];
    if !c.readers.is_empty() {
        let rows = c.readers.iter().map(|r| row([&r.builds, &r.what])).collect();
        out.push(Section::new("builds of llama.cpp that read it", rows));
    }
    if !c.traps.is_empty() {
        out.push(Section::new("traps", c.traps.iter().map(|t| row([t])).collect()));
    }
    out
}

/// The rows of the first bytes: magic, version, header words. Cells are bytes, field, what it holds.
///
/// ```text
/// 4    magic     74 6a 67 67 ("tjgg")
/// 4    version   3
/// 4    n_vocab   u32, 0 to 1000000
/// ```
fn start(c: &Container) -> Vec<Vec<String>> {
    let begins: String = c.detect.begins.iter().map(|b| format!("{b:02x} ")).collect();
    let begins = format!("{begins}({:?})", String::from_utf8_lossy(&c.detect.begins));
    let mut rows = Vec::new();
    // The magic is further in, as in an archive.
    if c.detect.at > 0 {
        rows.push(row([&c.detect.at.to_string(), "", "not looked at"]));
    }
    rows.push(row([&c.detect.begins.len().to_string(), "magic", &begins]));
    if let Some(version) = c.detect.version {
        let order = if c.detect.big_endian { ", big-endian" } else { "" };
        rows.push(row(["4", "version", &format!("{version}{order}")]));
    }
    for word in &c.header.fields {
        let kind = match word.kind {
            WordKind::U32 => "u32",
            WordKind::I32 => "i32",
            WordKind::F32 => "f32",
        };
        let mut what = kind.to_owned();
        if let Some(max) = word.max {
            what += &format!(", {} to {max}", word.min);
        }
        // One word that holds two numbers, as a file type with the version of its blocks.
        if let Some(split) = &word.split {
            what += &format!(": {} × {} + {}", split.high, split.base, split.low);
        }
        rows.push(row(["4", &word.name, &what]));
    }
    rows
}

/// Types in the order of their numbers.
/// TOML has them as texts, of which "10" comes before "2".
fn numbered(types: &BTreeMap<String, String>) -> String {
    let mut all: Vec<_> = types.iter().collect();
    all.sort_by_key(|(id, _)| id.parse::<u32>().ok());
    all.iter().map(|(id, name)| format!("{id} {name}")).collect::<Vec<_>>().join(", ")
}

/// The rows of a file whose records follow one another to its end: header, vocabulary, then for each tensor its
/// description and, at once, its data.
///
/// Fields are called as the reader's errors call them (`tensor.n_dims`), so a person finds in the table what an error
/// speaks of.
fn stream(c: &Container) -> Vec<Vec<String>> {
    let mut rows = start(c);
    for (name, value) in &c.header.implied {
        rows.push(row(["0", name, &format!("not stored: {value}")]));
    }
    // Whisper's mel filters stand in the header.
    if let Some(m) = &c.header.matrix {
        let what = format!("f32, {} rows of {}", m.rows, m.columns);
        rows.push(row(["4 each", &m.name, &what]));
    }
    rows.extend(c.vocab.iter().flat_map(vocab));
    let tensors = &c.tensors;
    let dims = format!("u32, 1 to {}", tensors.max_dims);
    let sizes =
        |which: &str| row(["4 each", "tensor.ne", &format!("u32, {which} dimension first")]);
    let dims = row(["4", "tensor.n_dims", &dims]);
    let len = row(["4", "tensor.name_len", "u32"]);
    let name = row(["name_len", "tensor.name", "no NUL"]);
    let kind = row(["4", "tensor.type", &numbered(&tensors.types)]);
    // The same fields in two orders.
    let mut record = match tensors.record {
        Record::ShapeFirst => vec![dims, len, kind, sizes("innermost"), name],
        Record::NameFirst => vec![len, name, dims, sizes("outermost"), kind],
    };
    // Said once, at the first field of what repeats.
    if let Some(cell) = record.first_mut().and_then(|row| row.last_mut()) {
        *cell += "; to the end of the file:";
    }
    rows.extend(record);
    // Numbers of types that mean something else where a header word says so.
    for special in &tensors.types_where {
        let types = numbered(&special.types);
        let what = format!("where {} is {}: {types}", special.word, special.is);
        rows.push(row(["", "", &what]));
    }
    if tensors.align > 1 {
        let what = format!("zeros, to a multiple of {} in the file", tensors.align);
        rows.push(row(["0 or more", "padding", &what]));
    }
    rows.push(row(["by shape", "tensor.data", "rows, outermost dimension last"]));
    for (names, what) in [
        (&tensors.transposed, "transposed"),
        (&tensors.grouped, "rows in groups: queries, key, value of one key-value head"),
        (&tensors.repeated, "the one key head and value head once per query head"),
    ] {
        if !names.is_empty() {
            rows.push(row(["", "", &format!("{}: {what}", names.join(", "))]));
        }
    }
    rows
}

/// The rows of the vocabulary: a tokenizer's own file with its length, or a record for each token.
fn vocab(vocab: &VocabShape) -> Vec<Vec<String>> {
    if vocab.file {
        return vec![
            row(["4", "tokenizer.len", "u32"]),
            row(["len", "tokenizer", "SentencePiece's model"]),
        ];
    }
    let mut rows = Vec::new();
    // The header word that says how many records there are, or the name of the word here that does.
    let mut count = &vocab.count;
    if vocab.repeat {
        rows.push(row(["4", "count", &format!("u32, {count} again")]));
    }
    if let Some(stored) = &vocab.stored {
        rows.push(row(["4", stored, &format!("u32, at most {count}")]));
        count = stored;
    }
    let special = if vocab.special_bit { "; bit 31 marks a special token" } else { "" };
    rows.push(row(["4", "vocab.len", &format!("u32, {count} times{special}:")]));
    let spelling = vocab.spelling.iter().map(|spelling| spelling.text()).collect::<Vec<_>>();
    let spelling =
        if spelling.is_empty() { "the token's bytes".to_owned() } else { spelling.join(", or ") };
    rows.push(row(["len", "vocab.text", &spelling]));
    if vocab.score {
        rows.push(row(["4", "vocab.score", "f32"]));
    }
    if let Some(merges) = &vocab.merges {
        rows.push(row(["4", "merges.count", &format!("u32, {merges} again")]));
        rows.push(row(["4", "merge.len", &format!("u32, {merges} times, left then right:")]));
        rows.push(row(["len", "merge.text", "in GPT-2's alphabet"]));
    }
    rows
}

/// The rows of a GGUF. Version 1 has counts and lengths of 32 bits, later ones of 64; the places of tensors have 64
/// bits in all of them.
///
/// No description says it: GGUF is one layout, which its code walks. What a description adds are types that a variant
/// reads otherwise.
fn keyed(c: &Container) -> Vec<Vec<String>> {
    let (width, kind) = if c.detect.version == Some(1) { ("4", "u32") } else { ("8", "u64") };
    let mut rows = start(c);
    let mut add = |cells: [&str; 3]| rows.push(row(cells));
    add([width, "n_tensors", kind]);
    add([width, "n_kv", kind]);
    add([width, "key.len", &format!("{kind}, n_kv times:")]);
    add(["len", "key", "text"]);
    add([
        "4",
        "kind",
        "0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array, …",
    ]);
    add(["by kind", "value", "strings are length and bytes; arrays are kind, count and items"]);
    add([width, "tensor.name_len", &format!("{kind}, n_tensors times:")]);
    add(["name_len", "tensor.name", "under 64 bytes"]);
    add(["4", "tensor.n_dims", &format!("u32, 1 to {}", c.tensors.max_dims)]);
    add([&format!("{width} each"), "tensor.ne", "innermost dimension first"]);
    add(["4", "tensor.type", "`explain q4_0` and so on give the numbers"]);
    for (id, name) in &c.tensors.types {
        add(["", "", &format!("{id} is {name}")]);
    }
    add(["8", "tensor.offset", "u64 from the start of the data, a multiple of the alignment"]);
    add(["0 or more", "padding", "zeros, to a multiple of general.alignment (32)"]);
    add(["by shape", "data", "tensors in order, each padded to the alignment"]);
    rows
}

/// A block type: what it means, then its fields in order, with the place of each.
///
/// Sizes and places are computed from the fields, never written down; the same numbers lay out the code's blocks.
fn block(b: &Block) -> Vec<Section> {
    let storage = match b.storage {
        Storage::Block => "block after block",
        Storage::Planar => "field after field, each of all n blocks of a row",
    };
    let weights = match b.rows {
        1 => b.elements.to_string(),
        n => format!("{} of each of {n} rows", b.elements),
    };
    let mut about = vec![
        row(["block", &format!("{}/{}", b.name, b.dialect)]),
        row(["written", &dates(&b.lived)]),
        row(["source", &b.source]),
        row(["weights", &weights]),
        row(["storage", storage]),
        row(["order", &b.order]),
        row(["value", &b.value]),
    ];
    if !b.program.is_empty() {
        about.insert(1, row(["program", &b.program]));
    }
    if let Some(id) = b.gguf {
        about.insert(1, row(["GGUF type", &id.to_string()]));
    }
    if let Some(id) = b.once {
        about.insert(1, row(["GGUF type", &format!("{id}, at its time")]));
    }
    // Bytes in an order of their own, which become those of another type before they are decoded.
    if let Some(relaid) = &b.relaid {
        about.push(row(["read as", &relaid.to]));
    }
    // `u8[16]`, or without a count where there is one.
    let kind = |field: &Field| match field.count {
        1 => field.kind.name().to_owned(),
        n => format!("{}[{n}]", field.kind.name()),
    };
    let mut rows = Vec::new();
    // What stands once before the blocks of a row (or of a group of rows) has no place within a block.
    let before = if b.rows == 1 { "before" } else { "before, by row" };
    for field in &b.front {
        rows.push(row([before, &field.bytes().to_string(), &field.name, &kind(field)]));
    }
    let mut at = 0;
    for field in &b.fields {
        // Of planes the place depends on the number of blocks: +2 n is behind two bytes of each of all n.
        let of = |bytes: usize| match b.storage {
            Storage::Block => bytes.to_string(),
            Storage::Planar => format!("{bytes} n"),
        };
        rows.push(row([&format!("+{}", of(at)), &of(field.bytes()), &field.name, &kind(field)]));
        at += field.bytes();
    }
    rows.push(row(["", &at.to_string(), "bytes in all per block", ""]));
    vec![Section::new("", about), Section::new("bytes", rows)]
}

/// A family: the numbers of a model, what is assumed of them in old files, and the roles of tensors under the names
/// that each kind of file has for them.
fn family(f: &Family) -> Vec<Section> {
    let about = vec![
        row(["family", &f.family.name]),
        row(["title", &f.family.title]),
        row([
            "general.architecture",
            if f.family.gguf.is_empty() { "none" } else { &f.family.gguf },
        ]),
    ];
    // One number under its four names; a cell is empty where a kind of file does not have it.
    let size = |(symbol, size): (&String, &Size)| {
        let text = |name: &Option<String>| name.clone().unwrap_or_default();
        let key = size.gguf_key(f.architecture());
        row([symbol, &size.word.join(", "), &text(&key), &size.config.join(", ")])
    };
    let assumed = |a: &Assumed| {
        let when = a.when.iter().map(|(symbol, value)| format!("where {symbol} is {value}"));
        let when = when.collect::<Vec<_>>().join(" and ");
        let setting = a.setting.map_or(String::new(), |setting| setting.to_string());
        row([&a.symbol, &a.value.to_string(), &when, &a.because, &setting])
    };
    let role = |(id, n): (&String, &super::family::Names)| {
        let split = match n.split {
            Split::Rows => "by rows",
            Split::Columns => "by columns",
            Split::Copies => "in every part",
        };
        let gguf = n.gguf.clone().unwrap_or_default();
        let (old, hf) = (n.old.join(", "), n.hf.join(", "));
        row([id, &old, &gguf, &hf, &n.shape.join(" × "), split])
    };
    let roles = f.roles.iter().map(role).collect();
    let sizes = f.sizes.iter().map(size).collect();
    let taken = f.assumed.iter().map(assumed).collect();
    vec![
        Section::new("", about),
        Section::new("numbers: symbol, header word, GGUF key, key of config.json", sizes),
        Section::new("what no file before GGUF stores, and what loaders took", taken),
        Section::new("tensors: role, old name, GGUF name, Hugging Face name, shape, parts", roles),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_the_catalogue_explains_itself() {
        for section in catalogue() {
            for row in section.rows {
                assert!(about(&row[0]).is_some(), "{row:?}");
            }
        }
        assert!(about("q4_0").is_some_and(|sections| sections.len() == 8));
        assert!(about("ggjt-v9").is_none());
        assert!(similar("ggjt").contains(&"ggjt-v2-llama"));
    }
}
