//! Codes of a few bits, one behind the other in words of 32 bits, low bits first.
//!
//! ```text
//! code i   bits i * b to i * b + b - 1 of the sequence; bit n is bit n % 32 of word n / 32
//! ```

/// The code that begins at a bit of a sequence of words.
pub fn code(words: &[u32], at: usize, mask: u32) -> u32 {
    let word = |n: usize| u64::from(words.get(n).copied().unwrap_or(0));
    // Two words side by side: a code may go on in the second. Behind the last word there are zeros.
    let both = word(at / 32) | word(at / 32 + 1) << 32;
    #[expect(clippy::cast_possible_truncation, reason = "the mask has less than 32 bits")]
    let code = (both >> (at % 32)) as u32 & mask;
    code
}

/// The codes of a sequence of words.
#[expect(clippy::cast_possible_truncation, reason = "codes have at most eight bits")]
pub fn unpack(words: &[u32], bits: usize, codes: &mut [u8]) {
    let mask = (1 << bits) - 1;
    // 2, 4 and 8 bits: no code crosses a word, and the loop has no division.
    if 32 % bits == 0 {
        for (word, codes) in words.iter().zip(codes.chunks_mut(32 / bits)) {
            for (i, out) in codes.iter_mut().enumerate() {
                *out = (word >> (i * bits) & mask) as u8;
            }
        }
    } else {
        for (i, out) in codes.iter_mut().enumerate() {
            *out = code(words, i * bits, mask) as u8;
        }
    }
}
