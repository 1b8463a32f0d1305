//! Sound checkpoints are read or named as what they are, damaged and mixed ones never pass.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::{
    bytes::Input,
    checkpoint::{self, Options},
    limits::Limits,
    model::Model,
};
use zip::CompressionMethod::{Deflated, Stored};

use crate::layouts::{PARAMS, borrowed, check, meta, plain};
use crate::torch::{self, View, int, text};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn regguf(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).args(args).current_dir(folder).output().unwrap()
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn in_folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// Reads every tensor in steps of `rows`, from the last row to the first.
fn read_backwards(model: &Model, rows: u64) -> regguf::error::Result<()> {
    for tensor in model.tensors.iter().rev() {
        let firsts: Vec<u64> = (0..tensor.rows()).step_by(rows as usize).collect();
        for first in firsts.into_iter().rev() {
            let n = rows.min(tensor.rows() - first);
            let mut out = vec![0; (n * tensor.row_bytes()) as usize];
            model.read_rows(tensor, first, n, &mut out)?;
        }
    }
    Ok(())
}

#[test]
fn a_damaged_entry_of_an_archive_is_named_however_it_is_read() {
    let (views, storages) = plain();
    let pickle = torch::state_dict(&views, false);
    for method in [Stored, Deflated] {
        let file = torch::archive(&pickle, &borrowed(&storages), method);
        let model = meta(&file).unwrap();
        read_backwards(&model, 2).unwrap();
        model.files.iter().try_for_each(Input::check_read).unwrap();
    }
    let good = torch::archive(&pickle, &borrowed(&storages), Stored);
    // The numbers of storage 9: where they are in the file.
    let numbers = storages[9].1.as_slice();
    let at = good.windows(numbers.len()).position(|w| w == numbers).unwrap();
    for flipped in [at, at + 7, at + numbers.len() - 1] {
        let mut bad = good.clone();
        bad[flipped] ^= 0x10;
        for rows in [1, 2, 100] {
            let error = read_backwards(&meta(&bad).unwrap(), rows).unwrap_err().to_string();
            assert!(error.contains("a/data/9") && error.contains("CRC-32"), "{error}");
        }
        // What nobody read is compared at the end.
        let unread = meta(&bad).unwrap().files.iter().try_for_each(Input::check_read);
        assert!(unread.unwrap_err().to_string().contains("a/data/9"));
    }
}

#[test]
fn the_commands_refuse_a_flipped_bit() {
    let mut file = fs::read(golden("T/meta/T/consolidated.00.pth")).unwrap();
    file[200_000] ^= 0x10;
    let params = fs::read(golden("T/meta/T/params.json")).unwrap();
    let tokenizer = fs::read(golden("T/meta/tokenizer.model")).unwrap();
    let folder = in_folder(&[
        ("consolidated.00.pth", &file),
        ("params.json", &params),
        ("tokenizer.model", &tokenizer),
    ]);
    let verified = regguf(&["verify", "."], folder.path());
    assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
    assert!(said(&verified).contains("data/"), "{}", said(&verified));
    for args in [
        &["convert", ".", "-o", "out.gguf"][..],
        &["convert", ".", "--type", "q4_0", "-o", "out.gguf"],
        &["convert", ".", "--to", "safetensors", "-o", "out.gguf"],
    ] {
        let converted = regguf(args, folder.path());
        assert_eq!(converted.status.code(), Some(3), "{}", said(&converted));
        assert!(said(&converted).contains("CRC-32"), "{}", said(&converted));
        assert!(!folder.path().join("out.gguf/model.safetensors").exists());
        assert!(!folder.path().join("out.gguf").is_file());
    }
}

/// An archive whose folder is called `name`.
fn archive_named(name: &str, pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::{Cursor, Write};
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(Stored);
    let mut put = |entry: String, bytes: &[u8]| {
        zip.start_file(entry, options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    put(format!("{name}/data.pkl"), pickle);
    storages.iter().for_each(|(key, bytes)| put(format!("{name}/data/{key}"), bytes));
    zip.finish().unwrap().into_inner()
}

#[test]
fn archive_folders_of_any_length_are_read() {
    let (views, storages) = plain();
    let pickle = torch::state_dict(&views, false);
    for len in 1..60 {
        check(&meta(&archive_named(&"n".repeat(len), &pickle, &borrowed(&storages))).unwrap());
    }
}

/// A dict in opcodes: keys and the opcodes of their values.
fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items = items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat());
    [b"}(".to_vec(), items.collect(), b"u".to_vec()].concat()
}

