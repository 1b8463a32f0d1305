//! Families with containers of their own as checkpoints of transformers: every file of golden/families becomes one
//! whose names and shapes are those of transformers' class and whose numbers are those of the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{self, convert, export, upgrade},
    checkpoint,
    container::{self, OpenOptions},
    infer::{Session, Want, Weights},
    limits::Limits,
    model::{Model, Stated},
    quant::{decode_rows, isa::Isa},
};
use serde_json::{Value as Json, json};

/// What the files' names are in the state_dict of transformers 5.24, `a` and `b` for `.weight` and `.bias`.
const RWKV: &str = "
emb.weight                rwkv.embeddings.weight
blocks.0.ln0.ab           rwkv.blocks.0.pre_ln.ab
blocks.N.ln1.ab           rwkv.blocks.N.ln1.ab
blocks.N.ln2.ab           rwkv.blocks.N.ln2.ab
blocks.N.att.time_decay   rwkv.blocks.N.attention.time_decay
blocks.N.att.time_first   rwkv.blocks.N.attention.time_first
blocks.N.att.time_mix_k   rwkv.blocks.N.attention.time_mix_key
blocks.N.att.time_mix_v   rwkv.blocks.N.attention.time_mix_value
blocks.N.att.time_mix_r   rwkv.blocks.N.attention.time_mix_receptance
blocks.N.att.key.a        rwkv.blocks.N.attention.key.a
blocks.N.att.value.a      rwkv.blocks.N.attention.value.a
blocks.N.att.receptance.a rwkv.blocks.N.attention.receptance.a
blocks.N.att.output.a     rwkv.blocks.N.attention.output.a
blocks.N.ffn.time_mix_k   rwkv.blocks.N.feed_forward.time_mix_key
blocks.N.ffn.time_mix_r   rwkv.blocks.N.feed_forward.time_mix_receptance
blocks.N.ffn.key.a        rwkv.blocks.N.feed_forward.key.a
blocks.N.ffn.receptance.a rwkv.blocks.N.feed_forward.receptance.a
blocks.N.ffn.value.a      rwkv.blocks.N.feed_forward.value.a
ln_out.ab                 rwkv.ln_out.ab
head.a                    head.a";

const WHISPER: &str = "
encoder.positional_embedding          model.encoder.embed_positions.a
encoder.conv1.ab                      model.encoder.conv1.ab
encoder.conv2.ab                      model.encoder.conv2.ab
encoder.blocks.N.attn.query.ab        model.encoder.layers.N.self_attn.q_proj.ab
encoder.blocks.N.attn.key.a           model.encoder.layers.N.self_attn.k_proj.a
encoder.blocks.N.attn.value.ab        model.encoder.layers.N.self_attn.v_proj.ab
encoder.blocks.N.attn.out.ab          model.encoder.layers.N.self_attn.out_proj.ab
encoder.blocks.N.attn_ln.ab           model.encoder.layers.N.self_attn_layer_norm.ab
encoder.blocks.N.mlp.0.ab             model.encoder.layers.N.fc1.ab
encoder.blocks.N.mlp.2.ab             model.encoder.layers.N.fc2.ab
encoder.blocks.N.mlp_ln.ab            model.encoder.layers.N.final_layer_norm.ab
encoder.ln_post.ab                    model.encoder.layer_norm.ab
decoder.token_embedding.a             model.decoder.embed_tokens.a
decoder.positional_embedding          model.decoder.embed_positions.a
decoder.blocks.N.attn.query.ab        model.decoder.layers.N.self_attn.q_proj.ab
decoder.blocks.N.attn.key.a           model.decoder.layers.N.self_attn.k_proj.a
decoder.blocks.N.attn.value.ab        model.decoder.layers.N.self_attn.v_proj.ab
decoder.blocks.N.attn.out.ab          model.decoder.layers.N.self_attn.out_proj.ab
decoder.blocks.N.attn_ln.ab           model.decoder.layers.N.self_attn_layer_norm.ab
decoder.blocks.N.cross_attn.query.ab  model.decoder.layers.N.encoder_attn.q_proj.ab
decoder.blocks.N.cross_attn.key.a     model.decoder.layers.N.encoder_attn.k_proj.a
decoder.blocks.N.cross_attn.value.ab  model.decoder.layers.N.encoder_attn.v_proj.ab
decoder.blocks.N.cross_attn.out.ab    model.decoder.layers.N.encoder_attn.out_proj.ab
decoder.blocks.N.cross_attn_ln.ab     model.decoder.layers.N.encoder_attn_layer_norm.ab
decoder.blocks.N.mlp.0.ab             model.decoder.layers.N.fc1.ab
decoder.blocks.N.mlp.2.ab             model.decoder.layers.N.fc2.ab
decoder.blocks.N.mlp_ln.ab            model.decoder.layers.N.final_layer_norm.ab
decoder.ln.ab                         model.decoder.layer_norm.ab";

