//! Files of other families than LLaMA, as the original programs wrote them, upgraded: the tensors, tokens and
//! merges that today's converter makes of the checkpoints they come from.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{self, Loss, Plan, convert, export, quantize, upgrade},
    container::{self, OpenOptions},
    error::Error,
    infer::{Session, Want, Weights},
    model::{Model, Stated, Tensor, TokenKind, Vocab, spelling},
    quant::{decode_rows, isa::Isa},
    remedy::Setting,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name)
}

/// Two orders of Falcon's rows lie in the same bytes: the folder's name says which the program wrote.
fn open(path: &Path) -> Model {
    let at = path.to_string_lossy();
    let told = [("hf-order/gqa", "ggml-falcon-hf-order"), ("regrouped/gqa", "ggml-falcon")];
    let told = told.iter().find(|(place, _)| at.contains(place));
    let format = told.map(|(_, format)| (*format).to_owned());
    let options = OpenOptions { format, ..OpenOptions::default() };
    container::open(path, &options).unwrap_or_else(|e| panic!("{e}"))
}

fn bytes(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(tensor.bytes()).unwrap()];
    model.read_rows(tensor, 0, tensor.rows(), &mut out).unwrap();
    out
}

fn numbers(model: &Model, tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    let row_len = usize::try_from(tensor.row_len()).unwrap();
    decode_rows(tensor.quant, Isa::best(), &bytes(model, tensor), row_len, &mut out);
    out
}

/// Every old file of a family in golden/, or those whose names begin as is said behind a slash.
fn old(family: &str) -> Vec<PathBuf> {
    let (family, model) = family.split_once('/').unwrap_or((family, ""));
    let mut files = Vec::new();
    for era in fs::read_dir(golden(family)).unwrap() {
        let entries = fs::read_dir(era.unwrap().path()).unwrap();
        let of_model =
            |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(model);
        let entries = entries.map(Result::unwrap).filter(of_model);
        files.extend(entries.map(|entry| entry.path()));
    }
    files.sort();
    files
}

/// Families, and what today's converter makes of the checkpoints that their files come from; for GPT-J, of which it
/// makes nothing, what GPT4All's converter made. Some checkpoints have no such file here.
const FAMILIES: [(&str, &str); 18] = [
    ("gpt-2", "gpt2.gguf"),
    ("gpt-j", "gptj.gguf"),
    ("gpt-j-256", ""),
    ("starcoder", "starcoder.gguf"),
    ("gpt-neox", "gptneox.gguf"),
    ("gpt-neox-seq", "gptneox-sequential.gguf"),
    ("dolly-v2", ""),
    ("mpt", "mpt.gguf"),
    ("ggmm", "mpt.gguf"),
    ("replit", "replit.gguf"),
    ("replit-padded", ""),
    ("repl", "replit.gguf"),
    ("bloom", "bloom.gguf"),
    ("falcon/mq-", "falcon-one-key.gguf"),
    ("falcon/gqa-", "falcon-grouped.gguf"),
    ("falcon/gqa256-", ""),
    ("chatglm", ""),
    ("bert", "encoders/bert.gguf"),
];

