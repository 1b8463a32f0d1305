//! Layouts that llama.cpp left behind, and back to them: latent attention before 15 April 2025, experts one by one; and
//! models with their vision tensors in the same file, as Ollama writes them. The models are those of [`super::golden`], whose
//! tensors are the converter's, byte by byte.

use std::{path::Path, process::Command};

use regguf::{
    Existing,
    change::{self, upgrade},
    container,
    model::Model,
    quant::QuantType,
};

use super::checkpoints::tensors_of;
use super::gguf::{self, Value};
use super::golden::{compare, converted, known, numbers, safetensors, write};

/// The file that an upgrade with these options makes.
fn upgraded(path: &Path, output: &Path, options: upgrade::Options) -> Model {
    let model = container::open(path, &Default::default()).unwrap();
    let options = upgrade::Options { output: Some(output.to_owned()), ..options };
    let (model, plan) = upgrade::plan(model, &options).unwrap();
    assert!(plan.steps.iter().all(|step| matches!(step.act, change::Act::Copy)));
    change::carry(&model, &[plan], Existing::Keep, &()).unwrap();
    container::open(output, &Default::default()).unwrap()
}

fn bytes(model: &Model, name: &str) -> Vec<u8> {
    let tensor = model.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    bytes
}

#[test]
fn latent_keys_and_values_go_into_one_matrix_and_back() {
    let mut seen = 0;
    for (name, known) in known().into_iter().filter(|(name, _)| name.starts_with("deepseek2")) {
        seen += 1;
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join(&name);
        std::fs::create_dir(&folder).unwrap();
        write(&known, &folder);
        let today = converted(&folder);
        let at = |name: &str| folder.join(name);
        let options = upgrade::Options { join_kv_b: true, ..Default::default() };
        let old = upgraded(&today, &at("old.gguf"), options);
        // Converters before wrote the checkpoint's own matrix, and its own lengths.
        let stored = tensors_of(&safetensors(&known));
        let config = &known["config"];
        let layers = config["num_hidden_layers"].as_u64().unwrap();
        for layer in 0..layers {
            let own = format!("model.layers.{layer}.self_attn.kv_b_proj.weight");
            assert!(
                bytes(&old, &format!("blk.{layer}.attn_kv_b.weight")) == stored[&own].1,
                "{name}"
            );
        }
        assert!(
            !old.tensors.iter().any(|t| t.name.contains("attn_k_b") || t.name.contains("attn_v_b"))
        );
        let of = |key: &str| config[key].as_u64().unwrap();
        let key = |key: &str| old.metadata.u64(&format!("deepseek2.attention.{key}"));
        assert_eq!(key("key_length"), Some(of("qk_nope_head_dim") + of("qk_rope_head_dim")));
        assert_eq!(key("value_length"), Some(of("v_head_dim")));
        assert_eq!(key("head_count_kv"), Some(of("num_attention_heads")));
        assert_eq!((key("key_length_mla"), key("value_length_mla")), (None, None));
        // Blocks would be rounded to be transposed: such a matrix stays, and is spoken of.
        let mut coded = container::open(&at("old.gguf"), &Default::default()).unwrap();
        for tensor in coded.tensors.iter_mut().filter(|t| t.name.contains("attn_kv_b")) {
            tensor.quant = QuantType::today("q8_0").unwrap();
        }
        let options = upgrade::Options { output: Some(at("coded.gguf")), ..Default::default() };
        let (_, plan) = upgrade::plan(coded, &options).unwrap();
        assert!(plan.steps.iter().any(|step| step.name.contains("attn_kv_b")));
        assert!(plan.notes.iter().any(|note| note.contains("stays one matrix")), "{name}");
        // And today's again.
        let again = upgraded(&at("old.gguf"), &at("again.gguf"), upgrade::Options::default());
        let mut wrong = Vec::new();
        compare(&name, &known, &again, &mut wrong);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    assert!(seen >= 2, "{seen} models with latent attention");
}

#[test]
fn stacks_of_experts_are_taken_apart_and_put_together() {
    let mut seen = 0;
    for (name, known) in known() {
        let folder = tempfile::tempdir().unwrap();
        write(&known, folder.path());
        let today = container::open(&converted(folder.path()), &Default::default()).unwrap();
        let stack = "blk.0.ffn_down_exps.weight";
        let plain =
            today.tensors.iter().filter(|t| t.name.contains("_exps.")).all(|t| t.shape.len() == 3);
        if today.tensor(stack).is_none() || !plain {
            continue;
        }
        seen += 1;
        let at = |name: &str| folder.path().join(name);
        let options = upgrade::Options { split_experts: true, ..Default::default() };
        let path = today.files[0].path().to_owned();
        let apart = upgraded(&path, &at("apart.gguf"), options);
        assert!(!apart.tensors.iter().any(|t| t.name.contains("_exps")), "{name}");
        let experts = today.tensor(stack).unwrap().shape[0];
        let all: Vec<u8> = (0..experts)
            .flat_map(|n| bytes(&apart, &format!("blk.0.ffn_down.{n}.weight")))
            .collect();
        assert!(all == bytes(&today, stack), "{name}");
        let again = upgraded(&at("apart.gguf"), &at("again.gguf"), upgrade::Options::default());
        assert_eq!(again.metadata, today.metadata, "{name}");
        assert_eq!(again.tensors.len(), today.tensors.len());
        for tensor in &today.tensors {
            assert!(
                bytes(&again, &tensor.name) == bytes(&today, &tensor.name),
                "{name}: {}",
                tensor.name
            );
        }
    }
    assert!(seen >= 2, "{seen} models with stacks");
}

fn regguf(folder: &Path, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    let output = command.current_dir(folder).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Names and shapes of the vision tensors of a Gemma 3 as Ollama writes them (convert/convert_gemma3.go of 02725d3d), and
/// llama.cpp's names for them (conversion/gemma.py of llama-cpp-python 0.3.36).
const VISION: [(&str, &str, &[usize]); 12] = [
    ("v.patch_embedding.weight", "v.patch_embd.weight", &[8, 3, 14, 14]),
    ("v.position_embedding.weight", "v.position_embd.weight", &[4, 8]),
    ("v.blk.0.layer_norm1.weight", "v.blk.0.ln1.weight", &[8]),
    ("v.blk.0.attn_q.weight", "v.blk.0.attn_q.weight", &[8, 8]),
    ("v.blk.0.attn_output.weight", "v.blk.0.attn_out.weight", &[8, 8]),
    ("v.blk.0.attn_output.bias", "v.blk.0.attn_out.bias", &[8]),
    ("v.blk.0.layer_norm2.bias", "v.blk.0.ln2.bias", &[8]),
    ("v.blk.0.mlp.fc1.weight", "v.blk.0.ffn_up.weight", &[8, 8]),
    ("v.blk.0.mlp.fc2.weight", "v.blk.0.ffn_down.weight", &[8, 8]),
    ("v.post_layernorm.weight", "v.post_ln.weight", &[8]),
    ("mm.mm_input_projection.weight", "mm.input_projection.weight", &[8, 32]),
    ("mm.mm_soft_emb_norm.weight", "mm.soft_emb_norm.weight", &[8]),
];

/// The model is the converter's, those are laid beside it: no file of Ollama's is small enough to be kept here.
#[test]
fn vision_tensors_in_the_same_file_are_taken_out() {
    let (name, known) = known().into_iter().find(|(name, _)| name == "gemma3-vision").unwrap();
    let above = tempfile::tempdir().unwrap();
    // The converter takes names from the folder.
    let folder = above.path().join(&name);
    std::fs::create_dir(&folder).unwrap();
    let here = folder.as_path();
    write(&known, here);
    let model = converted(here);
    let text = |text: &str| Value::Text(text.to_owned());
    let mut keys = vec![("general.architecture".to_owned(), text("gemma3"))];
    for (key, value) in [
        ("vision.block_count", 1),
        ("vision.embedding_length", 8),
        ("vision.feed_forward_length", 8),
        ("vision.image_size", 28),
        ("vision.patch_size", 14),
        ("vision.num_channels", 3),
        ("vision.attention.head_count", 2),
        ("mm.tokens_per_image", 4),
    ] {
        keys.push((format!("gemma3.{key}"), Value::Size(value)));
    }
    let epsilon = "gemma3.vision.attention.layer_norm_epsilon";
    keys.push((epsilon.to_owned(), Value::Number(1e-6)));
    let vision = VISION.map(|(name, _, shape)| {
        (name.to_owned(), shape.to_vec(), numbers(name, shape.iter().product(), 0.0))
    });
    std::fs::write(here.join("vision.gguf"), gguf::bytes(&keys, &vision)).unwrap();
    let model = model.to_str().unwrap();
    regguf(here, &["upgrade", model, "--take-from", "vision.gguf", ".", "-o", "both.gguf"]);
    let copy = ["metadata", "both.gguf", "copy-from", "vision.gguf", "gemma3.*"];
    regguf(here, &[&copy[..], &["-o", "ollama.gguf", "--anyway"]].concat());
    assert!(regguf(here, &["inspect", "ollama.gguf"]).contains("--mmproj mmproj.gguf"));
    let words = ["upgrade", "ollama.gguf", "-o", "text.gguf", "--mmproj", "mmproj.gguf"];
    let said = regguf(here, &words);
    assert!(said.contains("12 vision tensors: in mmproj.gguf"), "{said}");
    let open = |name: &str| container::open(&here.join(name), &Default::default()).unwrap();
    let mut wrong = Vec::new();
    compare(&name, &known, &open("text.gguf"), &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let projector = open("mmproj.gguf");
    assert_eq!(projector.tensors.len(), VISION.len());
    for ((_, name, shape), (_, _, numbers)) in VISION.iter().zip(&vision) {
        let stored: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert!(bytes(&projector, name) == stored, "{name}");
        assert_eq!(projector.tensor(name).unwrap().shape.len(), shape.len());
    }
    let key = |key: &str| projector.metadata.u64(&format!("clip.vision.{key}"));
    assert_eq!(projector.metadata.str("clip.projector_type"), Some("gemma3"));
    assert_eq!((key("image_size"), key("projection_dim")), (Some(28), Some(32)));
    // Two patches along a side become two tokens; readers would take four for one.
    assert_eq!(key("projector.scale_factor"), Some(1));
    // What Ollama has in its program.
    let remove = ["metadata", "ollama.gguf", "remove", "gemma3.attention.layer_norm_rms_epsilon"];
    regguf(here, &[&remove[..], &["-o", "bare.gguf", "--anyway"]].concat());
    let said = regguf(here, &["upgrade", "bare.gguf", "-o", "t2.gguf", "--mmproj", "m2.gguf"]);
    assert!(said.contains("layer_norm_rms_epsilon is 0.000001, which Ollama has"), "{said}");
    assert_eq!(open("t2.gguf").metadata.f32("gemma3.attention.layer_norm_rms_epsilon"), Some(1e-6));
}

/// What Ollama calls a tensor, what llama.cpp does, and its shape.
type Renamed = (&'static str, &'static str, &'static [usize]);

#[test]
fn names_and_keys_of_other_vision_models_follow() {
    let llama4: &[Renamed] = &[
        ("v.blk.0.attn_norm.weight", "v.blk.0.ln1.weight", &[8]),
        ("v.blk.0.attn_output.weight", "v.blk.0.attn_out.weight", &[8, 8]),
        ("v.blk.0.ffn_norm.bias", "v.blk.0.ln2.bias", &[8]),
        ("v.blk.0.mlp.fc1.weight", "v.blk.0.ffn_up.weight", &[16, 8]),
        ("v.class_embedding", "v.class_embd", &[8]),
        ("v.layernorm_pre.weight", "v.pre_ln.weight", &[8]),
        ("v.patch_embedding.weight", "v.patch_embd.weight", &[8, 12]),
        ("v.positional_embedding_vlm", "v.position_embd.weight", &[5, 8]),
        ("v.vision_adapter.mlp.fc1.weight", "mm.model.mlp.1.weight", &[16, 8]),
        ("v.vision_adapter.mlp.fc2.weight", "mm.model.mlp.2.weight", &[16, 16]),
        ("mm.linear_1.weight", "mm.model.fc.weight", &[4, 16]),
    ];
    let qwen: &[Renamed] = &[
        ("v.blk.0.ffn_up.weight", "v.blk.0.ffn_up.weight", &[24, 8]),
        ("v.merger.ln_q.weight", "v.post_ln.weight", &[8]),
        ("v.merger.mlp.0.bias", "mm.0.bias", &[32]),
        ("v.merger.mlp.2.weight", "mm.2.weight", &[4, 32]),
        ("v.patch_embd_0.weight", "v.patch_embd.weight", &[8, 3, 2, 2]),
        ("v.patch_embd_1.weight", "v.patch_embd.weight.1", &[8, 3, 2, 2]),
    ];
    let mistral: &[Renamed] = &[
        ("v.blk.0.attn_q.weight", "v.blk.0.attn_q.weight", &[16, 8]),
        ("v.blk.0.attn_v.weight", "v.blk.0.attn_v.weight", &[16, 8]),
        ("v.encoder_norm.weight", "v.pre_ln.weight", &[8]),
        ("v.patch_conv.weight", "v.patch_embd.weight", &[8, 3, 2, 2]),
        ("mm.linear_1.weight", "mm.1.weight", &[4, 8]),
        ("mm.norm.weight", "mm.input_norm.weight", &[8]),
        ("mm.patch_merger.merging_layer.weight", "mm.patch_merger.weight", &[8, 32]),
    ];
    let lfm2: &[Renamed] = &[
        ("v.blk.0.ffn_up.weight", "v.blk.0.ffn_up.weight", &[16, 8]),
        ("mm.layer_norm.bias", "mm.input_norm.bias", &[8]),
        ("mm.1.weight", "mm.1.weight", &[6, 8]),
    ];
    let lists = ["vision.fullatt_block_indexes", "[i32]:7,15", "rope.mrope_section", "[i32]:2,3,3"];
    let colours =
        ["vision.image_mean", "[f32]:0.5,0.5,0.5", "vision.image_std", "[f32]:0.5,0.5,0.5"];
    for (architecture, model, names, lists, expected) in [
        ("llama4", "llama4", llama4, &[][..], ("llama4", "projector.scale_factor", 2)),
        ("mistral3", "mistral3", mistral, &[], ("pixtral", "spatial_merge_size", 4)),
        ("lfm2", "lfm2", lfm2, &colours, ("lfm2", "projector.scale_factor", 4)),
        ("qwen25vl", "qwen2vl", qwen, &lists, ("qwen2.5vl_merger", "n_wa_pattern", 8)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let text = |text: &str| Value::Text(text.to_owned());
        let mut keys = vec![("general.architecture".to_owned(), text(architecture))];
        let sizes = [
            "embedding_length",
            "vision.block_count",
            "vision.embedding_length",
            "vision.image_size",
            "vision.feed_forward_length",
            "vision.patch_size",
            "vision.attention.head_count",
            "vision.spatial_merge_size",
            "spatial_merge_size",
            "vision.projector.scale_factor",
            "vision.window_size",
        ];
        keys.extend(sizes.map(|key| (format!("{architecture}.{key}"), Value::Size(4))));
        for (key, value) in [
            ("vision.layer_norm_epsilon", 1e-5),
            ("vision.attention.layer_norm_epsilon", 1e-6),
            ("vision.pixel_shuffle_ratio", 0.5),
        ] {
            keys.push((format!("{architecture}.{key}"), Value::Number(value)));
        }
        let tensor = |name: &str, shape: &[usize]| {
            (name.to_owned(), shape.to_vec(), numbers(name, shape.iter().product(), 0.0))
        };
        let mut tensors = vec![tensor("token_embd.weight", &[16, 4])];
        tensors.extend(names.iter().map(|(name, _, shape)| tensor(name, shape)));
        std::fs::write(here.join("whole.gguf"), gguf::bytes(&keys, &tensors)).unwrap();
        let lists = lists.chunks(2).flat_map(|pair| {
            ["set".to_owned(), format!("{architecture}.{}", pair[0]), pair[1].to_owned()]
        });
        let name = ["set", "general.name", architecture].map(str::to_owned);
        let edits: Vec<String> = name.into_iter().chain(lists).collect();
        let words = ["metadata", "whole.gguf", "-o", "listed.gguf", "--anyway"].into_iter();
        regguf(here, &words.chain(edits.iter().map(String::as_str)).collect::<Vec<_>>());
        regguf(here, &["upgrade", "listed.gguf", "-o", "text.gguf", "--mmproj", "mmproj.gguf"]);
        let open = |name: &str| container::open(&here.join(name), &Default::default()).unwrap();
        let (text, projector) = (open("text.gguf"), open("mmproj.gguf"));
        assert_eq!(text.metadata.architecture(), model);
        assert_eq!(text.tensors.len(), 1);
        assert!(text.metadata.iter().all(|(key, _)| !key.contains("vision")));
        let taken = usize::from(model == "mistral3");
        assert_eq!(projector.tensors.len(), names.len() + taken);
        let raw =
            |numbers: &[f32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        for ((_, name, _), (_, _, numbers)) in names.iter().zip(&tensors[1..]) {
            let mut numbers = numbers.clone();
            if taken > 0 && name.ends_with("attn_q.weight") {
                // Four heads of four rows: halves become pairs.
                let rows: Vec<&[f32]> = numbers.chunks(8).collect();
                let heads = rows.chunks(4).flat_map(|head| [head[0], head[2], head[1], head[3]]);
                numbers = heads.collect::<Vec<_>>().concat();
            }
            assert!(bytes(&projector, name) == raw(&numbers), "{name}");
        }
        if taken > 0 {
            let row = raw(&tensors[0].2[12 * 4..13 * 4]);
            assert!(bytes(&projector, "v.token_embd.img_break") == row);
        }
        let (kind, key, value) = expected;
        assert_eq!(projector.metadata.str("clip.projector_type"), Some(kind));
        assert_eq!(projector.metadata.u64(&format!("clip.vision.{key}")), Some(value));
        if let Some(sections) = text.metadata.get("qwen2vl.rope.dimension_sections") {
            let sections = sections.as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
            assert_eq!(sections.collect::<Vec<_>>(), [2, 3, 3, 0]);
        }
        assert_eq!(
            text.metadata.get("qwen2vl.rope.dimension_sections").is_some(),
            model == "qwen2vl"
        );
    }
}

/// Queries, keys and values are one matrix in llama.cpp, the kernel of two frames is two, and mergers bear the number of
/// the block that they follow.
#[test]
fn tensors_of_qwen3_vl_are_put_together_and_taken_apart() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let tensor = |name: &str, shape: &[usize]| {
        (name.to_owned(), shape.to_vec(), numbers(name, shape.iter().product(), 0.0))
    };
    let tensors = [
        tensor("token_embd.weight", &[16, 4]),
        tensor("v.patch_embd.weight", &[8 * 3, 2, 2, 2]),
        tensor("v.position_embd.weight", &[25, 8]),
        tensor("v.blk.0.attn_q.weight", &[8, 8]),
        tensor("v.blk.0.attn_k.weight", &[8, 8]),
        tensor("v.blk.0.attn_v.weight", &[8, 8]),
        tensor("v.blk.0.attn_q.bias", &[8]),
        tensor("v.blk.0.attn_k.bias", &[8]),
        tensor("v.blk.0.attn_v.bias", &[8]),
        tensor("v.blk.0.ffn_up.weight", &[12, 8]),
        tensor("v.deepstack.0.linear_fc1.weight", &[8, 8]),
        tensor("v.deepstack.1.norm.bias", &[8]),
        tensor("v.merger.linear_fc2.weight", &[4, 8]),
    ];
    let of = |name: &str| &tensors.iter().find(|t| t.0 == name).unwrap().2;
    let text = |text: &str| Value::Text(text.to_owned());
    let mut keys = vec![("general.architecture".to_owned(), text("qwen3vl"))];
    for (key, size) in [
        ("embedding_length", 4),
        ("vision.block_count", 4),
        ("vision.embedding_length", 8),
        ("vision.num_channels", 3),
        ("vision.patch_size", 16),
        ("vision.attention.head_count", 2),
        ("vision.spatial_merge_size", 2),
    ] {
        keys.push((format!("qwen3vl.{key}"), Value::Size(size)));
    }
    let epsilon = "qwen3vl.vision.attention.layer_norm_epsilon";
    keys.push((epsilon.to_owned(), Value::Number(1e-6)));
    std::fs::write(here.join("whole.gguf"), gguf::bytes(&keys, &tensors)).unwrap();
    let set = |key: &'static str, list: &'static str| ["set", key, list];
    let lists = [
        set("qwen3vl.vision.deepstack_visual_indexes", "[i32]:1,3"),
        set("qwen3vl.vision.image_mean", "[f32]:0.5,0.5,0.5"),
        set("qwen3vl.vision.image_std", "[f32]:0.5,0.5,0.5"),
    ];
    let words = ["metadata", "whole.gguf", "-o", "listed.gguf", "--anyway"];
    regguf(here, &[&words[..], &lists.concat()].concat());
    regguf(here, &["upgrade", "listed.gguf", "-o", "text.gguf", "--mmproj", "mmproj.gguf"]);
    let projector = container::open(&here.join("mmproj.gguf"), &Default::default()).unwrap();
    let raw = |numbers: &[f32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    for kind in ["weight", "bias"] {
        let part = |part: &str| of(&format!("v.blk.0.attn_{part}.{kind}")).clone();
        let whole = raw(&["q", "k", "v"].map(part).concat());
        assert!(bytes(&projector, &format!("v.blk.0.attn_qkv.{kind}")) == whole, "{kind}");
    }
    for (name, frame) in [("v.patch_embd.weight", 0), ("v.patch_embd.weight.1", 1)] {
        let kernels = of("v.patch_embd.weight").chunks(8);
        let wanted: Vec<f32> = kernels.flat_map(|k| k[frame * 4..][..4].to_vec()).collect();
        assert!(bytes(&projector, name) == raw(&wanted), "{name}");
        assert_eq!(projector.tensor(name).unwrap().shape, [8, 3, 2, 2]);
    }
    for (name, theirs) in [
        ("v.deepstack.1.fc1.weight", "v.deepstack.0.linear_fc1.weight"),
        ("v.deepstack.3.norm.bias", "v.deepstack.1.norm.bias"),
        ("mm.2.weight", "v.merger.linear_fc2.weight"),
    ] {
        assert!(bytes(&projector, name) == raw(of(theirs)), "{name}");
    }
    assert_eq!(projector.tensors.len(), 9);
    let key = |key: &str| projector.metadata.get(&format!("clip.vision.{key}"));
    assert_eq!(key("image_size").and_then(regguf::model::Value::as_u64), Some(5 * 16));
    let marks = key("is_deepstack_layers").and_then(|marks| marks.as_array()).unwrap();
    let marks: Vec<String> = marks.iter().map(|mark| mark.to_string()).collect();
    assert_eq!(marks, ["false", "true", "false", "true"]);
}
