//! Image and video models in GGUF: long names, five dimensions and none, and the mixtures of ComfyUI-GGUF's patch of
//! llama-quantize. The file is laid by hand, as tools/convert.py and fix_5d_tensors.py of city96/ComfyUI-GGUF 795e451
//! lay those of Wan; the types are those of its tools/lcpp.patch.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use regguf::{
    container::{self, OpenOptions},
    model::Model,
};

const F32: u32 = 0;
const F16: u32 = 1;

/// Name, dimensions as they are stored (innermost first), type, and what Q4_K_M makes of it.
const TENSORS: [(&str, &[u64], u32, &str); 11] = [
    ("blocks.0.cross_attn.k.weight", &[256, 8], F16, "q4_k"),
    ("blocks.0.cross_attn.v.weight", &[256, 8], F16, "q6_k"),
    ("blocks.0.self_attn.v.weight", &[256, 8], F16, "q6_k"),
    ("blocks.0.ffn.2.weight", &[512, 8], F16, "q6_k"),
    ("blocks.0.ffn.0.weight", &[96, 8], F16, "f16"),
    ("blocks.0.ffn.0.bias", &[8], F32, "f32"),
    ("blocks.0.modulation", &[256, 6, 1], F32, "f32"),
    ("patch_embedding.weight", &[2, 2, 1, 4, 8], F32, "f32"),
    ("head.head.weight", &[256, 8], F16, "f16"),
    (
        "blocks.0.a_module_of_a_fine_tune_whose_authors_like_their_names_long_and_clear.projection.weight",
        &[256, 8],
        F16,
        "q4_k",
    ),
    ("scale", &[], F32, "f32"),
];

type Listed<'a> = (&'a str, &'a [u64], u32, &'a str);

fn write(architecture: &str, tensors: &[Listed], path: &Path) {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut head = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(3u64.to_le_bytes());
    head.extend(
        [text("general.architecture"), 8u32.to_le_bytes().to_vec(), text(architecture)].concat(),
    );
    for (key, value) in [("general.quantization_version", 2u32), ("general.file_type", 1)] {
        head.extend(
            [text(key), 4u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat(),
        );
    }
    let (mut data, mut next) = (Vec::new(), 0x2545_f491_u32);
    for (name, dims, kind, _) in tensors {
        head.extend([text(name), (dims.len() as u32).to_le_bytes().to_vec()].concat());
        dims.iter().for_each(|n| head.extend(n.to_le_bytes()));
        head.extend(
            [kind.to_le_bytes().to_vec(), (data.len() as u64).to_le_bytes().to_vec()].concat(),
        );
        for _ in 0..dims.iter().product::<u64>() {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // From a thousandth to two, of either sign.
            match *kind {
                F16 => data.extend(
                    ((0x1400 + (next >> 16 & 0x2bff) as u16) | (next >> 15 & 0x8000) as u16)
                        .to_le_bytes(),
                ),
                _ => data.extend((next as f32 / u32::MAX as f32 - 0.5).to_le_bytes()),
            }
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    head.resize(head.len().next_multiple_of(32), 0);
    fs::write(path, [head, data].concat()).unwrap();
}

fn call(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).current_dir(folder).args(words).output().unwrap()
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap()
}

fn bytes(model: &Model, name: &str) -> Vec<u8> {
    let tensor = model.tensor(name).unwrap();
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    bytes
}

#[test]
fn video_models_are_quantized_as_the_patched_program_does_it() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write("wan", &TENSORS, &here.join("wan.gguf"));
    let words = ["quantize", "wan.gguf", "out.gguf", "Q4_K_M"];
    let said = super::said(&words, call(here, &words));
    assert!(said.contains("1 tensor became f16: rows that are no multiple of 256"), "{said}");
    let (before, made) = (open(&here.join("wan.gguf")), open(&here.join("out.gguf")));
    let order = |model: &Model| model.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(order(&made), order(&before), "in the order of the file");
    for (name, dims, _, kind) in TENSORS {
        let tensor = made.tensor(name).unwrap();
        assert_eq!(tensor.quant.name(), kind, "{name}");
        let shape: Vec<u64> = dims.iter().rev().copied().collect();
        assert!(tensor.shape == shape || dims.is_empty(), "{name}: {:?}", tensor.shape);
        let kept = before.tensor(name).unwrap().quant == tensor.quant;
        assert!(!kept || bytes(&made, name) == bytes(&before, name), "{name}");
    }
    let words = ["quantize", "wan.gguf", "other.gguf", "IQ4_XS"];
    let (code, said) = super::refused(&call(here, &words));
    assert!(code != 0 && said.contains("IQ4_XS: is not made of image models (wan)"), "{said}");
    // The first of some mixtures get more bits, as the file has them.
    let words = ["quantize", "wan.gguf", "s.gguf", "Q3_K_M"];
    super::said(&words, call(here, &words));
    let made = open(&here.join("s.gguf"));
    let kind = |name: &str| made.tensor(name).unwrap().quant.name();
    assert_eq!(kind("blocks.0.cross_attn.v.weight"), "q5_k");
    assert_eq!(
        (kind("blocks.0.ffn.2.weight"), kind("blocks.0.cross_attn.k.weight")),
        ("q4_k", "q3_k")
    );
}

/// What stays as it is in one of these models does so whichever verb changes the types of the others.
#[test]
fn convert_keeps_the_tensors_that_quantize_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write("wan", &TENSORS, &here.join("wan.gguf"));
    for words in [
        ["quantize", "wan.gguf", "quantized.gguf", "Q8_0"].as_slice(),
        &["convert", "wan.gguf", "-o", "converted.gguf", "--type", "q8_0"],
    ] {
        super::said(words, call(here, words));
    }
    let source = open(&here.join("wan.gguf"));
    let made = ["quantized.gguf", "converted.gguf"].map(|name| open(&here.join(name)));
    for (name, ..) in TENSORS {
        let [quantized, converted] = made
            .each_ref()
            .map(|model| model.tensor(name).unwrap().quant == source.tensor(name).unwrap().quant);
        assert_eq!(quantized, converted, "{name}");
        assert!(!converted || bytes(&made[1], name) == bytes(&source, name), "{name}");
    }
    let kind = |name: &str| made[1].tensor(name).unwrap().quant.name();
    assert_eq!((kind("head.head.weight"), kind("blocks.0.ffn.2.weight")), ("f16", "q8_0"));
}

