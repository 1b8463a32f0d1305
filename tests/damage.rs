//! Damaged files: an error with its place, or a legal file; never a panic, never a large allocation.

use std::path::Path;

use regguf::{
    bytes::Input,
    container::{OpenOptions, detect},
    error::{Error, Result},
    model::Model,
};

/// One file of every walk: with and without scores, alignment, big-endian numbers and wide counts.
const FILES: [&str; 8] = [
    "E1/ggml-model-q4_0.bin",
    "E3/ggml-model-q4_1.bin",
    "E4q80/ggml-model-q8_0.bin",
    "E6k/ggml-model-q4_0.bin",
    "E6l-q64/ggml-model-q4_K_M.qkk64.bin",
    "E7/ggml-model-q4_0.gguf",
    "E9/ggml-model-q4_K_M.gguf",
    "E10/model-q8_0.big-endian.gguf",
];

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T").join(name)).unwrap()
}

fn read(name: &str, bytes: Vec<u8>) -> Result<Model> {
    let input = Input::memory(name, bytes);
    detect(&input, &OpenOptions::default())?.sure(&input)
}

/// Where the weights begin.
fn head(model: &Model) -> u64 {
    model.tensors.iter().map(|t| t.pieces[0].at).min().unwrap()
}

#[test]
fn a_file_cut_at_any_length_says_where() {
    for name in FILES {
        let whole = bytes(name);
        let head = usize::try_from(head(&read(name, whole.clone()).unwrap())).unwrap();
        // Every length up to the first weights, then at strides that hit every kind of field.
        let lengths = (0..head).step_by(7).chain((head..whole.len()).step_by(997));
        for len in lengths.chain(whole.len() - 70..whole.len()) {
            match read(name, whole[..len].to_vec()) {
                Err(Error::Malformed(m)) => assert!(m.at <= whole.len() as u64, "{m:?}"),
                Err(Error::Unknown { .. }) => assert!(len < 8, "{name} cut at {len}"),
                Err(other) => panic!("{name} cut at {len}: {other}"),
                // The padding after the last tensor carries nothing.
                Ok(_) => {
                    assert!(name.ends_with("gguf") && whole.len() - len < 32, "{name} at {len}");
                }
            }
        }
    }
}

#[test]
fn a_flipped_byte_never_panics() {
    for name in FILES {
        let whole = bytes(name);
        let head = usize::try_from(head(&read(name, whole.clone()).unwrap())).unwrap();
        let flips = (0..256.min(head)).chain((256..head).step_by(13));
        for at in flips {
            for mask in [0xff, 0x80, 0x01] {
                let mut broken = whole.clone();
                broken[at] ^= mask;
                match read(name, broken) {
                    Ok(_)
                    | Err(
                        Error::Unknown { .. } | Error::Unsupported { .. } | Error::Foreign { .. },
                    ) => {}
                    // Data may be said to begin beyond the end: that is then the place.
                    Err(Error::Malformed(m)) => {
                        assert!(m.at <= whole.len() as u64 || m.field.ends_with(".data"), "{m:?}");
                    }
                    Err(other) => panic!("{name}: byte {at} ^ {mask:#x}: {other}"),
                }
            }
        }
    }
}

#[test]
fn a_stray_byte_at_the_end_of_a_stream_is_told() {
    for name in &FILES[..5] {
        let mut long = bytes(name);
        long.push(0);
        let model = read(name, long).unwrap();
        let bytes: Vec<u64> = model.tails.iter().map(|tail| tail.bytes).collect();
        assert_eq!(bytes, [1], "{name}");
    }
}

#[test]
fn a_cut_file_says_how_many_bytes_are_missing() {
    let whole = bytes("E9/ggml-model-q4_K_M.gguf");
    let Err(Error::Malformed(m)) = read("x", whole[..100_000].to_vec()) else { panic!() };
    // The last tensor needs no padding to be whole.
    assert!(
        m.next
            .to_string()
            .starts_with(&format!("the file is {} bytes short", whole.len() - 100_000)),
        "{m:?}"
    );
    let whole = bytes("E4/ggml-model-q4_0.bin");
    let Err(Error::Malformed(m)) = read("x", whole[..90_000].to_vec()) else { panic!() };
    assert!(m.next.to_string().contains("bytes short (5 whole tensors are missing too)"), "{m:?}");
}