fn tensors(views: &[View], before: &str) -> Vec<u8> {
    let named: Vec<(String, Vec<u8>)> = views
        .iter()
        .map(|view| (format!("{before}{}", view.name), torch::tensor(view, false)))
        .collect();
    let named: Vec<(&str, Vec<u8>)> = named.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    dict(&named)
}

fn pickled(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

#[test]
fn what_trainers_put_around_the_tensors_is_taken_off() {
    let (views, storages) = plain();
    let read = |value: &[u8]| meta(&torch::archive(&pickled(value), &borrowed(&storages), Stored));
    for before in ["module.", "model.", "_orig_mod.", "module._orig_mod.", "student.llama."] {
        check(&read(&tensors(&views, before)).unwrap_or_else(|e| panic!("{before}: {e}")));
    }
    // An optimizer with more tensors than the model, under names of its own.
    let state: Vec<(String, Vec<u8>)> =
        (0..40).map(|i| (format!("s{i}"), torch::tensor(&views[1], false))).collect();
    let state: Vec<(&str, Vec<u8>)> = state.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    let loss = b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03X\x01\0\0\0<NNNtbX\x01\0\0\0a\x86R";
    let args = [b"cargparse\nNamespace\n)\x81".to_vec(), dict(&[("lr", int(1))]), b"b".to_vec()];
    let whole = dict(&[
        ("optimizer", dict(&[("state", dict(&state))])),
        ("network", tensors(&views, "_orig_mod.")),
        ("best_val_loss", loss.to_vec()),
        ("args", args.concat()),
    ]);
    let model = read(&whole).unwrap();
    check(&model);
    let notes = model.notes.to_string();
    assert!(notes.contains("left aside: optimizer, best_val_loss, args"), "{notes}");
}

#[test]
fn settings_beside_the_tensors_are_those_of_params_json() {
    let (views, storages) = plain();
    let settings = ["dim", "n_layers", "n_heads", "n_kv_heads", "max_seq_len"];
    let numbers = [8, 1, 2, 1, 77];
    let pairs: Vec<(&str, Vec<u8>)> = settings.into_iter().zip(numbers.map(int)).collect();
    let whole = dict(&[("model", tensors(&views, "_orig_mod.")), ("model_args", dict(&pairs))]);
    let file = torch::archive(&pickled(&whole), &borrowed(&storages), Stored);
    let folder = in_folder(&[("stories.pt", &file)]);
    let model = checkpoint::open(folder.path(), &Options::default()).unwrap();
    check(&model);
    assert_eq!(model.metadata.u64("llama.context_length"), Some(77));
    assert_eq!(model.metadata.f32("llama.attention.layer_norm_rms_epsilon"), Some(1e-5));
}

#[test]
fn modules_are_read_as_data_and_other_objects_named() {
    let (views, storages) = plain();
    let module = |class: &str, weight: Vec<u8>| {
        let state = dict(&[
            ("training", b"\x88".to_vec()),
            ("_parameters", dict(&[("weight", weight)])),
            ("_hooks", b"c__builtin__\nset\n]\x85R".to_vec()),
        ]);
        [
            format!("ctorch.nn.modules.{class}\n)").into_bytes(),
            b"\x81".to_vec(),
            state,
            b"b".to_vec(),
        ]
        .concat()
    };
    // One module under its weight's name among tensors.
    let mut items: Vec<(&str, Vec<u8>)> =
        views.iter().map(|v| (v.name.as_str(), torch::tensor(v, false))).collect();
    items[0].1 = module("sparse\nEmbedding", items[0].1.clone());
    let file = torch::archive(&pickled(&dict(&items)), &borrowed(&storages), Stored);
    check(&meta(&file).unwrap());

    let own = [b"c__main__\nLlama\n)\x81}".to_vec(), b"b".to_vec()].concat();
    let error = meta(&torch::archive(&pickled(&own), &[], Stored)).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let error = error.to_string();
    assert!(error.contains("__main__.Llama") && error.contains("state_dict"), "{error}");
    let harm = torch::archive(&pickled(b"cos\nsystem\nX\x01\0\0\0a\x85R"), &[], Stored);
    let error = meta(&harm).unwrap_err().to_string();
    for error in [error.as_str(), &own_said(&own)] {
        assert!(!error.contains("download or copy it again"), "{error}");
    }
}

fn own_said(pickle: &[u8]) -> String {
    meta(&torch::archive(&pickled(pickle), &[], Stored)).unwrap_err().to_string()
}

#[test]
fn tensors_of_types_by_name_are_read() {
    // As torch.save writes types that have no class of storages.
    let tensor = |dtype: &str, key: &str, bytes: usize, shape: &[u8]| {
        [
            &b"ctorch._utils\n_rebuild_tensor_v3\n(("[..],
            &text("storage"),
            b"ctorch.storage\nUntypedStorage\n",
            &text(key),
            &text("cpu"),
            &int(bytes),
            b"tQK\0",
            shape,
            b"\x89ccollections\nOrderedDict\n)R",
            format!("ctorch\n{dtype}\n").as_bytes(),
            b"tR",
        ]
        .concat()
    };
    let square = b"K\x04K\x04\x86K\x04K\x01\x86";
    let whole = dict(&[
        ("a.weight", tensor("float8_e4m3fn", "0", 16, square)),
        ("b", tensor("uint16", "1", 32, square)),
    ]);
    let file = torch::archive(&pickled(&whole), &[("0", &[0x38; 16]), ("1", &[1; 32])], Stored);
    let folder = in_folder(&[("pytorch_model.bin", &file)]);
    let weights =
        checkpoint::weights(&folder.path().join("pytorch_model.bin"), &Limits::DEFAULT).unwrap();
    let types: Vec<&str> = weights.tensors.iter().map(|t| t.dtype.name).collect();
    assert_eq!(types, ["float8_e4m3fn", "u16"]);
    let verified = regguf(&["verify", "pytorch_model.bin"], folder.path());
    assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));
    let converted = regguf(&["convert", "pytorch_model.bin", "-o", "x.gguf"], folder.path());
    assert_eq!(converted.status.code(), Some(4));
    assert!(said(&converted).contains("not yet") && said(&converted).contains("float8"));
}

