//! `batch quantize --imatrix`: each model's own data, and a type that stands in where there is none.

use std::{fs, path::Path};

use regguf::container::{self, OpenOptions};

use super::{batch, golden, outputs, text};

/// Writes T with the matrices of its layers cut into rows of 256 weights, as i-quants need them: the bytes are the
/// same, the shapes in the header are not.
fn write_wide(path: &Path) {
    let mut bytes = fs::read(golden("T/E10/model-f16.convert-hf.gguf")).expect("golden");
    let model =
        container::open(&golden("T/E10/model-f16.convert-hf.gguf"), &OpenOptions::default());
    for tensor in model
        .expect("golden")
        .tensors
        .iter()
        .filter(|t| t.name.starts_with("blk.") && t.dims() == 2)
    {
        let name = tensor.name.as_bytes();
        let at = bytes.windows(name.len()).position(|window| window == name).expect("a name");
        let dims = at + name.len() + 4;
        bytes[dims..dims + 8].copy_from_slice(&256u64.to_le_bytes());
        bytes[dims + 8..dims + 16].copy_from_slice(&(tensor.elements() / 256).to_le_bytes());
    }
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, bytes).expect("writable");
}

/// Writes an imatrix.dat with 256 columns for each of these matrices.
fn write_matrix(path: &Path, names: &[String]) {
    let int = |n: usize| i32::try_from(n).expect("small").to_le_bytes();
    let mut out = int(names.len()).to_vec();
    for name in names {
        out.extend([int(name.len()).as_slice(), name.as_bytes(), &int(1), &int(256)].concat());
        out.extend((1..=256).flat_map(|n: u16| f32::from(n).to_le_bytes()));
    }
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, out).expect("writable");
}

fn matrices(layers: std::ops::Range<usize>) -> Vec<String> {
    let kinds = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    layers.flat_map(|n| kinds.map(|kind| format!("blk.{n}.{kind}.weight"))).collect()
}

/// How many tensors of a file are of that type, in layer 1 where `last`.
fn count(path: &Path, kind: &str, last: bool) -> usize {
    let model = container::open(path, &OpenOptions::default()).expect("a model");
    let of =
        |t: &&regguf::model::Tensor| t.quant.name() == kind && (!last || t.name.contains("blk.1."));
    model.tensors.iter().filter(of).count()
}

#[test]
fn each_model_has_its_own_data_and_what_lacks_it_another_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    for name in ["whole-f16", "half-f16", "bare-f16"] {
        write_wide(&here.join(format!("models/{name}.gguf")));
    }
    write_matrix(&here.join("data/whole.imatrix"), &matrices(0..2));
    write_matrix(&here.join("data/imatrix_half-f16.dat"), &matrices(0..1));
    let words = ["quantize", "models", "--type", "iq2_xs", "--imatrix", "data", "-o", "out"];
    let refused = batch(here, &[&words[..], &["--dry-run"]].concat());
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let said = text(&refused);
    assert!(said.contains("has no data for") && said.contains("--fallback-type q2_k"), "{said}");

    let words = [&words[..], &["--fallback-type", "q2_k"]].concat();
    let planned = batch(here, &[&words[..], &["--dry-run"]].concat());
    let said = text(&planned);
    let line =
        |name: &str| said.lines().find(|line| line.starts_with(name)).expect(name).to_owned();
    assert!(!line("whole").contains("q2_k"), "{said}");
    assert!(line("half").ends_with("of them q2_k for want of imatrix data"), "{said}");
    assert!(
        line("bare").ends_with("q2_k for want of imatrix data, no imatrix file of its name"),
        "{said}"
    );

    let made = batch(here, &words);
    assert!(made.status.success(), "{}", text(&made));
    let file = |name: &str| here.join(format!("out/{name}-IQ2_XS.gguf"));
    assert!(count(&file("whole"), "iq2_xs", true) > 4 && count(&file("half"), "iq2_xs", true) == 0);
    assert_eq!(
        count(&file("whole"), "iq2_xs", false) - count(&file("half"), "iq2_xs", false),
        count(&file("whole"), "iq2_xs", true)
    );
    assert_eq!(count(&file("bare"), "iq2_xs", false), 0);
    // The same bytes as the verb for one model makes.
    let one = std::process::Command::new(env!("CARGO_BIN_EXE_regguf"))
        .current_dir(here)
        .args(["quantize", "--imatrix", "data/imatrix_half-f16.dat", "--fallback-type", "Q2_K"])
        .args(["models/half-f16.gguf", "one.gguf", "iq2_xs"])
        .output()
        .expect("the program runs");
    assert!(one.status.success(), "{}", text(&one));
    assert!(
        fs::read(here.join("one.gguf")).expect("written") == outputs(here)["out/half-IQ2_XS.gguf"]
    );

    // Data that changes makes its model due again, and no other.
    write_matrix(&here.join("data/imatrix_half-f16.dat"), &matrices(0..2));
    let again = batch(here, &words);
    assert!(text(&again).contains("1 done, 2 skipped, 0 failed"), "{}", text(&again));
    assert!(count(&file("half"), "iq2_xs", true) > 4);
}

#[test]
fn data_is_found_by_a_path_with_the_name_and_is_for_quantize_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write_wide(&here.join("models/m-f16.gguf"));
    write_matrix(&here.join("m/i.dat"), &matrices(0..2));
    let plan = |words: &[&str]| batch(here, &[words, &["--dry-run"]].concat());
    let words = ["quantize", "models", "--type", "iq2_xs", "--imatrix"];
    let found = plan(&[&words[..], &["{stem}/i.dat"]].concat());
    assert!(found.status.success(), "{}", text(&found));
    let lost = plan(&[&words[..], &["nowhere.dat"]].concat());
    assert!(!lost.status.success() && text(&lost).contains("nowhere.dat"), "{}", text(&lost));
    let needy = plan(&[&words[..], &["m/i.dat", "--fallback-type", "iq2_s"]].concat());
    assert!(text(&needy).contains("iq2_s needs imatrix data itself"), "{}", text(&needy));
    let other = plan(&["upgrade", "models", "--imatrix", "m/i.dat"]);
    assert!(text(&other).contains("are for quantize"), "{}", text(&other));
}
