//! A weight matrix where it lies: in mapped files, decoded a few rows at a time.
//!
//! ```text
//!              cols
//!        +--------------+
//! rows   | W            |   x [cols]           out[row] = sum over cols of W[row][col] * x[col]
//!        |  part 0      |
//!        |--------------|   xs [count][cols]   out [count][rows]
//!        |  part 1      |
//!        +--------------+
//!        +  scale * B A     of adapters: out += scale * B (A x)
//! ```
//!
//! Work is parted by rows: each thread decodes some and multiplies them with all vectors, so a weight is decoded once,
//! and no two threads add to one number.

use std::{ops::Range, sync::Arc};

use memmap2::Mmap;
use rayon::prelude::*;
use serde::Serialize;

use super::{dot::scaled, fused, panel, rounded, whole};
use crate::quant::{
    QuantType, activations, decode_rows,
    isa::Isa,
    product::{Packed, add_product},
};

/// A matrix of `rows` by `cols` weights in any block type.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Number of rows, the length of its products.
    pub rows: usize,
    /// Length of a row.
    pub cols: usize,
    quant: QuantType,
    row_bytes: usize,
    precision: Precision,
    /// What every stored number is multiplied with.
    scale: f32,
    /// The parts one below the other: more than one in a multi-part model.
    parts: Vec<Part>,
    /// What adapters add to it.
    added: Vec<Product>,
}

/// What the activations are that matrices are multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "command", derive(clap::ValueEnum))]
pub enum Precision {
    /// float32, as they come.
    #[default]
    #[serde(rename = "exact")]
    Exact,
    /// Rounded as ggml's programs round them for the type of each matrix (`activations`).
    #[serde(rename = "q8")]
    #[cfg_attr(feature = "command", value(name = "q8"))]
    Rounded,
}

impl Precision {
    /// What is computed, in words.
    pub fn words(self) -> &'static str {
        match self {
            Precision::Exact => "exact: float32 weights and activations",
            Precision::Rounded => "q8: activations rounded as llama.cpp rounds them",
        }
    }
}

/// What an adapter adds to a matrix: `scale * b a`.
#[derive(Clone, Debug)]
pub struct Product {
    /// The matrix that vectors meet first.
    pub a: Matrix,
    /// The one that they meet then.
    pub b: Matrix,
    /// What the product is multiplied with.
    pub scale: f32,
}

/// Rows of the matrix that lie one behind the other.
#[derive(Clone, Debug)]
struct Part {
    rows: Range<usize>,
    bytes: Bytes,
}

/// Bytes in a mapped file, or a copy where they are not in order there.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// A range of a mapped file.
    Mapped(Arc<Mmap>, Range<usize>),
    /// A copy.
    Owned(Arc<Vec<u8>>, Range<usize>),
}

impl Bytes {
    /// The bytes themselves.
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map, range) => &map[range.clone()],
            Bytes::Owned(bytes, range) => &bytes[range.clone()],
        }
    }

    /// `len` of them from `from` on.
    fn slice(&self, from: usize, len: usize) -> Bytes {
        let cut = |range: &Range<usize>| range.start + from..range.start + from + len;
        match self {
            Bytes::Mapped(map, range) => Bytes::Mapped(map.clone(), cut(range)),
            Bytes::Owned(bytes, range) => Bytes::Owned(bytes.clone(), cut(range)),
        }
    }
}

/// Rows that a thread multiplies before it asks for more.
const SHARE: usize = 64;
/// Places for the products of each `height` rows with every vector: threads own rows, and what they compute stands
/// vector by vector, `[count][rows]`.
fn bands(out: &mut [f32], rows: usize, height: usize) -> Vec<Vec<&mut [f32]>> {
    let count = out.len() / rows;
    let mut bands: Vec<Vec<&mut [f32]>> = Vec::new();
    bands.resize_with(rows.div_ceil(height), || Vec::with_capacity(count));
    for vector in out.chunks_exact_mut(rows) {
        let places = vector.chunks_mut(height);
        bands.iter_mut().zip(places).for_each(|(band, place)| band.push(place));
    }
    bands
}

