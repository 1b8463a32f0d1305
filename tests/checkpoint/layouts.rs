//! Small models in layouts that published files have but the golden ones do not: views, shared
//! storages, compressed archives, grouped heads, the first layouts of torch, LLaMA 3.1's rope.

use std::{fs, path::Path};

use regguf::{
    check::models::structure,
    checkpoint::{self, Misfit, Options},
    error::Result,
    model::{Model, Naming, Role},
};
use zip::CompressionMethod::{Deflated, Stored};

use crate::torch::{self, View};

pub(crate) const WIDTH: usize = 8;
pub(crate) const HEAD: usize = 4;
const FF: usize = 12;
const VOCAB: usize = 6;
pub(crate) const PARAMS: &str = r#"{"dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "norm_eps": 1e-5, "vocab_size": -1}"#;

pub(crate) const SHAPES: [(&str, &str, &[usize]); 12] = [
    ("tok_embeddings.weight", "model.embed_tokens.weight", &[VOCAB, WIDTH]),
    ("norm.weight", "model.norm.weight", &[WIDTH]),
    ("output.weight", "lm_head.weight", &[VOCAB, WIDTH]),
    ("layers.0.attention.wq.weight", "model.layers.0.self_attn.q_proj.weight", &[WIDTH, WIDTH]),
    ("layers.0.attention.wk.weight", "model.layers.0.self_attn.k_proj.weight", &[HEAD, WIDTH]),
    ("layers.0.attention.wv.weight", "model.layers.0.self_attn.v_proj.weight", &[HEAD, WIDTH]),
    ("layers.0.attention.wo.weight", "model.layers.0.self_attn.o_proj.weight", &[WIDTH, WIDTH]),
    ("layers.0.feed_forward.w1.weight", "model.layers.0.mlp.gate_proj.weight", &[FF, WIDTH]),
    ("layers.0.feed_forward.w2.weight", "model.layers.0.mlp.down_proj.weight", &[WIDTH, FF]),
    ("layers.0.feed_forward.w3.weight", "model.layers.0.mlp.up_proj.weight", &[FF, WIDTH]),
    ("layers.0.attention_norm.weight", "model.layers.0.input_layernorm.weight", &[WIDTH]),
    ("layers.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", &[WIDTH]),
];

/// Numbers that tell every element of every tensor apart.
pub(crate) fn numbers(tensor: usize, shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product()).map(|i| (tensor * 1000 + i) as f32).collect()
}

pub(crate) fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The model with one storage for each tensor.
pub(crate) fn plain() -> (Vec<View>, Vec<(String, Vec<u8>)>) {
    let mut views = Vec::new();
    let mut storages = Vec::new();
    for (i, (name, _, shape)) in SHAPES.iter().enumerate() {
        views.push(View::whole(name, "FloatStorage", &i.to_string(), shape));
        storages.push((i.to_string(), bytes(&numbers(i, shape))));
    }
    (views, storages)
}

pub(crate) fn borrowed(storages: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    storages.iter().map(|(k, b)| (k.as_str(), b.as_slice())).collect()
}

fn read(folder: &Path) -> Result<Model> {
    checkpoint::open(folder, &Options::default())
}

pub(crate) fn meta(file: &[u8]) -> Result<Model> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("consolidated.00.pth"), file).unwrap();
    fs::write(folder.path().join("params.json"), PARAMS).unwrap();
    read(folder.path())
}

