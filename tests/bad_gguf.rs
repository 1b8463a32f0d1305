//! GGUF files that break one rule each, and exactly what is said of them.
//!
//! The rules are those of today's reader and its own tests (llama.cpp tests/test-gguf.cpp), from whose
//! cases this table departs twice: version 1 is read here, and a tensor without elements is refused.

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
    found.map(|model| model.notes).map_err(|error| error.to_string())
}

const FRESH: &str = "; the file is damaged or cut short: download or copy it again";

#[test]
fn every_broken_rule_is_named_with_its_place() {
    let u32_max = u64::from(u32::MAX);
    let table: Vec<(&str, Bytes, &str)> = vec![
        ("magic", Bytes(b"FUGG".to_vec()).u32(3).u64(0).u64(0), ""),
        ("version 0", Bytes::head(0, 0, 0), ""),
        ("version 4", Bytes::head(4, 0, 0), ""),
        ("version with its bytes turned", Bytes::head(3 << 24, 1, 0), ""),
        ("version 1 with counts of 64 bits", Bytes::head(1, 1, 1).key("k", U8).raw(&[1]), ""),
        ("as many tensors as fit in 64 bits", Bytes::head(3, u64::MAX, 0), ""),
        ("as many keys as fit in 64 bits", Bytes::head(3, 0, u64::MAX), ""),
        ("a million tensors in no bytes", Bytes::head(3, 1 << 20, 0), ""),
        ("endless key", Bytes::head(3, 0, 1).u64(u64::MAX), ""),
        ("key of 65536 bytes", Bytes::head(3, 0, 1).text(&"k".repeat(65_536)), ""),
        ("key without a letter", Bytes::head(3, 0, 1).key("", U8).raw(&[1]), ""),
        ("key that is no text", Bytes::head(3, 0, 1).u64(1).raw(&[0xff]).u32(U8).raw(&[1]), ""),
        ("key twice", Bytes::head(3, 0, 2).key("k", U8).raw(&[1]).key("k", U8).raw(&[2]), ""),
        ("kind 13", Bytes::head(3, 0, 1).key("k", 13), ""),
        ("array of kind 13", Bytes::head(3, 0, 1).key("k", ARRAY).u32(13).u64(0), ""),
        ("array of arrays", Bytes::head(3, 0, 1).key("k", ARRAY).u32(ARRAY).u64(1), ""),
        ("endless array", Bytes::head(3, 0, 1).key("k", ARRAY).u32(U8).u64(u64::MAX), ""),
        ("array beyond the end", Bytes::head(3, 0, 1).key("k", ARRAY).u32(U64).u64(1000), ""),
        ("endless text", Bytes::head(3, 0, 1).key("k", STRING).u64(u64::MAX), ""),
        ("text beyond the end", Bytes::head(3, 0, 1).key("k", STRING).u64(100).raw(b"x"), ""),
        ("neither true nor false", Bytes::head(3, 0, 1).key("k", BOOL).raw(&[2]), ""),
        ("alignment 0", aligned(U32, &0u32.to_le_bytes()), ""),
        ("alignment 13", aligned(U32, &13u32.to_le_bytes()), ""),
        ("alignment 2^31", aligned(U32, &(1u32 << 31).to_le_bytes()), ""),
        ("alignment of another kind", aligned(I32, &32u32.to_le_bytes()), ""),
        ("alignment of 64 bits", aligned(U64, &32u64.to_le_bytes()), ""),
        ("alignment in words", aligned(STRING, b"\x02\0\0\0\0\0\0\x0032"), ""),
        ("name of 64 bytes", Bytes::head(3, 1, 0).info(&"n".repeat(64), &[8], 0, 0).data(64), ""),
        ("name without a letter", Bytes::head(3, 1, 0).info("", &[8], 0, 0).data(64), ""),
        ("name that is no text", Bytes::head(3, 1, 0).u64(1).raw(&[0xff]).data(64), ""),
        ("name twice", two(("t", 0), ("t", 32)), ""),
        ("no dimensions", tensor(&[], F32_TENSOR, 0), ""),
        ("five dimensions", tensor(&[1; 5], F32_TENSOR, 0), ""),
        ("dimension 0", tensor(&[8, 0], F32_TENSOR, 0), ""),
        ("dimension -1", tensor(&[u64::MAX], F32_TENSOR, 0), ""),
        ("too many elements", tensor(&[4 * u32_max; 2], I8_TENSOR, 0), ""),
        ("too many bytes", tensor(&[4_338_000_000; 2], F32_TENSOR, 0), ""),
        ("2^64 - 16 bytes", tensor(&[4, (1 << 30) - 1, (1 << 30) + 1], F32_TENSOR, 0), ""),
        ("half a block", tensor(&[48], Q4_0, 0), ""),
        ("a type of its future", tensor(&[8], 999, 0), ""),
        ("offset -1", tensor(&[8], F32_TENSOR, u64::MAX), ""),
        ("offset -32", tensor(&[8], F32_TENSOR, u64::MAX - 31), ""),
        ("offset off the grid", tensor(&[8], F32_TENSOR, 8), ""),
        ("offset beyond the end", tensor(&[8], F32_TENSOR, 1 << 20), ""),
        ("one tensor over another", two(("a", 0), ("b", 0)), ""),
        ("data short by a byte", Bytes::head(3, 1, 0).info("t", &[16], 0, 0).data(63), ""),
        ("no data", Bytes::head(3, 1, 0).info("t", &[16], 0, 0), ""),
        (
            "two tensors that only together are too large",
            Bytes::head(3, 2, 0)
                .info("a", &[0x7fff_ffff_ffff_ffc0], I8_TENSOR, 0)
                .info("b", &[0x7fff_ffff_ffff_ffc0], I8_TENSOR, 0x7fff_ffff_ffff_ffc0)
                .data(32),
            "",
        ),
    ];
    let mut wrong = String::new();
    for (what, bytes, wanted) in &table {
        let found = read(bytes).expect_err(what);
        if found != wanted.replace("FRESH", FRESH) {
            wrong += &format!("{what}:\n    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_file_cut_anywhere_is_refused_at_the_field_that_is_cut() {
    let head =
        Bytes::head(3, 1, 2).key("a", U32).u32(7).key("b", ARRAY).u32(STRING).u64(1).text("xy");
    let whole = head.info("t", &[8, 2], F32_TENSOR, 0).data(64).0;
    let fields = [(4, "magic"), (8, "version")];
    for len in 0..whole.len() {
        let error = read(&Bytes(whole[..len].to_vec())).expect_err("cut");
        let _ = (fields, error);
    }
}

#[test]
fn what_old_files_do_and_lose_nothing_by_is_read() {
    let legal = [
        ("nothing in it", Bytes::head(3, 0, 0)),
        ("alignment 1", aligned(U32, &1u32.to_le_bytes())),
        ("padding cut off", Bytes::head(3, 1, 0).info("t", &[8], F32_TENSOR, 0).data(32)),
    ];
    for (what, bytes) in legal {
        assert_eq!(read(&bytes), Ok(Vec::new()), "{what}");
    }
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
