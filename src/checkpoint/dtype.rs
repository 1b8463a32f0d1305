//! The types of numbers that checkpoints hold, and what torch and safetensors call them.

/// A type of numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct Dtype {
    /// Its name here, and as a block where one holds such numbers: `f16`.
    pub name: &'static str,
    /// Bits of one number.
    pub bits: u64,
    /// What safetensors call it: `F16`.
    pub safetensors: &'static str,
    /// What torch calls it, behind `torch.`: `float16`.
    pub torch: &'static str,
    /// Torch's class of storages that hold it alone, behind `torch.`: `HalfStorage`; empty where there is none.
    pub storage: &'static str,
}

/// A type as a column each: name, bits, safetensors, torch, storage.
const fn dtype(
    name: &'static str,
    bits: u64,
    safetensors: &'static str,
    torch: &'static str,
    storage: &'static str,
) -> Dtype {
    Dtype { name, bits, safetensors, torch, storage }
}

/// Blocks of GGUF's MXFP4, which packed parts of checkpoints become bit for bit.
pub static MXFP4: Dtype = dtype("mxfp4", 4, "", "", "");
/// The same of its NVFP4.
pub static NVFP4: Dtype = dtype("nvfp4", 4, "", "", "");

/// Every type. Source: torch/storage.py: _dtype_to_storage_type_map; safetensors/src/tensor.rs: Dtype.
pub static ALL: [Dtype; 22] = [
    dtype("f16", 16, "F16", "float16", "HalfStorage"),
    dtype("bf16", 16, "BF16", "bfloat16", "BFloat16Storage"),
    dtype("f32", 32, "F32", "float32", "FloatStorage"),
    dtype("f64", 64, "F64", "float64", "DoubleStorage"),
    dtype("i64", 64, "I64", "int64", "LongStorage"),
    dtype("i32", 32, "I32", "int32", "IntStorage"),
    dtype("i16", 16, "I16", "int16", "ShortStorage"),
    dtype("i8", 8, "I8", "int8", "CharStorage"),
    dtype("u8", 8, "U8", "uint8", "ByteStorage"),
    dtype("bool", 8, "BOOL", "bool", "BoolStorage"),
    dtype("u16", 16, "U16", "uint16", ""),
    dtype("u32", 32, "U32", "uint32", ""),
    dtype("u64", 64, "U64", "uint64", ""),
    dtype("float8_e4m3fn", 8, "F8_E4M3", "float8_e4m3fn", ""),
    dtype("float8_e5m2", 8, "F8_E5M2", "float8_e5m2", ""),
    dtype("float8_e4m3fnuz", 8, "F8_E4M3FNUZ", "float8_e4m3fnuz", ""),
    dtype("float8_e5m2fnuz", 8, "F8_E5M2FNUZ", "float8_e5m2fnuz", ""),
    dtype("float8_e8m0fnu", 8, "F8_E8M0", "float8_e8m0fnu", ""),
    dtype("float4_e2m1fn_x2", 4, "F4", "float4_e2m1fn_x2", ""),
    dtype("float6_e2m3", 6, "F6_E2M3", "", ""),
    dtype("float6_e3m2", 6, "F6_E3M2", "", ""),
    dtype("complex64", 64, "C64", "complex64", "ComplexFloatStorage"),
];

impl Dtype {
    /// The type that safetensors call so.
    pub fn of_safetensors(name: &str) -> Option<&'static Dtype> {
        ALL.iter().find(|d| d.safetensors == name)
    }

    /// The type that torch calls so: `torch.float16`.
    pub fn of_torch(name: &str) -> Option<&'static Dtype> {
        let name = name.strip_prefix("torch.")?;
        ALL.iter().find(|d| d.torch == name && !name.is_empty())
    }

    /// The type of the numbers in storages of this class: `torch.HalfStorage`.
    pub fn of_storage(class: &str) -> Option<&'static Dtype> {
        let class = class.strip_prefix("torch.")?;
        ALL.iter().find(|d| d.storage == class && !class.is_empty())
    }

    /// Bytes of one number; 1 where several share a byte.
    pub fn width(&self) -> u64 {
        (self.bits / 8).max(1)
    }

    /// Bytes of `n` numbers side by side, where they fill whole bytes.
    pub fn bytes(&self, n: u64) -> Option<u64> {
        let bits = n.checked_mul(self.bits)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Whether it is blocks of GGUF's.
    pub fn is_blocks(&self) -> bool {
        [MXFP4.name, NVFP4.name].contains(&self.name)
    }

    /// Whether it is one of the floats that models are made of.
    pub fn is_float(&self) -> bool {
        matches!(self.name, "f16" | "bf16" | "f32" | "f64")
    }
}
