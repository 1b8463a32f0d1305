//! The same model, computed as it is explained: in float64, each token from the first layer on, nothing kept.

use super::model::*;

type Vector = Vec<f64>;

/// The logits after every token.
pub fn logits(made: &Made, tokens: &[u32]) -> Vec<Vector> {
    let mut stream: Vec<Vector> =
        tokens.iter().enumerate().map(|(at, token)| embed(made, at, *token)).collect();
    for n in 0..LAYERS {
        let name = |part: &str| format!("l{n}.{part}");
        let normed: Vec<Vector> = stream.iter().map(|x| norm(made, &name("norm"), x)).collect();
        let attended = attention(made, n, &normed);
        for (at, x) in stream.iter_mut().enumerate() {
            let after = sum(x, &attended[at]);
            let seen = if made.choices.parallel() { &*x } else { &after };
            let seen = match made.choices.residual {
                "parallel" => normed[at].clone(),
                _ => norm(made, &name("other_norm"), seen),
            };
            *x = sum(&after, &mlp(made, n, &seen));
        }
    }
    let head = if made.choices.tied { "embed" } else { "head" };
    let logits = |x: &Vector| linear(made, head, &norm(made, "last_norm", x));
    stream.iter().map(logits).collect()
}

fn embed(made: &Made, at: usize, token: u32) -> Vector {
    let row = |name: &str, row: usize| -> Option<Vector> {
        let all = made.get(name)?;
        Some(all[row * WIDTH..(row + 1) * WIDTH].iter().map(|v| f64::from(*v)).collect())
    };
    let mut x = row("embed.weight", token as usize).unwrap();
    if let Some(place) = row("places.weight", at) {
        x = sum(&x, &place);
    }
    norm(made, "embed_norm", &x)
}

fn sum(a: &[f64], b: &[f64]) -> Vector {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn linear(made: &Made, name: &str, x: &[f64]) -> Vector {
    let weight = made.get(&format!("{name}.weight")).unwrap();
    let bias = made.get(&format!("{name}.bias"));
    let product = |(r, row): (usize, &[f32])| {
        let products = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x);
        products.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[r]))
    };
    weight.chunks(x.len()).enumerate().map(product).collect()
}

fn norm(made: &Made, name: &str, x: &[f64]) -> Vector {
    let n = x.len() as f64;
    let mean = if made.choices.norm == "layer" { x.iter().sum::<f64>() / n } else { 0.0 };
    let spread = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let root = (spread + f64::from(EPSILON)).sqrt();
    let weight = made.get(&format!("{name}.weight")).unwrap();
    let bias = made.get(&format!("{name}.bias"));
    let number = |i: usize| {
        (x[i] - mean) / root * f64::from(weight[i]) + bias.map_or(0.0, |bias| f64::from(bias[i]))
    };
    (0..x.len()).map(number).collect()
}

fn attention(made: &Made, n: usize, xs: &[Vector]) -> Vec<Vector> {
    let (q, kv) = (HEADS * HEAD, made.choices.kv_heads() * HEAD);
    let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (at, x) in xs.iter().enumerate() {
        let all = if made.choices.joined {
            linear(made, &format!("l{n}.qkv"), x)
        } else {
            ["q", "k", "v"].map(|part| linear(made, &format!("l{n}.{part}"), x)).concat()
        };
        let bound = f64::from(CLAMP);
        let all: Vector = all.iter().map(|v| v.clamp(-bound, bound)).collect();
        queries.push(turned(made, at, &all[..q]));
        keys.push(turned(made, at, &all[q..q + kv]));
        values.push(all[q + kv..].to_vec());
    }
    let one = |at: usize| {
        let mut mixed = Vec::new();
        for h in 0..HEADS {
            let shared = h * made.choices.kv_heads() / HEADS;
            let part = |v: &Vector, h: usize| v[h * HEAD..(h + 1) * HEAD].to_vec();
            let query = part(&queries[at], h);
            let score = |to: usize| {
                let key = part(&keys[to], shared);
                let product: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                (product / (HEAD as f64).sqrt() - slope(made, h) * (at - to) as f64).exp()
            };
            let scores: Vector = (0..=at).map(score).collect();
            let total: f64 = scores.iter().sum();
            let mut out = vec![0.0; HEAD];
            for (to, score) in scores.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(part(&values[to], shared)) {
                    *out += score / total * value;
                }
            }
            mixed.extend(out);
        }
        linear(made, &format!("l{n}.back"), &mixed)
    };
    (0..xs.len()).map(one).collect()
}

fn turned(made: &Made, at: usize, heads: &[f64]) -> Vector {
    let mut out = heads.to_vec();
    for head in out.chunks_mut(HEAD) {
        for i in 0..DIMS / 2 {
            let (a, b) = match made.choices.position {
                "neighbours" => (2 * i, 2 * i + 1),
                "halves" => (i, i + DIMS / 2),
                _ => continue,
            };
            let angle = at as f64 / f64::from(BASE).powf(2.0 * i as f64 / DIMS as f64);
            let (x, y) = (head[a], head[b]);
            head[a] = x * angle.cos() - y * angle.sin();
            head[b] = x * angle.sin() + y * angle.cos();
        }
    }
    out
}

/// Six heads: four slopes that halve by `most / 4`, then two from between those.
fn slope(made: &Made, h: usize) -> f64 {
    if made.choices.position != "alibi" {
        return 0.0;
    }
    let steps = [1.0, 2.0, 3.0, 4.0, 0.5, 1.5];
    0.5f64.powf(steps[h] * f64::from(ALIBI) / 4.0)
}

fn mlp(made: &Made, n: usize, x: &[f64]) -> Vector {
    let up = linear(made, &format!("l{n}.up"), x);
    let act = |x: &f64| activation(made.choices.activation, *x);
    let between: Vector = if made.choices.gated {
        let gate = linear(made, &format!("l{n}.gate"), x);
        gate.iter().zip(&up).map(|(gate, up)| act(gate) * up).collect()
    } else {
        up.iter().map(act).collect()
    };
    linear(made, &format!("l{n}.down"), &between)
}

fn activation(name: &str, x: f64) -> f64 {
    match name {
        "silu" => x / (1.0 + (-x).exp()),
        "gelu_tanh" => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            x / 2.0 * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh())
        }
        "gelu_erf" => x * normal(x),
        "relu" => x.max(0.0),
        "relu2" => x.max(0.0).powi(2),
        _ => unreachable!("{name}"),
    }
}

/// The share of a normal distribution below `x`, by Simpson's rule over its density.
fn normal(x: f64) -> f64 {
    let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let (steps, width) = (200, x / 200.0);
    let weight = |i: usize| match i {
        0 | 200 => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let area: f64 = (0..=steps).map(|i| weight(i) * density(i as f64 * width)).sum();
    0.5 + area * width / 3.0
}