const BERT: &str = "
embeddings.word_embeddings.a                   embeddings.word_embeddings.a
embeddings.position_embeddings.a               embeddings.position_embeddings.a
embeddings.token_type_embeddings.a             embeddings.token_type_embeddings.a
embeddings.LayerNorm.ab                        embeddings.LayerNorm.ab
encoder.layer.N.attention.self.query.ab        encoder.layer.N.attention.self.query.ab
encoder.layer.N.attention.self.key.ab          encoder.layer.N.attention.self.key.ab
encoder.layer.N.attention.self.value.ab        encoder.layer.N.attention.self.value.ab
encoder.layer.N.attention.output.dense.ab      encoder.layer.N.attention.output.dense.ab
encoder.layer.N.attention.output.LayerNorm.ab  encoder.layer.N.attention.output.LayerNorm.ab
encoder.layer.N.intermediate.dense.ab          encoder.layer.N.intermediate.dense.ab
encoder.layer.N.output.dense.ab                encoder.layer.N.output.dense.ab
encoder.layer.N.output.LayerNorm.ab            encoder.layer.N.output.LayerNorm.ab";

const GLM: &str = "
transformer.embedding.word_embeddings.a                      model.embed_tokens.a
transformer.encoder.layers.N.input_layernorm.a               model.layers.N.input_layernorm.a
transformer.encoder.layers.N.self_attention.query_key_value.ab model.layers.N.self_attn.q_proj.ab+model.layers.N.self_attn.k_proj.ab+model.layers.N.self_attn.v_proj.ab
transformer.encoder.layers.N.self_attention.dense.a          model.layers.N.self_attn.o_proj.a
transformer.encoder.layers.N.post_attention_layernorm.a      model.layers.N.post_attention_layernorm.a
transformer.encoder.layers.N.mlp.dense_h_to_4h.a             model.layers.N.mlp.gate_up_proj.a
transformer.encoder.layers.N.mlp.dense_4h_to_h.a             model.layers.N.mlp.down_proj.a
transformer.encoder.final_layernorm.a                        model.norm.a
transformer.output_layer.a                                   lm_head.a";

/// Every name of `table` beside those of transformers' tensors that hold its numbers.
fn pairs(table: &str, model: &Model) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for line in table.lines().skip(1) {
        let (old, new) = line.split_once(' ').unwrap();
        let new = new.trim();
        let ends: &[&str] = if new.ends_with(".ab") { &["weight", "bias"] } else { &["weight"] };
        for end in ends {
            let whole = |name: &str| match name.rsplit_once('.') {
                Some((stem, "a" | "ab")) => format!("{stem}.{end}"),
                _ => name.to_owned(),
            };
            for layer in 0..9 {
                let of = |name: &str| whole(name).replace(".N.", &format!(".{layer}."));
                let there = model.tensor(&of(old)).is_some();
                if there && (layer == 0 || old.contains(".N.")) {
                    all.push((of(old), new.split('+').map(of).collect()));
                }
            }
        }
    }
    all
}

