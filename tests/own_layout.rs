//! Families that GGUF has no name for, brought to the present layout of their own container.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    change::{self, Loss, choose::ftype::FileType, quantize, upgrade},
    container::{self, OpenOptions},
    format::catalog,
    model::{Model, Tensor},
    quant::{decode_rows, isa::Isa},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name)
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn numbers(model: &Model, tensor: &Tensor) -> Vec<f32> {
    let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    let row_len = usize::try_from(tensor.row_len()).unwrap();
    decode_rows(tensor.quant, Isa::best(), &bytes, row_len, &mut out);
    out
}

fn upgraded(name: &str, options: upgrade::Options) -> (Vec<u8>, Vec<(String, Loss)>) {
    let folder = tempfile::tempdir().unwrap();
    let output = Some(folder.path().join("new.bin"));
    let model = open(&golden(name));
    let (model, plan) = upgrade::plan(model, &upgrade::Options { output, ..options })
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    change::carry(&model, std::slice::from_ref(&plan), false, &()).unwrap();
    let new = open(&plan.output);
    for (step, made) in plan.steps.iter().zip(&new.tensors) {
        if step.loss() == Loss::Exact {
            let source = &model.tensors[step.source];
            assert_eq!(numbers(&model, source), numbers(&new, made), "{name}: {}", step.name);
        }
    }
    // Whisper's programs want all matrices in the type that the header states, and convolutions no narrower.
    let stated = catalog::container(&new.format).unwrap().stated_type(&new.header);
    let is_matrix =
        |t: &&Tensor| t.name.ends_with("att.key.weight") || t.name.ends_with("0.attn.query.weight");
    let matrix = new.tensors.iter().find(is_matrix).unwrap();
    assert_eq!(stated, Some(matrix.quant.name()), "{name}");
    let convolution = new.tensor("encoder.conv1.weight").map(|t| t.quant.name());
    assert!(
        convolution.is_none_or(|c| c == if stated == Some("f32") { "f32" } else { "f16" }),
        "{name}"
    );
    let losses = plan.steps.iter().map(|s| (s.name.clone(), s.loss())).collect();
    (fs::read(&plan.output).unwrap(), losses)
}

/// What the quantizers of the present layout wrote of the same weights, byte for byte.
#[test]
fn five_bits_become_the_files_of_the_present_quantizers() {
    for (old, new) in [
        ("rwkv/2023-05-26_v100_last/rwkv4-q5_0.bin", "rwkv/2023-05-27_v101/rwkv4-q5_0.bin"),
        (
            "whisper/2023-04-30_no-version/whisper-T-q5_0.bin",
            "whisper/2023-05-20_qnt2/whisper-T-q5_0.bin",
        ),
    ] {
        let (made, losses) = upgraded(old, upgrade::Options::default());
        assert!(losses.iter().all(|(_, loss)| *loss == Loss::Exact), "{old}");
        assert!(made == fs::read(golden(new)).unwrap(), "{old}");
    }
}

/// Floats of version 100 differ from those of 101 in the version alone.
#[test]
fn floats_get_another_version_word() {
    let name = "rwkv/2023-04-02_v100_all-matrices/rwkv4-f16.bin";
    let mut wanted = fs::read(golden(name)).unwrap();
    wanted[4..8].copy_from_slice(&101u32.to_le_bytes());
    assert!(upgraded(name, upgrade::Options::default()).0 == wanted);
}

/// Every stage of the containers, rounded or, where a person says so, exactly.
#[test]
fn every_stage_is_brought_forward() {
    let mut seen = 0;
    for family in ["rwkv", "whisper"] {
        for era in fs::read_dir(golden(family)).unwrap() {
            for file in fs::read_dir(era.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let name = path.strip_prefix(golden("")).unwrap().display().to_string();
                let (_, losses) = upgraded(&name, upgrade::Options::default());
                let four = name.contains("q4") || name.contains("v100_q5-q8");
                assert_eq!(losses.iter().any(|(_, l)| *l != Loss::Exact), four, "{name}");
                let exact = upgrade::Options { exact: true, ..Default::default() };
                let (_, losses) = upgraded(&name, exact);
                assert!(losses.iter().all(|(_, l)| *l == Loss::Exact), "{name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 10, "{seen}");
}

/// As rwkv.cpp's own quantizer: the bytes of its file, embedding and head as they were.
#[test]
fn quantized_as_its_program_does() {
    let folder = tempfile::tempdir().unwrap();
    let model = open(&golden("rwkv/2023-04-02_v100_all-matrices/rwkv4-f16.bin"));
    let options = quantize::Options {
        types: vec![FileType::parse("q5_0").unwrap()],
        output: Some(folder.path().join("q.bin")),
        ..Default::default()
    };
    let (model, plans) = quantize::plan(model, &options).unwrap();
    change::carry(&model, &plans, false, &()).unwrap();
    let made = fs::read(&plans[0].output).unwrap();
    assert!(made == fs::read(golden("rwkv/2023-05-27_v101/rwkv4-q5_0.bin")).unwrap());
}

/// Another version of RWKV under the same header is named, and nothing is made of it.
#[test]
fn later_versions_are_named() {
    let bytes = fs::read(golden("rwkv/2023-05-27_v101/rwkv4-q5_0.bin")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v6.bin");
    let name = b"blocks.0.att.time_maa_x";
    let mut more = bytes;
    for word in [1, u32::try_from(name.len()).unwrap(), 0, 1] {
        more.extend(word.to_le_bytes());
    }
    more.extend(name);
    more.extend(1f32.to_le_bytes());
    fs::write(&path, more).unwrap();
    let error = upgrade::plan(open(&path), &upgrade::Options::default()).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(error.to_string().contains("RWKV v6"), "{error}");
}
