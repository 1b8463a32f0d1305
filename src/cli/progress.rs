//! Progress bars on stderr, only where a person watches and only after the first second. All of them fit 50
//! columns.

use std::{fmt::Write, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{Globals, may_draw};
use crate::change::Progress;

/// How far bytes are: the bar takes what the figures leave.
pub const BYTES: &str = "{wide_bar} {decimal_bytes}/{decimal_total_bytes}{left}";
/// How far tokens are.
const TOKENS: &str = "{wide_bar} {pos}/{len} tokens{left}";

/// How long it takes yet; nothing where nothing is done to tell it by.
fn left(state: &ProgressState, out: &mut dyn Write) {
    if state.pos() > 0 {
        let _ = write!(out, " {} left", time(state.eta()));
    }
}

/// A time in the units of reports.
fn time(of: Duration) -> String {
    match of.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// A style of this module.
pub fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    style.with_key("left", left).with_key("so_far", |state: &ProgressState, out: &mut dyn Write| {
        let _ = out.write_str(&time(state.elapsed()));
    })
}

/// A bar in a style of this module, drawn where a person watches.
pub fn drawn(wanted: bool, total: Option<u64>, template: &str) -> ProgressBar {
    let target = match wanted {
        true => ProgressDrawTarget::stderr_with_hz(4),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(total, target);
    bar.set_style(style(template));
    bar
}

/// A bar over tokens that a model reads.
#[derive(Debug)]
pub struct Tokens(ProgressBar);

impl Tokens {
    /// A bar for `total` tokens.
    pub fn new(globals: &Globals, total: usize) -> Tokens {
        let bar = drawn(may_draw(globals), u64::try_from(total).ok(), TOKENS);
        // Also before the first window is read, which may take long.
        bar.enable_steady_tick(Duration::from_secs(1));
        Tokens(bar)
    }

    /// `n` more have been read.
    pub fn advance(&self, n: usize) {
        self.0.inc(u64::try_from(n).unwrap_or(0));
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar over bytes.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    wanted: bool,
}

impl Bar {
    /// A bar for `total` bytes, and those that are announced later; hidden where stderr is no terminal.
    pub fn new(globals: &Globals, total: u64) -> Bar {
        Bar::only(may_draw(globals), total)
    }

    /// A bar that is drawn where it is `wanted`.
    pub fn only(wanted: bool, total: u64) -> Bar {
        Bar { bar: drawn(false, Some(total), BYTES), wanted }
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.bar.inc_length(bytes);
        self.bar.disable_steady_tick();
        self.bar.reset_eta();
        self.bar.set_style(style(BYTES));
    }

    fn advance(&self, bytes: u64) {
        // What is done within a second needs no bar.
        if self.wanted && self.bar.is_hidden() && self.bar.elapsed().as_secs() >= 1 {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        self.bar.inc(bytes);
        if self.bar.length().is_some_and(|total| total > 0 && self.bar.position() >= total) {
            // All is read or written; what follows looks at it, or announces more.
            self.bar.set_style(style("{spinner} checking {so_far}"));
            self.bar.enable_steady_tick(Duration::from_millis(250));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