fn numbers(model: &Model, name: &str) -> (Vec<u64>, Vec<f32>) {
    let tensor = model.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    let row_len = usize::try_from(tensor.row_len()).unwrap();
    decode_rows(tensor.quant, Isa::best(), &bytes, row_len, &mut out);
    (tensor.shape.clone(), out)
}

fn files(family: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(family);
    let files = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter();
    let files: Vec<PathBuf> = files
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "bin"))
        .collect();
    assert!(!files.is_empty(), "{family}");
    files
}

/// Writes `model` as float32, and reads the folder: its tensors and its config.json.
fn exported(model: &Model, folder: &Path) -> (Model, Json) {
    let stated = Stated::default();
    let export = export::plan(model.clone(), folder.to_owned(), "f32", &stated);
    export.unwrap_or_else(|e| panic!("{e}")).write(Existing::Keep, &()).unwrap();
    let new = checkpoint::alone(&folder.join("model.safetensors"), &Limits::DEFAULT).unwrap();
    let config = fs::read(folder.join("config.json")).unwrap();
    (new, serde_json::from_slice(&config).unwrap())
}

/// Checks every file of a family against the names of `table`; gives the config.json of each.
fn check(family: &str, table: &str, mut shape: impl FnMut(&str, &mut Vec<u64>)) -> Vec<Json> {
    let mut configs = Vec::new();
    for path in files(family) {
        let name = path.display();
        let old = container::open(&path, &OpenOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (new, config) = exported(&old, &folder.path().join("new"));
        let pairs = pairs(table, &old);
        assert_eq!(pairs.len(), old.tensors.len(), "{name}: tensors of the file");
        let written: usize = pairs.iter().map(|(_, parts)| parts.len()).sum();
        assert_eq!(written, new.tensors.len(), "{name}: tensors of the checkpoint");
        for (tensor, parts) in pairs {
            let (mut wanted_shape, wanted) = numbers(&old, &tensor);
            let made: Vec<_> = parts.iter().map(|part| numbers(&new, part)).collect();
            shape(&tensor, &mut wanted_shape);
            let mut whole_shape = made[0].0.clone();
            whole_shape[0] += made[1..].iter().map(|(shape, _)| shape[0]).sum::<u64>();
            assert_eq!(whole_shape, wanted_shape, "{name}: {tensor}");
            let made = made.into_iter().flat_map(|(_, numbers)| numbers);
            for (made, wanted) in made.zip(&wanted) {
                if tensor.ends_with("time_decay") {
                    let apart = f64::from(made).exp() + f64::from(*wanted);
                    assert!(
                        apart.abs() <= 3e-7 * f64::from(wanted.abs()),
                        "{name}: {made} {wanted}"
                    );
                } else {
                    assert_eq!(made.to_bits(), wanted.to_bits(), "{name}: {tensor}");
                }
            }
        }
        configs.push(config);
    }
    configs
}

fn says(configs: &[Json], wanted: &Json) {
    for config in configs {
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&config[field], value, "{field} in {config}");
        }
    }
}

/// What ends in an error leaves no folder behind that it made, and every one that was there.
#[test]
fn a_refused_checkpoint_leaves_no_folder() {
    let path = &files("rwkv")[0];
    let mut bytes = fs::read(path).unwrap();
    let model = container::open(path, &OpenOptions::default()).unwrap();
    let at = model.tensor("blocks.1.ln1.weight").unwrap().pieces[0].at as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nan.bin");
    fs::write(&file, bytes).unwrap();
    let (new, there) = (folder.path().join("new"), folder.path().join("there"));
    fs::create_dir(&there).unwrap();
    for folder in [new.join("within"), there.clone()] {
        let model = container::open(&file, &OpenOptions::default()).unwrap();
        let export = export::plan(model, folder, "f32", &Stated::default()).unwrap();
        let error = export.write(Existing::Keep, &()).unwrap_err().to_string();
        assert!(error.contains("blocks.1.ln1.weight"), "{error}");
    }
    assert!(!new.exists() && there.read_dir().unwrap().next().is_none());
}

