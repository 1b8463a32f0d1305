//! Families that GGUF has no name for, brought to the present layout of their own container.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{self, Act, Loss, Step, choose::ftype::FileType, quantize, upgrade},
    container::{self, OpenOptions},
    format::{
        catalog,
        container::{Container, Skeleton},
    },
    model::{Model, Stated, Tensor, TokenKind},
    quant::{decode_rows, isa::Isa},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name)
}

/// Falcon's files of June 2023 leave it open in which order rows are.
fn open(path: &Path) -> Model {
    let regrouped = OpenOptions { format: Some("ggml-falcon".to_owned()), ..Default::default() };
    container::open(path, &OpenOptions::default())
        .or_else(|e| container::open(path, &regrouped).map_err(|_| e))
        .unwrap_or_else(|e| panic!("{e}"))
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
    change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
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

/// From the file of the last quantizers to GGUF and back: to its bytes, but for records of tokens that GGUF holds
/// truer (decoded text) or without the texts of other tokens (behind the last one).
#[test]
fn gguf_goes_back_into_the_container_of_its_family() {
    for (name, to, whole) in [
        ("gpt-j/2023-05-27_qnt2_halves-f16/ggml-model-q4_1.bin", "ggml", true),
        ("gpt-j-256/2024-02-10_qnt2_k-quants/ggml-model-q2_k.bin", "ggml", true),
        ("gpt-2/2023-05-27_cerebras_qnt2_halves-f16/ggml-model-q5_1.bin", "ggml", true),
        ("gpt-neox/2023-05-27_qnt2_halves-f16/ggml-model-q4_1.bin", "ggml", false),
        ("gpt-neox-seq/2023-05-27_qnt2_halves-f16/ggml-model-q5_1.bin", "ggml", false),
        ("mpt/2024-02-10_qnt2_halves-f16/ggml-model-q4_0.bin", "ggml", false),
        ("replit/2024-02-10_qnt2_halves-f16/ggml-model-q8_0.bin", "ggml", true),
        ("replit-padded/2024-02-10_qnt2_halves-f16/ggml-model-q4_0.bin", "ggml", true),
        ("starcoder/2023-05-27_qnt2_halves-f16/ggml-model-q4_0.bin", "ggml", false),
        ("falcon/2023-06-14_jploski_regrouped/gqa-q4_0.bin", "ggml", true),
        ("falcon/2023-06-14_jploski_regrouped/mq-q5_0.bin", "ggml", true),
        ("falcon/2023-06-22_ggllm_ggmf1-ggjt3/gqa-q5_1.bin", "ggjt-v3", true),
        ("falcon/2023-06-22_ggllm_ggmf1-ggjt3/gqa-f16.ggmf1.bin", "ggmf-v1", true),
        ("falcon/2023-06-27_gpt4all_ggjt-unpadded/mq-f16.bin", "ggjt-v1", true),
        ("falcon/2023-07-03_ggllm_ggcc10/gqa-q4_0.bin", "ggcc", true),
        ("falcon/2023-07-03_ggllm_ggcc10/gqa256-q3_K.bin", "ggcc-v10", true),
        ("falcon/2023-07-03_ggllm_ggcc10/mq-q4_0.bin", "ggcc", true),
        ("bert/2023-05-04_pairs/bert-T-f16.bin", "ggml", true),
        ("bert/2023-08-25_halves-f16/bert-T-q4_0.bin", "ggml", true),
        ("bert/2023-08-25_halves-f16/bert-T-q4_1.bin", "ggml", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let write = |model: Model, to: &str, output: &str| {
            let output = Some(folder.path().join(output));
            let options = upgrade::Options { output, to: Some(to.into()), ..Default::default() };
            let (model, plan) =
                upgrade::plan(model, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            // Positions and kinds of tokens are F32 in GGUF: what was decoded is encoded to the same bytes again.
            let exact = plan.steps.iter().all(|s| s.loss() == Loss::Exact);
            assert!(exact || name.starts_with("bert"), "{name}");
            change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
            (open(&plan.output), plan)
        };
        let (new, _) = write(open(&golden(name)), "gguf-v3", "new.gguf");
        let vocab = new.vocab.clone();
        let (back, plan) = write(new, to, "back.bin");
        assert_eq!(
            (&back.vocab.tokens, &back.vocab.merges),
            (&vocab.tokens, &vocab.merges),
            "{name}"
        );
        let made = fs::read(back.files[0].path()).unwrap();
        let wanted = fs::read(golden(name)).unwrap();
        if whole {
            assert!(wanted.starts_with(&made), "{name}");
            // Cerebras's script wrote the embedding again as its last tensor, which GGUF does not hold twice.
            let rest = &wanted[made.len()..];
            let again = rest.windows(13).take(30).any(|name| name == b"model/lm_head");
            assert!(rest.is_empty() || again, "{name}");
            continue;
        }
        let header = 8 + 4 * catalog::container(&back.format).unwrap().header.fields.len();
        assert!(made[..header - 4] == wanted[..header - 4], "{name}: header");
        let record = 12 + plan.steps[0].name.len() + 4 * plan.steps[0].shape.len();
        let tensors = made.len() - (usize::try_from(plan.layout.data[0]).unwrap() - record);
        assert!(
            made[made.len() - tensors..] == wanted[wanted.len() - tensors..],
            "{name}: tensors"
        );
    }
}

/// What a container is read from is written again as it was: header, vocabulary or the tokenizer's own file, records.
#[test]
fn every_container_that_is_written_is_written_as_its_program_did() {
    let mut seen = 0;
    for family in fs::read_dir(golden("")).unwrap() {
        let Ok(eras) = fs::read_dir(family.unwrap().path()) else { continue };
        for files in eras.filter_map(|era| fs::read_dir(era.unwrap().path()).ok()) {
            for file in files {
                let path = file.unwrap().path();
                let Ok(model) = container::open(&path, &OpenOptions::default()) else { continue };
                let format = model.format.clone();
                let folder = tempfile::tempdir().unwrap();
                let output = Some(folder.path().join("again.bin"));
                let options = upgrade::Options {
                    output,
                    to: Some(format.clone()),
                    keep_nan: true,
                    ..Default::default()
                };
                let is_stream = |c: &Container| c.format.skeleton == Skeleton::Stream;
                if !catalog::container(&format).is_some_and(is_stream) || format == "ggla-v1" {
                    continue;
                }
                let before: Vec<String> = model.tensors.iter().map(|t| t.name.clone()).collect();
                let Ok((model, plan)) = upgrade::plan(model, &options) else { continue };
                change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
                let (made, wanted) = (fs::read(&plan.output).unwrap(), fs::read(&path).unwrap());
                // Blocks of an older dialect come out in the last, and the word for it with them.
                let stays = |(name, word): &(String, i64)| model.header(name) == Some(*word);
                let copied = |step: &Step| matches!(step.act, Act::Copy);
                // Replit's tensors had other names first.
                let names = plan.steps.iter().all(|step| before.contains(&step.name));
                if names && plan.header.iter().all(stays) && plan.steps.iter().all(copied) {
                    assert!(made == wanted, "{}: {format}", path.display());
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 35, "{seen}");
}

/// ChatGLM holds a tokenizer's own file: with the original at hand a GGUF goes back to the whole file.
#[test]
fn a_tokenizers_own_file_is_given_or_made() {
    for name in ["chatglm2-T-f16.bin", "chatglm2-T-q4_1.bin"] {
        let old = golden("chatglm/2024-06-21_config-v2").join(name);
        let bytes = fs::read(&old).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
        let at = 4 + 4 * 15;
        let tokenizer = &bytes[at + 4..at + 4 + word(at)];
        fs::write(folder.path().join("tokenizer.model"), tokenizer).unwrap();
        let write = |model: Model, to: Option<&str>, vocab: Option<PathBuf>, output: &str| {
            let output = Some(folder.path().join(output));
            let stated = Stated { vocab, ..Default::default() };
            let to = to.map(str::to_owned);
            let options = upgrade::Options { output, to, stated, ..Default::default() };
            let (model, plan) = upgrade::plan(model, &options).unwrap_or_else(|e| panic!("{e}"));
            change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
            open(&plan.output)
        };
        let new = write(open(&old), None, None, "new.gguf");
        let vocab = Some(folder.path().join("tokenizer.model"));
        let back = write(new.clone(), Some("ggml"), vocab, "back.bin");
        assert!(fs::read(back.files[0].path()).unwrap() == bytes, "{name}");
        // Without it one is made, which reads as the same vocabulary.
        let made = write(new.clone(), Some("ggml"), None, "made.bin");
        let old = open(&old);
        assert_eq!((&made.header, &made.format), (&old.header, &old.format), "{name}");
        assert_eq!(made.vocab, old.vocab, "{name}");
        assert_eq!(made.tensors.len(), old.tensors.len(), "{name}");
        for (a, b) in made.tensors.iter().zip(&old.tensors) {
            assert_eq!((&a.name, &a.shape, a.quant), (&b.name, &b.shape, b.quant), "{name}");
            assert_eq!(numbers(&made, a), numbers(&old, b), "{name}: {}", a.name);
        }
        // The first record of sizes, which is older.
        let first = write(new, Some("chatglm-v1-grouped"), None, "first.bin");
        assert_eq!(first.vocab, old.vocab, "{name}");
    }
}

/// BLOOM's blocks have wider scales than GGUF's; floats go back to the header, the vocabulary and the weights of its
/// program.
#[test]
fn bloom_goes_back_with_its_header() {
    let old = golden("bloom/2023-03-15_planar-q4_1/bloom-T-q4_0.bin");
    let folder = tempfile::tempdir().unwrap();
    let output = Some(folder.path().join("m.bin"));
    let options = upgrade::Options { output, to: Some("ggml".into()), ..Default::default() };
    let (model, plan) = upgrade::plan(open(&golden("bloom.gguf")), &options).unwrap();
    change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
    let (made, wanted) = (fs::read(&plan.output).unwrap(), fs::read(&old).unwrap());
    assert!(made[..24] == wanted[..24] && made[24..28] == 1u32.to_le_bytes(), "header");
    let (made, old) = (open(&plan.output), open(&old));
    let names = |model: &Model| {
        let named = |t: &Tensor| (t.name.clone(), t.shape.clone());
        let mut all: Vec<_> = model.tensors.iter().map(named).collect();
        all.sort();
        all
    };
    assert_eq!(names(&made), names(&old));
    let whole = |id: &usize| old.vocab.kind(*id) != TokenKind::Unused;
    for id in (0..old.vocab.len()).filter(whole) {
        assert_eq!(made.vocab.tokens.get(id), old.vocab.tokens.get(id), "token {id}");
    }
    for (step, tensor) in plan.steps.iter().zip(&made.tensors) {
        assert_eq!(numbers(&model, &model.tensors[step.source]), numbers(&made, tensor));
    }
    // Through its planar Q4_1: scales of 16 bits fit into 32.
    let quantized = quantize::Options {
        types: vec![FileType::parse("q4_1").unwrap()],
        output: Some(folder.path().join("q.bin")),
        to: Some("ggml".into()),
        ..Default::default()
    };
    let (model, plans) = quantize::plan(open(&golden("bloom.gguf")), &quantized).unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    let planar = open(&plans[0].output);
    let matrices = planar.tensors.iter().filter(|t| t.shape.len() == 2);
    assert!(matrices.clone().count() > 5);
    assert!(matrices.clone().all(|t| t.quant.to_string() == old_q4_1()), "planar");
}

fn old_q4_1() -> String {
    let old = open(&golden("bloom/2023-03-15_planar-q4_1/bloom-T-q4_1.bin"));
    old.tensor("output.weight").unwrap().quant.to_string()
}

/// Files of today's converter, which never saw the container: header and vocabulary are those that the scripts of
/// 2023 wrote of the same model.
#[test]
fn files_of_todays_converter_get_the_header_and_vocabulary_of_the_scripts() {
    for (new, old, words) in [
        ("gptj.gguf", "gpt-j/2023-05-27_qnt2_halves-f16/ggml-model-q4_1.bin", 7),
        ("gpt2.gguf", "gpt-2/2023-03-29_ckpt_pairs-f32/ggml-model-q4_1.bin", 6),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = Some(folder.path().join("m.bin"));
        let options = upgrade::Options { output, to: Some("ggml".into()), ..Default::default() };
        let (model, plan) = upgrade::plan(open(&golden(new)), &options).unwrap();
        change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
        let (made, wanted) = (fs::read(&plan.output).unwrap(), fs::read(golden(old)).unwrap());
        let end = open(&golden(old)).tensors[0].pieces[0].at as usize - 100;
        let ftype = 4 * words..4 * words + 4;
        assert!(made[..ftype.start] == wanted[..ftype.start], "{new}: header");
        assert_eq!(made[ftype.clone()], 1u32.to_le_bytes(), "{new}: F16");
        assert!(made[ftype.end..end] == wanted[ftype.end..end], "{new}: vocabulary");
        let made = open(&plan.output);
        for (step, tensor) in plan.steps.iter().zip(&made.tensors) {
            let source = &model.tensors[step.source];
            assert_eq!(numbers(&model, source), numbers(&made, tensor), "{new}: {}", step.name);
        }
    }
}

/// Programs of these containers take one type for all matrices: others are refused with what makes them one.
#[test]
fn several_types_are_refused_where_programs_take_one() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = quantize::Options {
        types: vec![FileType::parse("q4_0").unwrap()],
        output: Some(folder.path().join("q.gguf")),
        ..Default::default()
    };
    let (model, plans) = quantize::plan(open(&golden("gptj.gguf")), &quantized).unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    let to = Some("ggml".to_owned());
    let options = upgrade::Options { to: to.clone(), ..Default::default() };
    let error = upgrade::plan(open(&plans[0].output), &options).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight") && error.contains("one type for all"), "{error}");
    let (model, plans) = quantize::plan(
        open(&plans[0].output),
        &quantize::Options {
            to,
            allow_requantize: true,
            output: Some(folder.path().join("one.bin")),
            ..quantized
        },
    )
    .unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    let one = open(&plans[0].output);
    assert_eq!((one.header("ftype"), one.header("quant_version")), (Some(2), Some(2)));
    let is_matrix = |t: &&Tensor| t.shape.len() == 2;
    assert!(one.tensors.iter().filter(is_matrix).all(|t| t.quant.name() == "q4_0"));
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
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
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
