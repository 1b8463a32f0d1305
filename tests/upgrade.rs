//! Upgrades of files that the original programs wrote, compared with what those programs made of them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{self, Loss, Outcome, Plan, upgrade::Options},
    container::{self, OpenOptions, TensorHead, keyed},
    error::{Error, Result},
    format::catalog,
    model::{Metadata, Model, Tensor},
    quant::{QuantType, decode_rows, isa::Isa},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Upgrades `path` into `folder`.
fn upgrade(path: &Path, folder: &Path, options: Options) -> Result<(Model, Plan, Outcome, Model)> {
    let output = options.output.clone().unwrap_or_else(|| folder.join("out"));
    let _ = fs::remove_file(&output);
    let options = Options { output: Some(output.clone()), ..options };
    let (model, plan) =
        change::upgrade::plan(container::open(path, &OpenOptions::default())?, &options)?;
    let outcome =
        change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &())?.remove(0);
    let new = container::open(&output, &OpenOptions::default())?;
    Ok((model, plan, outcome, new))
}

fn bytes_of(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(tensor.bytes()).unwrap()];
    model.read_rows(tensor, 0, tensor.rows(), &mut out).unwrap();
    out
}

fn weights_of(model: &Model, tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    let row_len = usize::try_from(tensor.row_len()).unwrap();
    decode_rows(tensor.quant, Isa::best(), &bytes_of(model, tensor), row_len, &mut out);
    out
}

