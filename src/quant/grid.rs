//! The code books of the i-quants: which lattice points a group of weights may take.
//!
//! A point is a 16-bit code. Books of 2-bit digits hold 8 coordinates, books of 3-bit digits 4:
//!
//! ```text
//! code     15 14|13 12|11 10| 9  8| 7  6| 5  4| 3  2| 1  0     digit i = (code >> 2i) & 3
//!          w[7]  w[6]  w[5]  w[4]  w[3]  w[2]  w[1]  w[0]
//!
//! code     11 10  9| 8  7  6| 5  4  3| 2  1  0                 digit i = (code >> 3i) & 7
//!          w[3]     w[2]     w[1]     w[0]
//! ```
//!
//! The lists are data, in `formats/block/code-books.txt`; what a digit is worth belongs to the type
//! that uses the book. Source: ggml-common.h, whose tables store the coordinates themselves.
//!
//! ```text
//! [iq2_xxs 2]        a book and the bits of its digits
//! 0000 0002 ..       its points, four hexadecimal digits each, in the order of their index
//! ```

/// One code book: the points of a lattice in the order in which blocks number them.
#[derive(Debug)]
pub struct Book {
    /// `iq2_xxs`, `iq2_xs`, `iq2_s`, `iq3_xxs`, `iq3_s`, `iq1` (IQ1_S and IQ1_M) or `iq1_feb2024`.
    pub name: &'static str,
    /// Bits of one digit: 2 (8 coordinates a point) or 3 (4 coordinates).
    pub bits: u32,
    /// The point at every index, as a code.
    pub codes: &'static [u16],
}

/// The books, each with its number of points.
macro_rules! books {
    ($($book:ident $name:literal $len:literal;)+) => {
        $(#[doc = concat!("The codes of `", $name, "`.")] pub static $book: [u16; $len] = codes($name);)+

        static BOOKS: &[Book] = &[$(Book { name: $name, bits: head($name).0, codes: &$book }),+];
    };
}

books! {
    IQ2_XXS "iq2_xxs" 256;
    IQ2_XS "iq2_xs" 512;
    IQ2_S "iq2_s" 1024;
    IQ3_XXS "iq3_xxs" 256;
    IQ3_S "iq3_s" 512;
    IQ1 "iq1" 2048;
    IQ1_V1 "iq1_feb2024" 512;
}

const TEXT: &[u8] = include_bytes!("../../formats/block/code-books.txt");

/// Of the book with this name the bits of a digit, and where its first point is in the text.
///
/// The text is read while the program is compiled, so what is wrong in it is a fault that the compiler finds.
const fn head(name: &str) -> (u32, usize) {
    let name = name.as_bytes();
    let mut at = 0;
    loop {
        // "[name b]"
        let mut i = 0;
        while i < name.len() && TEXT[at + 1 + i] == name[i] {
            i += 1;
        }
        if TEXT[at] == b'[' && i == name.len() && TEXT[at + 1 + i] == b' ' {
            return ((TEXT[at + 2 + i] - b'0') as u32, at + 4 + i);
        }
        at += 1;
    }
}

/// The `N` codes of the book with this name: hexadecimal numbers up to the next book or the end.
const fn codes<const N: usize>(name: &str) -> [u16; N] {
    let (mut out, mut n, mut at) = ([0; N], 0, head(name).1);
    while at < TEXT.len() && TEXT[at] != b'[' {
        if TEXT[at].is_ascii_hexdigit() {
            let end = at + 4;
            while at < end {
                let digit = (TEXT[at] as char).to_digit(16).expect("four hexadecimal digits");
                out[n] = out[n] << 4 | digit as u16;
                at += 1;
            }
            n += 1;
        } else {
            at += 1;
        }
    }
    assert!(n == N, "a book has as many points as its places number");
    out
}

/// The book of this name, e.g. `iq2_xxs`; there is none for a name that is not listed at [`Book::name`].
pub fn book(name: &str) -> Option<&'static Book> {
    BOOKS.iter().find(|book| book.name == name)
}

impl Book {
    /// Every point with its `N` digits replaced by what they are worth: `levels[digit]`.
    ///
    /// `N` is 8 for 2-bit books and 4 for 3-bit books. A digit beyond `levels` counts as 0; no listed
    /// point has one.
    ///
    /// ```
    /// let points = regguf::quant::grid::book("iq2_xxs").unwrap().points::<8>(&[8, 25, 43]);
    /// assert_eq!(points[1], [43, 8, 8, 8, 8, 8, 8, 8]);
    /// ```
    pub fn points<const N: usize>(&self, levels: &[i8]) -> Vec<[i8; N]> {
        let mask = (1u16 << self.bits) - 1;
        let digit = |code: u16, i: usize| usize::from((code >> (self.bits as usize * i)) & mask);
        let worth = |digit: usize| levels.get(digit).copied().unwrap_or(0);
        self.codes.iter().map(|&code| std::array::from_fn(|i| worth(digit(code, i)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// Digests over the codes as little-endian u16, computed from ggml's own tables.
    const DIGESTS: [(&str, usize, &str); 7] = [
        ("iq2_xxs", 256, "915952ebc4af8ddba8113583ca1316fc818843f7b825bbf1a25ae1c39bf0e16d"),
        ("iq2_xs", 512, "f66435966ca8d64e9e4a6e3c91e64afcf9015e700ec85962f527283ebae207b9"),
        ("iq2_s", 1024, "e6e75e121b65e8afa5c1f92b71463cfbe217b83893f438acde22fd5db06a43f7"),
        ("iq3_xxs", 256, "c9678803c61b2210fbd8cbbb3f965a835409cd7d88a04d086d236261bd221d11"),
        ("iq3_s", 512, "353274c58dd7d8dc5ee960dc8fc54ff9164eaf2b49206b841cd49415cf393f81"),
        ("iq1", 2048, "e9ffebfc997ad6023063a667c0bf4eedd8ebf7f56b3da399cbc7d1b1f7ea52c6"),
        ("iq1_feb2024", 512, "079ac12c50199157d9bd258c2d9572397dd01b7d959ecb6f6ecd9ed4cd666d0f"),
    ];

    #[test]
    fn every_book_is_ggmls() {
        for (name, len, digest) in DIGESTS {
            let codes = book(name).unwrap().codes;
            assert_eq!(codes.len(), len, "{name}");
            let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
            assert_eq!(crate::bytes::hex(&Sha256::digest(&bytes)), digest, "{name}");
        }
        assert!(book("q4_0").is_none());
    }

    #[test]
    fn a_point_spells_its_code() {
        let book = book("iq3_s").unwrap();
        let points = book.points::<4>(&[0, 1, 2, 3, 4, 5, 6, 7]);
        for (point, code) in points.iter().zip(book.codes) {
            let spelt = point.iter().rev().fold(0, |sum, &digit| sum * 8 + digit as u16);
            assert_eq!(spelt, *code);
        }
    }
}
