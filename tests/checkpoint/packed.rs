//! Matrices packed by other programs: parts whose integers a generator makes, against the digests of what the
//! original libraries make of the same (golden/families/packed.json, of which golden/README.md says how).

use regguf::{
    Existing,
    change::{self, choose::ftype::FileType, convert, quantize},
    check::pair::compare::compare,
    checkpoint::Options,
    container,
    error::Error,
    infer::{Session, Want, Weights},
    model::Model,
};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::golden::{Tensors, known, opened, opened_as, opened_with, packed, part, place, rows};

/// What is written as float32 and run says this after each of some tokens.
fn said(model: Model) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let options = convert::Options {
        types: vec!["f32".to_owned()],
        output: Some(folder.path().join("a.gguf")),
        ..convert::Options::default()
    };
    let (model, plans) = convert::plan(model, &options).unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    let model = container::open(&plans[0].output, &Default::default()).unwrap();
    assert!(regguf::model::loader::tensors(&model).is_empty());
    let weights = Weights::new(&model).unwrap();
    let mut all = Vec::new();
    let tokens = [1, 5, 9, 300, 7, 11, 2, 5];
    let take = |_: usize, logits: &[f32]| all.push(logits.to_vec());
    Session::new(&weights, tokens.len()).read(&tokens, Want::All, take).unwrap();
    all
}

#[test]
fn nvfp4_becomes_the_blocks_of_the_converter_and_says_what_its_floats_say() {
    let mut seen = 0;
    for case in known().into_iter().filter(|case| case["blocks"].is_string()) {
        let tensors = packed(&case);
        let settings = |config: &mut Json| config["quantization_config"] = case["settings"].clone();
        let options = Options { blocks: true, ..Options::default() };
        let model = opened_as(&options, &tensors, settings).unwrap();
        let (_, name) = place(&case["shape"]);
        assert_eq!(model.tensor(name).unwrap().quant.name(), "nvfp4");
        for step in [1, 7, 1024] {
            let sum = Sha256::digest(rows(&model, name, step));
            let sum: String = sum.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(case["blocks"], sum, "{name}, {step} rows at a time");
        }
        let stem = name.strip_suffix("weight").unwrap();
        let scales: Vec<f32> = serde_json::from_value(case["scales"].clone()).unwrap();
        for (kind, scale) in ["scale", "input_scale"].iter().zip(&scales) {
            assert_eq!(rows(&model, &format!("{stem}{kind}"), 1), scale.to_le_bytes());
        }
        assert_eq!(model.tensors.len(), 21 + scales.len());
        assert_eq!(model.metadata.u64("general.file_type"), Some(39));
        let of_floats = said(opened_with(&tensors, settings).unwrap());
        let largest = of_floats.iter().flatten().fold(0f32, |most, v| most.max(v.abs()));
        for (a, b) in said(model).iter().flatten().zip(of_floats.iter().flatten()) {
            assert!((a - b).abs() < 1e-5 * largest, "{a} {b}, largest {largest}");
        }
        // A scale that is no number is one of the download's faults.
        let mut broken = tensors.clone();
        let (_, _, bytes) = broken.get_mut(&format!("{DOWN}.weight_scale")).unwrap();
        bytes[5] = 0x7f;
        let model = opened_as(&options, &broken, settings).unwrap();
        let tensor = model.tensor(name).unwrap();
        let mut bytes = vec![0; tensor.bytes() as usize];
        let error = model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap_err().to_string();
        assert!(error.contains("weight_scale: a scale of NaN"), "{error}");
        seen += 1;
    }
    assert_eq!(seen, 2);
}

