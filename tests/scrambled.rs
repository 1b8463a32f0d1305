//! Rows of queries and keys as converters leave them by mistake: a text tells which mistake it was, and what is written
//! has every row where the original has it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::{
    check::pair::scrambled::Scrambled,
    container::{self, OpenOptions},
    error::Error,
    model::Model,
};

/// Trained models with a key for every query and with shared ones.
const FILES: [&str; 6] = [
    "T/E10/model-f16.convert-hf.gguf",
    "T/E10/model-Q4_K_M.gguf",
    "T/E10/model-Q5_1.gguf",
    "T/E10/model-IQ4_NL.gguf",
    "G/E10/model-Q4_K_M.gguf",
    "G/E9/ggml-model-q4_0.gguf",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap()
}

/// Rows seen as `[heads][a][b]`, the two inner axes changed over, as `permute` of llama.cpp's converters does it.
fn swapped(rows: &[Vec<u8>], heads: usize, a: usize) -> Vec<Vec<u8>> {
    let b = rows.len() / heads / a;
    let mut out = Vec::new();
    for head in rows.chunks(a * b) {
        for j in 0..b {
            out.extend((0..a).map(|i| head[i * b + j].clone()));
        }
    }
    out
}

fn in_pairs(rows: &[Vec<u8>], heads: usize) -> Vec<Vec<u8>> {
    swapped(rows, heads, 2)
}

fn in_halves(rows: &[Vec<u8>], heads: usize) -> Vec<Vec<u8>> {
    swapped(rows, heads, rows.len() / heads / 2)
}

/// What a mistake makes of rows in order: of which matrix, its rows, the heads of queries and of keys.
type Mistake = fn(char, &[Vec<u8>], usize, usize) -> Vec<Vec<u8>>;

fn own(whose: char, heads: usize, keys: usize) -> usize {
    if whose == 'q' { heads } else { keys }
}

const MISTAKES: [(&str, Mistake); 9] = [
    ("rows of queries and keys were never brought into pairs", |whose, rows, heads, keys| {
        in_halves(rows, own(whose, heads, keys))
    }),
    ("rows of queries and keys were brought into pairs twice", |whose, rows, heads, keys| {
        in_pairs(rows, own(whose, heads, keys))
    }),
    ("rows of queries were never brought into pairs", |whose, rows, heads, _| match whose {
        'q' => in_halves(rows, heads),
        _ => rows.to_vec(),
    }),
    ("rows of keys were never brought into pairs", |whose, rows, _, keys| match whose {
        'k' => in_halves(rows, keys),
        _ => rows.to_vec(),
    }),
    ("rows of queries were brought into pairs twice", |whose, rows, heads, _| match whose {
        'q' => in_pairs(rows, heads),
        _ => rows.to_vec(),
    }),
    ("rows of keys were brought into pairs twice", |whose, rows, _, keys| match whose {
        'k' => in_pairs(rows, keys),
        _ => rows.to_vec(),
    }),
    ("rows of keys were brought into pairs as rows of 8 heads", |whose, rows, heads, keys| {
        match whose {
            'k' => in_pairs(&in_halves(rows, keys), heads),
            _ => rows.to_vec(),
        }
    }),
    ("rows of keys were brought into pairs as rows of 4 heads", |whose, rows, heads, keys| {
        match whose {
            'k' => in_pairs(&in_halves(rows, keys), heads / keys),
            _ => rows.to_vec(),
        }
    }),
    ("rows of queries were brought into pairs as rows of 2 heads", |whose, rows, heads, keys| {
        match whose {
            'q' => in_pairs(&in_halves(rows, heads), keys),
            _ => rows.to_vec(),
        }
    }),
];

