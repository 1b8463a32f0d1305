//! What pages have in common: one self-contained file, no script, nothing fetched, light or dark as the
//! reader's screen is, legible from 420 pixels of width on.
//!
//! Text is never in a drawing that is scaled: lines are SVG, stretched to the room that there is; words
//! are HTML over them, placed in percent.
//!
//! ```text
//! figure
//!   figcaption            the title
//!   div.plot > div.area   the box that axes are drawn around, 220 pixels high
//!     svg                 0 0 100 100: x from the left, y from ABOVE, so 100 - percent; grid first, then lines
//!     span.y, span.x      words of the marks, outside the box
//!     span.dot, .name     what `over` holds: percent from the left and from BELOW
//! ```

use std::fmt::Write;

/// Colours that stay apart for colour-blind readers, by their names in the style sheet.
const COLOURS: [&str; 6] =
    ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d1f22;--soft:#5c636b;--line:#d9dde1;--paper:#fff;\
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#e69f00;--c5:#56b4e9}\
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#a2a9b1;--line:#3b4047;--paper:#15171a;\
--c0:#4ba3e0;--c1:#f0884a;--c2:#2fc298;--c3:#de9ac1;--c5:#9ad3f5}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:1.5em auto;padding:0 1em;\
color:var(--ink);background:var(--paper)}\
h1,h2{line-height:1.25;overflow-wrap:anywhere}h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em}\
p,li{overflow-wrap:anywhere}small{color:var(--soft)}\
.wide{overflow-x:auto;margin:1em 0}table{border-collapse:collapse}\
td,th{padding:.2em .6em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}\
td:first-child{white-space:normal;overflow-wrap:anywhere;min-width:8em}\
.verdict{font-weight:600}.swatch{display:inline-block;width:.8em;height:.8em;margin-right:.4em}\
figure{margin:1.5em 0}figcaption{font-weight:600;margin-bottom:.6em}\
.plot{padding:.5em 2em 1.8em 4.2em}.area{position:relative;height:220px;\
border:solid var(--line);border-width:0 0 1px 1px}\
.area svg{position:absolute;inset:0;width:100%;height:100%}\
.area path{fill:none;vector-effect:non-scaling-stroke}\
.area span{position:absolute;font-size:12px;line-height:1;white-space:nowrap}\
.area .y{right:100%;transform:translateY(50%);padding-right:.5em;color:var(--soft)}\
.area .x{top:100%;transform:translateX(-50%);padding-top:.5em;color:var(--soft)}\
.area .dot{width:9px;height:9px;border-radius:50%;transform:translate(-50%,50%)}\
.area .name{transform:translateY(50%);padding-left:10px;font-weight:600;box-sizing:border-box;overflow:hidden;text-overflow:ellipsis;line-height:15px}\
.bars{list-style:none;padding:0;margin:0}\
.bars li{display:grid;grid-template-columns:minmax(0,22em) 1fr 5em;gap:0 .8em;align-items:center;\
font-size:13px}\
.bars .figure{text-align:right}.bars .track{height:.9em}\
.bars .track i{display:block;height:100%;min-width:1px}\
.bars .ticks{position:relative;height:1.6em;color:var(--soft)}\
.bars .ticks span{position:absolute;transform:translateX(-50%);white-space:nowrap}\
.bars .ticks span:first-child{transform:none}.bars .ticks span:last-child{transform:translateX(-100%)}\
@media(max-width:640px){.bars li{grid-template-columns:1fr 5em}.bars .label{grid-column:1/-1}\
.area .x:nth-child(even of .x){display:none}}\
";

/// The beginning of a page, its heading and `style`, what only it needs.
pub fn begin(title: &str, style: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title>\n<style>{STYLE}{style}</style>\n<h1>{title}</h1>\n"
    )
}

/// The end of a page.
pub const END: &str = "</html>\n";

/// The colour of the thing of that number.
pub fn colour(i: usize) -> &'static str {
    COLOURS.get(i % COLOURS.len()).copied().unwrap_or("var(--ink)")
}

/// Text as HTML shows it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Values at which an axis is marked, about `about` of them, of 1, 2 or 5 times a power of ten apart, and how
/// many digits they have behind the point, or before the e.
///
/// ```text
/// rough = (to - from) / about
/// step  = the least n * 10^floor(log10(rough)), n in 1 2 5 10, with step * 1.3 >= rough
/// ```
fn ticks((from, to): (f64, f64), about: f64) -> (f64, Vec<f64>) {
    let rough = ((to - from) / about).max(f64::MIN_POSITIVE);
    let ten = 10f64.powf(rough.log10().floor());
    // Rather a few more than a few fewer.
    let step = [1.0, 2.0, 5.0].into_iter().map(|n| n * ten).find(|step| step * 1.3 >= rough);
    let step = step.unwrap_or(10.0 * ten);
    let mut marks = Vec::new();
    let mut n = (from / step).ceil();
    while n * step <= to + step * 1e-9 {
        marks.push(n * step);
        n += 1.0;
    }
    (step, marks)
}