/// A safetensors file of equal bytes.
fn safetensors(tensors: &[(&str, &str, &[u64], u64)]) -> Vec<u8> {
    let mut at = 0;
    let mut entries = serde_json::Map::new();
    for (name, dtype, shape, width) in tensors {
        let end = at + shape.iter().product::<u64>() * width;
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
        entries.insert((*name).to_owned(), entry);
        at = end;
    }
    let header = serde_json::to_vec(&entries).unwrap();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.resize(out.len() + at as usize, 0x11);
    out
}

#[test]
fn quantized_checkpoints_are_named_and_have_no_holes() {
    let cases: [(&str, &str, Vec<u8>); 7] = [
        (
            "GPTQ, 4 bits, groups of 32",
            r#"{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}"#,
            safetensors(&[
                ("q.g_idx", "I32", &[64], 4),
                ("q.qweight", "I32", &[8, 2048], 4),
                ("q.qzeros", "I32", &[2, 256], 4),
                ("q.scales", "F16", &[2, 2048], 2),
            ]),
        ),
        (
            "GPTQ, 3 bits, groups of 64",
            "{}",
            safetensors(&[
                ("q.qweight", "I32", &[12, 2048], 4),
                ("q.qzeros", "I32", &[2, 192], 4),
                ("q.scales", "F16", &[2, 2048], 2),
            ]),
        ),
        (
            "AWQ, 4 bits, groups of 64",
            r#"{"quantization_config": {"quant_method": "awq"}}"#,
            safetensors(&[
                ("q.qweight", "I32", &[128, 256], 4),
                ("q.qzeros", "I32", &[2, 256], 4),
                ("q.scales", "F16", &[2, 2048], 2),
            ]),
        ),
        (
            "bitsandbytes nf4, 4 bits",
            r#"{"quantization_config": {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}}"#,
            safetensors(&[
                ("q.weight", "U8", &[8192, 1], 1),
                ("q.weight.absmax", "U8", &[256], 1),
                ("q.weight.quant_map", "F32", &[16], 4),
            ]),
        ),
        (
            "bitsandbytes int8",
            "{}",
            safetensors(&[("q.SCB", "F32", &[128], 4), ("q.weight", "I8", &[128, 64], 1)]),
        ),
        (
            "FP8, 8 bits, blocks of 128 × 128",
            r#"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}"#,
            safetensors(&[
                ("q.weight", "F8_E4M3", &[128, 128], 1),
                ("q.weight_scale_inv", "F32", &[1, 1], 4),
            ]),
        ),
        (
            "MLX",
            r#"{"quantization": {"bits": 4, "group_size": 64}}"#,
            safetensors(&[
                ("q.biases", "F16", &[64, 8], 2),
                ("q.scales", "F16", &[64, 8], 2),
                ("q.weight", "U32", &[64, 64], 4),
            ]),
        ),
    ];
    for (name, config, file) in cases {
        let folder = in_folder(&[("model.safetensors", &file), ("config.json", config.as_bytes())]);
        let error = checkpoint::open(folder.path(), &Options::default()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains(name), "{name}: {error}");
        let verified = said(&regguf(&["verify", "model.safetensors"], folder.path()));
        assert!(verified.contains("OK") && !verified.contains("unused bytes"), "{verified}");
        let shown = said(&regguf(&["inspect", "--tensors", "model.safetensors"], folder.path()));
        assert!(shown.contains(name) && shown.contains("q."), "{shown}");
        assert!(!shown.contains("regguf convert"), "{shown}");
    }
}