impl Matrix {
    /// A matrix whose parts have `(rows, bytes)` each, whole rows of `row_bytes` bytes.
    pub fn new(
        quant: QuantType,
        cols: usize,
        row_bytes: usize,
        parts: Vec<(usize, Bytes)>,
    ) -> Matrix {
        let mut rows = 0;
        let place = |(count, bytes)| {
            rows += count;
            Part { rows: rows - count..rows, bytes }
        };
        let parts: Vec<Part> = parts.into_iter().map(place).collect();
        for part in &parts {
            assert_eq!(part.bytes.get().len(), part.rows.len() * row_bytes, "whole rows");
        }
        let precision = Precision::default();
        Matrix { rows, cols, quant, row_bytes, precision, scale: 1.0, parts, added: Vec::new() }
    }

    /// The same with every stored number multiplied with this one.
    ///
    /// For a tensor whose factor is in another one beside it (`.scale`).
    #[must_use]
    pub fn times(self, scale: f32) -> Matrix {
        Matrix { scale: self.scale * scale, ..self }
    }

    /// The same, multiplied with numbers of that kind.
    #[must_use]
    pub fn with(self, precision: Precision) -> Matrix {
        Matrix { precision, ..self }
    }

    /// Adds the product of an adapter: `b` has as many rows as the matrix, `a` as many columns.
    pub fn add(&mut self, product: Product) {
        let Product { a, b, .. } = &product;
        assert_eq!((b.rows, b.cols, a.cols), (self.rows, a.rows, self.cols), "fitting matrices");
        self.added.push(product);
    }

    /// What the numbers are that it is multiplied with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The type of its rows.
    pub fn quant(&self) -> QuantType {
        self.quant
    }

    /// Rows `rows` as a matrix of their own. Rows that are coded together stay together.
    pub fn band(&self, rows: Range<usize>) -> Matrix {
        // Parts are consecutive: each has of the band what is between the later of both starts and the earlier of both
        // ends.
        // A part of a set that has none of these rows falls away.
        let cut = |part: &Part| {
            let (from, to) = (rows.start.max(part.rows.start), rows.end.min(part.rows.end));
            let count = to.checked_sub(from).filter(|count| *count > 0)?;
            let at = (from - part.rows.start) * self.row_bytes;
            Some((count, part.bytes.slice(at, count * self.row_bytes)))
        };
        let parts = self.parts.iter().filter_map(cut).collect();
        let band = |Product { a, b, scale }: &Product| Product {
            a: a.clone(),
            b: b.band(rows.clone()),
            scale: *scale,
        };
        let added = self.added.iter().map(band).collect();
        let band = Matrix::new(self.quant, self.cols, self.row_bytes, parts);
        Matrix { added, ..band.with(self.precision).times(self.scale) }
    }