/// A mark of an axis whose marks are `step` apart, with no more digits than tell it from its neighbours.
///
/// ```text
/// step 0.02  5.98      digits behind the point = -floor(log10(step))
/// step 1e9   4e9       below 1e-5, from 1e7 on: digits before the e = floor(log10(value)) - floor(log10(step))
/// ```
pub fn mark(value: f64, step: f64) -> String {
    let exponent = |x: f64| x.abs().log10().floor();
    let digits = |n: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 17")]
        let n = n.clamp(0.0, 17.0) as usize;
        n
    };
    // What is a mark is a whole number of steps: the rest is of the multiplication.
    // 0.1 * 3 is above 0.3, and log10 of 1e-7 may be a hair below -7: without this a mark has one digit too many or
    // few.
    let step_exponent = exponent(step * (1.0 + 1e-9));
    if value.abs() < step / 2.0 {
        return "0".to_owned();
    }
    let large = exponent(value.abs() * (1.0 + 1e-9));
    match (-5.0..7.0).contains(&step_exponent) && large < 7.0 {
        true => format!("{value:.*}", digits(-step_exponent)),
        false => format!("{value:.*e}", digits(large - step_exponent)),
    }
}

/// One axis of a picture: its range, at least as far as its outermost marks.
pub struct Axis {
    from: f64,
    to: f64,
    step: f64,
    marks: Vec<f64>,
}

impl Axis {
    /// An axis that begins and ends with the values themselves.
    pub fn tight(range: (f64, f64)) -> Axis {
        // All values are one: it is put in the middle of an axis one unit long, so that nothing is divided by zero.
        let (from, to) = match range.1 > range.0 {
            true => range,
            false => (range.0 - 0.5, range.0 + 0.5),
        };
        let (step, marks) = ticks((from, to), 5.0);
        Axis { from, to, step, marks }
    }

    /// An axis that begins and ends with a mark.
    pub fn round(range: (f64, f64)) -> Axis {
        let tight = Axis::tight(range);
        let step = tight.step;
        let wide = ((tight.from / step).floor() * step, (tight.to / step).ceil() * step);
        Axis { marks: ticks(wide, (wide.1 - wide.0) / step).1, from: wide.0, to: wide.1, step }
    }

    /// How far along it a value is, in percent.
    /// Values outside the range give less than 0 or more than 100.
    pub fn percent(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from) * 100.0
    }
}

/// The height of a picture, in pixels.
pub const HEIGHT: f64 = 220.0;

/// A picture with axes.
pub struct Plot {
    x: Axis,
    y: Axis,
    lines: String,
    /// HTML that is placed over the lines.
    pub over: String,
}

impl Plot {
    /// An empty picture.
    pub fn new(x: Axis, y: Axis) -> Plot {
        Plot { x, y, lines: String::new(), over: String::new() }
    }

    /// Where a point is, in percent from the left and from below.
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (self.x.percent(x), self.y.percent(y))
    }

    /// Draws a line through points.
    pub fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
        let places = points.map(|(x, y)| self.at(x, y));
        let places: Vec<_> = places.map(|(x, y)| format!("{x:.2} {:.2}", 100.0 - y)).collect();
        let _ = write!(self.lines, "<path stroke=\"{colour}\" d=\"M{}\"/>", places.join("L"));
    }

    /// Adds the picture to a page; `x` and `y` are the words for marks that are so far apart.
    pub fn draw(
        mut self,
        out: &mut String,
        title: &str,
        x: impl Fn(f64, f64) -> String,
        y: impl Fn(f64, f64) -> String,
    ) {
        let mut grid = String::new();
        for value in &self.y.marks {
            let at = self.y.percent(*value);
            let _ = write!(grid, "M0 {0:.2}H100", 100.0 - at);
            let text = y(*value, self.y.step);
            let _ = write!(self.over, "<span class=\"y\" style=\"bottom:{at:.2}%\">{text}</span>");
        }
        for value in &self.x.marks {
            let (at, text) = (self.x.percent(*value), x(*value, self.x.step));
            let _ = write!(self.over, "<span class=\"x\" style=\"left:{at:.2}%\">{text}</span>");
        }
        let _ = writeln!(
            out,
            "<figure><figcaption>{}</figcaption><div class=\"plot\"><div class=\"area\">\
             <svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <path stroke=\"var(--line)\" d=\"{grid}\"/>{}</svg>{}</div></div></figure>",
            escape(title),
            self.lines,
            self.over
        );
    }
}

