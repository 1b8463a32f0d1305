//! Checkpoints whose matrices somebody quantized for another program: which scheme it is.
//!
//! `quantization_config` in config.json names it; where there is none, the tensors do.
//!
//! | scheme | a matrix is |
//! |---|---|
//! | GPTQ | `qweight` i32, `qzeros` i32, `scales`, often `g_idx` |
//! | AWQ | `qweight` i32 with as many rows as the matrix has columns, `qzeros`, `scales` |
//! | bitsandbytes | `weight` u8 with `weight.absmax`, `weight.quant_map`; or i8 with `SCB` |
//! | FP8 | `weight` in float8 with `weight_scale_inv` or `weight_scale` |
//! | compressed-tensors | `weight_packed` i32, or `weight` i8, with `weight_scale`, `weight_zero_point` |
//! | NVFP4, MXFP4 | `weight_packed` or `weight` u8, `weight_scale` of a byte each 16 or 32 |
//! | MXFP4 of gpt-oss | `NAME_blocks` u8 of 16 bytes each 32, `NAME_scales` u8 |
//! | MLX | `weight` u32, `scales`, `biases` |

use std::{fmt, path::Path};

use serde_json::Value as Json;

use super::{
    Stored,
    assemble::Draft,
    beside,
    family::{architecture, family_of},
    json, packed,
};
use crate::{
    error::{Error, Result},
    format::family::Family,
    remedy::Setting,
};

/// How a checkpoint is quantized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheme {
    /// Its name, as people know it.
    pub name: String,
    /// Bits of a weight, where known.
    pub bits: Option<u64>,
    /// Weights that share a scale, where known: how many, or which.
    pub groups: Option<String>,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(bits) = self.bits {
            write!(f, ", {bits} bits")?;
        }
        self.groups.as_ref().map_or(Ok(()), |groups| write!(f, ", {groups}"))
    }
}

impl Scheme {
    /// The refusal of a checkpoint of this scheme.
    pub fn refused(&self, file: &str) -> Error {
        let next = "convert the checkpoint that it was made from, and quantize that";
        let next = Setting::Type.to(next);
        Error::unsupported(format!("{file}: not yet: weights quantized by {self}"), next)
    }
}

/// The scheme of a checkpoint whose config.json lies in `folder`; none where its weights are floats.
///
/// # Errors
/// Where config.json is no JSON.
pub fn scheme<'a>(
    folder: &Path,
    tensors: &(impl Iterator<Item = &'a Stored> + Clone),
) -> Result<Option<Scheme>> {
    let by_tensors = of_tensors(tensors);
    let stated = stated(folder)?;
    // Settings may speak of what was done on the way; what is stored counts.
    Ok(by_tensors.map(|found| match &stated {
        Some(stated) => found.with(stated),
        None => found,
    }))
}

/// What the small files say of quantization: config.json, or a file of the quantizer's own.
fn stated(folder: &Path) -> Result<Option<Json>> {
    let config = json::read(&folder.join("config.json"))?;
    let of_config = config.and_then(|config| {
        let keys = ["quantization_config", "compression_config", "quantization"];
        keys.iter().find_map(|key| config.get(key)).cloned()
    });
    match of_config {
        Some(stated) => Ok(Some(stated)),
        None => json::read(&folder.join("quantize_config.json")),
    }
}

/// What `quant_method` says where matrices are decoded.
const METHODS: [&str; 8] =
    ["fp8", "fbgemm_fp8", "compressed-tensors", "gptq", "awq", "bitsandbytes", "modelopt", "mxfp4"];