pub(crate) fn values(model: &Model, name: &str) -> Vec<f32> {
    let tensor = model.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Checks every tensor against the numbers it was made of.
pub(crate) fn check(model: &Model) {
    assert_eq!(model.tensors.len(), SHAPES.len());
    for (i, (name, _, shape)) in SHAPES.iter().enumerate() {
        let role = Role::of(checkpoint::family(), Naming::Old, name).unwrap();
        assert_eq!(values(model, &role.name(Naming::Gguf).unwrap()), numbers(i, shape), "{name}");
    }
    assert_eq!(model.metadata.u64("llama.attention.head_count_kv"), Some(1));
    assert_eq!(model.metadata.u64("llama.feed_forward_length"), Some(12));
}

#[test]
fn stored_and_compressed_archives_read_the_same() {
    let (views, storages) = plain();
    let pickle = torch::state_dict(&views, false);
    check(&meta(&torch::archive(&pickle, &borrowed(&storages), Stored)).unwrap());
    check(&meta(&torch::archive(&pickle, &borrowed(&storages), Deflated)).unwrap());
}

#[test]
fn the_layouts_before_zip_read_the_same() {
    let (views, storages) = plain();
    let legacy = meta(&torch::legacy(&views, &borrowed(&storages), 4)).unwrap();
    assert_eq!(legacy.format, "pth-legacy");
    check(&legacy);
    let tar = meta(&torch::tar(&views, &borrowed(&storages), 4)).unwrap();
    assert_eq!(tar.format, "pth-tar");
    check(&tar);
}

#[test]
fn views_of_one_storage_are_read_by_offset_and_stride() {
    let (mut views, storages) = plain();
    let mut all = vec![0; 4 * 5];
    for (i, view) in views.iter_mut().enumerate() {
        view.offset = all.len() / 4;
        let numbers = numbers(i, &view.shape);
        if let (true, &[rows, columns]) = (i % 2 == 0, view.shape.as_slice()) {
            // Transposed: element (r, c) is at c * rows + r.
            view.stride = vec![1, rows];
            let turned = (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c)));
            let turned: Vec<f32> = turned.map(|(r, c)| numbers[r * columns + c]).collect();
            all.extend(bytes(&turned));
        } else {
            all.extend(bytes(&numbers));
        }
    }
    drop(storages);
    for view in &mut views {
        view.key = "0".to_owned();
        view.elements = all.len() / 4;
    }
    let pickle = torch::state_dict(&views, false);
    check(&meta(&torch::archive(&pickle, &[("0", &all)], Stored)).unwrap());
    check(&meta(&torch::archive(&pickle, &[("0", &all)], Deflated)).unwrap());
    check(&meta(&torch::legacy(&views, &[("0", &all)], 4)).unwrap());
}

#[test]
fn rows_with_gaps_are_read_without_them() {
    let (mut views, mut storages) = plain();
    let shape = views[3].shape.clone();
    let numbers = numbers(3, &shape);
    let wide: Vec<f32> = numbers.chunks(WIDTH).flat_map(|r| [r, &[-1.0; 3]].concat()).collect();
    storages[3].1 = bytes(&wide);
    views[3].stride = vec![WIDTH + 3, 1];
    views[3].elements = wide.len();
    let pickle = torch::state_dict(&views, false);
    check(&meta(&torch::archive(&pickle, &borrowed(&storages), Stored)).unwrap());
}

#[test]
fn tied_tensors_are_one_object_in_two_places() {
    let (views, storages) = plain();
    // The embedding is put into the memo and taken out again as the output matrix.
    let mut pickle = b"\x80\x02}(".to_vec();
    for (i, view) in views.iter().enumerate() {
        pickle.extend(torch::text(&view.name));
        if i == 2 {
            pickle.extend(b"h\x07");
        } else {
            pickle.extend(torch::tensor(view, false));
            pickle.extend(b"q\x07".iter().take(if i == 0 { 2 } else { 0 }));
        }
    }
    pickle.extend(b"u.");
    let model = meta(&torch::archive(&pickle, &borrowed(&storages), Stored)).unwrap();
    assert_eq!(values(&model, "output.weight"), values(&model, "token_embd.weight"));
}

#[test]
fn wrapped_and_framed_pickles_are_read() {
    let (views, storages) = plain();
    let inner = torch::state_dict(&views, false);
    let inner = &inner[2..inner.len() - 1];
    // Protocol 4: a frame, short strings, MEMOIZE, STACK_GLOBAL.
    let mut pickle =
        b"\x80\x04\x95\0\0\0\0\0\0\0\0}\x94(\x8c\x05epochK\x03\x8c\x07bigness".to_vec();
    pickle.extend(b"\x8a\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x8c\x04kind\x8c\x05torch\x8c\x07float16\x93");
    pickle.extend(b"\x8c\x0astate_dict\x94");
    pickle.extend(inner);
    pickle.extend(b"u.");
    check(&meta(&torch::archive(&pickle, &borrowed(&storages), Stored)).unwrap());
}

