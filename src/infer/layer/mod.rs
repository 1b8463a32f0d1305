//! The parts of a layer: one function for each value that `[arithmetic]` of a family may have.
//!
//! Shapes are written `[T][width]`: T vectors of `width` numbers, one after another.

pub mod attention;
pub mod experts;
mod heads;
pub mod latent;
pub mod mlp;
pub mod norm;
pub mod position;
pub mod recurrence;

use super::{buffer::Buffer, matrix::Matrix};

/// A matrix and what is added to its products.
///
/// `y = W x + bias`, with `[rows][cols]` for W.
#[derive(Debug)]
pub struct Linear {
    /// The GGUF name of its tensor, by which importance is counted; none where it is not.
    pub name: Option<String>,
    /// Which expert it is of how many; `(0, 1)` where there is one for all.
    pub expert: (usize, usize),
    /// The matrix.
    pub matrix: Matrix,
    /// A number for each row; empty where none is added.
    pub bias: Vec<f32>,
}

/// Sees what goes into each matrix, to weigh the importance of its columns.
pub trait Tap: Send {
    /// `xs` are the vectors of `cols` numbers that the tensor `name` is multiplied with; `expert` is the
    /// part of it that they are sent to, of how many.
    fn see(&mut self, name: &str, expert: (usize, usize), cols: usize, xs: &[f32]);
}

/// Where a tap may sit.
pub type Tapped<'t> = Option<&'t mut dyn Tap>;

impl Linear {
    /// `[T][cols]` in, `[T][rows]` out.
    pub fn of(&self, x: &[f32], tap: &mut Tapped) -> Buffer {
        let Matrix { rows, cols, .. } = self.matrix;
        if let (Some(tap), Some(name)) = (tap, &self.name) {
            tap.see(name, self.expert, cols, x);
        }
        let mut out = Buffer::of(x.len() / cols * rows);
        self.matrix.multiply(x, &mut out);
        if !self.bias.is_empty() {
            out.chunks_exact_mut(rows).for_each(|out| add(out, &self.bias));
        }
        out
    }
}

/// Numbers kept within a bound, which large ones come near: `cap * tanh(x / cap)`.
pub fn capped(xs: &mut [f32], cap: f32) {
    if cap < f32::INFINITY {
        xs.iter_mut().for_each(|x| *x = cap * libm::tanhf(*x / cap));
    }
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