/// The patch's rules for Qwen-Image: what leads in and out is kept, roles count, and over them the first and last block.
#[test]
fn blocks_at_the_ends_of_qwen_image_have_types_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let wanted = [
        // name, Q2_K, Q4_K_M, Q4_K_S
        ("img_in.weight", "f16", "f16", "f16"),
        ("time_text_embed.timestep_embedder.linear_1.weight", "f16", "f16", "f16"),
        ("proj_out.weight", "f16", "f16", "f16"),
        ("transformer_blocks.0.attn.to_v.weight", "q4_k", "q5_k", "q5_k"),
        ("transformer_blocks.0.attn.to_q.weight", "q4_k", "q5_k", "q4_k"),
        ("transformer_blocks.30.attn.to_q.weight", "q2_k", "q4_k", "q4_k"),
        ("transformer_blocks.30.attn.add_v_proj.weight", "q3_k", "q6_k", "q5_k"),
        ("transformer_blocks.30.img_mlp.net.2.weight", "q2_k", "q6_k", "q5_k"),
        ("transformer_blocks.59.txt_mlp.net.2.weight", "q4_k", "q5_k", "q5_k"),
    ];
    let tensors = wanted.map(|(name, ..)| (name, &[256, 8][..], F16, ""));
    write("qwen_image", &tensors, &here.join("qwen.gguf"));
    for (at, file) in ["Q2_K", "Q4_K_M", "Q4_K_S"].iter().enumerate() {
        let words = ["quantize", "qwen.gguf", "out.gguf", file, "--force"];
        super::said(&words, call(here, &words));
        let made = open(&here.join("out.gguf"));
        for (name, small, medium, less) in wanted {
            let kind = [small, medium, less][at];
            assert_eq!(made.tensor(name).unwrap().quant.name(), kind, "{file} {name}");
        }
    }
    let seen = super::said(&[], call(here, &["inspect", "qwen.gguf"]));
    assert!(seen.contains("programs that make images and videos take it"), "{seen}");
}

#[test]
fn long_names_and_odd_dimensions_are_inspected_verified_edited_and_split() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write("wan", &TENSORS, &here.join("wan.gguf"));
    let run = |words: &[&str]| super::said(words, call(here, words));
    let listed = run(&["inspect", "wan.gguf", "--tensors"]);
    let long = TENSORS[9].0;
    assert!(listed.contains("8 × 4 × 1 × 2 × 2") && listed.contains(long), "{listed}");
    let said = run(&["verify", "wan.gguf", "--deep"]);
    assert!(said.contains("OK") && !said.contains("tokenizer"), "{said}");
    let said = run(&["inspect", "wan.gguf"]);
    let whose = "nothing to do: programs that make images and videos take it";
    assert!(said.contains(whose) && !said.contains("tokenizer"), "{said}");
    run(&["metadata", "wan.gguf", "set", "general.name", "a film", "-o", "named.gguf"]);
    // A value of the same length where it is: a number without dimensions gains none, so nothing moves.
    fs::copy(here.join("named.gguf"), here.join("renamed.gguf")).unwrap();
    run(&["metadata", "renamed.gguf", "set", "general.name", "2 film", "--in-place"]);
    let renamed = fs::read(here.join("renamed.gguf")).unwrap();
    let old = fs::read(here.join("named.gguf")).unwrap();
    let differs: Vec<usize> = (0..old.len()).filter(|at| old[*at] != renamed[*at]).collect();
    assert!(old.len() == renamed.len() && differs.len() == 1, "{differs:?}");
    assert_eq!(open(&here.join("renamed.gguf")).metadata.str("general.name"), Some("2 film"));
    let (before, named) = (open(&here.join("wan.gguf")), open(&here.join("named.gguf")));
    assert_eq!(named.metadata.str("general.name"), Some("a film"));
    run(&["split", "wan.gguf", "part", "--split-max-tensors", "4"]);
    run(&["join", "part-00001-of-00003.gguf", "-o", "whole.gguf"]);
    let read = |name: &str| fs::read(here.join(name)).unwrap();
    assert!(read("whole.gguf") == read("wan.gguf"), "split and joined it is the first file");
    let whole = open(&here.join("whole.gguf"));
    for (name, ..) in TENSORS {
        for other in [&named, &whole] {
            assert!(bytes(other, name) == bytes(&before, name), "{name}");
            assert_eq!(other.tensor(name).unwrap().shape, before.tensor(name).unwrap().shape);
        }
    }
}
