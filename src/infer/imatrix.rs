//! Collects an importance matrix while a model runs: every matrix tells what it is multiplied with.

use super::layer::Tap;
use crate::container::imatrix::Measured;

impl Tap for Measured {
    fn see(&mut self, name: &str, expert: (usize, usize), cols: usize, xs: &[f32]) {
        self.add(name, expert, cols, xs);
    }
}