/// A bar with a name.
pub struct Bar {
    /// What it is of, as HTML.
    pub label: String,
    /// What it measures, above zero.
    pub value: f64,
    /// More about it.
    pub title: String,
}

/// Bars that are drawn at once; the shorter ones of more are folded away.
const DRAWN: usize = 64;

/// Bars with their names on a logarithmic scale, in the order given.
///
/// ```text
/// width in percent = (log10(value) - low) / (high - low) * 100      low, high: whole powers of ten around all values
/// ```
///
/// Lists of bars stay HTML rather than SVG, so that names of tensors wrap and can be searched for.
pub fn bars(out: &mut String, title: &str, bars: &[Bar], colour: &str) {
    let logs = || bars.iter().map(|bar| bar.value.log10());
    let low = logs().fold(f64::INFINITY, f64::min).floor();
    let high = logs().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let (_, marks) = ticks((low, high), 6.0f64.min(high - low));
    let percent = |log: f64| (log - low) / (high - low) * 100.0;
    let ticks: String = marks
        .iter()
        .map(|log| format!("<span style=\"left:{:.2}%\">10<sup>{log}</sup></span>", percent(*log)))
        .collect();
    let head =
        format!("<li><span class=\"label\"></span><span class=\"ticks\">{ticks}</span></li>");
    // One line at each power of ten, behind every bar.
    let track = format!(
        "background:repeating-linear-gradient(90deg,var(--line) 0 1px,transparent 1px {:.4}%)",
        100.0 / (high - low)
    );
    let row = |bar: &Bar| {
        format!(
            "<li title=\"{}\"><span class=\"label\">{}</span><span class=\"track\" style=\"{track}\">\
             <i style=\"width:{:.2}%;background:{colour}\"></i></span>\
             <span class=\"figure\">{:.2e}</span></li>\n",
            escape(&bar.title),
            bar.label,
            percent(bar.value.log10()),
            bar.value
        )
    };
    let mut sizes: Vec<f64> = bars.iter().map(|bar| bar.value).collect();
    sizes.sort_by(|a, b| b.total_cmp(a));
    // The value of the last bar that is drawn; equals of it are drawn too. With fewer bars nothing is folded away.
    let least = sizes.get(DRAWN - 1).copied().unwrap_or(0.0);
    let (large, small): (Vec<&Bar>, Vec<&Bar>) = bars.iter().partition(|bar| bar.value >= least);
    let list = |bars: &[&Bar]| -> String {
        let rows: String = bars.iter().map(|bar| row(bar)).collect();
        format!("<ul class=\"bars\">{head}{rows}</ul>\n")
    };
    let _ = writeln!(out, "<figure><figcaption>{}</figcaption>{}", escape(title), list(&large));
    if !small.is_empty() {
        let _ = writeln!(
            out,
            "<details><summary>{} with less</summary>{}</details>",
            small.len(),
            list(&small)
        );
    }
    out.push_str("</figure>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers_with_the_digits_that_tell_them_apart() {
        let of = |from, to| {
            let (step, marks) = ticks((from, to), 5.0);
            marks.into_iter().map(|value| mark(value, step)).collect::<Vec<_>>()
        };
        assert_eq!(of(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(of(0.0, 2047.0), ["0", "500", "1000", "1500", "2000"]);
        assert_eq!(of(5.961, 6.084), ["5.98", "6.00", "6.02", "6.04", "6.06", "6.08"]);
        assert_eq!(of(-3e-7, 5e-7), ["-2e-7", "0", "2e-7", "4e-7"]);
        assert_eq!(of(9.5e-8, 1.35e-7), ["1.0e-7", "1.1e-7", "1.2e-7", "1.3e-7"]);
        assert_eq!(of(0.0, 7e9), ["0", "2e9", "4e9", "6e9"]);
    }

    #[test]
    fn a_round_axis_holds_its_values_between_marks() {
        let axis = Axis::round((5.961, 6.084));
        assert!((axis.from - 5.95).abs() < 0.011 && axis.to >= 6.084, "{} {}", axis.from, axis.to);
        assert!(axis.percent(axis.marks[0]).abs() < 1e-9, "begins with a mark");
        let equal = Axis::tight((3.0, 3.0));
        assert_eq!(equal.percent(3.0), 50.0);
    }
}
