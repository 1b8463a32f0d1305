//! Files of ggml's other families that are cut, damaged or ambiguous; whole ones are read in `golden`.

#[path = "golden/facts.rs"]
mod facts;

use facts::{facts, folder, open, text, weights};
use regguf::{
    bytes::Input,
    container::{self, OpenOptions, Verdict},
    error::Error,
    format::catalog,
    model::{FeedForward, Model, Naming, Role, Tensor},
    quant::QuantType,
    remedy::Setting,
};

/// The weights of one model under two layouts that store them in different orders are the same.
#[test]
fn orders_of_rows_and_transposes_lead_to_the_same_weights() {
    let all = facts();
    let find = |part: &str| all.iter().find(|f| text(f, "path").contains(part)).unwrap();
    let (old, new) = (open(find("hf-order/gqa-q4_0")), open(find("regrouped/gqa-q4_0")));
    assert!(old.tensors.iter().any(|t| t.pieces.len() > 1));
    for (a, b) in old.tensors.iter().zip(&new.tensors) {
        assert_eq!(weights(&old, a), weights(&new, b), "{}", a.name);
    }
    // A part of the rows, begun inside a group, is a part of the whole.
    let tensor = old.tensors.iter().find(|t| t.pieces.len() > 1).unwrap();
    let row = usize::try_from(tensor.row_bytes()).unwrap();
    let mut whole = vec![0; row * usize::try_from(tensor.rows()).unwrap()];
    old.read_rows(tensor, 0, tensor.rows(), &mut whole).unwrap();
    let mut part = vec![0; row * 40];
    old.read_rows(tensor, 13, 40, &mut part).unwrap();
    assert_eq!(part, whole[row * 13..row * 53]);
}

/// Where the records of every file end.
fn ends(model: &Model) -> Vec<u64> {
    let end = |t: &Tensor| {
        let piece = t.pieces.iter().map(|p| p.at).min().unwrap();
        piece + t.bytes()
    };
    model.tensors.iter().map(end).collect()
}

#[test]
fn a_file_cut_at_any_record_is_no_model() {
    let mut seen = std::collections::BTreeSet::new();
    for facts in facts() {
        // Adapters have as many tensors as a person wants.
        if text(&facts, "format") == "ggla-v1" || !seen.insert(text(&facts, "format").to_owned()) {
            continue;
        }
        let (model, path) = (open(&facts), text(&facts, "path"));
        let bytes = std::fs::read(folder().join(path)).unwrap();
        let ends = ends(&model);
        assert_eq!(ends.last(), Some(&(bytes.len() as u64)), "{path}");
        for end in &ends[..ends.len() - 1] {
            for cut in [*end, end + 1, end + 6, end + 13, end + 20, end + 27, end - 1] {
                let part = bytes[..usize::try_from(cut).unwrap()].to_vec();
                let found = read(path, part);
                // Cut right before its last tensor a StarCoder is a whole file of a family that is none.
                if let Ok(model) = &found
                    && (model.format.as_str(), model.family.as_str()) == ("ggml-gpt-2", "")
                    && cut == ends[ends.len() - 2]
                {
                    continue;
                }
                let found = found.map(|model| model.format);
                let error = found.expect_err(&format!("{path} cut at {cut}"));
                // Of families that are not converted nothing says which records are wanted.
                let described = catalog::family(&model.family).is_some();
                match error {
                    Error::Malformed(_) => {}
                    Error::Foreign { .. } if cut == *end && !described => {}
                    error => panic!("{path} cut at {cut}: {error}"),
                }
            }
        }
    }
}

/// What is no cut and no whole model either is told by its family's name, and nobody is sent to download it
/// again: files of which a writer left out tensors in the middle.
#[test]
fn a_file_with_some_tensors_of_a_family_is_told_as_that() {
    let mut seen = std::collections::BTreeSet::new();
    for facts in facts() {
        let (model, path) = (open(&facts), text(&facts, "path"));
        let Some(family) = catalog::family(&model.family) else { continue };
        let container = catalog::container(&model.format).unwrap();
        if container.tensors.align != 1 || !seen.insert(model.format.clone()) {
            continue;
        }
        let bytes = std::fs::read(folder().join(path)).unwrap();
        let ends = ends(&model);
        let layer = |t: &Tensor| Role::of(family, Naming::Old, &t.name).and_then(|role| role.layer);
        let of_first = |t: &&Tensor| layer(t) == Some(0);
        let kept = model.tensors.iter().rfind(of_first).unwrap();
        let first = model.tensor(&model.tensors[0].name).unwrap();
        let head = 12 + 4 * first.shape.len() + first.name.len();
        let begin = usize::try_from(ends[0] - first.bytes()).unwrap() - head;
        let mut part = bytes[..begin].to_vec();
        let mut at = begin;
        for (tensor, end) in model.tensors.iter().zip(&ends) {
            let end = usize::try_from(*end).unwrap();
            if !of_first(&tensor) || tensor.name == kept.name {
                part.extend(&bytes[at..end]);
            }
            at = end;
        }
        let found = read(path, part).map(|model| (model.format, model.tensors.len()));
        let error = found.expect_err(path);
        assert!(matches!(error, Error::Foreign { .. }), "{path}: {error}");
        assert_eq!(error.exit_code(), 4);
        let said = error.to_string();
        assert!(said.contains(&family.family.title) && said.contains("missing"), "{said}");
        assert!(!said.contains("download"), "{said}");
    }
    assert!(seen.len() > 8, "{seen:?}");
}

