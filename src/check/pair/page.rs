//! One self-contained page for a comparison: inline SVG, no script, nothing fetched.

use std::{fmt::Write, path::Path};

use super::report::{Candidate, CompareReport};
use crate::size;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 56.0;
/// Colours that stay apart for colour-blind readers.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// The page of a report.
pub fn page(report: &CompareReport) -> String {
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>regguf compare</title>\n<style>\
         body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}\
         table{border-collapse:collapse;width:100%}td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right}\
         td{white-space:nowrap}td:first-child,th:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere}svg{width:100%;height:auto}svg text{font-size:11px}\
         .verdict{font-weight:600}</style>\n",
    );
    let _ = writeln!(out, "<h1>{}</h1>", escape(&report.reference.name));
    let _ = writeln!(
        out,
        "<p>{}, {}; every other model is compared with this one.</p>",
        escape(&report.reference.format),
        size::text(report.reference.bytes)
    );
    models(&mut out, report);
    scatter(&mut out, report);
    for (i, candidate) in report.candidates.iter().enumerate() {
        let _ = writeln!(out, "<h2>{}</h2>", escape(&candidate.side.name));
        let _ = writeln!(out, "<p class=\"verdict\">{}</p>", escape(&candidate.verdict));
        differences(&mut out, candidate);
        errors(&mut out, candidate, colour(i));
        divergence(&mut out, candidate, colour(i));
    }
    out + "</html>\n"
}

fn colour(i: usize) -> &'static str {
    COLOURS.get(i % COLOURS.len()).copied().unwrap_or("#000")
}

fn models(out: &mut String, report: &CompareReport) {
    out.push_str(
        "<table><tr><th>model</th><th>format</th><th>size</th><th>perplexity</th><th>same top token</th>\
         <th>KL mean</th><th>KL median</th><th>KL 99 %</th><th>KL max</th></tr>\n",
    );
    let sides = std::iter::once((&report.reference, None));
    let others = report.candidates.iter().map(|c| (&c.side, c.outputs.as_ref()));
    for (side, outputs) in sides.chain(others) {
        let ppl = side
            .perplexity
            .map_or("–".to_owned(), |p| format!("{:.4} ± {:.4}", p.value, p.error));
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{ppl}</td>",
            escape(&side.name),
            escape(&side.format),
            size::text(side.bytes)
        );
        match outputs {
            Some(o) => {
                let _ = write!(out, "<td>{:.2} %</td>", o.same_top * 100.0);
                for kl in [o.kl_mean, o.kl_median, o.kl_p99, o.kl_max] {
                    let _ = write!(out, "<td>{kl:.3e}</td>");
                }
            }
            None => out.push_str(&"<td>–</td>".repeat(5)),
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
}

fn differences(out: &mut String, candidate: &Candidate) {
    let c = &candidate.comparison;
    if !c.metadata.is_empty() {
        out.push_str("<table><tr><th>key</th><th>reference</th><th>here</th></tr>\n");
        for d in &c.metadata {
            let value = |v: &Option<String>| escape(v.as_deref().unwrap_or("–"));
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&d.key),
                value(&d.first),
                value(&d.second)
            );
        }
        out.push_str("</table>\n");
    }
    for line in c.vocab.iter().chain(&c.vocab_added) {
        let _ = writeln!(out, "<p>Vocabulary: {}.</p>", escape(line));
    }
}

/// A picture with axes; `body` is drawn inside.
struct Plot {
    x: (f64, f64),
    y: (f64, f64),
    body: String,
}

impl Plot {
    fn new(x: (f64, f64), y: (f64, f64)) -> Plot {
        let wide =
            |(from, to): (f64, f64)| if to > from { (from, to) } else { (from - 0.5, from + 0.5) };
        Plot { x: wide(x), y: wide(y), body: String::new() }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |v: f64, (from, to): (f64, f64)| (v - from) / (to - from);
        let px = MARGIN + part(x, self.x) * (WIDTH - 2.0 * MARGIN);
        (px, HEIGHT - 30.0 - part(y, self.y) * (HEIGHT - 50.0))
    }

