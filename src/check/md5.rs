//! MD5, as `checklist.chk` uses it (RFC 1321).
//!
//! Every step waits for the one before it, so its speed is the length of that chain, and the chain is
//! shortest where all that does not depend on the last step is added up first:
//!
//! ```text
//! a = rotate(((a + word + constant) + F(b, c, d)), s) + b
//! F = d ^ (b & (c ^ d))         steps  0 to 15, words i
//! F = (c & !d) + (b & d)        steps 16 to 31, words 5i + 1
//! F = b ^ (c ^ d)               steps 32 to 47, words 3i + 5
//! F = c ^ (b | !d)              steps 48 to 63, words 7i
//! ```
//!
//! The constants come through [`black_box`]: the compiler adds numbers that it knows last.

use std::hint::black_box;

/// The integer parts of 2^32 |sin(i + 1)|.
const CONSTANTS: [u32; 64] = [
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
];
/// Bits of rotation, by round and step.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
/// Bytes that are taken at a time.
const BLOCK: usize = 64;

/// A running digest.
#[derive(Clone, Debug)]
pub struct Md5 {
    state: [u32; 4],
    length: u64,
    /// The beginning of the next block, `length % BLOCK` bytes of it.
    rest: [u8; BLOCK],
}

impl Default for Md5 {
    fn default() -> Md5 {
        let state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        Md5 { state, length: 0, rest: [0; BLOCK] }
    }
}

impl Md5 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let held = usize::try_from(self.length % BLOCK as u64).unwrap_or(0);
        self.length = self.length.wrapping_add(bytes.len() as u64);
        let (now, later) = bytes.split_at(bytes.len().min((BLOCK - held) % BLOCK));
        if let Some(place) = self.rest.get_mut(held..held + now.len()) {
            place.copy_from_slice(now);
        }
        if held > 0 {
            if held + now.len() < BLOCK {
                return;
            }
            take(&mut self.state, &[self.rest], black_box(&CONSTANTS));
        }
        let (blocks, rest) = later.as_chunks::<BLOCK>();
        take(&mut self.state, blocks, black_box(&CONSTANTS));
        if let Some(place) = self.rest.get_mut(..rest.len()) {
            place.copy_from_slice(rest);
        }
    }

    /// The digest of everything taken.
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8);
        let held = usize::try_from(self.length % BLOCK as u64).unwrap_or(0);
        let zeros = (2 * BLOCK - 9 - held) % BLOCK;
        let mut end = [0; 2 * BLOCK];
        if let Some(first) = end.first_mut() {
            *first = 0x80;
        }
        if let Some(length) = end.get_mut(1 + zeros..9 + zeros) {
            length.copy_from_slice(&bits.to_le_bytes());
        }
        self.update(end.get(..9 + zeros).unwrap_or_default());
        let mut digest = [0; 16];
        for (out, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *out = word.to_le_bytes();
        }
        digest
    }
}

/// One step; `$f` adds its function to what is known before.
macro_rules! step {
    ($f:ident, $a:ident $b:ident $c:ident $d:ident, $known:expr, $turn:expr) => {
        $a = $f($a.wrapping_add($known), $b, $c, $d).rotate_left($turn).wrapping_add($b);
    };
}

/// One round: sixteen steps, step `i` with the word `(factor * i + first) % 16`.
macro_rules! round {
    ($f:ident, $number:literal, $factor:literal, $first:literal, $words:ident, $constants:ident,
     $a:ident $b:ident $c:ident $d:ident) => {
        let known = |i: usize| {
            $words[($factor * i + $first) % 16].wrapping_add($constants[16 * $number + i])
        };
        let [s0, s1, s2, s3] = TURNS[$number];
        round!(@four $f, known, 0, s0 s1 s2 s3, $a $b $c $d);
        round!(@four $f, known, 4, s0 s1 s2 s3, $a $b $c $d);
        round!(@four $f, known, 8, s0 s1 s2 s3, $a $b $c $d);
        round!(@four $f, known, 12, s0 s1 s2 s3, $a $b $c $d);
    };
    (@four $f:ident, $known:ident, $i:literal, $s0:ident $s1:ident $s2:ident $s3:ident,
     $a:ident $b:ident $c:ident $d:ident) => {
        step!($f, $a $b $c $d, $known($i), $s0);
        step!($f, $d $a $b $c, $known($i + 1), $s1);
        step!($f, $c $d $a $b, $known($i + 2), $s2);
        step!($f, $b $c $d $a, $known($i + 3), $s3);
    };
}

#[inline(always)]
fn one(known: u32, b: u32, c: u32, d: u32) -> u32 {
    known.wrapping_add(d ^ (b & (c ^ d)))
}

#[inline(always)]
fn two(known: u32, b: u32, c: u32, d: u32) -> u32 {
    known.wrapping_add(c & !d).wrapping_add(b & d)
}

#[inline(always)]
fn three(known: u32, b: u32, c: u32, d: u32) -> u32 {
    known.wrapping_add(b ^ (c ^ d))
}

#[inline(always)]
fn four(known: u32, b: u32, c: u32, d: u32) -> u32 {
    known.wrapping_add(c ^ (b | !d))
}

#[inline(never)]
#[expect(clippy::indexing_slicing, reason = "indexes known to the compiler, of arrays")]
fn take(state: &mut [u32; 4], blocks: &[[u8; BLOCK]], constants: &[u32; 64]) {
    let [mut a, mut b, mut c, mut d] = *state;
    for block in blocks {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let before = [a, b, c, d];
        round!(one, 0, 1, 0, words, constants, a b c d);
        round!(two, 1, 5, 1, words, constants, a b c d);
        round!(three, 2, 3, 5, words, constants, a b c d);
        round!(four, 3, 7, 0, words, constants, a b c d);
        let [a0, b0, c0, d0] = before;
        (a, b) = (a.wrapping_add(a0), b.wrapping_add(b0));
        (c, d) = (c.wrapping_add(c0), d.wrapping_add(d0));
    }
    *state = [a, b, c, d];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(pieces: &[&[u8]]) -> String {
        let mut md5 = Md5::default();
        pieces.iter().for_each(|piece| md5.update(piece));
        md5.finish().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The test suite of RFC 1321.
    #[test]
    fn digests_are_those_of_the_rfc() {
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let digits = "1234567890".repeat(8);
        for (text, wanted) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("a", "0cc175b9c0f1b6a831c399e269772661"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
            (letters, "d174ab98d277d9f5a5611c2c9f419d9f"),
            (digits.as_str(), "57edf4a22be3c955ac49da2e2107b67a"),
        ] {
            assert_eq!(digest(&[text.as_bytes()]), wanted, "{text}");
        }
    }

    #[test]
    fn pieces_of_any_length_do_not_change_the_digest() {
        let bytes: Vec<u8> = (0..300u32).map(|i| (i * 31 % 251) as u8).collect();
        for len in 0..bytes.len() {
            let whole = digest(&[&bytes[..len]]);
            for cut in [1, 63, 64, 65, 127, 128] {
                let pieces: Vec<&[u8]> = bytes[..len].chunks(cut).collect();
                assert_eq!(digest(&pieces), whole, "{len} in pieces of {cut}");
            }
        }
    }
}
