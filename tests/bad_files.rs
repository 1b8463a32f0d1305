//! Files of the older formats and of checkpoints that break one rule each, and exactly what is said.

use regguf::{
    bytes::Input,
    checkpoint::{safetensors, torch},
    container::{OpenOptions, detect},
    limits::Limits,
};
use zip::CompressionMethod::Stored;

#[path = "checkpoint/torch.rs"]
mod torch_file;

/// What to do about most of them.
const FRESH: &str = "; download or copy it again";

/// Compares what is said of each file with what should be.
fn check(table: &[(&str, Vec<u8>, &str)], read: impl Fn(Input) -> Result<(), String>) {
    let mut wrong = String::new();
    for (what, bytes, wanted) in table {
        let found = read(Input::memory("bad.bin", bytes.clone())).expect_err(what);
        if found != format!("bad.bin: {wanted}{FRESH}") && found != format!("bad.bin: {wanted}") {
            wrong += &format!("{what}:\n    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A ggjt v3 file with one token, these header words changed, and these records.
fn stream(changes: &[(usize, u32)], records: &[Vec<u8>]) -> Vec<u8> {
    let mut header = [1, 32, 256, 1, 1, 32, 0];
    for (index, value) in changes {
        header[*index] = *value;
    }
    let mut out = [b"tjgg".to_vec(), words(&[3]), words(&header)].concat();
    out.extend([words(&[1]), b"a".to_vec(), vec![0; 4]].concat());
    for record in records {
        out.extend(record);
        if record.len() > 12 {
            out.resize(out.len().next_multiple_of(32) + 128, 0);
        }
    }
    out
}

/// The head of a record, its data after it.
fn record(name: &str, kind: u32, sizes: &[u32]) -> Vec<u8> {
    let head = words(&[sizes.len() as u32, name.len() as u32, kind]);
    [head, words(sizes), name.as_bytes().to_vec()].concat()
}

#[test]
fn ggml_ggmf_and_ggjt() {
    let one = |kind, sizes: &[u32]| stream(&[], &[record("norm.weight", kind, sizes)]);
    let cut = |by: usize| {
        let whole = one(0, &[32]);
        whole[..whole.len() - by].to_vec()
    };
    let table = [
        (
            "magic turned",
            [b"ggjt".to_vec(), words(&[3])].concat(),
            "has its first four bytes reversed, as chatglm.cpp's files do: only that program reads them",
        ),
        (
            "version 4",
            [b"tjgg".to_vec(), words(&[4])].concat(),
            "is ggjt version 4, which is not known: a newer regguf may read it, or it is damaged: download or copy it again",
        ),
        (
            "ggmf of version 9",
            [b"fmgg".to_vec(), words(&[9])].concat(),
            "is ggmf version 9, which is not known: a newer regguf may read it, or it is damaged: download or copy it again",
        ),
        (
            "ggml without a header",
            b"lmgg".to_vec(),
            "ggml-gpt-2-kernels: n_vocab at 0x4: found 0 bytes, wanted 4 bytes before the file ends",
        ),
        (
            "two million tokens",
            stream(&[(0, 2_000_000)], &[]),
            "ggjt-v3-llama: n_vocab at 0x8: found 2000000, wanted 0 to 1000000",
        ),
        (
            "a negative width",
            stream(&[(1, u32::MAX)], &[]),
            "ggjt-v3-llama: n_embd at 0xc: found 4294967295, wanted 0 to 65536",
        ),
        (
            "a type of file of the future",
            stream(&[(6, 99)], &[]),
            "ggjt-v3-llama: ftype at 0x20: found 99, wanted 0 to 18",
        ),
        (
            "more tokens than bytes",
            stream(&[(0, 1000)], &[]),
            "ggjt-v3-llama: vocab[1].len at 0x2d: found 0 bytes, wanted 4 bytes before the file ends",
        ),
        (
            "no dimensions",
            stream(&[], &[words(&[0, 1, 0])]),
            "ggjt-v3-llama: tensors[0].n_dims at 0x2d: found 0, wanted 1 to 2",
        ),
        (
            "three dimensions",
            stream(&[], &[words(&[3, 1, 0])]),
            "ggjt-v3-llama: tensors[0].n_dims at 0x2d: found 3, wanted 1 to 2",
        ),
        (
            "a name without a letter",
            stream(&[], &[words(&[1, 0, 0])]),
            "ggjt-v3-llama: tensors[0].name_len at 0x31: found 0, wanted 1 to 256",
        ),
        (
            "a name of 300 bytes",
            stream(&[], &[words(&[1, 300, 0])]),
            "ggjt-v3-llama: tensors[0].name_len at 0x31: found 300, wanted 1 to 256",
        ),
        (
            "an unknown type",
            one(99, &[32]),
            "ggjt-v3-llama: tensors[0] (norm.weight).type at 0x35: found 99, wanted one of {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14}",
        ),
        (
            "a dimension of 0",
            one(0, &[0]),
            "ggjt-v3-llama: tensors[0].ne at 0x39: found 0, wanted 1 to 2147483647",
        ),
        (
            "a dimension of 2^31",
            one(0, &[1 << 31]),
            "ggjt-v3-llama: tensors[0].ne at 0x39: found 2147483648, wanted 1 to 2147483647",
        ),
        (
            "half a block",
            one(2, &[48]),
            "ggjt-v3-llama: tensors[0] (norm.weight).ne[0] at 0x39: found 48, wanted a multiple of 32 for q4_0",
        ),
        (
            "a tensor larger than the file",
            one(0, &[1 << 20]),
            "ggjt-v3-llama: tensors[0] (norm.weight).data at 0x60: found 128 bytes, wanted 4194304 bytes; the file is about 4194176 bytes short (11 whole tensors are missing too): download or copy it again",
        ),
        (
            "a name twice",
            stream(&[], &[record("norm.weight", 0, &[32]), record("norm.weight", 0, &[32])]),
            "ggjt-v3-llama: tensors[1].name at 0xe0: found norm.weight again, wanted it once",
        ),
        (
            "a stray byte",
            [one(0, &[32]), vec![1]].concat(),
            "ggjt-v3-llama: tensors[1].n_dims at 0xe0: found 1 bytes, wanted 4 bytes before the file ends",
        ),
        (
            "a byte short",
            cut(1),
            "ggjt-v3-llama: tensors[0] (norm.weight).data at 0x60: found 127 bytes, wanted 128 bytes; the file is about 1 byte short (11 whole tensors are missing too): download or copy it again",
        ),
        (
            "one tensor of many",
            cut(0),
            "ggjt-v3-llama: tensors at 0xe0: found \"norm.weight\" and others, wanted \"tok_embeddings.weight\"; it is a part of LLaMA or BLOOM (ggjt v3 (LLaMA)): 1 tensor is whole, 11 are missing, layers.0.attention_norm.weight first: download or copy it again",
        ),
    ];
    let read = |input: Input| {
        let found = detect(&input, &OpenOptions::default()).and_then(|found| found.sure(&input));
        found.map(drop).map_err(|error| error.to_string())
    };
    check(&table, read);
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    let len = (header.len() as u64).to_le_bytes();
    [&len[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_files() {
    let entry = |shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"F16","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |second: &str| {
        let first = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"#;
        format!(r#"{first}"b":{{"dtype":"F16","shape":[2],"data_offsets":{second}}}}}"#)
    };
    let twice = two("[4,8]").replace("\"b\"", "\"a\"");
    let table = [
        (
            "no header",
            vec![1, 2, 3],
            "safetensors: header length at 0x0: found 3 bytes, wanted 8 bytes before the file ends",
        ),
        (
            "a header beyond the end",
            [&100u64.to_le_bytes()[..], b"{}"].concat(),
            "safetensors: header at 0x8: found 2 bytes, wanted 100 bytes before the file ends",
        ),
        (
            "a header without end",
            [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
            "safetensors: header at 0x8: found a length of 18446744073709551615, wanted at most 50331648",
        ),
        (
            "no JSON",
            with_header("{x", 0),
            "safetensors: header at 0x8: found key must be a string at line 1 column 2, wanted a directory of tensors, each name once",
        ),
        (
            "a name twice",
            with_header(&twice, 8),
            "safetensors: header at 0x8: found \"a\" is there twice at line 1 column 107, wanted a directory of tensors, each name once",
        ),
        (
            "an unknown type",
            with_header(&entry("[2]", "[0,4]").replace("F16", "F99"), 4),
            "t: numbers of the dtype F99; not yet: this version does not know it",
        ),
        (
            "an end before its begin",
            with_header(&entry("[2]", "[4,0]"), 4),
            "safetensors: t.data_offsets at 0x8: found 4..0 for f16 [2], wanted the bytes of its shape",
        ),
        (
            "another size than its shape",
            with_header(&entry("[3]", "[0,4]"), 4),
            "safetensors: t.data_offsets at 0x8: found 0..4 for f16 [3], wanted the bytes of its shape",
        ),
        (
            "a shape beyond 64 bits",
            with_header(&entry("[4294967296,4294967296]", "[0,4]"), 4),
            "safetensors: t.data_offsets at 0x8: found 0..4 for f16 [4294967296, 4294967296], wanted the bytes of its shape",
        ),
        (
            "the same behind a zero",
            with_header(&entry("[0,18446744073709551615,2]", "[0,0]"), 0),
            "safetensors: t.data_offsets at 0x8: found 0..0 for f16 [0, 18446744073709551615, 2], wanted the bytes of its shape",
        ),
        (
            "a tensor beyond the end",
            with_header(&entry("[2]", "[0,4]"), 3),
            "safetensors: t.data_offsets at 0x3e: found 0..4 of 3 bytes, wanted a range inside the file (is it whole?)",
        ),
        (
            "bytes after the last",
            with_header(&entry("[2]", "[0,4]"), 5),
            "safetensors: data at 0x3e: found an end at 4, wanted tensors side by side over all 5 bytes",
        ),
        (
            "tensors over each other",
            with_header(&two("[2,6]"), 8),
            "safetensors: data at 0x73: found overlaps or holes, wanted tensors side by side over all 8 bytes",
        ),
        (
            "a hole between tensors",
            with_header(&two("[6,10]"), 10),
            "safetensors: data at 0x74: found overlaps or holes, wanted tensors side by side over all 10 bytes",
        ),
    ];
    check(&table, |input| {
        safetensors::open(&input, &Limits::DEFAULT).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn zip_archives() {
    let good = || {
        let view = torch_file::View::whole("norm.weight", "FloatStorage", "0", &[4]);
        torch_file::archive(&torch_file::state_dict(&[view], false), &[("0", &[0; 16])], Stored)
    };
    let change = |from: &[u8], to: &[u8]| {
        let mut bytes = good();
        let places = (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from));
        for at in places.collect::<Vec<_>>() {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        bytes
    };
    let whole = good();
    let table = [
        (
            "cut in the middle",
            whole[..whole.len() / 2].to_vec(),
            "zip: directory at 0x0: found invalid Zip archive: Could not find EOCD, wanted a whole zip archive (is the download complete?)",
        ),
        (
            "no pickle",
            change(b"data.pkl", b"data.xyz"),
            "pth-zip: directory at 0x0: found an archive of a/data.xyz, a/data/0, wanted one data.pkl, as torch.save writes",
        ),
        (
            "no storage",
            change(b"a/data/0", b"a/data/9"),
            "pth-zip: norm.weight at 0x0: found no entry \"a/data/0\", wanted its storage (is the file whole?)",
        ),
        (
            "a name that leaves the archive",
            change(b"a/data/0", b"../../xx"),
            "zip: directory at 0x0: found \"../../xx\", wanted a name inside the archive",
        ),
        (
            "no archive at all",
            b"PK\x03\x04".to_vec(),
            "zip: directory at 0x0: found invalid Zip archive: Could not find EOCD, wanted a whole zip archive (is the download complete?)",
        ),
    ];
    check(&table, |input| {
        torch::open(&input, &Limits::DEFAULT).map(drop).map_err(|error| error.to_string())
    });
}