fn same_weights(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Every model file in golden/, each set once.
fn model_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![golden("T"), golden("G"), golden("S")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let first = !name.contains("-of-") || name.contains("-00001-of-");
            let ggml = name.ends_with(".bin") && name.starts_with("ggml-");
            if path.is_dir() {
                folders.push(path);
            } else if (name.ends_with(".gguf") && first) || ggml {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 60, "golden/ holds {} model files", files.len());
    files
}

#[test]
fn every_golden_file_becomes_a_gguf_with_the_weights_it_had() {
    let folder = tempfile::tempdir().unwrap();
    for path in model_files() {
        let (old, plan, outcome, new) =
            upgrade(&path, folder.path(), Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(new.format, "gguf-v3", "{}", path.display());
        assert_eq!(new.tensors.len(), plan.steps.len());
        for ((step, tensor), done) in plan.steps.iter().zip(&new.tensors).zip(&outcome.steps) {
            let at = format!("{}: {}", path.display(), step.name);
            let source = &old.tensors[step.source];
            assert!(tensor.quant.is_today(), "{at}: {}", tensor.quant);
            let (before, after) = (weights_of(&old, source), weights_of(&new, tensor));
            let same = same_weights(&before, &after);
            match step.loss() {
                Loss::Exact => assert!(same, "{at}"),
                // Rounding a scale moves it by half a unit in the last place of f16 at most.
                Loss::Rounded => {
                    assert!(
                        done.scales.blocks > 0 && done.scales.max_relative_change < 4.9e-4,
                        "{at}"
                    );
                    assert!(done.scales.changed > 0 || same, "{at}");
                    for (a, b) in before.iter().zip(&after) {
                        assert!((a - b).abs() <= 2e-3, "{at}: {a} became {b}");
                    }
                }
                Loss::Recoded => {}
                loss => panic!("{at}: {loss:?}"),
            }
        }
    }
}

#[test]
fn exact_upgrades_keep_every_weight() {
    let folder = tempfile::tempdir().unwrap();
    for path in model_files() {
        let options = Options { exact: true, ..Options::default() };
        let (old, plan, _, new) = upgrade(&path, folder.path(), options).unwrap();
        for (step, tensor) in plan.steps.iter().zip(&new.tensors) {
            assert_eq!(step.loss(), Loss::Exact, "{}: {}", path.display(), step.name);
            let (a, b) = (weights_of(&old, &old.tensors[step.source]), weights_of(&new, tensor));
            assert!(same_weights(&a, &b), "{}: {}", path.display(), step.name);
        }
    }
}

/// Blocks of all quantized tensors that differ between two models with the same names.
fn differing_blocks(a: &Model, b: &Model) -> (usize, usize) {
    let (mut differ, mut all) = (0, 0);
    for tensor in a.tensors.iter().filter(|t| t.shape.len() > 1) {
        let other = b.tensor(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
        assert_eq!(tensor.quant, other.quant, "{}", tensor.name);
        let size = tensor.quant.layout().bytes;
        let (x, y) = (bytes_of(a, tensor), bytes_of(b, other));
        differ += x.chunks(size).zip(y.chunks(size)).filter(|(x, y)| x != y).count();
        all += x.len() / size;
    }
    (differ, all)
}

/// What the quantizer of ggjt v3 wrote from the same f16 weights, brought to GGUF's names.
fn of_v3(name: &str, folder: &Path) -> Model {
    let options = Options { output: Some(folder.join("v3")), ..Options::default() };
    upgrade(&golden(&format!("T/E6/ggml-model-{name}.bin")), folder, options).unwrap().3
}

#[test]
fn upgraded_q5_and_q8_equal_what_the_v3_quantizer_wrote() {
    let folder = tempfile::tempdir().unwrap();
    for era in ["E4b", "E5"] {
        for name in ["q5_0", "q5_1", "q8_0"] {
            let path = golden(&format!("T/{era}/ggml-model-{name}.bin"));
            let (.., new) = upgrade(&path, folder.path(), Options::default()).unwrap();
            let (differ, all) = differing_blocks(&new, &of_v3(name, folder.path()));
            assert!(all > 1000);
            assert_eq!(differ, 0, "{era} {name}: {differ} of {all} blocks");
        }
    }
}

#[test]
fn upgraded_q4_differs_from_the_v3_quantizer_in_ties_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut shares = BTreeMap::new();
    for era in ["E4b", "E5"] {
        for name in ["q4_0", "q4_1"] {
            let path = golden(&format!("T/{era}/ggml-model-{name}.bin"));
            let (.., new) = upgrade(&path, folder.path(), Options::default()).unwrap();
            shares.insert((era, name), differing_blocks(&new, &of_v3(name, folder.path())));
        }
    }
    // Half values were rounded away from zero until ggjt v1, by adding 0.5 and cutting since v2.
    for ((era, name), (differ, all)) in &shares {
        println!("{era} {name}: {differ} of {all} blocks differ");
        assert!(differ * 100 <= *all, "{era} {name}: {differ} of {all} blocks differ");
    }
    assert_eq!(shares[&("E5", "q4_0")].0, 0);
    assert_eq!(shares[&("E5", "q4_1")].0, 0);
}

#[test]
fn migrations_write_what_the_original_scripts_wrote() {
    let folder = tempfile::tempdir().unwrap();
    // The scripts' outputs are the same files as those that the era's converter wrote (golden/manifest.json).
    let cases = [
        ("E3/ggml-model-f16.bin", "ggjt-v1", "E4/ggml-model-f16.bin"),
        ("E3/ggml-model-q4_0.bin", "ggjt-v1", "E4/ggml-model-q4_0.bin"),
        ("E3/ggml-model-q4_1.bin", "ggjt-v1", "E4/ggml-model-q4_1.bin"),
        ("E3-2part/ggml-model-q4_0.bin", "ggjt-v1", "E4/ggml-model-q4_0.bin"),
        ("E3-2part/ggml-model-q4_1.bin", "ggjt-v1", "E4/ggml-model-q4_1.bin"),
        ("E2/ggml-model-f16.bin", "ggmf-v1", "E3/ggml-model-f16.bin"),
        ("E2/ggml-model-q4_0.bin", "ggmf-v1", "E3/ggml-model-q4_0.bin"),
        ("E2/ggml-model-q4_1.bin", "ggmf-v1", "E3/ggml-model-q4_1.bin"),
    ];
    for (from, to, wanted) in cases {
        let options = Options { to: Some(to.to_owned()), ..Options::default() };
        upgrade(&golden("T").join(from), folder.path(), options).unwrap_or_else(|e| panic!("{e}"));
        let ours = fs::read(folder.path().join("out")).unwrap();
        let theirs = fs::read(golden("T").join(wanted)).unwrap();
        assert!(ours == theirs, "{from} --to {to} is not {wanted}");
    }
}

#[test]
fn there_and_back_keeps_the_bytes() {
    // f32 holds every f16 scale, so a road through an older version and back is lossless.
    let folder = tempfile::tempdir().unwrap();
    for name in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16"] {
        let path = golden(&format!("T/E9/ggml-model-{name}.gguf"));
        for to in ["ggjt-v1", "ggjt-v2", "ggjt-v3", "gguf-v1", "gguf-v2", "gguf-v3-be"] {
            let old = folder.path().join("old");
            let options =
                Options { to: Some(to.into()), output: Some(old.clone()), ..Options::default() };
            upgrade(&path, folder.path(), options).unwrap_or_else(|e| panic!("{e}"));
            let (.., back) = upgrade(&old, folder.path(), Options::default()).unwrap();
            let first = open(&path);
            for tensor in &first.tensors {
                let other = back.tensor(&tensor.name).unwrap();
                assert_eq!(tensor.quant, other.quant, "{name} {to} {}", tensor.name);
                let same = bytes_of(&first, tensor) == bytes_of(&back, other);
                assert!(same, "{name} {to} {}", tensor.name);
            }
            assert_eq!(first.vocab.tokens, back.vocab.tokens, "{name} {to}");
            assert_eq!(first.vocab.scores, back.vocab.scores, "{name} {to}");
        }
    }
}

#[test]
fn written_in_their_own_format_files_keep_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for path in model_files() {
        let model = open(&path);
        // The shapes in this file are not those of its weights, and put right.
        if model.files.len() > 1 || path.ends_with("ggml-model-f16.from-E6l.gguf") {
            continue;
        }
        let options = Options { to: Some(model.format.clone()), ..Options::default() };
        upgrade(&path, folder.path(), options).unwrap_or_else(|e| panic!("{e}"));
        let same = fs::read(&path).unwrap() == fs::read(folder.path().join("out")).unwrap();
        assert!(same, "{} ({})", path.display(), model.format);
        count += 1;
    }
    assert!(count > 60, "{count} files");
}

