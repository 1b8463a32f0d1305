//! GGUF files that break one rule each, and exactly what is said of them.
//!
//! The rules are those of today's reader and its own tests (llama.cpp tests/test-gguf.cpp), from whose
//! cases this table departs: version 1 is read here, a tensor without elements is refused, and names,
//! dimensions and arrays of other programs are read.

use regguf::{
    bytes::Input,
    container::{OpenOptions, detect},
};

/// A file, written field by field.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

const U8: u32 = 0;
const U32: u32 = 4;
const I32: u32 = 5;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const F32_TENSOR: u32 = 0;
const Q4_0: u32 = 2;
const I8_TENSOR: u32 = 24;

impl Bytes {
    /// Magic, version and counts.
    fn head(version: u32, tensors: u64, keys: u64) -> Bytes {
        Bytes(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }

    fn raw(mut self, bytes: &[u8]) -> Bytes {
        self.0.extend(bytes);
        self
    }

    fn u32(self, value: u32) -> Bytes {
        self.raw(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Bytes {
        self.raw(&value.to_le_bytes())
    }

    fn text(self, text: &str) -> Bytes {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    fn key(self, key: &str, kind: u32) -> Bytes {
        self.text(key).u32(kind)
    }

    fn info(self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> Bytes {
        let head = self.text(name).u32(sizes.len() as u32);
        sizes.iter().fold(head, |out, n| out.u64(*n)).u32(kind).u64(offset)
    }

    /// Zeros to a multiple of 32, then this many bytes of data.
    fn data(mut self, len: usize) -> Bytes {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }
}

/// One tensor of this shape and type at this offset, and 64 bytes of data.
fn tensor(sizes: &[u64], kind: u32, offset: u64) -> Bytes {
    Bytes::head(3, 1, 0).info("t", sizes, kind, offset).data(64)
}

fn two(first: (&str, u64), second: (&str, u64)) -> Bytes {
    let head = Bytes::head(3, 2, 0).info(first.0, &[8], F32_TENSOR, first.1);
    head.info(second.0, &[8], F32_TENSOR, second.1).data(64)
}

fn aligned(kind: u32, value: &[u8]) -> Bytes {
    Bytes::head(3, 0, 1).key("general.alignment", kind).raw(value)
}

fn read(bytes: &Bytes) -> Result<Vec<String>, String> {
    let input = Input::memory("bad.gguf", bytes.0.clone());
    let found = detect(&input, &OpenOptions::default()).and_then(|found| found.sure(&input));
    found
        .map(|model| model.notes.iter().map(ToString::to_string).collect())
        .map_err(|error| error.to_string())
}

/// What to do about most of them.
const FRESH: &str = "; download or copy it again";

#[test]
fn every_broken_rule_is_named_with_its_place() {
    let u32_max = u64::from(u32::MAX);
    let table: Vec<(&str, Bytes, &str)> = vec![
        (
            "magic",
            Bytes(b"FUGG".to_vec()).u32(3).u64(0).u64(0),
            "is no known format (it begins 46 55 47 47 03 00 00 00); see which are known",
        ),
        (
            "version 0",
            Bytes::head(0, 0, 0),
            "is GGUF version 0, which is not known: a newer regguf may read it, or it is damaged: download or copy it again",
        ),
        (
            "version 4",
            Bytes::head(4, 0, 0),
            "is GGUF version 4, which is not known: a newer regguf may read it, or it is damaged: download or copy it again",
        ),
        (
            "version with its bytes turned",
            Bytes::head(3 << 24, 1, 0),
            "gguf-v3-be: n_tensors at 0x8: found 72057594037927936, wanted at most 1048576",
        ),
        (
            "version 1 with counts of 64 bits",
            Bytes::head(1, 1, 1).key("k", U8).raw(&[1]),
            "gguf-v1: tensors[0] (\\u{0}).n_dims at 0x15: found 16777216, wanted 0 to 8",
        ),
        (
            "as many tensors as fit in 64 bits",
            Bytes::head(3, u64::MAX, 0),
            "gguf-v3: n_tensors at 0x8: found 18446744073709551615, wanted at most 1048576",
        ),
        (
            "as many keys as fit in 64 bits",
            Bytes::head(3, 0, u64::MAX),
            "gguf-v3: n_kv at 0x10: found 18446744073709551615, wanted at most 65536",
        ),
        (
            "a million tensors in no bytes",
            Bytes::head(3, 1 << 20, 0),
            "gguf-v3: tensors[0].name at 0x18: found 0 bytes, wanted 8 bytes before the file ends",
        ),
        (
            "endless key",
            Bytes::head(3, 0, 1).u64(u64::MAX),
            "gguf-v3: keys[0] at 0x18: found 18446744073709551615, wanted at most 65535",
        ),
        (
            "key of 65536 bytes",
            Bytes::head(3, 0, 1).text(&"k".repeat(65_536)),
            "gguf-v3: keys[0] at 0x18: found 65536, wanted at most 65535",
        ),
        (
            "key without a letter",
            Bytes::head(3, 0, 1).key("", U8).raw(&[1]),
            "gguf-v3: keys[0] at 0x18: found no text, wanted a key of one character or more",
        ),
        (
            "key that is no text",
            Bytes::head(3, 0, 1).u64(1).raw(&[0xff]).u32(U8).raw(&[1]),
            "gguf-v3: keys[0] at 0x18: found no text, wanted a key of one character or more",
        ),
        (
            "kind 13",
            Bytes::head(3, 0, 1).key("k", 13),
            "gguf-v3: k.type at 0x21: found 13, wanted 0 to 12",
        ),
        (
            "array of kind 13",
            Bytes::head(3, 0, 1).key("k", ARRAY).u32(13).u64(0),
            "gguf-v3: k.type at 0x25: found 13, wanted 0 to 12",
        ),
        (
            "arrays in arrays without end",
            (0..5).fold(Bytes::head(3, 0, 1).key("k", ARRAY), |b, _| b.u32(ARRAY).u64(1)),
            "gguf-v3: k at 0x49: found one more, wanted at most 4 arrays in each other",
        ),
        (
            "endless array",
            Bytes::head(3, 0, 1).key("k", ARRAY).u32(U8).u64(u64::MAX),
            "gguf-v3: k at 0x29: found 18446744073709551615, wanted at most 33554432",
        ),
        (
            "array beyond the end",
            Bytes::head(3, 0, 1).key("k", ARRAY).u32(U64).u64(1000),
            "gguf-v3: k at 0x31: found 0 bytes, wanted 8000 bytes for 1000 items",
        ),
        (
            "endless text",
            Bytes::head(3, 0, 1).key("k", STRING).u64(u64::MAX),
            "gguf-v3: k at 0x25: found 18446744073709551615, wanted at most 16777216",
        ),
        (
            "text beyond the end",
            Bytes::head(3, 0, 1).key("k", STRING).u64(100).raw(b"x"),
            "gguf-v3: k at 0x2d: found 1 bytes, wanted 100 bytes before the file ends",
        ),
        (
            "neither true nor false",
            Bytes::head(3, 0, 1).key("k", BOOL).raw(&[2]),
            "gguf-v3: k at 0x25: found 2, wanted 0 or 1",
        ),
        (
            "alignment 0",
            aligned(U32, &0u32.to_le_bytes()),
            "gguf-v3: general.alignment at 0x18: found u32 0, wanted u32, a power of two up to 2^20",
        ),
        (
            "alignment 13",
            aligned(U32, &13u32.to_le_bytes()),
            "gguf-v3: general.alignment at 0x18: found u32 13, wanted u32, a power of two up to 2^20",
        ),
        (
            "alignment 2^31",
            aligned(U32, &(1u32 << 31).to_le_bytes()),
            "gguf-v3: general.alignment at 0x18: found u32 2147483648, wanted u32, a power of two up to 2^20",
        ),
        (
            "alignment of another kind",
            aligned(I32, &32u32.to_le_bytes()),
            "gguf-v3: general.alignment at 0x18: found i32 32, wanted u32, a power of two up to 2^20",
        ),
        (
            "alignment of 64 bits",
            aligned(U64, &32u64.to_le_bytes()),
            "gguf-v3: general.alignment at 0x18: found u64 32, wanted u32, a power of two up to 2^20",
        ),
        (
            "alignment in words",
            aligned(STRING, b"\x02\0\0\0\0\0\0\x0032"),
            "gguf-v3: general.alignment at 0x18: found str \"32\", wanted u32, a power of two up to 2^20",
        ),
        (
            "name of 1025 bytes",
            Bytes::head(3, 1, 0).info(&"n".repeat(1025), &[8], 0, 0).data(64),
            "gguf-v3: tensors[0].name at 0x18: found 1025, wanted at most 1024",
        ),
        (
            "name without a letter",
            Bytes::head(3, 1, 0).info("", &[8], 0, 0).data(64),
            "gguf-v3: tensors[0].name at 0x18: found no text, wanted a name in UTF-8",
        ),
        (
            "name that is no text",
            Bytes::head(3, 1, 0).u64(1).raw(&[0xff]).data(64),
            "gguf-v3: tensors[0].name at 0x18: found no text, wanted a name in UTF-8",
        ),
        (
            "name twice",
            two(("t", 0), ("t", 32)),
            "gguf-v3: tensors[1].name at 0x39: found t again, wanted it once",
        ),
        (
            "nine dimensions",
            tensor(&[1; 9], F32_TENSOR, 0),
            "gguf-v3: tensors[0] (t).n_dims at 0x21: found 9, wanted 0 to 8",
        ),
        (
            "dimension 0",
            tensor(&[8, 0], F32_TENSOR, 0),
            "gguf-v3: tensors[0] (t).ne at 0x2d: found 0, wanted 1 to 9223372036854775807",
        ),
        (
            "dimension -1",
            tensor(&[u64::MAX], F32_TENSOR, 0),
            "gguf-v3: tensors[0] (t).ne at 0x25: found 18446744073709551615, wanted 1 to 9223372036854775807",
        ),
        (
            "too many elements",
            tensor(&[4 * u32_max; 2], I8_TENSOR, 0),
            "gguf-v3: tensors[0] (t).ne at 0x25: found [17179869180, 17179869180], wanted an end of its data below 2^64",
        ),
        (
            "too many bytes",
            tensor(&[4_338_000_000; 2], F32_TENSOR, 0),
            "gguf-v3: tensors[0] (t).ne at 0x25: found [4338000000, 4338000000], wanted an end of its data below 2^64",
        ),
        (
            "2^64 - 16 bytes",
            tensor(&[4, (1 << 30) - 1, (1 << 30) + 1], F32_TENSOR, 0),
            "gguf-v3: tensors[0] (t).ne at 0x25: found [1073741825, 1073741823, 4], wanted an end of its data below 2^64",
        ),
        (
            "half a block",
            tensor(&[48], Q4_0, 0),
            "gguf-v3: tensors[0] (t).ne[0] at 0x25: found 48, wanted a multiple of 32 for q4_0",
        ),
        (
            "a type of its future",
            tensor(&[8], 999, 0),
            "gguf-v3: tensors[0] (t).type at 0x2d: found 999, wanted the number of a type; another program or a newer llama.cpp may write it; ask whoever made the file",
        ),
        (
            "offset -1",
            tensor(&[8], F32_TENSOR, u64::MAX),
            "gguf-v3: tensors[0] (t).offset at 0x31: found 18446744073709551615, wanted a multiple of 32 below 2^64",
        ),
        (
            "offset -32",
            tensor(&[8], F32_TENSOR, u64::MAX - 31),
            "gguf-v3: tensors[0] (t).offset at 0x31: found 18446744073709551584, wanted a multiple of 32 below 2^64",
        ),
        (
            "offset off the grid",
            tensor(&[8], F32_TENSOR, 8),
            "gguf-v3: tensors[0] (t).offset at 0x31: found 8, wanted a multiple of 32 below 2^64",
        ),
        (
            "offset beyond the end",
            tensor(&[8], F32_TENSOR, 1 << 20),
            "gguf-v3: tensors[0] (t).data at 0x100040: found the end of the file at 0x80, wanted the end of the data at 0x100060; the file is 1048544 bytes short (1 tensor is cut or missing): download or copy it again",
        ),
        (
            "one tensor over another",
            two(("a", 0), ("b", 0)),
            "gguf-v3: tensors[1] (b).offset at 0x60: found 0x60, wanted the end of a at 0x80 or later",
        ),
        (
            "data short by a byte",
            Bytes::head(3, 1, 0).info("t", &[16], 0, 0).data(63),
            "gguf-v3: tensors[0] (t).data at 0x40: found the end of the file at 0x7f, wanted the end of the data at 0x80; the file is 1 byte short (1 tensor is cut or missing): download or copy it again",
        ),
        (
            "no data",
            Bytes::head(3, 1, 0).info("t", &[16], 0, 0),
            "gguf-v3: tensors[0] (t).data at 0x40: found the end of the file at 0x39, wanted the end of the data at 0x80; the file is 71 bytes short (1 tensor is cut or missing): download or copy it again",
        ),
        (
            "two tensors that only together are too large",
            Bytes::head(3, 2, 0)
                .info("a", &[0x7fff_ffff_ffff_ffc0], I8_TENSOR, 0)
                .info("b", &[0x7fff_ffff_ffff_ffc0], I8_TENSOR, 0x7fff_ffff_ffff_ffc0)
                .data(32),
            "gguf-v3: tensors[1] (b).data at 0x8000000000000020: found the end of the file at 0x80, wanted the end of the data at 0xffffffffffffffe0; the file is 18446744073709551456 bytes short (2 tensors are cut or missing): download or copy it again",
        ),
    ];
    let mut wrong = String::new();
    for (what, bytes, wanted) in &table {
        let found = read(bytes).expect_err(what);
        if found != format!("bad.gguf: {wanted}{FRESH}") && found != format!("bad.gguf: {wanted}") {
            wrong += &format!("{what}:\n    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_file_cut_anywhere_is_refused_at_the_field_that_is_cut() {
    let keys =
        Bytes::head(3, 1, 2).key("a", U32).u32(7).key("b", ARRAY).u32(STRING).u64(1).text("xy");
    let whole = keys.info("t", &[8, 2], F32_TENSOR, 0).data(64).0;
    // Where each field ends.
    let fields = [
        (16, "n_tensors at 0x8"),
        (24, "n_kv at 0x10"),
        (33, "keys[0] at"),
        (37, "a.type at 0x21"),
        (41, "a at 0x25"),
        (50, "keys[1] at"),
        (58, "b.type at"),
        (76, "b at"),
        (85, "tensors[0].name at"),
        (89, "tensors[0] (t).n_dims at 0x55"),
        (105, "tensors[0] (t).ne at"),
        (109, "tensors[0] (t).type at 0x69"),
        (117, "tensors[0] (t).offset at 0x6d"),
        (192, "tensors[0] (t).data at 0x80: found the end of the file at"),
    ];
    assert_eq!(whole.len(), 192);
    for len in 0..whole.len() {
        let said = read(&Bytes(whole[..len].to_vec())).unwrap_err();
        let wanted = match len {
            0 => "bad.gguf: is empty".to_owned(),
            1..4 => format!("bad.gguf: is only {len} bytes long"),
            4..8 => format!("bad.gguf: is GGUF cut after {len} bytes"),
            _ => {
                let (_, field) = fields.iter().find(|(end, _)| len < *end).unwrap();
                format!("bad.gguf: gguf-v3: {field}")
            }
        };
        assert!(said.starts_with(&wanted), "{len} bytes: {said}");
    }
}

#[test]
fn what_old_files_do_and_lose_nothing_by_is_read() {
    let legal = [
        ("nothing in it", Bytes::head(3, 0, 0)),
        ("alignment 1", aligned(U32, &1u32.to_le_bytes())),
        ("less than the alignment", Bytes::head(3, 1, 0).info("t", &[1], F32_TENSOR, 0).data(32)),
        ("a number of no dimensions", tensor(&[], F32_TENSOR, 0)),
        ("five dimensions", tensor(&[1; 5], F32_TENSOR, 0)),
        ("name of 127 bytes", Bytes::head(3, 1, 0).info(&"n".repeat(127), &[8], 0, 0).data(32)),
        (
            "array of arrays",
            Bytes::head(3, 0, 1).key("k", ARRAY).u32(ARRAY).u64(1).u32(U8).u64(1).raw(&[1]),
        ),
        // A SentencePiece character map may be longer than any vocabulary.
        (
            "seven million bytes",
            Bytes::head(3, 0, 1).key("k", ARRAY).u32(U8).u64(7_000_000).raw(&vec![1; 7_000_000]),
        ),
        ("padding cut off", Bytes::head(3, 1, 0).info("t", &[8], F32_TENSOR, 0).data(32)),
    ];
    for (what, bytes) in legal {
        assert_eq!(read(&bytes), Ok(Vec::new()), "{what}");
    }
    let twice = Bytes::head(3, 0, 2).key("k", U8).raw(&[1]).key("k", U8).raw(&[2]);
    let notes = read(&twice).unwrap();
    assert!(notes.iter().any(|n| n.starts_with("k is there twice (1, then 2)")), "{notes:?}");
    for (what, bytes) in
        [("gap", two(("a", 0), ("b", 64)).data(32)), ("order", two(("a", 32), ("b", 0)))]
    {
        let notes = read(&bytes).expect(what);
        assert!(
            notes.iter().any(|note| note.contains("gaps or another order")),
            "{what}: {notes:?}"
        );
    }
}
