//! Digests: the algorithms that lists name, digests as they are written, and digests while they run.
//!
//! | algorithm | digits | who uses it |
//! |---|---|---|
//! | MD5 | 32 | Meta's `checklist.chk` |
//! | SHA-1 | 40 | sums files |
//! | SHA-1 of a git blob | 40 | Hugging Face, for small files |
//! | SHA-256 | 64 | Hugging Face, Git LFS, Ollama, `SHA256SUMS` |
//! | SHA-384, SHA-512, BLAKE2b | 96, 128, 128 | sums files |
//! | XXH64 | 16 | llama-gguf-hash |
//!
//! A digest without a name is told by its length; of two of 40 digits SHA-1 is taken, of two of 128 SHA-512, unless
//! whoever reads the list knows better. How files are read for them is in `read`.

mod read;

use std::fmt;

use serde::{Serialize, Serializer};
use sha1::digest::Digest as _;

use crate::bytes::hex;

pub use read::{Outcome, file, file_watched, spread};

/// A way to digest a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// MD5, as Meta's `checklist.chk` uses.
    Md5,
    /// SHA-1 of the bytes.
    Sha1,
    /// SHA-1 as git names a blob: of `blob <length>`, a zero byte, and the bytes.
    GitBlob,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// BLAKE2b of 512 bits, as `b2sum` makes it.
    Blake2b,
    /// XXH64 with the seed 0, as llama-gguf-hash makes it.
    Xxh64,
}

