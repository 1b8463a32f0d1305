//! A checked reader: every read takes an offset and a field name, every error can say where.

use std::{cell::RefCell, fmt::Display};

use super::Input;
use crate::error::{Error, Malformed, Result};
use crate::remedy::Remedy;

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// The lowest, as on nearly every machine.
    #[default]
    Little,
    /// The highest.
    Big,
}

/// Reads small fields of an [`Input`] through a window, naming each for errors.
///
/// There is no cursor: offsets are values. Not for bulk data, which goes through [`Input::read_at`].
#[derive(Debug)]
pub struct Source<'a> {
    input: &'a Input,
    format: String,
    order: ByteOrder,
    window: RefCell<Window>,
}

/// What was read last, and where it begins.
#[derive(Debug, Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

/// Small reads are served from pieces of this size.
const WINDOW: u64 = 64 << 10;

/// The size of the first piece after a jump.
const LONE: u64 = 1 << 10;

impl<'a> Source<'a> {
    /// A reader of `input` by the rules of the format named `format`.
    pub fn new(input: &'a Input, format: impl Into<String>) -> Source<'a> {
        let window = RefCell::new(Window::default());
        Source { input, format: format.into(), order: ByteOrder::Little, window }
    }

    /// The same reader, taking every number in this order of bytes.
    #[must_use]
    pub fn ordered(self, order: ByteOrder) -> Source<'a> {
        Source { order, ..self }
    }

    /// The input behind it.
    pub fn input(&self) -> &'a Input {
        self.input
    }

    /// The input's length in bytes.
    pub fn len(&self) -> u64 {
        self.input.len()
    }

    /// Whether the input is empty.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// How many bytes there are from `at` to the end.
    pub fn left(&self, at: u64) -> u64 {
        self.len().saturating_sub(at)
    }

    /// An error at a field: what was found, what was wanted.
    ///
    /// It reads `FILE: FORMAT: FIELD at 0xAT: found FOUND, wanted WANTED`, see [`Malformed`].
    #[allow(clippy::needless_pass_by_value, reason = "callers pass numbers and fresh strings")]
    pub fn malformed(
        &self,
        at: u64,
        field: impl Display,
        found: impl ToString,
        wanted: impl Into<String>,
    ) -> Error {
        Error::Malformed(Box::new(Malformed {
            file: self.input.name(),
            format: self.format.clone(),
            field: field.to_string(),
            at,
            found: found.to_string(),
            wanted: wanted.into(),
            next: Remedy::default(),
        }))
    }

    /// Calls `use_it` with `len` bytes at `at`.
    fn with<T>(
        &self,
        at: u64,
        len: u64,
        field: impl Display,
        use_it: impl Fn(&[u8]) -> T,
    ) -> Result<T> {
        if self.left(at) < len {
            let wanted = format!("{len} bytes before the file ends");
            return Err(self.malformed(at, field, format!("{} bytes", self.left(at)), wanted));
        }
        let mut window = self.window.borrow_mut();
        let inside = |w: &Window| {
            let from = usize::try_from(at.checked_sub(w.at)?).ok()?;
            let to = from.checked_add(usize::try_from(len).ok()?)?;
            w.bytes.get(from..to).map(&use_it)
        };
        if let Some(value) = inside(&window) {
            return Ok(value);
        }
        // Reading on from the last window means a run of fields; a jump, a lone record head.
        let runs = at >= window.at && at - window.at <= window.bytes.len() as u64;
        let size = len.max(if runs { WINDOW } else { LONE }.min(self.left(at)));
        let Ok(size) = usize::try_from(size) else {
            return Err(self.malformed(at, field, len, "a size that fits in memory"));
        };
        let mut bytes = std::mem::take(&mut window.bytes);
        bytes.resize(size, 0);
        self.input.read_at(at, &mut bytes)?;
        *window = Window { at, bytes };
        inside(&window).ok_or_else(|| self.malformed(at, field, len, "a readable size"))
    }

    /// The bytes of a number, lowest first.
    fn number<const N: usize>(&self, at: u64, field: impl Display) -> Result<[u8; N]> {
        let mut out = self.with(at, N as u64, field, |bytes| {
            let mut out = [0; N];
            out.copy_from_slice(bytes);
            out
        })?;
        if self.order == ByteOrder::Big {
            out.reverse();
        }
        Ok(out)
    }

    // Numbers in the order of the file's bytes. All fail alike: with the place and the name of `field` where the file ends
    // before, as [`Source::malformed`] words it, or where it cannot be read.

    /// The byte at `at`.
    pub fn u8_at(&self, at: u64, field: impl Display) -> Result<u8> {
        Ok(u8::from_le_bytes(self.number(at, field)?))
    }

    /// The 16-bit number at `at`.
    pub fn u16_at(&self, at: u64, field: impl Display) -> Result<u16> {
        Ok(u16::from_le_bytes(self.number(at, field)?))
    }

    /// The 32-bit number at `at`.
    pub fn u32_at(&self, at: u64, field: impl Display) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number(at, field)?))
    }

    /// The signed 32-bit number at `at`.
    pub fn i32_at(&self, at: u64, field: impl Display) -> Result<i32> {
        Ok(i32::from_le_bytes(self.number(at, field)?))
    }

    /// The 64-bit number at `at`.
    pub fn u64_at(&self, at: u64, field: impl Display) -> Result<u64> {
        Ok(u64::from_le_bytes(self.number(at, field)?))
    }

    /// The 32-bit float at `at`.
    pub fn f32_at(&self, at: u64, field: impl Display) -> Result<f32> {
        Ok(f32::from_le_bytes(self.number(at, field)?))
    }

    /// The 64-bit float at `at`.
    pub fn f64_at(&self, at: u64, field: impl Display) -> Result<f64> {
        Ok(f64::from_le_bytes(self.number(at, field)?))
    }

    /// `len` bytes at `at`; `most` bounds what the file may ask for.
    ///
    /// # Errors
    /// [`Error::Malformed`] where `len` is more than `most` or than the file has left.
    pub fn bytes_at(&self, at: u64, len: u64, most: u64, field: impl Display) -> Result<Vec<u8>> {
        if len > most {
            return Err(self.malformed(
                at,
                field,
                format!("a length of {len}"),
                format!("at most {most}"),
            ));
        }
        self.with(at, len, field, <[u8]>::to_vec)
    }
}
