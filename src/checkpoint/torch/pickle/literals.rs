//! Numbers, texts and bytes of a pickle, which protocols write in many ways and the normalised one in few.
//!
//! ```text
//! integers    J and four bytes; 0x8a, 8 and eight bytes; beyond 64 bits the text `int:` and hex
//! floats      G and eight bytes, the highest first
//! texts       X, length in four bytes, UTF-8
//! bytes       B, length in four bytes
//! ```

use super::{Kind, Machine};
use crate::error::Result;

/// Bytes of one integer.
const LONGEST_INT: u64 = 255;

impl Machine<'_> {
    /// A whole number of any opcode as the shortest that holds it.
    pub(super) fn integer(&mut self, op: u8) -> Result<()> {
        let small = match op {
            b'K' => i64::from(self.byte()?),
            b'M' => self.le(2)?.cast_signed(),
            b'J' => (self.le(4)? << 32).cast_signed() >> 32,
            b'I' => {
                let line = self.line()?;
                match line.as_str() {
                    "00" => return self.push(&[0x89], Kind::Fixed, 0),
                    "01" => return self.push(&[0x88], Kind::Fixed, 0),
                    _ => line.parse().map_err(|_| self.bad(format!("{line:?}"), "a number"))?,
                }
            }
            b'L' => self.line_number()?,
            _ => {
                let len = if op == 0x8a { self.byte()?.into() } else { self.le(4)? };
                if len > LONGEST_INT {
                    return Err(self.bad(format!("an integer of {len} bytes"), "at most 255"));
                }
                let bytes = self.take(len)?;
                if len > 8 {
                    let hex: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
                    return self.push_text(&format!("int:{hex}"), Kind::Fixed);
                }
                let negative = bytes.last().is_some_and(|b| *b >= 0x80);
                let fill = if negative { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide.iter_mut().zip(&bytes).for_each(|(w, b)| *w = *b);
                i64::from_le_bytes(wide)
            }
        };
        match i32::try_from(small) {
            Ok(v) => self.push(&[&b"J"[..], &v.to_le_bytes()].concat(), Kind::Fixed, 0),
            Err(_) => self.push(&[&[0x8a, 8][..], &small.to_le_bytes()].concat(), Kind::Fixed, 0),
        }
    }

    /// A float: eight bytes, the highest first, or text.
    pub(super) fn float(&mut self, op: u8) -> Result<()> {
        let bytes = match op {
            b'G' => self.take(8)?,
            _ => self.line_number::<f64>()?.to_be_bytes().to_vec(),
        };
        self.push(&[b"G", bytes.as_slice()].concat(), Kind::Fixed, 0)
    }

    /// A text or bytes; bytes that are no UTF-8 stay bytes.
    pub(super) fn text(&mut self, op: u8) -> Result<()> {
        let len = match op {
            0x8c | b'U' | b'C' => self.byte()?.into(),
            0x8d | 0x8e => self.le(8)?,
            _ => self.le(4)?,
        };
        let bytes = self.take(len)?;
        match String::from_utf8(bytes) {
            Ok(text) if !matches!(op, b'B' | b'C' | 0x8e) => self.push_text(&text, Kind::Fixed),
            Err(_) if matches!(op, b'X' | 0x8c | 0x8d) => {
                Err(self.bad("a string that is not UTF-8", "UTF-8"))
            }
            other => {
                let bytes =
                    other.map_or_else(std::string::FromUtf8Error::into_bytes, String::into_bytes);
                self.push_long(b'B', &bytes, Kind::Fixed)
            }
        }
    }

    /// Puts a text on the stack.
    pub(super) fn push_text(&mut self, text: &str, kind: Kind) -> Result<()> {
        self.push_long(b'X', text.as_bytes(), kind)
    }

    /// Pushes bytes after their length in 32 bits.
    fn push_long(&mut self, op: u8, bytes: &[u8], kind: Kind) -> Result<()> {
        let Ok(len) = u32::try_from(bytes.len()) else {
            return Err(self.bad(format!("{} bytes", bytes.len()), "fewer than 2^32"));
        };
        self.push(&[&[op], &len.to_le_bytes()[..], bytes].concat(), kind, 0)
    }
}
