//! Quantization types: a ggml name together with the dialect of its bytes.
//!
//! One value of two bytes, an index into the catalog of block descriptions; behind the described ones are those of
//! other programs of which no more than name and size is known ([`QuantType::stranger`]). A number in a file is not
//! one of these: what it means depends on the program and the day, which whoever reads the container decides.

use crate::format::{
    block::{self, Block},
    catalog,
    foreign::Foreign,
};
use crate::quant::BlockLayout;
use std::{fmt, str::FromStr, sync::LazyLock};

/// What the bytes of a row mean: one description of the block catalog. A name means nothing without its dialect:
/// the bytes of Q4_0 changed three times in 2023.
///
/// ```
/// use regguf::quant::QuantType;
/// let march = QuantType::find("q4_0", "pairs-f32").expect("it is described");
/// let today = QuantType::today("q4_0").expect("it is described");
/// // 32 weights: a scale of 4 bytes then, of 2 today, and 16 bytes of codes.
/// assert_eq!((march.row_bytes(32), today.row_bytes(32)), (Some(20), Some(18)));
/// assert_eq!((march.gguf_id(), today.gguf_id()), (None, Some(2)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuantType(u16);

static LAYOUTS: LazyLock<Vec<BlockLayout>> = LazyLock::new(|| {
    catalog::blocks().iter().chain(STRANGERS.iter()).map(BlockLayout::new).collect()
});

/// The types of other programs as blocks of which only the size is known.
static STRANGERS: LazyLock<Vec<Block>> =
    LazyLock::new(|| catalog::foreign().iter().map(block::opaque).collect());

impl QuantType {
    /// Every type in every dialect.
    pub fn all() -> impl Iterator<Item = QuantType> {
        (0..catalog::blocks().len() as u16).map(QuantType)
    }

    /// The type of this name and dialect: `find("q4_0", "pairs-f32")`.
    ///
    /// Both in lower case, as `formats/block` has them; none for what is not described.
    pub fn find(name: &str, dialect: &str) -> Option<QuantType> {
        QuantType::all().find(|q| q.name() == name && q.dialect() == dialect)
    }

    /// What a type's name means in a container whose blocks are of dialect `era`: the dialect of
    /// that name, else the one described as in force `under` it, else the only or present one.
    ///
    /// ```text
    /// in_force("q4_0", "pairs-f32")    q4_0/pairs-f32     described under that dialect
    /// in_force("q5_0", "pairs-f32")    q5_0/pairs         described as in force under it
    /// in_force("f16", "pairs-f32")     f16                has but one dialect
    /// in_force("q8_0", "planar-f32")   none               its dialects are bound to other eras
    /// ```
    pub fn in_force(name: &str, era: &str) -> Option<QuantType> {
        let named = || QuantType::all().filter(|q| q.name() == name);
        let under = |q: &QuantType| q.block().under.iter().any(|known| known == era);
        let bound = || named().any(|q| !q.block().under.is_empty());
        QuantType::find(name, era)
            .or_else(|| named().find(under))
            .or_else(|| if bound() { None } else { QuantType::today(name) })
    }

    /// The type of this name as today's GGUF holds it.
    pub fn today(name: &str) -> Option<QuantType> {
        QuantType::all().find(|q| q.name() == name && q.is_today())
    }

    /// The type that GGUF numbers `id`, today or before it was removed.
    ///
    /// The inverse of [`QuantType::gguf_id`]. Types that only other programs write are among them.
    pub fn from_gguf(id: u32) -> Option<QuantType> {
        QuantType::all().find(|q| q.gguf_id() == Some(id))
    }

    /// The types that files once held under the number `id`, beside that of [`QuantType::from_gguf`].
    ///
    /// Each changed its bytes and kept its number, so only the bytes tell which a file holds.
    pub fn once(id: u32) -> impl Iterator<Item = QuantType> {
        QuantType::all().filter(move |q| q.block().once == Some(id))
    }

    /// The number under which a GGUF holds it, also where that means another type by now.
    pub fn stored_id(self) -> Option<u32> {
        self.gguf_id().or(self.block().once)
    }

