//! A small model of a family that is described here: its description, its weights and its bytes.

use regguf::format::family::{self, Family};

/// What the family computes.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    pub norm: &'static str,
    pub residual: &'static str,
    pub joined: bool,
    pub position: &'static str,
    pub gated: bool,
    pub activation: &'static str,
    pub bias: bool,
    pub grouped: bool,
    pub tied: bool,
}

impl Default for Choices {
    fn default() -> Choices {
        Choices {
            norm: "rms",
            residual: "sequential",
            joined: false,
            position: "neighbours",
            gated: true,
            activation: "silu",
            bias: false,
            grouped: false,
            tied: false,
        }
    }
}

impl Choices {
    pub fn kv_heads(&self) -> usize {
        if self.grouped { 2 } else { HEADS }
    }

    /// Whether both parts of a layer see the same stream.
    pub fn parallel(&self) -> bool {
        !["sequential", "if_false"].contains(&self.residual)
    }
}

pub const WIDTH: usize = 24;
/// Not a power of two: the slopes of ALiBi are those of eight heads in part.
pub const HEADS: usize = 6;
pub const HEAD: usize = WIDTH / HEADS;
/// Rotated numbers of a head: not all.
pub const DIMS: usize = 2;
pub const BETWEEN: usize = 20;
pub const VOCAB: usize = 19;
pub const LAYERS: usize = 2;
pub const CONTEXT: usize = 16;
pub const EPSILON: f32 = 1e-3;
pub const BASE: f32 = 50.0;
pub const ALIBI: f32 = 4.0;
pub const CLAMP: f32 = 0.9;

/// A model.
pub struct Made {
    pub choices: Choices,
    /// Name, shape with the outermost dimension first, numbers.
    pub tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Made {
    pub fn new(choices: Choices) -> Made {
        let mut made = Made { choices, tensors: Vec::new() };
        let (q, kv) = (HEADS * HEAD, choices.kv_heads() * HEAD);
        made.add("embed", &[VOCAB, WIDTH]);
        if choices.position == "learned" {
            made.add("places", &[CONTEXT, WIDTH]);
        }
        made.add("embed_norm", &[WIDTH]);
        made.add("last_norm", &[WIDTH]);
        if !choices.tied {
            made.add("head", &[VOCAB, WIDTH]);
        }
        for n in 0..LAYERS {
            let mut add = |name: &str, shape: &[usize]| made.add(&format!("l{n}.{name}"), shape);
            add("norm", &[WIDTH]);
            if choices.residual != "parallel" {
                add("other_norm", &[WIDTH]);
            }
            if choices.joined {
                add("qkv", &[q + 2 * kv, WIDTH]);
            } else {
                add("q", &[q, WIDTH]);
                add("k", &[kv, WIDTH]);
                add("v", &[kv, WIDTH]);
            }
            add("back", &[WIDTH, q]);
            if choices.gated {
                add("gate", &[BETWEEN, WIDTH]);
            }
            add("up", &[BETWEEN, WIDTH]);
            add("down", &[WIDTH, BETWEEN]);
        }
        made
    }

    /// A tensor of numbers that its name decides, and its bias.
    fn add(&mut self, name: &str, shape: &[usize]) {
        let around = if shape.len() == 1 { 1.0 } else { 0.0 };
        let count = shape.iter().product();
        let weight = numbers(&format!("{name}.weight"), count, around);
        self.tensors.push((format!("{name}.weight"), shape.to_vec(), weight));
        if self.choices.bias && !["embed", "places"].contains(&name) {
            let bias = numbers(&format!("{name}.bias"), shape[0], 0.0);
            self.tensors.push((format!("{name}.bias"), vec![shape[0]], bias));
        }
    }

    /// The numbers of a tensor; none where the model lacks it.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.tensors.iter().find(|(found, ..)| found == name).map(|(_, _, numbers)| &numbers[..])
    }

