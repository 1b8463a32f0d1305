//! One self-contained page for a comparison.
//!
//! | part | of | from |
//! |---|---|---|
//! | table | all models | size, perplexity with its standard error, divergence in nats from the reference |
//! | scatter | all models that were run, from three on | bytes across, perplexity up |
//! | differences | each other model | keys and vocabulary |
//! | bars | each other model | root mean squared difference of each tensor, where there is one |
//! | line | each other model that was run | divergence at each position of the text |
//!
//! Names of files, keys and tensors come from files that nobody vouches for: every one goes through `escape`.

use std::{fmt::Write, path::Path};

use super::report::{Candidate, CompareReport};
use crate::{
    check::page::{self, Axis, Bar, HEIGHT, Plot, colour, escape, mark},
    size,
};

/// The page of a report.
/// Figures are for every model at once, pictures for one at a time, in the colour that its name has everywhere.
pub fn page(report: &CompareReport) -> String {
    let mut out = page::begin(&report.reference.name, "");
    let _ = writeln!(
        out,
        "<p>{}, {}; every other model is compared with this one.</p>",
        escape(&report.reference.format),
        size::text(report.reference.bytes)
    );
    models(&mut out, report);
    scatter(&mut out, report);
    for (i, candidate) in report.candidates.iter().enumerate() {
        let _ = writeln!(
            out,
            "<h2><i class=\"swatch\" style=\"background:{}\"></i>{}</h2>",
            colour(i),
            escape(&candidate.side.name)
        );
        let _ = writeln!(out, "<p class=\"verdict\">{}</p>", escape(&candidate.verdict));
        differences(&mut out, candidate);
        errors(&mut out, candidate, colour(i));
        divergence(&mut out, candidate, colour(i));
    }
    out + page::END
}

