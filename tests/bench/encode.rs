//! Numbers a second of every encoder, also of older eras, compiled for the baseline and for the best of
//! this machine.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use regguf::quant::encode::{encoder, needs_importance};
use regguf::quant::{QuantType, isa::Isa, recipe::recipes};
use std::{hint::black_box, time::Duration};

const ROW: usize = 4096;
const ROWS: usize = 4;

fn encoders(c: &mut Criterion) {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0
    };
    let rows: Vec<f32> = (0..ROW * ROWS).map(|_| random() + random() + random() - 1.5).collect();
    let weights: Vec<f32> = (0..ROW).map(|_| random() + 0.01).collect();
    for name in [
        "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k",
        "q6_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl",
        "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4", "q1_0", "q2_0",
    ] {
        let (Some(encode), Some(kind)) = (encoder(name), QuantType::today(name)) else { continue };
        let Some(row_bytes) = kind.row_bytes(ROW as u64) else { continue };
        let mut out = vec![0; row_bytes as usize * ROWS];
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements((ROW * ROWS) as u64));
        for isa in [Isa::PORTABLE, Isa::best()] {
            for (mode, weights) in [("plain", None), ("weighted", Some(&weights[..]))] {
                if weights.is_none() && needs_importance(name) {
                    continue;
                }
                group.bench_function(format!("{mode} {}", isa.name()), |b| {
                    b.iter(|| encode(isa, black_box(&rows), ROW, weights, &mut out));
                });
            }
        }
        group.finish();
    }
    for kind in QuantType::all().filter(|q| !q.is_today()) {
        let Some(row_bytes) = kind.row_bytes(ROW as u64) else { continue };
        let mut out = vec![0; row_bytes as usize * ROWS];
        for recipe in recipes(kind) {
            let mut group = c.benchmark_group(format!("{kind} {}", recipe.name));
            group.throughput(Throughput::Elements((ROW * ROWS) as u64));
            for isa in [Isa::PORTABLE, Isa::best()] {
                group.bench_function(isa.name(), |b| {
                    b.iter(|| (recipe.encode)(isa, black_box(&rows), ROW, None, &mut out));
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200))
        .sample_size(10);
    targets = encoders
}
criterion_main!(benches);