fn safetensors(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let mut header = Vec::new();
    let mut data = Vec::new();
    for (name, shape, numbers) in tensors {
        let begin = data.len();
        data.extend(bytes(numbers));
        header.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{}]}}"#,
            data.len()
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// Rows of each head in halves, as transformers wants them: first those of even number.
fn halves(numbers: &[f32]) -> Vec<f32> {
    let rows: Vec<&[f32]> = numbers.chunks(WIDTH).collect();
    let heads = rows.chunks(HEAD);
    heads.flat_map(|head| [0, 2, 1, 3].map(|r| head[r])).flatten().copied().collect()
}

fn hugging_face(config: &str, more: &[(&str, &str)]) -> Result<Model> {
    let tensors: Vec<_> = SHAPES
        .iter()
        .enumerate()
        .map(|(i, (_, name, shape))| {
            let numbers = numbers(i, shape);
            let turned = name.contains("q_proj") || name.contains("k_proj");
            let numbers = if turned { halves(&numbers) } else { numbers };
            ((*name).to_owned(), shape.to_vec(), numbers)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), safetensors(&tensors)).unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    for (name, text) in more {
        fs::write(folder.path().join(name), text).unwrap();
    }
    read(folder.path())
}

const CONFIG: &str = r#"{"architectures": ["MistralForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 12, "vocab_size": 6,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 500000.0"#;

#[test]
fn query_and_key_rows_come_in_pairs_with_grouped_heads() {
    check(&hugging_face(&format!("{CONFIG}}}"), &[]).unwrap());
}

#[test]
fn llama_3_rope_scaling_becomes_a_tensor() {
    let rope = r#", "head_dim": 4, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
    let model = hugging_face(&format!("{CONFIG}{rope}"), &[]).unwrap();
    assert_eq!(model.tensors[0].name, "rope_freqs.weight");
    // Wavelengths 2π and 2π·707: 6.28 and 4443 lie below 2048 and between 2048 and 8192. The second
    // number is the one that the converter's code gives in torch 2.15, to the last bit.
    assert_eq!(values(&model, "rope_freqs.weight"), [1.0, 2.69453]);
    assert_eq!(model.metadata.u64("llama.attention.key_length"), Some(4));
}

/// Mixtral: a router and three experts where the others have one feed-forward layer.
#[test]
fn experts_are_stacked_in_the_order_of_their_numbers() {
    const EXPERTS: usize = 3;
    let matrices =
        [("w1", "gate", [FF, WIDTH]), ("w2", "down", [WIDTH, FF]), ("w3", "up", [FF, WIDTH])];
    let moe = |name: &str| format!("model.layers.0.block_sparse_moe.{name}.weight");
    let mut tensors: Vec<_> = SHAPES
        .iter()
        .filter(|(_, name, _)| !name.contains(".mlp."))
        .map(|(_, name, shape)| ((*name).to_owned(), shape.to_vec(), numbers(0, shape)))
        .collect();
    tensors.push((moe("gate"), vec![EXPERTS, WIDTH], numbers(9, &[EXPERTS, WIDTH])));
    for expert in (0..EXPERTS).rev() {
        for (i, (w, _, shape)) in matrices.iter().enumerate() {
            let name = moe(&format!("experts.{expert}.{w}"));
            tensors.push((name, shape.to_vec(), numbers(10 * (i + 1) + expert, shape)));
        }
    }
    let config = CONFIG.replace("MistralForCausalLM", "MixtralForCausalLM")
        + r#", "num_local_experts": 3, "num_experts_per_tok": 2}"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    let write = |tensors: &[_]| {
        fs::write(folder.path().join("model.safetensors"), safetensors(tensors)).unwrap();
        read(folder.path())
    };
    let model = write(&tensors).unwrap();
    for (i, (_, name, [rows, columns])) in matrices.iter().enumerate() {
        let name = format!("blk.0.ffn_{name}_exps.weight");
        let shape = [EXPERTS, *rows, *columns].map(|n| n as u64);
        assert_eq!(model.tensor(&name).unwrap().shape, shape, "{name}");
        let wanted: Vec<f32> =
            (0..EXPERTS).flat_map(|e| numbers(10 * (i + 1) + e, &[*rows, *columns])).collect();
        assert_eq!(values(&model, &name), wanted, "{name}");
    }
    assert_eq!(values(&model, "blk.0.ffn_gate_inp.weight"), numbers(9, &[EXPERTS, WIDTH]));
    assert_eq!(model.metadata.u64("llama.expert_count"), Some(3));
    assert_eq!(model.metadata.u64("llama.expert_used_count"), Some(2));
    assert_eq!(structure::check(&model), []);

    let error = write(&tensors[..tensors.len() - 3]).unwrap_err().to_string();
    assert!(error.contains("does not follow the experts before it"), "{error}");
}