#[test]
fn old_files_become_what_todays_converter_makes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut compared, mut near) = (0, 0);
    for (family, today) in FAMILIES {
        let today = (!today.is_empty()).then(|| open(&golden(today)));
        for path in old(family) {
            let at = path.display();
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let era = path.parent().and_then(Path::file_name).unwrap();
            let output = folder.path().join(format!(
                "{}-{}-{stem}.gguf",
                family.replace('/', "-"),
                era.display()
            ));
            let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
            let (model, plan) =
                upgrade::plan(open(&path), &options).unwrap_or_else(|e| panic!("{e}"));
            change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
            let new = open(&output);
            assert!(new.notes.is_empty() && new.vocab.len() > 100, "{at}: {:?}", new.notes);
            if let Some(today) = &today {
                same_vocabulary(&path, &new, today);
                same_keys(&path, &new, today);
                assert_eq!(new.tensors.len(), today.tensors.len(), "{at}");
                for tensor in &today.tensors {
                    let name = &tensor.name;
                    let made = new.tensor(name).unwrap_or_else(|| panic!("{at}: {name}"));
                    assert_eq!(made.shape, tensor.shape, "{at}: {name}");
                    let (found, wanted) = (numbers(&new, made), numbers(today, tensor));
                    let step = plan.steps.iter().find(|step| step.name == *name).unwrap();
                    let was = model.tensors[step.source].quant;
                    if was.layout().elements > 1 {
                        // Quantized: no row is in the place of another.
                        let square = |v: f32| f64::from(v) * f64::from(v);
                        let apart: f64 =
                            found.iter().zip(&wanted).map(|(a, b)| square(a - b)).sum();
                        let all: f64 = wanted.iter().map(|v| square(*v)).sum();
                        let most = if made.quant.name() == "q2_k" { 0.2 } else { 0.05 };
                        assert!(apart < most * all, "{at}: {name}: {apart} of {all}");
                        near += 1;
                    } else if found != wanted && at.to_string().contains("gpt4all_ggjt") {
                        // Its script went by way of bfloat16, which has eight bits.
                        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 256.0;
                        assert!(found.iter().zip(&wanted).all(close), "{at}: {name}");
                        near += 1;
                    } else if found != wanted {
                        // Two converters rounded vectors to halves, one the positions.
                        let half = |v: &f32| f16_of(*v);
                        let rounded: Vec<f32> = wanted.iter().map(half).collect();
                        assert_eq!(found, rounded, "{at}: {name}");
                        let by = ["starcoder", "ggmm", "gpt-2"];
                        assert!(
                            by.contains(&family) && tensor.quant.name() == "f32",
                            "{at}: {name}"
                        );
                    } else {
                        compared += 1;
                    }
                }
            }
            // What was not rounded says what the old file said.
            for (step, made) in plan.steps.iter().zip(&new.tensors) {
                if step.loss() == Loss::Exact {
                    let source = &model.tensors[step.source];
                    assert_eq!(numbers(&model, source), numbers(&new, made), "{at}: {}", step.name);
                }
            }
            let proved = regguf::check::pair::prove::prove(&model, &plan, &new, &())
                .unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(proved.starts_with("proved"), "{at}: {proved}");
            runs_alike(&path, &new, &plan);
        }
    }
    assert!(compared > 300 && near > 300, "{compared}, {near}");
}

/// The nearest half, as a float.
fn f16_of(value: f32) -> f32 {
    let f16 = regguf::quant::QuantType::today("f16").unwrap();
    let encode = regguf::quant::encode::encoder("f16").unwrap();
    let (mut bytes, mut out) = ([0; 2], [0.0]);
    encode(Isa::best(), &[value], 1, None, &mut bytes);
    decode_rows(f16, Isa::best(), &bytes, 1, &mut out);
    out[0]
}

/// Tokens, kinds, merges and special tokens are those of `today`.
fn same_vocabulary(path: &Path, new: &Model, today: &Model) {
    let (at, new, today) = (path.display(), &new.vocab, &today.vocab);
    let text = |id: usize| String::from_utf8_lossy(today.tokens.get(id).unwrap()).into_owned();
    assert_eq!(new.len(), today.len(), "{at}");
    for id in 0..today.len() {
        // GPT4All's converter wrote bytes as they are, and no kinds.
        if today.kinds.is_empty() {
            assert_eq!(spelling::record(new, id), today.tokens.get(id).unwrap(), "{at}: {id}");
        // No text of it was stored: it is behind the tokens that the converter asked for.
        } else if text(id) == "<|padding|>" && new.kind(id) == TokenKind::Unused {
            assert_eq!(new.tokens.get(id).unwrap(), format!("[PAD{id}]").as_bytes(), "{at}");
        } else {
            assert_eq!(new.tokens.get(id), today.tokens.get(id), "{at}: {id}");
            assert_eq!(new.kind(id), today.kind(id), "{at}: {id}");
        }
    }
    assert_eq!(new.merges, today.merges, "{at}");
    assert_eq!(new.scores, today.scores, "{at}");
    assert_eq!((new.bos, new.eos, new.unknown), (today.bos, today.eos, today.unknown), "{at}");
    let pre = if today.kinds.is_empty() { "gpt-2" } else { &today.pre };
    assert_eq!((new.pre.as_str(), &new.model), (pre, &today.model), "{at}");
    let added = |v: &Vocab| (v.add_bos, v.add_eos, v.add_space_prefix, v.remove_extra_whitespaces);
    assert_eq!(added(new), added(today), "{at}");
}