    fn draw(self, out: &mut String, title: &str, label: impl Fn(f64) -> String) {
        let _ = write!(
            out,
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
            escape(title)
        );
        for i in 0..=4 {
            let value = self.y.0 + (self.y.1 - self.y.0) * f64::from(i) / 4.0;
            let (_, y) = self.at(self.x.0, value);
            let _ = write!(
                out,
                "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e5e5e5\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - MARGIN,
                MARGIN - 6.0,
                y + 4.0,
                label(value)
            );
        }
        let _ = writeln!(out, "{}</svg></figure>", self.body);
    }
}

/// Error of every tensor, as a bar on a logarithmic scale.
fn errors(out: &mut String, candidate: &Candidate, colour: &str) {
    let tensors: Vec<_> = candidate.comparison.tensors.iter().filter(|t| t.rmse > 0.0).collect();
    if tensors.is_empty() {
        out.push_str("<p>Every tensor holds the same weights.</p>\n");
        return;
    }
    let logs = || tensors.iter().map(|t| t.rmse.log10());
    let low = logs().fold(f64::INFINITY, f64::min).floor();
    let high = logs().fold(f64::NEG_INFINITY, f64::max).ceil();
    let mut plot = Plot::new((0.0, tensors.len() as f64), (low, high));
    let width = (WIDTH - 2.0 * MARGIN) / tensors.len() as f64;
    for (i, t) in tensors.iter().enumerate() {
        let (x, y) = plot.at(i as f64, t.rmse.log10());
        let (_, base) = plot.at(0.0, plot.y.0);
        let _ = write!(
            plot.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{:.1}\" fill=\"{colour}\">\
             <title>{} ({} to {}): rmse {:.3e}, cosine {:.6}</title></rect>",
            (width * 0.85).max(0.5),
            (base - y).max(0.5),
            escape(&t.name),
            escape(&t.first),
            escape(&t.second),
            t.rmse,
            t.cosine
        );
    }
    plot.draw(out, "Root mean squared error of each tensor", |v| format!("1e{v:.1}"));
}

/// Divergence at every position of the text.
fn divergence(out: &mut String, candidate: &Candidate, colour: &str) {
    let Some(outputs) = &candidate.outputs else { return };
    if outputs.kl_max <= 0.0 {
        out.push_str("<p>The same output at every position.</p>\n");
        return;
    }
    let top = outputs.kl.iter().copied().fold(0.0, f64::max);
    let mut plot = Plot::new((0.0, outputs.kl.len() as f64), (0.0, top));
    let points: Vec<String> = outputs
        .kl
        .iter()
        .enumerate()
        .map(|(i, kl)| plot.at(i as f64, *kl))
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = write!(
        plot.body,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>",
        points.join(" ")
    );
    plot.draw(out, "Kullback–Leibler divergence by position", |v| format!("{v:.2e}"));
}

/// Size against perplexity, where there are several models.
fn scatter(out: &mut String, report: &CompareReport) {
    let sides = std::iter::once(&report.reference).chain(report.candidates.iter().map(|c| &c.side));
    let points: Vec<_> = sides.filter_map(|s| Some((s, s.perplexity?))).collect();
    if points.len() < 3 {
        return;
    }
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let x = range(&mut points.iter().map(|(s, _)| s.bytes as f64));
    let y = range(&mut points.iter().flat_map(|(_, p)| [p.value - p.error, p.value + p.error]));
    let mut plot = Plot::new(x, y);
    for (i, (side, ppl)) in points.iter().enumerate() {
        let colour = if i == 0 { "#222" } else { colour(i - 1) };
        let bytes = side.bytes as f64;
        let file = Path::new(&side.name).file_name().and_then(|name| name.to_str());
        // At the edges a label stands inside.
        let anchor = match (bytes - plot.x.0) / (plot.x.1 - plot.x.0) {
            0.0..0.3 => "start",
            0.7..=1.0 => "end",
            _ => "middle",
        };
        let ((cx, cy), (_, low), (_, high)) = (
            plot.at(bytes, ppl.value),
            plot.at(bytes, ppl.value - ppl.error),
            plot.at(bytes, ppl.value + ppl.error),
        );
        let _ = write!(
            plot.body,
            "<line x1=\"{cx:.1}\" x2=\"{cx:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" stroke=\"{colour}\"/>\
             <circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\" fill=\"{colour}\"/>\
             <text x=\"{cx:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{} {}</text>",
            cy - 8.0,
            escape(file.unwrap_or(&side.name)),
            size::text(side.bytes)
        );
    }
    plot.draw(out, "Size against perplexity (lower is better)", |v| format!("{v:.3}"));
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