impl Algorithm {
    /// The name used in lists and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::GitBlob => "git-blob",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Blake2b => "blake2b",
            Self::Xxh64 => "xxh64",
        }
    }

    /// The algorithm of a name as lists write it: `SHA256`, `SHA2-256`, `sha-256`, `BLAKE2b`, `b2`.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace("sha2-", "sha").replace(['-', '_'], "");
        let name = name.strip_suffix("sums").or_else(|| name.strip_suffix("sum")).unwrap_or(&name);
        let all = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512, Self::Xxh64];
        let blake = ["b2", "blake2", "blake2b", "blake2b512"].contains(&name);
        if blake { Some(Self::Blake2b) } else { all.into_iter().find(|a| a.name() == name) }
    }

    /// How many hexadecimal digits its digests have.
    pub fn digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 | Self::GitBlob => 40,
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 | Self::Blake2b => 128,
            Self::Xxh64 => 16,
        }
    }

    /// The algorithm whose digests have `digits` hexadecimal digits, as sums files imply it.
    pub fn of_length(digits: usize) -> Option<Self> {
        match digits {
            32 => Some(Self::Md5),
            40 => Some(Self::Sha1),
            64 => Some(Self::Sha256),
            96 => Some(Self::Sha384),
            128 => Some(Self::Sha512),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One digest: the algorithm and its value in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Digest {
    /// How it is made.
    pub algorithm: Algorithm,
    /// The value, lower-case hexadecimal.
    pub hex: String,
}

impl Digest {
    /// Reads a hexadecimal digest; its length says which algorithm made it.
    pub fn parse(hex: &str) -> Option<Self> {
        let algorithm = Algorithm::of_length(hex.len())?;
        let is_hex = hex.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    /// Reads a hexadecimal digest made by `algorithm`.
    pub fn tagged(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let fits = hex.len() == algorithm.digits() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    /// Whether this is the placeholder of 64 `f` that llama.cpp's list uses for *not known*.
    pub fn is_placeholder(&self) -> bool {
        self.hex.bytes().all(|b| b == b'f')
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A running digest.
#[non_exhaustive]
pub enum Hasher {
    /// MD5.
    Md5(fast_md5::Md5),
    /// SHA-1, plain or of a git blob.
    Sha1(Algorithm, sha1::Sha1),
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// SHA-384.
    Sha384(sha2::Sha384),
    /// SHA-512.
    Sha512(sha2::Sha512),
    /// BLAKE2b.
    Blake2b(Box<blake2::Blake2b512>),
    /// XXH64.
    Xxh64(Box<xxhash_rust::xxh64::Xxh64>),
}

impl Hasher {
    /// Starts a digest; `length` is that of the whole content, which a git blob states first.
    pub fn new(algorithm: Algorithm, length: u64) -> Self {
        match algorithm {
            Algorithm::Md5 => Self::Md5(fast_md5::Md5::new()),
            Algorithm::Sha1 => Self::Sha1(algorithm, sha1::Sha1::new()),
            Algorithm::GitBlob => {
                let mut state = sha1::Sha1::new();
                state.update(format!("blob {length}\0"));
                Self::Sha1(algorithm, state)
            }
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
            Algorithm::Blake2b => Self::Blake2b(Box::new(blake2::Blake2b512::new())),
            Algorithm::Xxh64 => Self::Xxh64(Box::new(xxhash_rust::xxh64::Xxh64::new(0))),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(state) => state.update(bytes),
            Self::Sha1(_, state) => state.update(bytes),
            Self::Sha256(state) => state.update(bytes),
            Self::Sha384(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
            Self::Blake2b(state) => state.update(bytes),
            Self::Xxh64(state) => state.update(bytes),
        }
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        let (algorithm, hex) = match self {
            Self::Md5(state) => (Algorithm::Md5, hex(&state.finalize())),
            Self::Sha1(algorithm, state) => (algorithm, hex(&state.finalize())),
            Self::Sha256(state) => (Algorithm::Sha256, hex(&state.finalize())),
            Self::Sha384(state) => (Algorithm::Sha384, hex(&state.finalize())),
            Self::Sha512(state) => (Algorithm::Sha512, hex(&state.finalize())),
            Self::Blake2b(state) => (Algorithm::Blake2b, hex(&state.finalize())),
            Self::Xxh64(state) => (Algorithm::Xxh64, hex(&state.digest().to_be_bytes())),
        };
        Digest { algorithm, hex }
    }
}

/// The digest of bytes in memory.
pub fn of_bytes(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm, bytes.len() as u64);
    hasher.update(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MD5 is hand-written assembly: every length up to five blocks, whole and in pieces of any size, against a
    /// plain implementation.
    #[test]
    fn md5_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..320_u32).map(|i| ((i * 37) >> 2) as u8).collect();
        for length in 0..=bytes.len() {
            let bytes = &bytes[..length];
            let expected = hex(&md5::Md5::digest(bytes));
            assert_eq!(of_bytes(Algorithm::Md5, bytes).hex, expected, "{length} bytes");
            for piece in [1, 7, 55, 64, 65, 200] {
                let mut hasher = Hasher::new(Algorithm::Md5, length as u64);
                bytes.chunks(piece).for_each(|piece| hasher.update(piece));
                assert_eq!(hasher.finish().hex, expected, "{length} bytes by {piece}");
            }
        }
    }

    #[test]
    fn longer_digests_of_abc() {
        // From FIPS 180, RFC 7693 and `xxhsum`.
        let starts = [
            (Algorithm::Sha384, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"),
            (Algorithm::Sha512, "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2"),
            (Algorithm::Blake2b, "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b7"),
            (Algorithm::Xxh64, "44bc2cf5ad770999"),
        ];
        for (algorithm, start) in starts {
            let digest = of_bytes(algorithm, b"abc");
            assert!(digest.hex.starts_with(start), "{digest}");
            assert_eq!(digest.hex.len(), algorithm.digits());
            assert_eq!(Algorithm::named(&algorithm.name().to_uppercase()), Some(algorithm));
        }
        assert_eq!(Algorithm::named("SHA2-256"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::named("B2SUMS"), Some(Algorithm::Blake2b));
    }

    #[test]
    fn digests_are_read_by_length() {
        assert_eq!(Digest::parse(&"A".repeat(32)).map(|d| d.algorithm), Some(Algorithm::Md5));
        assert_eq!(Digest::parse(&"0".repeat(40)).map(|d| d.algorithm), Some(Algorithm::Sha1));
        assert!(Digest::parse(&"f".repeat(64)).is_some_and(|d| d.is_placeholder()));
        assert_eq!(Digest::parse("abc"), None);
        assert_eq!(Digest::parse(&"g".repeat(64)), None);
    }
}
