//! Decoders and transforms, in weights (or bytes) per second, portable beside the best this machine has.
//!
//! `cargo bench --bench decode` runs all, `cargo bench --bench decode -- q4_0` those of one name.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use regguf::quant::{QuantType, decode_rows, isa::Isa, permute::transform};
use std::{hint::black_box, time::Duration};

/// Weights of a row, and rows: a megabyte or so, beyond the nearest caches.
const ROW_LEN: usize = 4096;
const ROWS: usize = 256;

fn bytes(q: QuantType) -> Vec<u8> {
    // Bytes below 0x50 are finite in every kind of number.
    let n = q.row_bytes(ROW_LEN as u64).unwrap_or(0) as usize * ROWS;
    (0..n as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8 % 0x50).collect()
}

fn sets() -> [Isa; 2] {
    [Isa::PORTABLE, Isa::best()]
}

fn decoders(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements((ROW_LEN * ROWS) as u64));
    let mut out = vec![0.0; ROW_LEN * ROWS];
    for q in QuantType::all() {
        let input = bytes(q);
        for isa in sets() {
            group.bench_function(BenchmarkId::new(q.to_string(), isa.name()), |b| {
                b.iter(|| decode_rows(q, isa, black_box(&input), ROW_LEN, black_box(&mut out)));
            });
        }
    }
}

fn transforms(c: &mut Criterion) {
    let mut group = c.benchmark_group("transform");
    for (from, to) in QuantType::all().flat_map(|a| QuantType::all().map(move |b| (a, b))) {
        let Some(way) = transform(from, to) else { continue };
        let input = bytes(from);
        let mut out = vec![0; bytes(to).len()];
        group.throughput(Throughput::Bytes(input.len() as u64));
        for isa in sets() {
            group.bench_function(BenchmarkId::new(format!("{from} to {to}"), isa.name()), |b| {
                b.iter(|| way.run(isa, ROW_LEN, black_box(&input), black_box(&mut out)));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200));
    targets = decoders, transforms
}
criterion_main!(benches);
