//! Whole-file upgrades against copies of the same file, all from memory to a name that is free.
//!
//! A copy may stay in memory, an upgrade has to reach the disk before its file gets its name: so there are
//! two copies to compare with, one as `cp` makes it and one that is flushed. A ggjt v1 file is made of the
//! blocks of a golden one, repeated; `REGGUF_BENCH_MB` sets its size.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use regguf::{
    Existing,
    change::{self, upgrade::Options},
    container::{self, OpenOptions},
};

/// A file with the header of `golden` and its last matrix repeated until it has `bytes` bytes.
fn grow(golden: &Path, folder: &Path, bytes: u64) -> PathBuf {
    let model = container::open(golden, &OpenOptions::default()).unwrap();
    let tensor = model.tensor("output.weight").unwrap();
    let (_, at) = tensor.contiguous().unwrap();
    let whole = fs::read(golden).unwrap();
    let head = usize::try_from(model.tensors.first().unwrap().contiguous().unwrap().1).unwrap();
    let data = &whole[usize::try_from(at).unwrap()..][..usize::try_from(tensor.bytes()).unwrap()];
    // Of the first record, 12 bytes of counts and 8 of sizes are before the name.
    let name = &model.tensors.first().unwrap().name;
    let named = whole[..head].windows(name.len()).rposition(|w| w == name.as_bytes()).unwrap();
    let start = named - 20;
    let path = folder.join("grown.bin");
    let mut out = fs::File::create(&path).unwrap();
    out.write_all(&whole[..start]).unwrap();
    let (mut position, copies) = (start as u64, bytes / data.len() as u64);
    for n in 0..copies {
        let name = format!("layers.{n}.attention.wq.weight");
        let kind = u32::from_le_bytes(whole[start + 8..start + 12].try_into().unwrap());
        let mut record = Vec::new();
        for word in [2, name.len() as u32, kind, tensor.shape[1] as u32, tensor.shape[0] as u32] {
            record.extend(word.to_le_bytes());
        }
        record.extend(name.bytes());
        let pad = (position + record.len() as u64).next_multiple_of(32) - position;
        record.resize(usize::try_from(pad).unwrap(), 0);
        out.write_all(&record).unwrap();
        out.write_all(data).unwrap();
        position += pad + data.len() as u64;
    }
    path
}

fn benchmark(c: &mut Criterion) {
    let megabytes =
        std::env::var("REGGUF_BENCH_MB").ok().and_then(|v| v.parse().ok()).unwrap_or(64);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T");
    for name in ["E4b/ggml-model-q5_0.bin", "E4b/ggml-model-q4_0.bin", "E4b/ggml-model-f16.bin"] {
        let input = grow(&golden.join(name), folder.path(), megabytes << 20);
        let mut group = c.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Bytes(fs::metadata(&input).unwrap().len()));
        let output = folder.path().join("out");
        let free = || drop(fs::remove_file(&output));
        let copy = || fs::copy(&input, &output).unwrap();
        let flushed = || fs::File::open(&output).unwrap().sync_all().unwrap();
        group.bench_function("copy", |b| {
            b.iter_batched(free, |()| copy(), BatchSize::PerIteration);
        });
        group.bench_function("copy, flushed", |b| {
            b.iter_batched(free, |()| (copy(), flushed()), BatchSize::PerIteration);
        });
        group.bench_function("upgrade", |b| {
            let upgrade = || {
                let model = container::open(&input, &OpenOptions::default()).unwrap();
                let options = Options { output: Some(output.clone()), ..Options::default() };
                let (model, plan) = change::upgrade::plan(model, &options).unwrap();
                change::carry(&model, &[plan], Existing::Keep, &()).unwrap()
            };
            b.iter_batched(free, |()| upgrade(), BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