    /// The description: all that the project is told of the family.
    pub fn description(&self) -> String {
        let Choices { norm, residual, joined, position, gated, activation, .. } = self.choices;
        let residual = match residual {
            "sequential" => "\"sequential\"",
            "if_true" | "if_false" => "{ parallel_if = \"side_by_side\" }",
            _ => "\"parallel\"",
        };
        let position = match position {
            "learned" => "\"learned\"".to_owned(),
            "alibi" => format!("{{ alibi = {{ most = {ALIBI:.1} }} }}"),
            pairs => format!("{{ rotary = \"{pairs}\" }}"),
        };
        let qkv = if joined { "joined" } else { "separate" };
        let kind = if gated { "gated" } else { "plain" };
        let mut text = format!(
            "[family]\nname = \"new\"\ntitle = \"New\"\ngguf = \"new\"\n\n[sizes]\n\
             n_embd = {{ key = \"embedding_length\" }}\n\n[arithmetic]\nnorm = \"{norm}\"\n\
             residual = {residual}\nattention = {{ qkv = \"{qkv}\", clamp = \"bound\" }}\n\
             position = {position}\nmlp = {{ kind = \"{kind}\", activation = \"{activation}\" }}\n\n[roles]\n"
        );
        let roles = [
            ("token_embedding", "embed"),
            ("position_embedding", "places"),
            ("embedding_norm", "embed_norm"),
            ("final_norm", "last_norm"),
            ("output", "head"),
            ("attention_norm", "l{n}.norm"),
            ("ffn_norm", "l{n}.other_norm"),
            ("query_key_value", "l{n}.qkv"),
            ("query", "l{n}.q"),
            ("key", "l{n}.k"),
            ("value", "l{n}.v"),
            ("attention_out", "l{n}.back"),
            ("gate", "l{n}.gate"),
            ("up", "l{n}.up"),
            ("down", "l{n}.down"),
        ];
        for (role, name) in roles {
            let there = self.get(&format!("{}.weight", name.replace("{n}", "0"))).is_some();
            if there {
                text += &format!(
                    "{role} = {{ old = \"{name}.weight\", gguf = \"{name}.weight\", hf = \"{name}.weight\", \
                     shape = [], bias = \"optional\" }}\n"
                );
            }
        }
        text
    }

    pub fn family(&self) -> &'static Family {
        Box::leak(Box::new(family::parse("new", &self.description()).unwrap()))
    }

    /// The bytes of a GGUF file, version 3.
    pub fn gguf(&self) -> Vec<u8> {
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let mut keys: Vec<(&str, u32, Vec<u8>)> = Vec::new();
        let mut name = Vec::new();
        text(&mut name, "new");
        keys.push(("general.architecture", 8, name));
        let sizes = [
            ("new.embedding_length", WIDTH),
            ("new.attention.head_count", HEADS),
            ("new.attention.head_count_kv", self.choices.kv_heads()),
            ("new.block_count", LAYERS),
            ("new.context_length", CONTEXT),
            ("new.rope.dimension_count", DIMS),
        ];
        keys.extend(sizes.map(|(key, size)| (key, 4, (size as u32).to_le_bytes().to_vec())));
        let floats = [
            ("new.attention.layer_norm_epsilon", EPSILON),
            ("new.attention.layer_norm_rms_epsilon", EPSILON),
            ("new.rope.freq_base", BASE),
            ("new.bound", CLAMP),
        ];
        keys.extend(floats.map(|(key, value)| (key, 6, value.to_le_bytes().to_vec())));
        keys.push(("new.side_by_side", 7, vec![u8::from(self.choices.residual == "if_true")]));

        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((keys.len() as u64).to_le_bytes());
        for (key, kind, value) in keys {
            text(&mut out, key);
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut at = 0u64;
        for (name, shape, numbers) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            for size in shape.iter().rev() {
                out.extend((*size as u64).to_le_bytes());
            }
            out.extend(0u32.to_le_bytes());
            out.extend(at.to_le_bytes());
            at = (at + numbers.len() as u64 * 4).next_multiple_of(32);
        }
        for (_, _, numbers) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(numbers.iter().flat_map(|v| v.to_le_bytes()));
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out
    }
}

/// Numbers within a half of `around`, from a generator that the name seeds (splitmix64).
fn numbers(name: &str, count: usize, around: f32) -> Vec<f32> {
    let seed = name.bytes().fold(7u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
    let number = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        around + (z >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count as u64).map(number).collect()
}