/// Decodes what `scheme` quantized, where it is one that is read and the architecture too; with `blocks` NVFP4 becomes
/// GGUF's blocks of it.
///
/// # Errors
/// The refusal of the scheme; where parts are missing or do not fit.
pub fn decode(
    draft: &mut Draft,
    shards: &mut [Vec<Stored>],
    scheme: &Scheme,
    blocks: bool,
) -> Result<()> {
    let refused = scheme.refused(&draft.name());
    let config = json::read(&draft.folder.join("config.json"))?.unwrap_or_default();
    let stated = stated(&draft.folder)?;
    let said = |key: &str| stated.as_ref()?.get(key).filter(|value| !value.is_null());
    let method = said("quant_method").and_then(Json::as_str);
    let known = method.is_none_or(|method| METHODS.contains(&method));
    // Weights that were turned before they were quantized would have to be turned back.
    let turned = said("transform_config").and_then(Json::as_object);
    // Weights that are left out where they are zero have parts of their own.
    let sparse = said("sparsity_config").and_then(|s| s.get("format")).and_then(Json::as_str);
    let plain = turned.is_none_or(serde_json::Map::is_empty)
        && sparse.is_none_or(|format| format == "dense");
    // A matrix that transformers has the other way round may have been turned, or not, when it was packed.
    let upright = |family: &Family| !family.roles.values().any(|role| role.transposed);
    let family = architecture(&config).and_then(family_of).filter(|family| upright(family));
    let Some(family) = family.filter(|_| known && plain) else { return Err(refused) };
    let stays = |name: &str| blocks && beside::fits(family, name);
    let matrices = packed::decode(draft, shards, stated.as_ref(), &stays)?;
    // What still looks packed afterwards was packed in a way that is not read: then all of it is refused.
    if matrices == 0 || of_tensors(&shards.iter().flatten()).is_some() {
        return Err(refused);
    }
    let all = shards.iter().flatten();
    let in_blocks: Vec<&Stored> = all.filter(|t| t.dtype.is_blocks()).collect();
    if let Some(decoded) = matrices.checked_sub(in_blocks.len() as u64).filter(|n| *n > 0) {
        draft.notes.push(format!("{decoded} matrices quantized by {scheme} are decoded to f32"));
    }
    if let Some(first) = in_blocks.first() {
        let (count, kind) = (in_blocks.len(), first.dtype.name.to_uppercase());
        draft.notes.push(format!(
            "{count} tensors of {scheme} become blocks of GGUF's {kind}, bit for bit"
        ));
    }
    if scheme.name.starts_with("GPTQ") && said("checkpoint_format").is_none() {
        let note = "no checkpoint_format is stated: zero points are one more than stored, as AutoGPTQ has them";
        draft.notes.push(note.to_owned());
    }
    Ok(())
}

impl Scheme {
    /// The same, with what the settings say of it.
    fn with(self, stated: &Json) -> Scheme {
        let text = |key: &str| stated.get(key).and_then(Json::as_str);
        // compressed-tensors states it of groups of modules.
        let group = || stated.get("config_groups")?.as_object()?.values().next()?.get("weights");
        let number = |keys: [&str; 3]| {
            let of_group = || keys.iter().find_map(|key| group()?.get(key)?.as_u64());
            keys.iter().find_map(|key| stated.get(key)?.as_u64()).or_else(of_group)
        };
        let name = match text("quant_method") {
            Some("gptq") => "GPTQ".to_owned(),
            Some("awq") => "AWQ".to_owned(),
            Some("fp8") => "FP8".to_owned(),
            Some("bitsandbytes") => match text("bnb_4bit_quant_type") {
                Some(kind) if self.bits == Some(4) => format!("bitsandbytes {kind}"),
                _ => self.name,
            },
            Some("compressed-tensors") if !self.name.starts_with("compressed") => {
                format!("{} of compressed-tensors", self.name)
            }
            Some(other) if !self.name.to_lowercase().contains(&other.to_lowercase()) => {
                format!("{other} ({})", self.name)
            }
            _ => self.name,
        };
        let groups = number(["group_size", "q_group_size", ""]).filter(|n| *n > 0);
        let groups = groups.map(|n| format!("groups of {n}"));
        let blocks = stated.get("weight_block_size").and_then(Json::as_array).map(|sizes| {
            let sizes: Vec<String> = sizes.iter().map(Json::to_string).collect();
            format!("blocks of {}", sizes.join(" × "))
        });
        let bits = self.bits.or(number(["bits", "w_bit", "num_bits"]));
        Scheme { name, bits, groups: groups.or(blocks).or(self.groups) }
    }
}