fn read(name: &str, bytes: Vec<u8>) -> regguf::error::Result<Model> {
    let input = Input::memory(name, bytes);
    container::detect(&input, &OpenOptions::default())?.sure(&input)
}

#[test]
fn a_flipped_byte_never_panics() {
    let mut seen = std::collections::BTreeSet::new();
    for facts in facts() {
        if !seen.insert(text(&facts, "format").to_owned()) {
            continue;
        }
        let (model, path) = (open(&facts), text(&facts, "path"));
        let whole = std::fs::read(folder().join(path)).unwrap();
        let first = model.tensors.iter().flat_map(|t| &t.pieces).map(|p| p.at).min().unwrap();
        let first = usize::try_from(first).unwrap();
        for at in (0..first.min(96)).chain((96..first).step_by(211)) {
            for mask in [0xff, 0x80, 0x01] {
                let mut broken = whole.clone();
                broken[at] ^= mask;
                let result = read(path, broken);
                let fits = matches!(
                    result,
                    Ok(_)
                        | Err(Error::Malformed(_)
                            | Error::Unknown { .. }
                            | Error::Unsupported { .. }
                            | Error::Foreign { .. })
                );
                assert!(fits, "{path}: byte {at} ^ {mask:#x}: {:?}", result.err());
            }
        }
    }
}

/// RedPajama under the old header: the same bytes as StableLM's, and no word for its residuals.
#[test]
fn redpajama_under_the_old_header_is_either() {
    let words: [i32; 7] = [50432, 2048, 2560, 32, 32, 80, 1];
    let mut bytes = b"lmgg".to_vec();
    bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    bytes.resize(bytes.len() + 50432 * 4, 0);
    let family = catalog::family("gptneox").unwrap();
    for role in Role::all(family, 32, FeedForward::Dense) {
        let name = role.name(Naming::Old).unwrap();
        // As few numbers as rows of whole heads need.
        let numbers = if role.id == "query_key_value" { 3 * 32 } else { 1 };
        let head = [1, u32::try_from(name.len()).unwrap(), 0, numbers];
        bytes.extend(head.map(u32::to_le_bytes).concat());
        bytes.extend(name.as_bytes());
        (0..numbers).for_each(|_| bytes.extend(1f32.to_le_bytes()));
    }
    let input = Input::memory("x", bytes);
    let detected = container::detect(&input, &OpenOptions::default()).unwrap();
    let Verdict::Either(formats, next) = &detected.verdict else { panic!("{detected:?}") };
    let ids: Vec<&str> = formats.iter().map(|f| f.id()).collect();
    assert_eq!(ids, ["ggml-gptneox-old", "ggml-redpajama"]);
    let say = Setting::Format.of("ggml-redpajama");
    assert!(
        next.steps()[0].means.contains(&say) && next.to_string().contains("residuals"),
        "{next}"
    );
    for (id, parallel) in [("ggml-gptneox-old", 1), ("ggml-redpajama", 0)] {
        let options = OpenOptions { format: Some(id.to_owned()), ..OpenOptions::default() };
        let model = container::detect(&input, &options).unwrap().sure(&input).unwrap();
        assert_eq!(model.header("par_res"), Some(parallel));
    }
}

/// A StarCoder without its tokens is told by its rows; a GPT-2 has neither.
#[test]
fn repeated_heads_tell_starcoder_from_gpt_2() {
    let all = facts();
    let fact = all.iter().find(|f| text(f, "format") == "ggml-starcoder").unwrap();
    let mut bytes = std::fs::read(folder().join(text(fact, "path"))).unwrap();
    for token in [&b"<fim_prefix>"[..], b"<fim-prefix>"] {
        while let Some(at) = bytes.windows(token.len()).position(|w| w == token) {
            bytes[at] = b'(';
        }
    }
    assert_eq!(read("x", bytes.clone()).unwrap().format, "ggml-starcoder");
    // One key row of one copy made another.
    let model = read("x", bytes.clone()).unwrap();
    let tensor = model.tensor("model/h0/attn/c_attn/w").unwrap();
    let row = tensor.rows() / 2;
    let at = usize::try_from(tensor.pieces[0].at + row * tensor.row_bytes()).unwrap();
    bytes[at + 8] ^= 0x11;
    assert_eq!(read("x", bytes).unwrap().format, "ggml-gpt-2");
}

/// Quantizers of March 2023 left nothing of F16 weights: every scale is zero.
#[test]
fn a_wreck_of_zeros_is_named() {
    let all = facts();
    let path =
        all.iter().map(|f| text(f, "path")).find(|p| p.contains("03-29") && p.contains("gpt-j"));
    let path = folder().join(path.unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let model = container::open(&path, &OpenOptions::default()).unwrap();
    assert!(model.notes.is_empty(), "{:?}", model.notes);
    for tensor in
        model.tensors.iter().filter(|t| t.quant == QuantType::find("q4_0", "pairs-f32").unwrap())
    {
        let (at, len) = (tensor.pieces[0].at, tensor.bytes());
        let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
        for block in bytes[range].chunks_exact_mut(20) {
            block[..4].fill(0);
            block[4..].fill(0x88);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let wreck = folder.path().join("wreck.bin");
    std::fs::write(&wreck, bytes).unwrap();
    let model = container::open(&wreck, &OpenOptions::default()).unwrap();
    assert!(model.notes.iter().any(|n| n.contains("every quantized weight")), "{:?}", model.notes);
}