#[test]
fn an_adapter_is_no_model() {
    for path in files("ggla/2023-04-17_meta-names") {
        let adapter = container::open(&path, &OpenOptions::default()).unwrap();
        let error = export::plan(adapter, "new".into(), "f32", &Stated::default()).unwrap_err();
        assert!(error.to_string().contains("holds a LoRA adapter"), "{error}");
    }
}

#[test]
fn rwkv_is_that_of_transformers() {
    // What is mixed in has two more dimensions there, of one each.
    let configs = check("rwkv", RWKV, |name, shape| {
        if name.contains("time_mix") {
            *shape = vec![1, 1, shape[0]];
        }
    });
    let wanted = json!({
        "architectures": ["RwkvForCausalLM"], "model_type": "rwkv", "vocab_size": 512, "hidden_size": 64,
        "attention_hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-5,
        "context_length": 1024, "tie_word_embeddings": false
    });
    says(&configs, &wanted);
}

/// A file without a vocabulary gets the tokenizer's files of the one that a person names.
#[test]
fn a_vocabulary_that_is_given_is_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let vocab = Some(root.join("golden/tokenizers/llama-512.json"));
    let old = container::open(&files("rwkv")[0], &OpenOptions::default()).unwrap();
    let names = |stated: &Stated| {
        let export = export::plan(old.clone(), "new".into(), "f32", stated).unwrap();
        export.files.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    };
    assert_eq!(names(&Stated::default()), ["config.json"]);
    let given = names(&Stated { vocab, ..Stated::default() });
    assert_eq!(given, ["config.json", "tokenizer_config.json", "tokenizer.model"]);
}

#[test]
fn whisper_is_that_of_transformers() {
    let configs = check("whisper", WHISPER, |name, shape| {
        if name.contains("conv") && name.ends_with("bias") {
            shape.pop();
        }
    });
    let wanted = json!({
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "vocab_size": 512,
        "d_model": 32, "num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 64,
        "encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 128, "decoder_layers": 2,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 128, "tie_word_embeddings": true
    });
    says(&configs, &wanted);
}

#[test]
fn bert_is_that_of_transformers() {
    let configs = check("bert", BERT, |_, _| ());
    let wanted = json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 384, "hidden_size": 64,
        "max_position_embeddings": 128, "intermediate_size": 256, "num_attention_heads": 4,
        "num_hidden_layers": 2, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        "pad_token_id": 0
    });
    says(&configs, &wanted);
}