    /// Decodes row `row` into `out`.
    ///
    /// # Panics
    /// Where there is no such row, or `out` is not `cols` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        // Types whose rows are coded in fours or eights are decoded so.
        let group = self.quant.row_group();
        let first = row - row % group;
        let mut rows = vec![0.0; group * self.cols];
        self.decode(first..first + group, &mut rows);
        out.copy_from_slice(&rows[(row - first) * self.cols..(row - first + 1) * self.cols]);
        scaled(out, self.scale);
        for Product { a, b, scale } in &self.added {
            // (W + scale * B A) row by row: row of B times A.
            let (mut shares, mut wide) = (vec![0.0; b.cols], vec![0.0; a.rows * a.cols]);
            b.row(row, &mut shares);
            a.decode(0..a.rows, &mut wide);
            add_product(Isa::best(), out, &shares, &Packed::of(&wide, self.cols), *scale);
        }
    }

    /// Rows `rows` as numbers, `[rows][cols]`, out of as many parts as they lie in.
    fn decode(&self, rows: Range<usize>, out: &mut [f32]) {
        let mut out = out;
        for part in &self.parts {
            let (from, to) = (rows.start.max(part.rows.start), rows.end.min(part.rows.end));
            if from < to {
                let bytes = &part.bytes.get()[(from - part.rows.start) * self.row_bytes..]
                    [..(to - from) * self.row_bytes];
                let (now, rest) = out.split_at_mut((to - from) * self.cols);
                decode_rows(self.quant, Isa::best(), bytes, self.cols, now);
                out = rest;
            }
        }
    }

    /// The products of every row with every vector of `xs`: `[count][cols]` in, `[count][rows]` out.
    ///
    /// ```text
    /// vectors   types                    path
    /// 1         with a whole kernel      whole: codes as whole numbers, decoded in registers
    /// 1         with a fused kernel      fused: decoded to floats in registers
    /// 1         others, and all of 2..   panel: 48 rows decoded to memory, then multiplied
    /// any       rounded activations      rounded, where the type has a kernel; else rounded and then as above
    /// ```
    ///
    /// # Panics
    /// Where `xs` is not a whole number of vectors, or `out` has not a place for each row and vector.
    pub fn multiply(&self, xs: &[f32], out: &mut [f32]) {
        let count = xs.len() / self.cols;
        assert_eq!(xs.len(), count * self.cols, "whole vectors");
        assert_eq!(out.len(), count * self.rows, "a product for every row and vector");
        match self.precision {
            Precision::Exact => self.multiply_stored(xs, out),
            Precision::Rounded => self.multiply_rounded(xs, count, out),
        }
        scaled(out, self.scale);
        for Product { a, b, scale } in &self.added {
            // scale * B (A x): the short side first, a few numbers in place of a row.
            let (mut narrow, mut wide) = (vec![0.0; count * a.rows], vec![0.0; out.len()]);
            a.multiply(xs, &mut narrow);
            b.multiply(&narrow, &mut wide);
            out.iter_mut().zip(wide).for_each(|(out, wide)| *out += wide * scale);
        }
    }

    /// The products of what the files hold with vectors that are rounded first.
    fn multiply_rounded(&self, xs: &[f32], count: usize, out: &mut [f32]) {
        let isa = Isa::best();
        if let Some(kernel) = rounded::kernel(self.quant, self.cols) {
            if count == 1 {
                let x = kernel.round(isa, self.quant, xs);
                let multiply = |rows: &[u8], out: &mut [f32]| {
                    (kernel.one)(isa, rows, self.row_bytes, &x, out);
                };
                return self.in_shares(out, multiply);
            }
            let rows: Vec<&[u8]> = self.stored().collect();
            let bands = bands(out, self.rows, rounded::ROWS);
            let shares = bands.into_par_iter().zip(rows.par_chunks(rounded::ROWS));
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            if let Some(tiles) = isa.tiles() {
                let groups = kernel.groups(isa, self.quant, xs, self.cols);
                return shares.for_each_init(Default::default, |room, (mut out, rows)| {
                    (kernel.tiled)(tiles, rows, &groups, &mut out, room);
                });
            }
            let groups = kernel.groups(isa, self.quant, xs, self.cols);
            return shares.for_each_init(Default::default, |room, (mut out, rows)| {
                (kernel.many)(isa, rows, &groups, &mut out, room);
            });
        }
        // Without a kernel the vectors are rounded to where eight bits put them, and multiplied as floats.
        let mut xs = xs.to_vec();
        let vectors = xs.par_chunks_mut(self.cols);
        vectors.for_each(|x| activations::round(isa, self.quant, x));
        self.multiply_stored(&xs, out);
    }

    /// The bytes of each row.
    fn stored(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().flat_map(|part| part.bytes.get().chunks(self.row_bytes))
    }

    /// The products of what the files hold.
    fn multiply_stored(&self, xs: &[f32], out: &mut [f32]) {
        let (isa, count) = (Isa::best(), xs.len() / self.cols);
        if count == 1 {
            // One vector: rows are decoded in registers, in whole numbers where the type has them.
            if let Some(multiply) = whole::kernel(self.quant, self.cols) {
                let x = whole::lay_out(isa, xs);
                return self
                    .in_shares(out, |rows, out| multiply(isa, rows, self.row_bytes, &x, out));
            }
            if let Some(multiply) = fused::kernel(self.quant, self.cols) {
                return self
                    .in_shares(out, |rows, out| multiply(isa, rows, self.row_bytes, xs, out));
            }
        }
        // Several: rows are decoded once into a panel, for all of them.
        let xs = panel::lay_out(isa, xs, self.cols);
        bands(out, self.rows, panel::ROWS).into_par_iter().enumerate().for_each_init(
            Default::default,
            |(weights, room): &mut (Vec<f32>, _), (band, mut out)| {
                let first = band * panel::ROWS;
                let height = panel::ROWS.min(self.rows - first);
                weights.resize(height * self.cols, 0.0);
                self.decode(first..first + height, weights);
                panel::multiply(isa, weights, &xs, self.cols, &mut out, room);
            },
        );
    }

    /// Hands rows and the places of their products to `multiply`.
    fn in_shares(&self, out: &mut [f32], multiply: impl Fn(&[u8], &mut [f32]) + Sync) {
        for part in &self.parts {
            let bytes = part.bytes.get().par_chunks(SHARE * self.row_bytes);
            let out = out[part.rows.clone()].par_chunks_mut(SHARE);
            bytes.zip(out).for_each(|(rows, out)| multiply(rows, out));
        }
    }
}
