//! What the name of a tensor says to the rules: what it does, where it comes, whether it is quantized at all.
//!
//! llama-quantize looks at nothing else of a tensor but its name, shape and type: `blk.3.ffn_down.weight` is the
//! fourth block's, and gets what that role gets. Names are GGUF's.
//!
//! What is kept is of two kinds: vectors in the shape of matrices (norms, first states, interpolations of RWKV), which
//! are small and multiply everything; and matrices whose small errors decide something large (routers of experts,
//! convolutions over a few positions, parts of encoders of images and sounds).
//!
//! Source: llama.cpp, `llama-quant.cpp`: `tensor_allows_quantization`.

use std::cmp::Ordering;

/// The role of a tensor, by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Embedding,
    Query,
    Key,
    /// The values, also where they are stored together with queries and keys or compressed.
    Value,
    AttentionOut,
    Up,
    Gate,
    Down,
    Output,
    Other,
}

/// What a tensor does. The first that fits counts: `attn_qkv` holds values too and gets their type.
pub(super) fn role(name: &str) -> Role {
    let has = |part: &str| name.contains(part);
    match name {
        "output.weight" => Role::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
        _ if has("attn_qkv.weight") || has("attn_kv_b.weight") || has("attn_v.weight") => {
            Role::Value
        }
        _ if has("attn_k.weight") => Role::Key,
        _ if has("attn_q.weight") => Role::Query,
        _ if has("attn_output.weight") => Role::AttentionOut,
        _ if has("ffn_up") => Role::Up,
        _ if has("ffn_gate") => Role::Gate,
        _ if has("ffn_down") => Role::Down,
        _ => Role::Other,
    }
}

/// The order in which llama-quantize visits tensors: those outside blocks by name, then block by
/// block, each by name (llama.cpp `weight_name_comparer`).
///
/// ```text
/// output.weight  output_norm.weight  token_embd.weight  blk.0.attn_k.weight  blk.0.attn_norm.weight  …  blk.10.…
/// ```
pub fn file_order(a: &str, b: &str) -> Ordering {
    block_of(a).cmp(&block_of(b)).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// The block number of `blk.N.…`; none for tensors outside blocks.
pub fn block_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("blk.")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..digits)?.parse().ok()
}

/// Whether a tensor of this name stays as it is in every mixture.
pub(super) fn is_kept(name: &str, architecture: &str) -> bool {
    let has = |part: &&str| name.contains(*part);
    matches!(name, "position_embd.weight" | "token_types.weight")
        || KEPT.iter().any(has)
        || architecture == "glm5-next" && KEPT_GLM5.iter().any(has)
}

/// Parts of names of tensors that are too small or too delicate to be quantized.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same for the architecture `glm5-next` alone.
const KEPT_GLM5: &[&str] = &[
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];