#[test]
fn large_files_have_every_byte_whatever_chunks_share_their_pages() {
    // Past the page cache only whole pages are written; these tensors begin and end inside pages.
    let folder = tempfile::tempdir().unwrap();
    let (rows, row_len) = (9000u64, 2080u64);
    let q8_0 = QuantType::today("q8_0").unwrap();
    let names = ["a", "b", "c"];
    let head = |name: &str| TensorHead {
        name: name.to_owned(),
        shape: vec![rows, row_len],
        quant: q8_0,
        bytes: rows * q8_0.row_bytes(row_len).unwrap(),
    };
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "other");
    let format = catalog::container("gguf-v2").unwrap();
    let layout = keyed::layout(format, &[], &metadata, &names.map(head)).unwrap();
    let mut bytes = vec![0; usize::try_from(layout.total).unwrap()];
    let mut state = 1u32;
    for byte in &mut bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    for (at, chunk) in &layout.chunks {
        bytes[usize::try_from(*at).unwrap()..][..chunk.len()].copy_from_slice(chunk);
    }
    let input = folder.path().join("in.gguf");
    fs::write(&input, &bytes).unwrap();
    let (.., new) = upgrade(&input, folder.path(), Options::default()).unwrap();
    for (tensor, at) in new.tensors.iter().zip(&layout.data) {
        let wanted = &bytes[usize::try_from(*at).unwrap()..][..bytes_of(&new, tensor).len()];
        assert!(bytes_of(&new, tensor) == wanted, "{}", tensor.name);
    }
}