/// llama.cpp looks for the number beside an output of NVFP4, and refuses it beside any other.
#[test]
fn an_output_that_is_nvfp4_no_more_takes_in_the_number_beside_it() {
    let case = case("modelopt nvfp4");
    let mut tensors = packed(&case);
    tensors.remove("lm_head.weight").unwrap();
    for (end, about) in case["parts"].as_object().unwrap() {
        let dtype = about[0].as_str().unwrap();
        let shape: Vec<u64> = serde_json::from_value(about[1].clone()).unwrap();
        let shape = if let [_, columns] = shape[..] { vec![512, columns / 3] } else { shape };
        let bytes = part("output", end, dtype, &shape, &about[2]);
        tensors.insert(format!("lm_head.{end}"), (dtype.to_owned(), shape, bytes));
    }
    let settings = |config: &mut Json| config["quantization_config"] = case["settings"].clone();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| Some(folder.path().join(name));
    let blocks = Options { blocks: true, ..Options::default() };
    let auto = convert::Options {
        types: vec!["auto".to_owned()],
        output: place("nvfp4.gguf"),
        ..convert::Options::default()
    };
    let blocks = opened_as(&blocks, &tensors, settings).unwrap();
    let (model, plans) = convert::plan(blocks, &auto).unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    let model = container::open(&plans[0].output, &Default::default()).unwrap();
    assert!(model.tensor("output.scale").is_some());
    let again = quantize::Options {
        types: vec![FileType::parse("F32").unwrap()],
        allow_requantize: true,
        output: place("f32.gguf"),
        ..quantize::Options::default()
    };
    let (model, plans) = quantize::plan(model, &again).unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    let made = container::open(&plans[0].output, &Default::default()).unwrap();
    assert!(regguf::model::loader::tensors(&made).is_empty());
    // Tensors beside matrices of layers stay: what they multiply is compared with them.
    let floats = opened_with(&tensors, settings).unwrap();
    let found = compare(&floats, &made, &()).unwrap();
    assert!(found.only_first.is_empty() && found.only_second.is_empty(), "{found:?}");
    assert!(made.tensor("blk.1.ffn_down.scale").is_some());
    // What is made while it is read runs too, as proofs ask for.
    Weights::new(&floats).unwrap();
    for tensor in &found.tensors {
        assert!(tensor.snr_db.is_none_or(|snr| snr > 130.0), "{tensor:?}");
    }
}

/// The case of this name.
fn case(name: &str) -> Json {
    known().into_iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("{name}"))
}

/// Whether a case is refused in one line with these words once its tensors and settings are changed.
fn refused(name: &str, change: &dyn Fn(&mut Tensors, &mut Json), words: &str) {
    let mut case = case(name);
    let mut tensors = packed(&case);
    let mut settings = case["settings"].take();
    change(&mut tensors, &mut settings);
    case["settings"] = settings;
    let read = |model: Model| {
        let (_, gguf) = place(&case["shape"]);
        let tensor = model.tensor(gguf).unwrap();
        let mut bytes = vec![0; tensor.bytes() as usize];
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes)
    };
    let error = opened(&tensors, &case).and_then(read).expect_err(name);
    assert_eq!(error.exit_code(), 4, "{name}: {error}");
    let text = error.to_string();
    assert!(text.contains(words) && text.lines().count() == 1, "{name}: {text}");
    // Parts that do not fit are a fault, which verify calls so; a sound way that is not read is none.
    let fault = matches!(error, Error::Refused { .. });
    assert_eq!(fault, !text.contains("not yet"), "{name}: {text}");
}

const DOWN: &str = "model.layers.1.mlp.down_proj";

#[test]
fn parts_of_gptq_and_awq_that_do_not_fit_are_named() {
    let act = "gptq 3 bits groups 64 act";
    let remove = |end: &'static str| move |t: &mut Tensors, _: &mut Json| drop(t.remove(end));
    refused(act, &remove("model.layers.1.mlp.down_proj.qzeros"), "no qzeros beside it");
    refused(act, &remove("model.layers.1.mlp.down_proj.scales"), "down_proj.qweight: no scales");
    refused(act, &remove("model.layers.1.mlp.down_proj.g_idx"), "desc_act without a g_idx");
    let said = |key: &'static str, value: Json| {
        move |_: &mut Tensors, settings: &mut Json| settings[key] = value.clone()
    };
    refused(act, &said("bits", json!(4)), "3 bits by its shapes, config.json says 4");
    refused(act, &said("checkpoint_format", json!("marlin")), "checkpoint_format marlin");
    let group = |t: &mut Tensors, _: &mut Json| {
        let places = &mut t.get_mut(&format!("{DOWN}.g_idx")).unwrap().2;
        places[8..12].copy_from_slice(&7i32.to_le_bytes());
    };
    refused(act, &group, "g_idx: column 2 in group 7 of 3");
    let plain = "gptq 4 bits groups 32";
    refused(plain, &said("group_size", json!(48)), "192 columns in 6 groups of 48");
    refused(plain, &said("desc_act", json!(true)), "desc_act without a g_idx");
    let five = |t: &mut Tensors, settings: &mut Json| {
        settings["bits"] = json!(5);
        let zeros = t.get_mut(&format!("{DOWN}.qzeros")).unwrap();
        (zeros.1, zeros.2) = (vec![6, 10], vec![0; 240]);
    };
    refused(plain, &five, "5 bits by the shape [6, 10] of its qzeros");
    let nan = |t: &mut Tensors, _: &mut Json| {
        t.get_mut(&format!("{DOWN}.scales")).unwrap().2[2..4].copy_from_slice(&[0, 0x7e]);
    };
    refused(plain, &nan, "down_proj.scales: a scale of NaN");
    refused("awq groups 64", &said("version", json!("gemv")), "AWQ of version gemv");
    refused("awq groups 64", &said("bits", json!(3)), "AWQ of 3 bits");
    refused("awq groups 64", &said("group_size", json!(128)), "192 columns in 3 groups of 128");
    refused("awq groups 64", &nan, "down_proj.scales: a scale of NaN");
    refused(plain, &said("quant_method", json!("aqlm")), "weights quantized by aqlm");
}