/// Writes the file at `from` to `to` with a mistake in it.
fn scramble(from: &Path, to: &Path, mistake: Mistake) {
    let model = open(from);
    let number = |name: &str| {
        model.metadata.u64(&format!("llama.attention.{name}")).and_then(|n| usize::try_from(n).ok())
    };
    let heads = number("head_count").unwrap();
    let keys = number("head_count_kv").unwrap_or(heads);
    let mut bytes = fs::read(from).unwrap();
    for tensor in &model.tensors {
        let whose = match tensor.name.rsplit('.').nth(1) {
            Some("attn_q") => 'q',
            Some("attn_k") => 'k',
            _ => continue,
        };
        let [at, row] = [tensor.pieces[0].at, tensor.row_bytes()].map(|n| n as usize);
        let end = at + row * tensor.rows() as usize;
        let rows: Vec<Vec<u8>> = bytes[at..end].chunks(row).map(<[u8]>::to_vec).collect();
        bytes[at..end].copy_from_slice(&mistake(whose, &rows, heads, keys).concat());
    }
    fs::write(to, bytes).unwrap();
}

fn upgrade(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(folder).arg("upgrade").args(words).output().unwrap()
}

fn text(output: &Output) -> String {
    [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat()
}

/// What is refused, in words.
fn refused(model: &Model) -> String {
    match Scrambled::find(model, &()) {
        Err(Error::Refused { .. }) => {}
        other => panic!("{other:?}"),
    }
    Scrambled::find(model, &()).unwrap_err().to_string()
}

#[test]
fn every_mistake_is_told_and_undone_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (file, original) = (folder.path().join("x.gguf"), folder.path().join("original.gguf"));
    let mut doubted = Vec::new();
    for name in FILES {
        fs::copy(golden(name), &file).unwrap();
        let said = upgrade(folder.path(), &["x.gguf", "-o", "original.gguf", "--force"]);
        assert!(said.status.success(), "{}", text(&said));
        for (words, mistake) in MISTAKES {
            scramble(&golden(name), &file, mistake);
            if fs::read(&file).unwrap() == fs::read(golden(name)).unwrap() {
                // With these heads it is no mistake.
                continue;
            }
            let said =
                upgrade(folder.path(), &["x.gguf", "--repair-rows", "-o", "new.gguf", "--force"]);
            if !said.status.success() {
                assert!(
                    text(&said).contains("cannot tell whether rows"),
                    "{name}: {words}: {}",
                    text(&said)
                );
                doubted.push((name, words));
                continue;
            }
            // With heads of one key each, the heads that share a key are one.
            let words = if name.starts_with("T/") {
                words.replace("4 heads", "1 heads")
            } else {
                words.to_owned()
            };
            let told = text(&said).replace('\n', " ");
            assert!(told.contains(&words), "{name}: {words}: {told}");
            let new = fs::read(folder.path().join("new.gguf")).unwrap();
            assert!(new == fs::read(&original).unwrap(), "{name}: {words}");
        }
    }
    assert!(doubted.is_empty(), "{doubted:?}");
}

#[test]
fn models_in_order_are_left_alone() {
    for name in FILES {
        let said = refused(&open(&golden(name)));
        assert!(said.contains("in order"), "{name}: {said}");
    }
}

#[test]
fn weights_that_know_nothing_get_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.gguf");
    let source = golden("T/E10/model-f16.convert-hf.gguf");
    let mut bytes = fs::read(&source).unwrap();
    let mut next = 0x2545_f491_u32;
    for tensor in open(&source).tensors.iter().filter(|t| t.quant.name() == "f16") {
        let at = tensor.pieces[0].at as usize;
        for number in bytes[at..at + tensor.bytes() as usize].chunks_mut(2) {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // From a thousandth to a quarter, of either sign.
            let half = (0x1400 + (next >> 16) % 0x2000) as u16 | (next >> 15 & 0x8000) as u16;
            number.copy_from_slice(&half.to_le_bytes());
        }
    }
    fs::write(&file, bytes).unwrap();
    let said = refused(&open(&file));
    assert!(said.contains("cannot tell whether rows"), "{said}");
}

#[test]
fn families_whose_rows_nobody_moves_are_not_tried() {
    let error = Scrambled::find(&open(&golden("families/gptneox.gguf")), &()).unwrap_err();
    assert!(
        error.to_string().contains("converters leave those of this family as they are"),
        "{error}"
    );
}