#[test]
fn a_type_that_the_target_never_had_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { to: Some("ggmf-v1".into()), ..Options::default() };
    let wrong = upgrade(&golden("T/E9/ggml-model-q5_0.gguf"), folder.path(), options).unwrap_err();
    assert!(wrong.to_string().contains("q5_0"), "{wrong}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn inputs_and_existing_files_are_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("model.bin");
    fs::copy(golden("T/E5/ggml-model-q4_0.bin"), &input).unwrap();
    let link = folder.path().join("link.gguf");
    fs::hard_link(&input, &link).unwrap();
    let before = fs::read(&input).unwrap();
    let planned = |output: &Path| {
        let options = Options { output: Some(output.to_owned()), ..Options::default() };
        change::upgrade::plan(open(&input), &options).unwrap()
    };
    for output in [&input, &link] {
        let (model, plan) = planned(output);
        let wrong = change::carry(&model, &[plan], Existing::Replace, &()).unwrap_err();
        assert!(matches!(wrong, Error::Refused { .. }), "{wrong}");
    }
    let taken = folder.path().join("taken.gguf");
    fs::write(&taken, b"mine").unwrap();
    let (model, plan) = planned(&taken);
    let wrong =
        change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap_err();
    assert!(regguf::cli::advice::error(&wrong).contains("--force"), "{wrong}");
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
    change::carry(&model, &[plan], Existing::Replace, &()).unwrap();
    assert_ne!(fs::read(&taken).unwrap(), b"mine");
    assert_eq!(fs::read(&input).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn scales_outside_f16_are_refused_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("tiny-scale.bin");
    let model = open(&golden("T/E5/ggml-model-q4_0.bin"));
    let mut bytes = fs::read(golden("T/E5/ggml-model-q4_0.bin")).unwrap();
    let tensor = model.tensors.iter().find(|t| t.quant.name() == "q4_0").unwrap();
    let at = usize::try_from(tensor.contiguous().unwrap().1).unwrap();
    bytes[at..at + 4].copy_from_slice(&1e-12f32.to_le_bytes());
    fs::write(&input, &bytes).unwrap();
    let wrong = upgrade(&input, folder.path(), Options::default()).unwrap_err();
    assert!(regguf::cli::advice::error(&wrong).contains("--exact"), "{wrong}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    for options in [
        Options { exact: true, ..Options::default() },
        Options { clamp_scales: true, ..Options::default() },
    ] {
        upgrade(&input, folder.path(), options).unwrap();
    }
}

#[test]
fn the_vocabulary_is_that_of_the_original_converter() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = open(&golden("T/E10/model-f16.convert-hf.gguf")).vocab;
    for era in ["E1", "E2", "E3", "E4", "E5", "E6"] {
        let path = golden(&format!("T/{era}/ggml-model-q4_0.bin"));
        let (.., new) = upgrade(&path, folder.path(), Options::default()).unwrap();
        assert_eq!(new.vocab.tokens, wanted.tokens, "{era}");
        assert_eq!(new.vocab.scores, wanted.scores, "{era}");
        assert_eq!(new.vocab.kinds, wanted.kinds, "{era}");
        assert_eq!((new.vocab.bos, new.vocab.eos), (wanted.bos, wanted.eos), "{era}");
    }
}

#[test]
fn weights_reach_the_tensors_that_the_original_converter_gave_them() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = open(&golden("T/E10/model-f16.convert-hf.gguf"));
    for era in ["E1", "E2", "E3", "E4", "E4b"] {
        let path = golden(&format!("T/{era}/ggml-model-f16.bin"));
        let (.., new) = upgrade(&path, folder.path(), Options::default()).unwrap();
        assert_eq!(new.tensors.len(), wanted.tensors.len(), "{era}");
        for tensor in &wanted.tensors {
            let ours = new.tensor(&tensor.name).unwrap_or_else(|| panic!("{era}: {}", tensor.name));
            assert_eq!((&ours.shape, ours.quant), (&tensor.shape, tensor.quant), "{era}");
            assert!(bytes_of(&new, ours) == bytes_of(&wanted, tensor), "{era}: {}", tensor.name);
        }
    }
}

#[test]
fn removed_types_say_what_becomes_of_them() {
    let f32 = QuantType::today("f32").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (path, name) in
        [("T/E4q42/ggml-model-q4_2.bin", "q4_2"), ("T/E4q43/ggml-model-q4_3.bin", "q4_3")]
    {
        let (old, plan, ..) = upgrade(&golden(path), folder.path(), Options::default()).unwrap();
        let removed = |s: &&change::Step| old.tensors[s.source].quant.name() == name;
        assert!(plan.steps.iter().any(|s| removed(&s)));
        for step in plan.steps.iter().filter(removed) {
            let row_len = *step.shape.last().unwrap();
            assert!(step.quant.is_today());
            assert!(step.row_bytes() <= f32.row_bytes(row_len).unwrap());
        }
        assert!(plan.notes.iter().any(|n| n.contains(name)), "{:?}", plan.notes);
    }
}
