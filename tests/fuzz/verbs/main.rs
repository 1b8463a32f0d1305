//! The verbs over damaged models: a fuzzer that knows where the fields of a file are.
//!
//! Golden files of every family are its seeds. Each run sets a few fields to values at their bounds, cuts the file, or joins
//! the beginning of one file to the end of another, and gives the result to one of sixteen forms of the
//! command, with little memory and little time. The short run is one of `cargo test`; a long one:
//!
//! ```sh
//! REGGUF_FUZZ_SEED=7 REGGUF_FUZZ_RUNS=100000 cargo test --test verbs -- --nocapture
//! ```
//!
//! `REGGUF_FUZZ_ONLY=families/rwkv` takes only seeds whose names hold this.

#![cfg(unix)]

mod fields;
mod forms;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    time::Instant,
};

use fields::Field;
use forms::FORMS;

/// Numbers by SplitMix64: the same for the same seed on every machine.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.draw() % n.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// A golden file and where its fields are.
struct Seed {
    name: String,
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else {
            out.push(path);
        }
    }
}

/// The names of the tensors of every file of another family, as an independent reader found them.
fn names(root: &Path) -> BTreeMap<String, Vec<String>> {
    let facts = fs::read(root.join("families/facts.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    let text = |json: &serde_json::Value| json.as_str().unwrap().to_owned();
    let of = |file: &serde_json::Value| {
        let tensors = file["tensors"].as_array().unwrap().iter();
        (format!("families/{}", text(&file["path"])), tensors.map(|t| text(&t[0])).collect())
    };
    // The names of adapters are put together by readers.
    let models = facts["files"].as_array().unwrap().iter().filter(|f| f["format"] != "ggla-v1");
    models.map(of).collect()
}

/// Model files of every era and family that are small enough to be written thousands of times.
fn seeds() -> Vec<Seed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    paths.sort();
    let (names, mut seeds) = (names(&root), Vec::new());
    for path in paths {
        let (bytes, name) = (fs::read(&path).unwrap(), path.strip_prefix(&root).unwrap());
        let name = name.display().to_string();
        let names = names.get(&name).map(Vec::as_slice);
        let most = if names.is_some() { 400_000 } else { 200_000 };
        let fields = if bytes.len() < most { fields::of(&bytes, names) } else { Vec::new() };
        assert!(names.is_none() || !fields.is_empty(), "{name} gives no seed");
        if !fields.is_empty() {
            seeds.push(Seed { name, bytes, fields });
        }
    }
    let only = env::var("REGGUF_FUZZ_ONLY").unwrap_or_default();
    seeds.retain(|seed| seed.name.contains(&only));
    seeds
}

/// What a field is set to: what is there, a little more or less, and what no count should be.
fn bound(random: &mut Random, old: u64, len: usize) -> u64 {
    let near = [old.wrapping_add(1), old.wrapping_sub(1), old.wrapping_mul(2), old / 2, !old];
    let small = [0, 1, 2, 3, 7, 8, 31, 32, 33, 127, 255, 256, 0x7fff, 0xffff];
    let large = [
        len as u64,
        i32::MAX as u64,
        1 << 31,
        u32::MAX.into(),
        1 << 32,
        1 << 40,
        i64::MAX as u64,
        1 << 63,
        u64::MAX - 31,
        u64::MAX,
        0x7f80_0000,
        0x7fc0_0000,
        0x7c00_7c00_7c00_7c00,
    ];
    match random.below(3) {
        0 => *random.of(&near),
        1 => *random.of(&small),
        _ => *random.of(&large),
    }
}

fn damaged(random: &mut Random, seeds: &[Seed]) -> (Vec<u8>, String) {
    let seed = random.of(seeds);
    let (mut bytes, mut what) = (seed.bytes.clone(), seed.name.clone());
    match random.below(8) {
        0 => {
            let field = random.of(&seed.fields);
            let cut = if random.below(2) == 0 { random.below(bytes.len()) } else { field.at };
            bytes.truncate(cut);
            what += &format!(" cut at {cut:#x}");
        }
        1 => {
            let other = random.of(seeds);
            let from = random.of(&other.fields).at;
            let cut = random.of(&seed.fields).at;
            bytes.truncate(cut);
            bytes.extend(&other.bytes[from..]);
            what += &format!(" to {cut:#x}, then {} from {from:#x}", other.name);
        }
        _ => {}
    }
    for _ in 0..random.below(4) {
        let field = random.of(&seed.fields);
        let Some(place) = bytes.get_mut(field.at..field.at + field.width) else { continue };
        let mut old = [0; 8];
        old[..field.width].copy_from_slice(place);
        let new = bound(random, u64::from_le_bytes(old), seed.bytes.len());
        place.copy_from_slice(&new.to_le_bytes()[..field.width]);
        what += &format!(", {new:#x} at {:#x}", field.at);
    }
    (bytes, what)
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn no_damaged_file_breaks_a_verb() {
    let (runs, first) = (number("REGGUF_FUZZ_RUNS", 120), number("REGGUF_FUZZ_SEED", 1));
    let (seeds, began) = (seeds(), Instant::now());
    let mut findings = Vec::new();
    let mut codes = [0u64; 6];
    for run in 0..runs {
        let mut random = Random(first.wrapping_mul(0x1_0000_0001).wrapping_add(run));
        let (bytes, what) = damaged(&mut random, &seeds);
        let form = &FORMS[(run % FORMS.len() as u64) as usize];
        let other = &random.of(&seeds).bytes;
        match forms::run(form, &bytes, other) {
            Ok(code) => codes[code] += 1,
            Err(wrong) => {
                let kept = env::temp_dir().join(format!("regguf-finding-{first}-{run}"));
                fs::write(&kept, &bytes).unwrap();
                let name = form.join(" ");
                let finding = format!("{name}: {wrong}\n    {what}: {}", kept.display());
                eprintln!("{finding}");
                findings.push(finding);
            }
        }
        if run % 10_000 == 9_999 {
            eprintln!("{} runs, {} s, codes {codes:?}", run + 1, began.elapsed().as_secs());
        }
    }
    eprintln!("{runs} runs from seed {first}: codes {codes:?}, {} findings", findings.len());
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