#[test]
fn left_over_adapter_tensors_are_named_and_can_be_dropped() {
    let (mut views, mut storages) = plain();
    views.push(View::whole(
        "layers.0.attention.wq.lora_A.default.weight",
        "FloatStorage",
        "99",
        &[2, 8],
    ));
    storages.push(("99".to_owned(), vec![0; 64]));
    let file = torch::archive(&torch::state_dict(&views, false), &borrowed(&storages), Stored);
    let error = regguf::cli::advice::error(&meta(&file).unwrap_err());
    assert!(error.contains("lora_A") && error.contains("--drop lora_"), "{error}");
    let folder = in_folder(&[("consolidated.00.pth", &file), ("params.json", PARAMS.as_bytes())]);
    let drop = Some(regex::Regex::new("lora_").unwrap());
    let options = Options { drop, ..Options::default() };
    let model = checkpoint::open(folder.path(), &options).unwrap();
    check(&model);
    assert!(model.notes.iter().any(|note| note.contains("1 tensor left out")));
}

#[test]
fn an_adapter_by_itself_is_named() {
    let name = |end: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{end}");
    let views = [
        View::whole(&name("A.weight"), "FloatStorage", "0", &[2, 8]),
        View::whole(&name("B.weight"), "FloatStorage", "1", &[8, 2]),
    ];
    let storages: [(&str, &[u8]); 2] = [("0", &[1; 64]), ("1", &[1; 64])];
    let file = torch::archive(&torch::state_dict(&views, false), &storages, Stored);
    let folder = in_folder(&[("adapter_model.bin", &file)]);
    let path = folder.path().join("adapter_model.bin");
    let error = checkpoint::open(&path, &Options::default()).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("a LoRA adapter"), "{error}");
    assert!(!error.to_string().contains("--drop"), "{error}");
    let shown = said(&regguf(&["inspect", "adapter_model.bin"], folder.path()));
    assert!(shown.contains("kind") && shown.contains("a LoRA adapter"), "{shown}");
}

#[test]
fn parts_of_different_models_are_refused() {
    let part =
        |n: usize| fs::read(golden(&format!("T/meta-2shard/T/consolidated.0{n}.pth"))).unwrap();
    let params = fs::read(golden("T/meta-2shard/T/params.json")).unwrap();
    let open = |second: &[u8]| {
        let folder = in_folder(&[
            ("consolidated.00.pth", &part(0)),
            ("consolidated.01.pth", second),
            ("params.json", &params),
        ]);
        checkpoint::open(folder.path(), &Options::default())
    };
    open(&part(1)).unwrap();
    let error = open(&part(0)).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("consolidated.01.pth"), "{error}");
    // A norm that is not the first part's. Its sum would tell as well, so that goes too.
    let mut other = part(1);
    let model = {
        let folder = in_folder(&[("x.pth", &other)]);
        checkpoint::weights(&folder.path().join("x.pth"), &Limits::DEFAULT).unwrap()
    };
    let norm = model.tensors.iter().find(|t| t.name == "norm.weight").unwrap();
    let at = norm.at as usize;
    other[at..at + 2].copy_from_slice(&[0, 0x3c]);
    let error = open(&other).unwrap_err().to_string();
    assert!(error.contains("norm.weight") || error.contains("CRC-32"), "{error}");
}

