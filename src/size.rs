//! Numbers as people write and read them: bytes (`4.5G`, `3.8 GB`), things (`1 tensor`, `2 tensors`).
//!
//! One system of units everywhere: a KB is 1000 bytes, as disks and download pages count; what is of 1024 is
//! written KiB, MiB, GiB.

use crate::error::{Error, Result};

/// Reads a size: `4.5G` and `4500M` are powers of ten, as disks count, `4.2Gi` is of 1024.
///
/// # Errors
/// [`Error::Usage`] where it is none.
pub fn read(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "ki" | "kib" => 1024.0,
        "mi" | "mib" => 1024.0 * 1024.0,
        "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "ti" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => f64::NAN,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within range, and a fraction of a byte is none"
    )]
    match digits.parse::<f64>().map(|n| n * unit) {
        Ok(bytes) if (0.0..=u64::MAX as f64).contains(&bytes) => Ok(bytes as u64),
        _ => Err(Error::usage(format!("{text}: wanted a size, as 4.5G or 4200Mi"))),
    }
}

/// A number of bytes for people: `112.9 KB`, `3.8 GB`.
pub fn text(bytes: u64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)];
    match units.into_iter().find(|(_, unit)| bytes as f64 >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit),
        None => format!("{bytes} bytes"),
    }
}

/// A number of things: `1 file`, `2 files`.
pub fn counted(n: impl TryInto<u64>, one: &str, many: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(read("4.5G").unwrap(), 4_500_000_000);
        assert_eq!(read("2Mi").unwrap(), 2 << 20);
        assert_eq!(read("8GiB").unwrap(), 8 << 30);
        assert_eq!(read("123").unwrap(), 123);
        for word in ["", "G", "4x", "-1G", "nan", "infG", "much", "99999999999T"] {
            assert!(read(word).is_err(), "{word}");
        }
    }

    #[test]
    fn one_is_one() {
        assert_eq!(counted(1_u64, "tensor", "tensors"), "1 tensor");
        assert_eq!(counted(0_usize, "tensor", "tensors"), "0 tensors");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(text(999), "999 bytes");
        assert_eq!(text(112_893), "112.9 KB");
        assert_eq!(text(3_825_517_184), "3.8 GB");
    }
}
