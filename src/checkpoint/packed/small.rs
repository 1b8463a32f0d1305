//! Floats of eight bits and fewer.

/// The value of each code of a type of eight-bit floats: sign, exponent, mantissa from the highest bit.
///
/// ```text
/// e4m3fn     s eeee mmm   bias 7; no infinities; s 1111 111 is no number
/// e5m2       s eeeee mm   bias 15; the upper byte of an f16
/// e4m3fnuz   s eeee mmm   bias 8; no infinities, no negative zero: 1 0000 000 is no number
/// e5m2fnuz   s eeeee mm   bias 16; the same
/// ```
pub fn eight_bits(dtype: &str) -> Option<[f32; 256]> {
    let (mantissa, bias) = match dtype {
        "float8_e4m3fn" => (3, 7),
        "float8_e5m2" => (2, 15),
        "float8_e4m3fnuz" => (3, 8),
        "float8_e5m2fnuz" => (2, 16),
        _ => return None,
    };
    let one_odd = dtype.ends_with("fnuz");
    let mut values = [0.0; 256];
    for (code, value) in (0u8..=255).zip(&mut values) {
        let (high, low) =
            (i32::from(code & 0x7f) >> mantissa, f32::from(code & ((1 << mantissa) - 1)));
        let whole = f32::from(1u8 << mantissa);
        let size = match (high, mantissa) {
            _ if one_odd && code == 0x80 => f32::NAN,
            (15, 3) if !one_odd && code & 7 == 7 => f32::NAN,
            (31, 2) if !one_odd && low == 0.0 => f32::INFINITY,
            (31, 2) if !one_odd => f32::NAN,
            (0, _) => low / whole * 2f32.powi(1 - bias),
            (high, _) => (1.0 + low / whole) * 2f32.powi(high - bias),
        };
        *value = if code & 0x80 == 0 { size } else { -size };
    }
    Some(values)
}

/// The value of each code of e2m1: sign, two bits of exponent with the bias 1, one of mantissa.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