#[test]
fn norms_of_ggml_parts_must_be_the_same() {
    let name = "T/E3-2part/ggml-model-q4_0.bin";
    let model = regguf::container::open(&golden(name), &Default::default()).unwrap();
    let norm = model.tensor("norm.weight").unwrap().pieces[0].at as usize;
    let (one, mut two) =
        (fs::read(golden(name)).unwrap(), fs::read(golden(&format!("{name}.1"))).unwrap());
    two[norm] ^= 1;
    let folder = in_folder(&[("m.bin", &one), ("m.bin.1", &two)]);
    for args in [&["upgrade", "m.bin"][..], &["convert", "m.bin", "-o", "o.gguf"]] {
        let output = regguf(args, folder.path());
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains("parts of different models"), "{}", said(&output));
    }
    let verified = regguf(&["verify", "m.bin"], folder.path());
    assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
}

#[test]
fn the_only_checkpoint_of_a_folder_is_taken_whatever_its_name() {
    let (views, storages) = plain();
    let file = torch::archive(&torch::state_dict(&views, false), &borrowed(&storages), Stored);
    let read = |files: &[(&str, &[u8])]| {
        let folder = in_folder(files);
        checkpoint::open(folder.path(), &Options::default())
    };
    let params = ("params.json", PARAMS.as_bytes());
    for name in ["consolidated.pth", "consolidated.00 (1).pth", "llama.pt"] {
        check(&read(&[(name, &file), params, ("optimizer.pt", &file)]).unwrap());
    }
    let error = read(&[("a.pt", &file), ("b.pt", &file), params]).unwrap_err().to_string();
    assert!(error.contains("a.pt, b.pt"), "{error}");
    let error = read(&[("consolidated.00.pth", &file)]).unwrap_err().to_string();
    assert!(error.contains("no params.json"), "{error}");
}

#[test]
fn inspect_lists_raw_weights_and_names_a_step_that_works() {
    for name in [
        "T/meta/T/consolidated.00.pth",
        "T/hf-st/model.safetensors",
        "T/hf-bin-2shard/pytorch_model-00002-of-00002.bin",
    ] {
        let path = golden(name);
        let output = regguf(
            &["inspect", "--tensors", "--json", &path.display().to_string()],
            Path::new("."),
        );
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let tensors = json["tensors"].as_array().unwrap();
        assert!(tensors.len() >= 21, "{name}: {}", tensors.len());
        assert!(json["parameters"].as_u64().unwrap() > 100_000, "{name}");
        assert!(json["types"].as_array().unwrap().iter().any(|t| t["type"] == "f16"));
        let next = json["next"].as_str().unwrap();
        let file = next.strip_prefix("regguf convert ").unwrap_or_else(|| panic!("{next}"));
        checkpoint::open(Path::new(file), &Options::default()).unwrap();
    }
}

#[test]
fn ids_that_name_other_special_tokens_are_overruled() {
    let copy = |name: &str| fs::read(golden(&format!("T/hf-bin/{name}"))).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&copy("config.json")).unwrap();
    config["bos_token_id"] = 0.into();
    config["eos_token_id"] = 1.into();
    config["pad_token_id"] = (-1).into();
    let folder = in_folder(&[
        ("config.json", config.to_string().as_bytes()),
        ("pytorch_model.bin", &copy("pytorch_model.bin")),
        ("tokenizer.model", &copy("tokenizer.model")),
    ]);
    let model = checkpoint::open(folder.path(), &Options::default()).unwrap();
    assert_eq!((model.vocab.bos, model.vocab.eos), (Some(1), Some(2)));
    assert!(model.notes.iter().any(|note| note.contains("config.json")), "{:?}", model.notes);
}
