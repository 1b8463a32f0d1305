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
