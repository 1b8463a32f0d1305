//! Models made on the spot: numbers from a seed, and the bytes of a GGUF file.

/// A tensor: its name, its shape with the outermost dimension first, its numbers.
pub type Tensor = (String, Vec<usize>, Vec<f32>);

/// A value of a key.
#[derive(Clone, Debug)]
pub enum Value {
    Size(u32),
    Number(f32),
    Flag(bool),
    Text(String),
}

/// The bytes of a GGUF file, version 3.
pub fn bytes(keys: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        let kind: u32 = match value {
            Value::Size(_) => 4,
            Value::Number(_) => 6,
            Value::Flag(_) => 7,
            Value::Text(_) => 8,
        };
        out.extend(kind.to_le_bytes());
        match value {
            Value::Size(v) => out.extend(v.to_le_bytes()),
            Value::Number(v) => out.extend(v.to_le_bytes()),
            Value::Flag(v) => out.push(u8::from(*v)),
            Value::Text(v) => text(&mut out, v),
        }
    }
    let mut at = 0u64;
    for (name, shape, numbers) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        for size in shape.iter().rev() {
            out.extend((*size as u64).to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        out.extend(at.to_le_bytes());
        at = (at + numbers.len() as u64 * 4).next_multiple_of(32);
    }
    for (_, _, numbers) in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(numbers.iter().flat_map(|v| v.to_le_bytes()));
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out
}

/// Numbers within a half of `around`, from a generator that the name seeds (splitmix64).
pub fn numbers(name: &str, count: usize, around: f32) -> Vec<f32> {
    let seed = name.bytes().fold(7u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
    let number = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        around + (z >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count as u64).map(number).collect()
}