#[test]
fn parts_of_other_ways_that_do_not_fit_are_named() {
    let said = |key: &'static str, value: Json| {
        move |_: &mut Tensors, settings: &mut Json| settings[key] = value.clone()
    };
    let remove = |end: &'static str| {
        move |t: &mut Tensors, _: &mut Json| drop(t.remove(&format!("{DOWN}.{end}")))
    };
    let weights = |key: &'static str, value: Json| {
        move |_: &mut Tensors, settings: &mut Json| {
            settings["config_groups"]["group_0"]["weights"][key] = value.clone();
        }
    };
    let bytes = |end: &'static str, at: usize, new: &'static [u8]| {
        move |t: &mut Tensors, _: &mut Json| {
            t.get_mut(&format!("{DOWN}.{end}")).unwrap().2[at..at + new.len()].copy_from_slice(new);
        }
    };
    let pack = "pack-quantized 4 bits group 64 zero points";
    refused(pack, &remove("weight_scale"), "down_proj.weight_packed: no weight_scale beside it");
    refused(pack, &remove("weight_shape"), "no weight_shape beside it");
    refused(pack, &weights("num_bits", json!(5)), "[64, 192] of 5 bits in words [64, 24]");
    refused(pack, &weights("group_size", json!(48)), "192 columns in 3 groups of 48");
    refused(pack, &bytes("weight_shape", 8, &[193]), "[64, 193] of 4 bits in words [64, 24]");
    refused(pack, &bytes("weight_scale", 2, &[0x80, 0x7f]), "weight_scale: a scale of inf");
    let sparse = json!({"format": "sparse-24-bitmask"});
    refused(
        pack,
        &said("sparsity_config", sparse),
        "weights quantized by compressed-tensors, 4 bits",
    );
    let turned = json!({"config_groups": {"R1": {}}});
    refused(
        pack,
        &said("transform_config", turned),
        "weights quantized by compressed-tensors, 4 bits",
    );

    let float = "nvfp4-pack-quantized";
    refused(float, &remove("weight_global_scale"), "no weight_global_scale and no weight_scale_2");
    refused(float, &bytes("weight_global_scale", 0, &[0; 4]), "a scale of 0");
    refused(float, &bytes("weight_scale", 5, &[0x7f]), "weight_scale: a scale of NaN");

    let four = "bitsandbytes nf4 64";
    refused(four, &remove("weight.quant_map"), "down_proj.weight: no quant_map beside it");
    let state = "weight.quant_state.bitsandbytes__nf4";
    refused(four, &remove(state), "no quant_state.bitsandbytes__nf4 or __fp4");
    refused(four, &bytes(state, 0, b"!"), "bitsandbytes__nf4: no JSON");
    let short = |t: &mut Tensors, _: &mut Json| {
        let absmax = t.get_mut(&format!("{DOWN}.weight.absmax")).unwrap();
        (absmax.1[0], absmax.2) = (absmax.1[0] - 1, absmax.2.split_off(4));
    };
    refused(four, &short, "6144 bytes and 191 absmax for [64, 192] in blocks of 64");
    refused("bitsandbytes int8", &bytes("weight_format", 0, &[2]), "weight_format 2, wanted 0");

    let affine = "mlx 4 bits groups 64 f16";
    refused(affine, &remove("biases"), "down_proj.weight: no biases beside it");
    refused(affine, &said("bits", json!(8)), "words [64, 24] of 8 bits in groups of 64");
    refused(affine, &said("bits", json!(7)), "7 bits");
    refused(affine, &said("mode", json!("mxfp4")), "the mode mxfp4");
    refused(affine, &said("bits", Json::Null), "states no bits and group_size");
}

/// What a module has of its own counts; what is not packed stays as it is.
#[test]
fn modules_of_mlx_may_have_their_own_bits() {
    let mut case = case("mlx 4 bits groups 64 f16");
    let tensors = packed(&case);
    case["settings"]["bits"] = json!(8);
    case["settings"][DOWN] = json!({"bits": 4, "group_size": 64});
    let model = opened(&tensors, &case).unwrap();
    let sum = Sha256::digest(rows(&model, "blk.1.ffn_down.weight", 64));
    let sum: String = sum.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(case["sum"], sum);
}