    /// What other programs than llama.cpp number `id`.
    pub fn foreign(id: u32) -> impl Iterator<Item = QuantType> {
        let known = catalog::blocks().len();
        let of = catalog::foreign().iter().enumerate().filter(move |(_, f)| f.id == id);
        of.map(move |(i, _)| QuantType((known + i) as u16))
    }

    /// What is known of it, where it is a type of another program than llama.cpp: such types are named,
    /// sized and copied, and nothing here decodes them.
    pub fn stranger(self) -> Option<&'static Foreign> {
        catalog::foreign().get(usize::from(self.0).checked_sub(catalog::blocks().len())?)
    }

    /// Its number in GGUF; none for what GGUF never held.
    pub fn gguf_id(self) -> Option<u32> {
        self.block().gguf
    }

    /// Whether today's llama.cpp knows it.
    pub fn is_today(self) -> bool {
        self.gguf_id().is_some() && self.block().lived.to.is_none() && self.program().is_none()
    }

    /// The program that alone writes it, where that is not llama.cpp.
    pub fn program(self) -> Option<&'static str> {
        Some(self.block().program.as_str()).filter(|program| !program.is_empty())
    }

    /// The ggml name in lower case: `q4_0`.
    pub fn name(self) -> &'static str {
        &self.block().name
    }

    /// Which of the storages that the name has had: `pairs-f32`.
    pub fn dialect(self) -> &'static str {
        &self.block().dialect
    }

    /// Its description.
    pub fn block(self) -> &'static Block {
        let (index, known) = (usize::from(self.0), catalog::blocks());
        known.get(index).unwrap_or_else(|| &STRANGERS[index - known.len()])
    }

    /// The sizes and offsets of its blocks.
    pub fn layout(self) -> &'static BlockLayout {
        &LAYOUTS[usize::from(self.0)]
    }

    /// Bytes of a row of `row_len` weights; none if blocks do not fill it.
    ///
    /// For types that code several rows together it is the average: the bytes of a group over its rows.
    pub fn row_bytes(self, row_len: u64) -> Option<u64> {
        self.layout().row_bytes(row_len)
    }

    /// How many consecutive rows are coded together: more than one only for interleaved types.
    pub fn row_group(self) -> usize {
        self.layout().rows
    }

    /// Turns the numbers of whole blocks round, between little- and big-endian; see
    /// [`BlockLayout::swap_bytes`].
    pub fn swap_bytes(self, data: &mut [u8]) {
        self.layout().swap_bytes(data);
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// `q4_0` for a present-day type or a name of one dialect, `iq4_ks of ik_llama.cpp` for another program's,
/// else `q4_0/pairs-f32`.
impl fmt::Display for QuantType {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let alone = QuantType::all().filter(|q| q.name() == self.name()).count() == 1;
        if let Some(program) = self.program() {
            let known = alone || self.stranger().is_some() || self.gguf_id().is_some();
            let dialect = if known { String::new() } else { format!("/{}", self.dialect()) };
            return out.pad(&format!("{}{dialect} of {program}", self.name()));
        }
        if alone || self.gguf_id().is_some() {
            return out.pad(self.name());
        }
        out.pad(&format!("{}/{}", self.name(), self.dialect()))
    }
}

impl fmt::Debug for QuantType {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// Reads what `Display` writes, in any case.
impl FromStr for QuantType {
    type Err = String;