/// The vocabulary of a BERT comes out as vocab.txt, and is taken from there and from a tokenizer.json: the GGUF is the
/// same, and a token that is another one is told.
#[test]
fn words_of_bert_are_written_and_read() {
    let path = &files("bert")[0];
    let old = container::open(path, &OpenOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    exported(&old, folder.path());
    let text = fs::read(folder.path().join("vocab.txt")).unwrap();
    let lines: Vec<&[u8]> = text.strip_suffix(b"\n").unwrap().split(|b| *b == b'\n').collect();
    assert!(old.records.tokens.iter().eq(lines.iter().copied()), "vocab.txt");
    let upgraded = |vocab: Option<PathBuf>| {
        let stated = Stated { vocab, ..Stated::default() };
        let options = upgrade::Options { stated, ..upgrade::Options::default() };
        let plan = upgrade::plan(old.clone(), &options).unwrap_or_else(|e| panic!("{e}")).1;
        let differ =
            plan.notes.iter().find(|note| note.contains("in the given vocabulary")).cloned();
        (plan.metadata, differ)
    };
    let (wanted, _) = upgraded(None);
    assert_eq!(upgraded(Some(folder.path().join("vocab.txt"))), (wanted.clone(), None));
    let text = |line: &[u8]| String::from_utf8(line.to_vec()).unwrap();
    let ids = (0u32..).zip(&lines).map(|(id, line)| (text(line), json!(id)));
    let ids: serde_json::Map<String, Json> = ids.collect();
    let special = |name: &str| json!({"id": ids[name], "content": name, "special": true});
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(special);
    let mut tokenizer = json!({
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": ids}
    });
    let file = folder.path().join("tokenizer.json");
    fs::write(&file, tokenizer.to_string()).unwrap();
    assert_eq!(upgraded(Some(file.clone())), (wanted, None));
    let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let last = words.remove(&text(lines[lines.len() - 1])).unwrap();
    words.insert("##another".to_owned(), last);
    fs::write(&file, tokenizer.to_string()).unwrap();
    let told = upgraded(Some(file)).1.unwrap();
    assert!(
        told.starts_with("1 tokens have another text in the given vocabulary")
            && told.contains("##another"),
        "{told}"
    );
}

/// The checkpoint of `old`, its weights as `dtype`, read again.
fn again(old: &Model, folder: &Path, dtype: &str) -> Model {
    let export = export::plan(old.clone(), folder.to_owned(), dtype, &Stated::default()).unwrap();
    export.write(Existing::Keep, &()).unwrap();
    let open = checkpoint::open(folder, &checkpoint::Options::default());
    open.unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

/// The file that `convert` makes of a model, its matrices as `dtype`.
fn converted(model: Model, folder: &Path, dtype: &str) -> Model {
    let output = Some(folder.join("converted"));
    let options = convert::Options { types: vec![dtype.to_owned()], output, ..Default::default() };
    let (model, plans) = convert::plan(model, &options).unwrap_or_else(|e| panic!("{e}"));
    change::carry(&model, &plans, Existing::Replace, &()).unwrap();
    container::open(&plans[0].output, &OpenOptions::default()).unwrap()
}

/// There and back: of the floats the file of today's rwkv.cpp, of others the same numbers.
#[test]
fn rwkv_comes_back_as_the_present_file() {
    for path in files("rwkv") {
        let name = path.display().to_string();
        let old = container::open(&path, &OpenOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let dtype = if name.contains("f16") { "auto" } else { "f32" };
        let model = again(&old, folder.path(), dtype);
        assert_eq!((model.family.as_str(), model.tensors.len()), ("rwkv4", old.tensors.len()));
        let types = if name.contains("f16") { "f16" } else { "f32" };
        let new = converted(model, folder.path(), types);
        assert_eq!(new.format, "rwkv-v101", "{name}");
        for tensor in &old.tensors {
            let name = format!("{name}: {}", tensor.name);
            let ((shape, made), (same, wanted)) =
                (numbers(&new, &tensor.name), numbers(&old, &tensor.name));
            assert_eq!(shape, same, "{name}");
            for (made, wanted) in made.iter().zip(wanted) {
                // What the program took the exponential of is not told to the last bit by what it got.
                let most = u32::from(tensor.name.ends_with("time_decay"));
                assert!(made.to_bits().abs_diff(wanted.to_bits()) <= most, "{name}");
            }
        }
        if name.contains("f16") {
            let mut wanted = fs::read(&path).unwrap();
            wanted[4..8].copy_from_slice(&101u32.to_le_bytes());
            let made = fs::read(new.files[0].path()).unwrap();
            for tensor in old.tensors.iter().filter(|t| t.name.ends_with("time_decay")) {
                let at = tensor.pieces[0].at as usize;
                let data = at..at + tensor.bytes() as usize;
                wanted[data.clone()].copy_from_slice(&made[data]);
            }
            assert!(made == wanted, "{name}");
        }
    }
}

/// There and back: the header, the filters, which no checkpoint has, the texts and all numbers.
#[test]
fn whisper_comes_back_as_the_present_file() {
    for path in files("whisper") {
        let name = path.display();
        let old = container::open(&path, &OpenOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let new = converted(again(&old, folder.path(), "f32"), folder.path(), "f32");
        assert_eq!(new.format, "whisper", "{name}");
        let words = |model: &Model| {
            let own =
                |(word, _): &&(String, i64)| !matches!(word.as_str(), "ftype" | "quant_version");
            model.header.iter().filter(own).cloned().collect::<Vec<_>>()
        };
        assert_eq!(words(&new), words(&old), "{name}");
        assert_eq!(new.records.tokens, old.records.tokens, "{name}");
        assert_eq!(new.records.len(), 448, "{name}");
        let filters = |model: &Model| format!("{:?}", model.metadata.get("filters").unwrap());
        assert!(filters(&new) == filters(&old), "{name}");
        let order =
            |model: &Model| model.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(order(&new), order(&old), "{name}");
        for tensor in &old.tensors {
            assert!(numbers(&new, &tensor.name) == numbers(&old, &tensor.name), "{name}");
        }
    }
}

/// There and back, by either class and its old names: the GGUF that llama.cpp's converter makes of the checkpoint.
#[test]
fn bert_comes_back_as_the_gguf_of_todays_converter() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families/encoders/bert.gguf");
    let wanted = container::open(&golden, &OpenOptions::default()).unwrap();
    let old = &files("bert")[0];
    let old = container::open(old, &OpenOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plain = again(&old, folder.path(), "auto");
    let check = |model: Model| {
        let new = converted(model, folder.path(), "f16");
        assert_eq!(new.tensors.len(), wanted.tensors.len());
        for tensor in &wanted.tensors {
            let name = &tensor.name;
            assert_eq!(new.tensor(name).unwrap().quant, tensor.quant, "{name}");
            assert!(numbers(&new, name) == numbers(&wanted, name), "{name}");
        }
        // The name is the folder's; how two texts are put together nobody asks.
        let apart = ["general.name", "general.size_label", "tokenizer.ggml.add_sep_token"];
        for (key, value) in wanted.metadata.iter().filter(|(key, _)| !apart.contains(key)) {
            assert_eq!(new.metadata.get(key), Some(value), "{key}");
        }
        let more = new.metadata.iter().filter(|(key, _)| wanted.metadata.get(key).is_none());
        let more: Vec<&str> = more.map(|(key, _)| key).collect();
        assert!(more.iter().all(|key| key.starts_with("general.")), "{more:?}");
    };
    check(plain);
    let file = folder.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Json> = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let data = &bytes[8 + len..];
    let spelled = |name: &str| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        format!("bert.{}", name.replace("LayerNorm.bias", "LayerNorm.beta"))
    };
    let named = header.into_iter().map(|(name, entry)| match name.as_str() {
        "__metadata__" => (name, entry),
        name => (spelled(name), entry),
    });
    let mut named: serde_json::Map<String, Json> = named.collect();
    let end = data.len();
    named.insert(
        "cls.predictions.bias".to_owned(),
        json!({"dtype": "F16", "shape": [384], "data_offsets": [end, end + 768]}),
    );
    let named = serde_json::to_vec(&named).unwrap();
    let bytes = [&(named.len() as u64).to_le_bytes()[..], &named, data, &[0; 768]].concat();
    fs::write(&file, bytes).unwrap();
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("BertModel", "BertForMaskedLM");
    fs::write(&config, text).unwrap();
    check(checkpoint::open(folder.path(), &checkpoint::Options::default()).unwrap());
    // How vectors become one is in a file of its own, and may be a way that GGUF has not.
    let pooling = folder.path().join("1_Pooling/config.json");
    for (way, number) in [("cls_token", Some(2)), ("max_tokens", None)] {
        fs::write(&pooling, json!({format!("pooling_mode_{way}"): true}).to_string()).unwrap();
        let read = checkpoint::open(folder.path(), &checkpoint::Options::default());
        match (read, number) {
            (Ok(model), Some(_)) => assert_eq!(model.metadata.u64("bert.pooling_type"), number),
            (Err(error), None) => assert!(error.to_string().contains("pooling"), "{error}"),
            (read, _) => panic!("{way}: {read:?}"),
        }
    }
}

/// There and back: read again, the checkpoint has queries, keys and values apart, which are those that the file has in
/// one, number by number, and so it goes back into the file's own container.
#[test]
fn chatglm_comes_back_as_gguf() {
    for path in files("chatglm") {
        let name = path.display();
        let old = container::open(&path, &OpenOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        exported(&old, folder.path());
        let open = || checkpoint::open(folder.path(), &checkpoint::Options::default());
        let model = open().unwrap_or_else(|e| panic!("{name}: {e}"));
        let (old, plan) = upgrade::plan(old, &upgrade::Options::default()).unwrap();
        let mut seen = 0;
        for step in &plan.steps {
            let source = &old.tensors[step.source].name;
            let parts: Vec<String> = match step.name.contains("attn_qkv") {
                true => ["q", "k", "v"].map(|n| step.name.replace("qkv", n)).into(),
                false => vec![step.name.clone()],
            };
            seen += parts.len();
            let made = parts.iter().flat_map(|part| numbers(&model, part).1);
            assert!(made.eq(numbers(&old, source).1), "{name}: {}", step.name);
        }
        assert_eq!(model.tensors.len(), seen, "{name}");
        let own = |key: &str| key.starts_with("chatglm.");
        let of_model: Vec<_> = plan.metadata.iter().filter(|(key, _)| own(key)).collect();
        assert!(of_model.len() > 5, "{name}");
        for (key, value) in of_model {
            assert_eq!(model.metadata.get(key), Some(value), "{name}: {key}");
        }
        assert_eq!(model.vocab.tokens, old.vocab.tokens, "{name}");
        // As GGUF it is run, and becomes a checkpoint again.
        let apart = converted(model.clone(), folder.path(), "f32");
        assert!(apart.tensor("blk.1.attn_k.bias").is_some() && apart.family.starts_with("chatglm"));
        let ids: Vec<u32> = (5..25).collect();
        let logits = |model: &Model| {
            let weights = Weights::new(model).unwrap_or_else(|e| panic!("{name}: {e}"));
            let mut out = Vec::new();
            let take = |_, logits: &[f32]| out.extend_from_slice(logits);
            Session::new(&weights, ids.len()).read(&ids, Want::All, take).unwrap();
            out
        };
        let (one, two) = (logits(&apart), logits(&old));
        let most = two.iter().fold(0f32, |most, n| most.max(n.abs()));
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * most;
        assert!(one.len() == two.len() && one.iter().zip(&two).all(near), "{name}");
        let second = tempfile::tempdir().unwrap();
        let (whole, config) = exported(&apart, &second.path().join("new"));
        let first = checkpoint::alone(&folder.path().join("model.safetensors"), &Limits::DEFAULT);
        let first = first.unwrap();
        assert_eq!(config["architectures"], json!(["GlmForCausalLM"]), "{name}");
        assert_eq!(whole.tensors.len(), first.tensors.len(), "{name}");
        for tensor in &first.tensors {
            assert!(numbers(&whole, &tensor.name) == numbers(&first, &tensor.name), "{name}");
        }
        let file = folder.path().join("model.safetensors");
        let whole = fs::read(&file).unwrap();
        for tensor in ["layers.1.self_attn.k_proj.bias", "layers.0.self_attn.v_proj.weight"] {
            let bytes = String::from_utf8_lossy(&whole[8..]).into_owned();
            let at = 8 + bytes.find(tensor).unwrap() + tensor.len() - 1;
            let mut broken = whole.clone();
            broken[at] = b'_';
            fs::write(&file, broken).unwrap();
            let error = open().unwrap_err().to_string();
            assert!(error.contains(&tensor[..tensor.len() - 1]), "{name}: {error}");
        }
    }
}

#[test]
fn chatglm_is_glm_of_transformers() {
    let configs = check("chatglm", GLM, |_, _| ());
    let wanted = json!({
        "architectures": ["GlmForCausalLM"], "model_type": "glm", "hidden_size": 64, "num_hidden_layers": 2,
        "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "attention_bias": true,
        "tie_word_embeddings": false
    });
    says(&configs, &wanted);
}