/// The scheme that tensors show by their names, types and shapes.
///
/// Of each scheme the part that no other has is looked for first, and bits follow from shapes, for 32-bit words hold
/// `32 / bits` codes:
///
/// ```text
/// matrix [out, in], bits b, group g
/// GPTQ    qweight [in·b/32, out]    scales [in/g, out]    qzeros [in/g, out·b/32]    g_idx [in]
/// AWQ     qweight [in, out·b/32]    scales [in/g, out]    qzeros [in/g, out·b/32]
/// ```
fn of_tensors<'a>(tensors: &(impl Iterator<Item = &'a Stored> + Clone)) -> Option<Scheme> {
    let find = |end: &str| tensors.clone().find(|t| t.name.ends_with(end));
    let beside = |one: &Stored, end: &str, other: &str| {
        let name = format!("{}{other}", one.name.strip_suffix(end)?);
        tensors.clone().find(|t| t.name == name)
    };
    let size = |stored: &Stored, n: usize| stored.shape.get(n).copied().unwrap_or(0);
    let named = |name: &str, bits: Option<u64>, groups: Option<String>| {
        Some(Scheme { name: name.to_owned(), bits, groups })
    };
    if let Some(packed) = find(".qweight") {
        let scales = beside(packed, "qweight", "scales");
        let zeros = beside(packed, "qweight", "qzeros");
        let columns = scales.map_or(0, |s| size(s, s.shape.len().saturating_sub(1)));
        let inputs = beside(packed, "qweight", "g_idx").map(|g| size(g, 0));
        // AWQ packs along a row, GPTQ along a column.
        if columns != size(packed, 1) && columns != 0 && zeros.is_some() {
            let bits = 32 * size(packed, 1) / columns;
            let groups = scales.map(|s| size(packed, 0).div_ceil(size(s, 0).max(1)));
            return named("AWQ", Some(bits), groups.map(|n| format!("groups of {n}")));
        }
        let of_zeros = zeros.filter(|z| z.shape.len() == 2 && z.dtype.name == "i32");
        let bits = match (inputs, of_zeros) {
            (Some(inputs), _) => Some(32 * size(packed, 0) / inputs.max(1)),
            (None, Some(zeros)) => Some(32 * size(zeros, 1) / columns.max(1)),
            // The first files had float zeros, one a row or one a group of it.
            _ => Some(4),
        };
        // A row of words has 32 / bits columns of the matrix.
        let inputs = bits.filter(|b| *b > 0).map(|bits| 32 * size(packed, 0) / bits);
        let groups = match of_zeros {
            Some(zeros) => size(zeros, 0),
            None => scales.filter(|s| s.shape.len() == 2).map_or(1, |s| size(s, 1)),
        };
        let groups = match (groups, inputs) {
            (0, _) | (_, None) => None,
            (1, _) => Some("one scale a row".to_owned()),
            (groups, Some(inputs)) => Some(format!("groups of {}", inputs / groups)),
        };
        return named("GPTQ", bits, groups);
    }
    if let Some(packed) = find(".weight_packed") {
        let scale = beside(packed, "_packed", "_scale").map_or("", |scale| scale.dtype.name);
        return match (packed.dtype.name, scale) {
            ("u8", "float8_e4m3fn") => named("NVFP4", Some(4), Some("groups of 16".to_owned())),
            ("u8", "u8" | "float8_e8m0fnu") => {
                named("MXFP4", Some(4), Some("groups of 32".to_owned()))
            }
            _ => named("compressed-tensors", None, None),
        };
    }
    let packed = find("_blocks").filter(|t| t.dtype.name == "u8");
    if packed.is_some_and(|t| beside(t, "_blocks", "_scales").is_some()) {
        return named("MXFP4", Some(4), Some("groups of 32".to_owned()));
    }
    if find(".weight_scale_2").is_some() {
        return named("NVFP4", Some(4), Some("groups of 16".to_owned()));
    }
    let scaled = find(".weight.absmax").or_else(|| find(".quant_state.bitsandbytes__nf4"));
    if scaled.is_some() {
        return named("bitsandbytes", Some(4), None);
    }
    if find(".SCB").is_some() {
        return named("bitsandbytes int8", Some(8), Some("one scale a row".to_owned()));
    }
    let weight = |t: &&Stored| t.name.ends_with(".weight");
    let weights = || tensors.clone().filter(weight);
    if weights().any(|t| t.dtype.name == "u32") && find(".scales").is_some() {
        return named("MLX", None, None);
    }
    if let Some(float) = weights().find(|t| t.dtype.name.starts_with("float")) {
        let scale = beside(float, "weight", "weight_scale");
        let groups = match (scale, beside(float, "weight", "weight_scale_inv")) {
            (_, Some(_)) => Some("a scale a block".to_owned()),
            (Some(scale), _) if scale.shape.iter().product::<u64>() > 1 => {
                Some("a scale a row".to_owned())
            }
            (Some(_), _) => Some("a scale a matrix".to_owned()),
            _ => Some("no scales".to_owned()),
        };
        return named(&format!("FP8 ({})", float.dtype.name), Some(8), groups);
    }
    let is_number = |t: &Stored| t.dtype.is_float() || t.dtype.is_blocks();
    let packed = weights().find(|t| t.shape.len() == 2 && !is_number(t));
    if packed.is_some_and(|t| t.dtype.name == "i8" && beside(t, "", "_scale").is_some()) {
        return named("int8", Some(8), None);
    }
    packed.and_then(|t| named(&format!("an unknown scheme ({} weights)", t.dtype.name), None, None))
}