#[test]
fn other_architectures_are_named_with_what_is_missing() {
    let config = CONFIG.replace("MistralForCausalLM", "Phi3ForCausalLM") + "}";
    let error = hugging_face(&config, &[]).unwrap_err().to_string();
    assert!(error.contains("not yet: Phi3ForCausalLM"), "{error}");
}

#[test]
fn the_folder_below_that_has_the_weights_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("7B");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("consolidated.00.pth"), "").unwrap();
    let error = read(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with(&format!("that has them: {}", below.display())), "{error}");
}

pub const SPM: &str = r#"{"model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
    "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}, "added_tokens": []}"#;

#[test]
fn a_vocabulary_that_does_not_fit_is_explained_and_mended_when_told() {
    let (views, storages) = plain();
    let folder = tempfile::tempdir().unwrap();
    let file = torch::archive(&torch::state_dict(&views, false), &borrowed(&storages), Stored);
    fs::write(folder.path().join("consolidated.00.pth"), file).unwrap();
    fs::write(folder.path().join("params.json"), PARAMS).unwrap();
    fs::write(folder.path().join("tokenizer.json"), SPM).unwrap();
    let error = regguf::cli::advice::error(&read(folder.path()).unwrap_err());
    assert!(
        error.contains("4 tokens, the embedding 6 rows") && error.contains("--pad-vocab"),
        "{error}"
    );
    let model =
        checkpoint::open(folder.path(), &Options { misfit: Misfit::Mend, ..Options::default() })
            .unwrap();
    assert_eq!(
        model.vocab.tokens.iter().skip(3).collect::<Vec<_>>(),
        [&b"ab"[..], b"[PAD4]", b"[PAD5]"]
    );
}

#[test]
fn the_model_card_and_the_settings_beside_it_are_metadata() {
    let card = "---\nlicense: apache-2.0\nlanguage:\n- en\n- fr\ntags: [a, \"b c\"]\nbase_model: org/Tiny-7B-v0.1\n---\n# Hi";
    let more = [
        ("README.md", card),
        ("generation_config.json", r#"{"temperature": 0.5, "top_k": 40}"#),
        ("tokenizer.json", &SPM.replace(r#""ab": 3"#, r#""ab": 3, "c": 4, "d": 5"#)),
        (
            "tokenizer_config.json",
            r#"{"chat_template": "{{x}}", "add_bos_token": true, "bos_token": {"content": "a"}}"#,
        ),
    ];
    let config = format!(
        r#"{CONFIG}, "_name_or_path": "org/Tiny-Llama-2-1.1B-Chat-v1.0", "bos_token_id": 1}}"#
    );
    let model = hugging_face(&config, &more).unwrap();
    let text = |key: &str| model.metadata.get(key).map(ToString::to_string).unwrap_or_default();
    for (key, value) in [
        ("general.license", r#""apache-2.0""#),
        ("general.languages", r#"str[2] "en", "fr""#),
        ("general.tags", r#"str[2] "a", "b c""#),
        ("general.base_model.count", "1"),
        ("general.base_model.0.name", r#""Tiny 7B v0.1""#),
        ("general.base_model.0.organization", r#""Org""#),
        ("general.base_model.0.repo_url", r#""https://huggingface.co/org/Tiny-7B-v0.1""#),
        ("general.sampling.temp", "0.5"),
        ("general.sampling.top_k", "40"),
        ("general.name", r#""Tiny Llama 2 1.1B Chat v1.0""#),
        ("general.organization", r#""Org""#),
        ("tokenizer.chat_template", r#""{{x}}""#),
        ("tokenizer.ggml.bos_token_id", "1"),
        ("tokenizer.ggml.add_bos_token", "true"),
    ] {
        assert_eq!(text(key), value, "{key}");
    }
}
