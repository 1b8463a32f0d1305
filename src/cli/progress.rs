//! Progress bars on stderr, only where a person watches and only after the first second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Globals, may_draw};
use crate::change::Progress;

/// A bar over bytes.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for `total` bytes; hidden where stderr is no terminal.
    pub fn new(globals: &Globals, total: u64) -> Bar {
        let target = if may_draw(globals) {
            ProgressDrawTarget::stderr_with_hz(4)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let line = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(line) {
            bar.set_style(style);
        }
        Bar(bar)
    }
}

impl Progress for Bar {
    fn advance(&self, bytes: u64) {
        // What is done within a second needs no bar.
        if self.0.elapsed().as_secs() >= 1 {
            self.0.inc(bytes);
        } else {
            self.0.set_position(self.0.position() + bytes);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
