//! Rows of each type times one vector and times many, beside a plain read of memory and the processor's peak.
//!
//! `cargo bench --bench dot` runs all, `cargo bench --bench dot -- q4_0` those of one name. Bytes are
//! those of the rows: a token is written no faster than memory is read. Elements of `peak` and `many` are
//! multiplications with their additions: twice as many operations, on one core. The peak is of numbers that never
//! leave registers.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use regguf::{
    infer::{dot::add, fused, panel, whole},
    per_isa,
    quant::{QuantType, isa::Isa},
};
use std::{hint::black_box, time::Duration};

/// Weights of a row.
const ROW_LEN: usize = 4096;
/// Bytes of rows, more than caches hold.
const BYTES: usize = 64 << 20;
/// Vectors of a prompt.
const VECTORS: usize = 128;

fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory");
    let words = vec![1u64; BYTES / 8];
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.bench_function("read", |b| {
        b.iter(|| black_box(&words).iter().fold(0u64, |sum, word| sum ^ word));
    });
}

fn one(c: &mut Criterion) {
    let mut group = c.benchmark_group("one");
    let x: Vec<f32> = (0..ROW_LEN).map(|i| (i % 17) as f32 - 8.0).collect();
    let packs = whole::lay_out(Isa::best(), &x);
    for q in QuantType::all() {
        let (whole, fused) = (whole::kernel(q, ROW_LEN), fused::kernel(q, ROW_LEN));
        if whole.is_none() && fused.is_none() {
            continue;
        }
        let row_bytes = q.row_bytes(ROW_LEN as u64).unwrap_or(0) as usize;
        let rows = BYTES / row_bytes;
        // Bytes below 0x50 are finite in every kind of number.
        let bytes: Vec<u8> = (0..rows * row_bytes)
            .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8 % 0x50)
            .collect();
        let mut out = vec![0.0; rows];
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut multiply = |isa| match (whole, fused) {
            (Some(kernel), _) => kernel(isa, black_box(&bytes), row_bytes, &packs, &mut out),
            (_, Some(kernel)) => kernel(isa, black_box(&bytes), row_bytes, &x, &mut out),
            _ => {}
        };
        for isa in Isa::available() {
            group.bench_function(BenchmarkId::new(q.to_string(), isa.name()), |b| {
                b.iter(|| multiply(isa));
            });
        }
    }
}

/// Fused multiply-adds of a round: more chains than one waits for, each in its own register.
const CHAINS: usize = 12;
const ROUNDS: usize = 100_000;

#[inline(always)]
fn chains<const L: usize>(isa: Isa, seed: f32) -> f32 {
    let mut sums = [[seed; L]; CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = add(isa, *sum, &[0.5; L], &[0.25; L]);
        }
    }
    sums.iter().flatten().sum()
}

per_isa! {
    fn wide(seed: f32) -> f32 = chains::<16>[isa];
    fn middle(seed: f32) -> f32 = chains::<8>[isa];
    fn narrow(seed: f32) -> f32 = chains::<4>[isa];
}

fn peak(c: &mut Criterion) {
    let mut group = c.benchmark_group("peak");
    for isa in Isa::available() {
        let (lanes, run): (usize, fn(Isa, f32) -> f32) = match isa.name() {
            "avx512" | "avx512-vnni" | "avx512-amx" => (16, wide),
            "avx2" => (8, middle),
            _ => (4, narrow),
        };
        group.throughput(Throughput::Elements((lanes * CHAINS * ROUNDS) as u64));
        group.bench_function(isa.name(), |b| b.iter(|| run(isa, black_box(1.0))));
    }
}

/// Products per second: elements are multiplications.
fn many(c: &mut Criterion) {
    let mut group = c.benchmark_group("many");
    let rows = vec![0.5; panel::ROWS * ROW_LEN];
    let xs = vec![0.25; VECTORS * ROW_LEN];
    let mut out = vec![0.0; panel::ROWS * VECTORS];
    group.throughput(Throughput::Elements((rows.len() * VECTORS) as u64));
    for isa in Isa::available() {
        let (xs, mut room) = (panel::lay_out(isa, &xs, ROW_LEN), panel::Room::default());
        group.bench_function(isa.name(), |b| {
            b.iter(|| {
                let rows = black_box(&rows);
                let mut places: Vec<&mut [f32]> = out.chunks_mut(panel::ROWS).collect();
                panel::multiply(isa, rows, &xs, ROW_LEN, &mut places, &mut room);
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200));
    targets = memory, peak, one, many
}
criterion_main!(benches);
