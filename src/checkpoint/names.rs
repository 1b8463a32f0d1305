//! LLaMA's tensors: what Meta, Hugging Face and GGUF call each, and its shape.

/// Who named the tensors of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Meta's own release.
    Meta,
    /// Hugging Face transformers.
    HuggingFace,
}

/// Length of a dimension, by the hyperparameter that decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Tokens.
    Vocab,
    /// The residual stream.
    Width,
    /// All query heads.
    Heads,
    /// All key or value heads.
    KvHeads,
    /// The feed-forward layer.
    FeedForward,
}

struct Names {
    meta: &'static str,
    hugging_face: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
}

const fn names(
    meta: &'static str,
    hugging_face: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
) -> Names {
    Names { meta, hugging_face, gguf, shape }
}

use Dim::{FeedForward, Heads, KvHeads, Vocab, Width};

/// Tensors that a model has once, in the order in which llama.cpp's first converters wrote them.
const ONCE: [Names; 3] = [
    names(
        "tok_embeddings.weight",
        "model.embed_tokens.weight",
        "token_embd.weight",
        &[Vocab, Width],
    ),
    names("norm.weight", "model.norm.weight", "output_norm.weight", &[Width]),
    names("output.weight", "lm_head.weight", "output.weight", &[Vocab, Width]),
];

/// Tensors of each layer, in the same order.
const EACH: [Names; 9] = [
    names("attention.wq.weight", "self_attn.q_proj.weight", "attn_q.weight", &[Heads, Width]),
    names("attention.wk.weight", "self_attn.k_proj.weight", "attn_k.weight", &[KvHeads, Width]),
    names("attention.wv.weight", "self_attn.v_proj.weight", "attn_v.weight", &[KvHeads, Width]),
    names("attention.wo.weight", "self_attn.o_proj.weight", "attn_output.weight", &[Width, Heads]),
    names(
        "feed_forward.w1.weight",
        "mlp.gate_proj.weight",
        "ffn_gate.weight",
        &[FeedForward, Width],
    ),
    names(
        "feed_forward.w2.weight",
        "mlp.down_proj.weight",
        "ffn_down.weight",
        &[Width, FeedForward],
    ),
    names("feed_forward.w3.weight", "mlp.up_proj.weight", "ffn_up.weight", &[FeedForward, Width]),
    names("attention_norm.weight", "input_layernorm.weight", "attn_norm.weight", &[Width]),
    names("ffn_norm.weight", "post_attention_layernorm.weight", "ffn_norm.weight", &[Width]),
];

/// What a tensor is for. Ordered as the tensors of a GGUF file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Role {
    /// Its layer, counted from 1; 0 for tensors outside the layers.
    layer: u32,
    index: usize,
}

impl Role {
    /// The role of the tensor with this name.
    pub fn find(naming: Naming, name: &str) -> Option<Role> {
        let at = |table: &[Names], name: &str| table.iter().position(|n| n.named(naming) == name);
        if let Some(index) = at(&ONCE, name) {
            return Some(Role { layer: 0, index });
        }
        let rest = match naming {
            Naming::Meta => name.strip_prefix("layers.")?,
            Naming::HuggingFace => name.strip_prefix("model.layers.")?,
        };
        let (number, rest) = rest.split_once('.')?;
        let layer: u32 = number.parse().ok().filter(|n| *n < u32::MAX)?;
        let index = at(&EACH, rest)?;
        (layer.to_string() == number).then_some(Role { layer: layer + 1, index })
    }

    /// The role of the tensor that GGUF gives this name.
    pub fn of_gguf(name: &str) -> Option<Role> {
        let at = |table: &[Names], name: &str| table.iter().position(|n| n.gguf == name);
        if let Some(index) = at(&ONCE, name) {
            return Some(Role { layer: 0, index });
        }
        let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let layer: u32 = number.parse().ok().filter(|n| *n < u32::MAX)?;
        Some(Role { layer: layer + 1, index: at(&EACH, rest)? })
    }

    /// Every role of a model with this many layers.
    pub fn all(layers: u32) -> impl Iterator<Item = Role> {
        let once = (0..ONCE.len()).map(|index| Role { layer: 0, index });
        let each =
            (1..=layers).flat_map(|layer| (0..EACH.len()).map(move |index| Role { layer, index }));
        once.chain(each)
    }

    #[expect(clippy::indexing_slicing, reason = "the index comes from a search in the same table")]
    fn names(self) -> &'static Names {
        if self.layer == 0 { &ONCE[self.index] } else { &EACH[self.index] }
    }

    /// Its name in GGUF.
    pub fn gguf(self) -> String {
        match self.layer.checked_sub(1) {
            None => self.names().gguf.to_owned(),
            Some(layer) => format!("blk.{layer}.{}", self.names().gguf),
        }
    }

    /// Its name in a checkpoint.
    pub fn name(self, naming: Naming) -> String {
        match (self.layer.checked_sub(1), naming) {
            (None, _) => self.names().named(naming).to_owned(),
            (Some(layer), Naming::Meta) => format!("layers.{layer}.{}", self.names().meta),
            (Some(layer), Naming::HuggingFace) => {
                format!("model.layers.{layer}.{}", self.names().hugging_face)
            }
        }
    }

    /// Its shape, outermost dimension first.
    pub fn shape(self) -> &'static [Dim] {
        self.names().shape
    }

    /// Its layer, for tensors that stand in one.
    pub fn layer(self) -> Option<u32> {
        self.layer.checked_sub(1)
    }

    /// Whether it is the output matrix, which a model may share with the token embedding.
    pub fn is_output(self) -> bool {
        self.names().gguf == "output.weight"
    }

    /// Which heads' rows rotary embeddings turn, so that their order differs between Meta and
    /// Hugging Face: those of the queries or of the keys.
    pub fn rotated(self) -> Option<Dim> {
        match self.names().gguf {
            "attn_q.weight" => Some(Heads),
            "attn_k.weight" => Some(KvHeads),
            _ => None,
        }
    }
}

impl Names {
    fn named(&self, naming: Naming) -> &'static str {
        match naming {
            Naming::Meta => self.meta,
            Naming::HuggingFace => self.hugging_face,
        }
    }
}

/// Whether a tensor holds rotary frequencies, which readers compute themselves, or another constant
/// that no reader wants.
pub fn is_constant(name: &str) -> bool {
    name.ends_with("rope.freqs")
        || name.ends_with("rotary_emb.inv_freq")
        || name.ends_with(".attention.masked_bias")
        || name.ends_with(".attention.bias")
}