/// The keys of the architecture are those of `today`, no more and no fewer.
fn same_keys(path: &Path, new: &Model, today: &Model) {
    let own = |model: &Model| {
        let architecture = model.metadata.architecture().to_owned();
        let keys = model.metadata.iter().filter(|(key, _)| key.starts_with(&architecture));
        keys.map(|(key, value)| (key.to_owned(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(format!("{:?}", own(new)), format!("{:?}", own(today)), "{}", path.display());
}

/// The old file runs as it is, and says the same as its upgrade: the same bits where nothing was rounded.
fn runs_alike(path: &Path, new: &Model, plan: &Plan) {
    let old = open(path);
    let said = |model: &Model| {
        let weights = Weights::new(model).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut out = Vec::new();
        let read: Vec<u32> = (0..24).map(|n| (n * 7) % 100 + 20).collect();
        if weights.config.whole_text {
            return Session::new(&weights, read.len()).vectors(&read).unwrap();
        }
        Session::new(&weights, read.len())
            .read(&read, Want::All, |_, logits| out.extend_from_slice(logits))
            .unwrap();
        out
    };
    let (one, two) = (said(&old), said(new));
    let bits = |all: &[f32]| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let recoded = plan.steps.iter().any(|step| matches!(step.act, change::Act::Recode { .. }));
    if plan.steps.iter().all(|step| step.loss() == Loss::Exact) && !recoded {
        assert_eq!(bits(&one), bits(&two), "{}", path.display());
    }
    let apart = one.iter().zip(&two).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(apart < 0.3, "{}: {apart}", path.display());
}

#[test]
fn the_other_verbs_take_them_too_or_say_why_not() {
    let model = open(&golden("gpt-2/2023-03-23_ckpt_transposed/ggml-model-f16.bin"));
    let options =
        convert::Options { types: vec!["f16".into(), "q8_0".into()], ..Default::default() };
    assert_eq!(convert::plan(model.clone(), &options).unwrap().1.len(), 2);
    let types = vec![change::choose::ftype::FileType::parse("q4_0").unwrap()];
    let options = quantize::Options { types, ..Default::default() };
    quantize::plan(model.clone(), &options).unwrap();
    let refused = |error: Error| assert_eq!(error.exit_code(), 4, "{error}");
    let stated = Stated::default();
    let out = || PathBuf::from("out");
    export::plan(model.clone(), out(), "f16", &stated).unwrap();
    let starcoder = open(&golden("starcoder/2023-05-27_qnt2_halves-f16/ggml-model-q4_0.bin"));
    export::plan(starcoder, out(), "f16", &stated).unwrap();
    let bert = open(&golden("bert/2023-05-04_pairs/bert-T-f16.bin"));
    export::plan(bert, out(), "f16", &stated).unwrap();
    for to in ["ggjt-v3", "ggml-gptj", "ggml-gpt-2-kernels"] {
        let options = upgrade::Options { to: Some(to.into()), ..Default::default() };
        refused(upgrade::plan(model.clone(), &options).unwrap_err());
    }
    // What was quantized does not fit where only floats were written, nor into layouts of a few days.
    let falcon = open(&golden("falcon/2023-07-03_ggllm_ggcc10/gqa-q4_0.bin"));
    for to in ["ggmf-v1-falcon", "ggml-falcon-hf-order"] {
        let options = upgrade::Options { to: Some(to.into()), ..Default::default() };
        refused(upgrade::plan(falcon.clone(), &options).unwrap_err());
    }
    // The same container holds StarCoder, which is another family; and nobody knows what this is.
    let bytes = fs::read(golden("gpt-2/2023-03-23_ckpt_transposed/ggml-model-f16.bin")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [("<|endoftext|>", "<fim_prefix>\n"), ("\u{20}the", "thxe")] {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + from.len()].copy_from_slice(to.as_bytes());
        if to.starts_with("<fim") {
            // The token is as long as its text says.
            changed[at - 4] = 12;
            changed.remove(at + 12);
        }
        let path = folder.path().join("other.bin");
        fs::write(&path, changed).unwrap();
        let error = upgrade::plan(open(&path), &upgrade::Options::default()).unwrap_err();
        match to.starts_with("<fim") {
            true => assert!(matches!(error, Error::Foreign { .. }), "{error}"),
            false => {
                let give = Setting::Vocabulary.of("tokenizer.json");
                assert_eq!(error.remedy().unwrap().steps()[0].means, [give], "{error}");
            }
        }
        refused(error);
    }
    // Matrices as the first programs stored them.
    let mut turned = model;
    let matrix = turned.tensors.iter_mut().find(|t| t.name == "model/h0/attn/c_attn/w").unwrap();
    matrix.shape.reverse();
    refused(upgrade::plan(turned, &upgrade::Options::default()).unwrap_err());
}

/// ChatGLM4 differs by its vocabulary, which is a list of tiktoken; of its files none is here, so the list takes the
/// place of the tokenizer in one of ChatGLM2.
#[test]
fn a_list_of_tiktoken_is_chatglm4s_vocabulary() {
    let pairs = (0..242u8).map(|n| vec![b'a' + n % 16, b'a' + n / 16]);
    let tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).chain(pairs).collect();
    let lines =
        tokens.iter().enumerate().map(|(rank, token)| format!("{} {rank}\n", base64(token)));
    let list: String = lines.collect();
    let mut bytes = fs::read(golden("chatglm/2024-06-21_config-v2/chatglm2-T-f16.bin")).unwrap();
    bytes[4] = 4;
    let at = 4 + 15 * 4; // the length of the tokenizer
    let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    // Data begin at multiples of 16: spaces behind the last line keep them there.
    let pad = (len % 16 + 16 - list.len() % 16) % 16;
    let list = format!("{}{}\n", list.trim_end(), " ".repeat(pad));
    let head = u32::try_from(list.len()).unwrap().to_le_bytes();
    bytes.splice(at..at + 4 + len, head.into_iter().chain(list.bytes()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chatglm4.bin");
    fs::write(&path, bytes).unwrap();
    let model = open(&path);
    assert_eq!((model.format.as_str(), model.family.as_str()), ("chatglm-v2-4", "chatglm4"));
    let options = upgrade::Options::default();
    let (model, plan) = upgrade::plan(model, &options).unwrap();
    change::carry(&model, std::slice::from_ref(&plan), Existing::Keep, &()).unwrap();
    let vocab = open(&plan.output).vocab;
    assert_eq!((vocab.model.as_str(), vocab.pre.as_str()), ("gpt2", "chatglm-bpe"));
    assert_eq!((vocab.len(), vocab.merges.len()), (512, 242));
    assert_eq!((vocab.eos, vocab.bos, vocab.add_bos), (Some(498), None, Some(false)));
    assert_eq!(vocab.tokens.get(500), Some(&b"[gMASK]"[..]));
    assert!((498..512).all(|id| vocab.kind(id) == TokenKind::Control));
    for (id, token) in tokens.iter().enumerate() {
        assert_eq!(&spelling::record(&vocab, id), token, "{id}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32, n: u32| char::from(DIGITS[(bits >> (18 - 6 * n)) as usize & 63]);
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digits = (0..4).map(|n| if n as usize > three.len() { '=' } else { digit(bits, n) });
        text.extend(digits);
    }
    text
}