/// One row a model, the reference first; a dash where a model was not run, or has nothing to be compared with.
fn models(out: &mut String, report: &CompareReport) {
    out.push_str(
        "<div class=\"wide\"><table><tr><th>model</th><th>format</th><th>size</th><th>perplexity</th><th>same top token</th>\
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
    out.push_str("</table></div>\n");
}

/// The keys with other values, and what differs in the vocabularies; nothing where neither differs.
fn differences(out: &mut String, candidate: &Candidate) {
    let c = &candidate.comparison;
    if !c.metadata.is_empty() {
        out.push_str(
            "<div class=\"wide\"><table><tr><th>key</th><th>reference</th><th>here</th></tr>\n",
        );
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
        out.push_str("</table></div>\n");
    }
    for line in c.vocab.iter().chain(&c.vocab_added) {
        let _ = writeln!(out, "<p>Vocabulary: {}.</p>", escape(line));
    }
}

/// Error of every tensor, as a bar on a logarithmic scale.
fn errors(out: &mut String, candidate: &Candidate, colour: &str) {
    let c = &candidate.comparison;
    for (side, names) in [("reference", &c.only_first), ("other", &c.only_second)] {
        if !names.is_empty() {
            let _ = writeln!(out, "<p>Only in the {side}: {}.</p>", escape(&names.join(", ")));
        }
    }
    // Zero has no logarithm, and a tensor without error needs no bar.
    let differing = c.tensors.iter().filter(|t| t.rmse > 0.0);
    let bars: Vec<Bar> = differing
        .map(|t| {
            let types = match t.first == t.second {
                true => t.first.clone(),
                false => format!("{} → {}", t.first, t.second),
            };
            Bar {
                label: format!("{} <small>{}</small>", escape(&t.name), escape(&types)),
                value: t.rmse,
                title: format!("largest error {:.3e}, cosine {:.6}", t.max_error, t.cosine),
            }
        })
        .collect();
    match bars.is_empty() {
        true => out.push_str("<p>Every tensor that is compared holds the same weights.</p>\n"),
        false => page::bars(out, "Root mean squared error of each tensor", &bars, colour),
    }
}

/// Divergence at every position of the text.
fn divergence(out: &mut String, candidate: &Candidate, colour: &str) {
    let Some(outputs) = &candidate.outputs else { return };
    if outputs.kl_max <= 0.0 {
        out.push_str("<p>The same output at every position.</p>\n");
        return;
    }
    // The axis begins at 0: positions that do not differ are to be seen as such.
    let top = outputs.kl.iter().copied().fold(0.0, f64::max);
    let last = outputs.kl.len().saturating_sub(1) as f64;
    let mut plot = Plot::new(Axis::tight((0.0, last)), Axis::round((0.0, top)));
    plot.line(outputs.kl.iter().enumerate().map(|(i, kl)| (i as f64, *kl)), colour);
    plot.draw(out, "Kullback–Leibler divergence by position of the text", mark, mark);
}

/// Size against perplexity, where there are several models.
///
/// Points are at their places in percent of the plot, so the page needs no script to be wide or narrow; names are words
/// over it, not in it, so they can be copied and searched for.
fn scatter(out: &mut String, report: &CompareReport) {
    let sides = std::iter::once(&report.reference).chain(report.candidates.iter().map(|c| &c.side));
    let points: Vec<_> = sides.filter_map(|s| Some((s, s.perplexity?))).collect();
    // Two points say no more than the table does.
    if points.len() < 3 {
        return;
    }
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let x = range(&mut points.iter().map(|(s, _)| s.bytes as f64));
    // Whiskers of one standard error are part of the picture, so the axis holds them.
    let y = range(&mut points.iter().flat_map(|(_, p)| [p.value - p.error, p.value + p.error]));
    let mut plot = Plot::new(Axis::round(x), Axis::round(y));
    let mut names = Vec::new();
    for (i, (side, ppl)) in points.iter().enumerate() {
        // The reference is in the colour of text; the others in the order and colours of their headings below.
        let colour = i.checked_sub(1).map_or("var(--ink)", colour);
        let bytes = side.bytes as f64;
        let whisker = [ppl.value - ppl.error, ppl.value + ppl.error].map(|y| (bytes, y));
        plot.line(whisker.into_iter(), colour);
        let (left, bottom) = plot.at(bytes, ppl.value);
        let _ = write!(
            plot.over,
            "<span class=\"dot\" style=\"left:{left:.2}%;bottom:{bottom:.2}%;background:{colour}\"></span>"
        );
        let file = Path::new(&side.name).file_name().and_then(|name| name.to_str());
        let name = escape(file.unwrap_or(&side.name));
        names.push((left, bottom, format!("<b style=\"color:{colour}\">{name}</b>")));
    }
    for (left, bottom, name) in apart(names) {
        // At the right edge a name is before its point.
        let place = match left > 50.0 {
            true => format!("right:{:.2}%;max-width:{left:.2}%;padding:0 10px 0 0", 100.0 - left),
            false => format!("left:{left:.2}%;max-width:{:.2}%", 100.0 - left),
        };
        let _ = write!(
            plot.over,
            "<span class=\"name\" style=\"{place};bottom:{bottom:.2}%\">{name}</span>"
        );
    }
    let bytes = |value: f64, _| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes")]
        let bytes = value.max(0.0) as u64;
        size::text(bytes)
    };
    plot.draw(out, "Size against perplexity (lower is better)", bytes, mark);
}

/// Names with their places in percent, moved up as far as none is over another or over another's point.
///
/// ```text
/// points at    10    11    60          one line is 15 of 220 pixels, 6.8 percent
/// names at     17.8  24.6  60          the first is above the second's point, the second above the first name
/// ```
fn apart(mut names: Vec<(f64, f64, String)>) -> Vec<(f64, f64, String)> {
    const LINE: f64 = 15.0 / HEIGHT * 100.0;
    names.sort_by(|a, b| a.1.total_cmp(&b.1));
    let points: Vec<f64> = names.iter().map(|(_, bottom, _)| *bottom).collect();
    let mut free = f64::NEG_INFINITY;
    for (own, (_, bottom, _)) in names.iter_mut().enumerate() {
        *bottom = bottom.max(free);
        for (_, point) in points.iter().enumerate().filter(|(i, _)| *i != own) {
            if (*point - *bottom).abs() < LINE {
                *bottom = point + LINE;
            }
        }
        free = *bottom + LINE;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_over_no_other_name_or_point() {
        let all = [10.0, 11.0, 11.5, 60.0].map(|bottom| (0.0, bottom, format!("{bottom}")));
        let placed = apart(all.to_vec());
        let line = 15.0 / HEIGHT * 100.0 - 1e-9;
        for (i, (_, bottom, name)) in placed.iter().enumerate() {
            let names = placed.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| p.1);
            let points = all.iter().filter(|(_, _, other)| other != name).map(|p| p.1);
            for other in names.chain(points) {
                assert!((other - bottom).abs() >= line, "{name} at {bottom}, {other}");
            }
        }
        assert_eq!(placed[3].1, 60.0, "what is alone stays");
    }
}