    fn from_str(text: &str) -> Result<QuantType, String> {
        let lower = text.to_ascii_lowercase();
        QuantType::all()
            .find(|q| q.to_string().eq_ignore_ascii_case(text))
            .or_else(|| lower.split_once('/').and_then(|(name, d)| QuantType::find(name, d)))
            .ok_or_else(|| format!("no quantization type {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_to_types_and_back() {
        for q in QuantType::all() {
            assert_eq!(QuantType::find(q.name(), q.dialect()), Some(q));
            assert_eq!(q.to_string().parse(), Ok(q));
            assert_eq!(q.gguf_id().and_then(QuantType::from_gguf), q.gguf_id().map(|_| q));
            if q.is_today() {
                assert_eq!(QuantType::today(q.name()), Some(q));
            }
        }
        assert_eq!(QuantType::today("q4_0").unwrap().to_string(), "q4_0");
        assert_eq!(QuantType::find("q4_0", "pairs-f32").unwrap().to_string(), "q4_0/pairs-f32");
        assert!("q4_9".parse::<QuantType>().is_err());
    }

    #[test]
    fn the_container_decides_the_dialect() {
        let dialect = |name, era| QuantType::in_force(name, era).map(QuantType::dialect);
        assert_eq!(dialect("q4_0", "planar-f32"), Some("planar-f32"));
        assert_eq!(dialect("q5_0", "pairs-f32"), Some("pairs"));
        assert_eq!(dialect("q5_1", "halves-f32"), Some("halves"));
        assert_eq!(dialect("q8_0", "halves-f32"), Some("scale-f32"));
        assert_eq!(dialect("q8_0", "halves-f16"), Some("scale-f16"));
        assert_eq!(dialect("q8_0", "planar-f32"), None);
        assert_eq!(dialect("q4_2", "pairs-f32"), Some("pairs-f16"));
        assert_eq!(dialect("q4_2", "halves-f32"), None);
        assert_eq!(dialect("q4_k", "halves-f16"), Some("super-256"));
        assert_eq!(dialect("f16", "planar-f32"), Some("plain"));
    }

    /// Sizes of today's types as ggml computes them (formats of GGUF: block elements and bytes).
    #[test]
    fn sizes_follow_from_fields() {
        let ids = [
            (0, 1, 4),
            (1, 1, 2),
            (2, 32, 18),
            (3, 32, 20),
            (6, 32, 22),
            (7, 32, 24),
            (8, 32, 34),
            (9, 32, 36),
            (10, 256, 84),
            (11, 256, 110),
            (12, 256, 144),
            (13, 256, 176),
            (14, 256, 210),
            (15, 256, 292),
            (16, 256, 66),
            (17, 256, 74),
            (18, 256, 98),
            (19, 256, 50),
            (20, 32, 18),
            (21, 256, 110),
            (22, 256, 82),
            (23, 256, 136),
            (24, 1, 1),
            (25, 1, 2),
            (26, 1, 4),
            (27, 1, 8),
            (28, 1, 8),
            (29, 256, 56),
            (30, 1, 2),
            (34, 256, 54),
            (35, 256, 66),
            (39, 32, 17),
            (40, 64, 36),
            (41, 128, 18),
            (42, 64, 18),
        ];
        for (id, elements, bytes) in ids {
            let q = QuantType::from_gguf(id).unwrap();
            assert_eq!((q.layout().elements, q.layout().bytes), (elements, bytes), "{q}");
            assert!(q.is_today(), "{q}");
        }
        let super_64 = [("q2_k", 24), ("q3_k", 28), ("q4_k", 38), ("q5_k", 46), ("q6_k", 54)];
        for (name, bytes) in super_64 {
            assert_eq!(QuantType::find(name, "super-64").unwrap().layout().bytes, bytes);
        }
        let grouped = QuantType::from_gguf(33).unwrap();
        assert_eq!((grouped.row_group(), grouped.row_bytes(4096)), (8, Some(4096 / 32 * 18)));
        assert_eq!(grouped.row_bytes(4095), None);
        assert_eq!(grouped.row_bytes(u64::MAX / 32 * 32), None);
    }

    #[test]
    fn numbers_turn_round_by_field() {
        let q = QuantType::find("q4_1", "planar-f32").unwrap();
        let mut row: Vec<u8> = (0..48).collect();
        q.swap_bytes(&mut row);
        assert_eq!(
            row[..20],
            [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 16, 17, 18, 19]
        );
        let q = QuantType::today("iq2_xs").unwrap();
        let mut block: Vec<u8> = (0..74).collect();
        q.swap_bytes(&mut block);
        assert_eq!(block[..4], [1, 0, 3, 2]);
        assert_eq!(block[64..], [65, 64, 66, 67, 68, 69, 70, 71, 72, 73]);
    }
}
