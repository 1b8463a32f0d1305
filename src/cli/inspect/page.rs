//! What `inspect` found as a page: layers as rows, kinds of tensors as columns, and in each cell the type, the
//! size and how the weights spread.
//!
//! ```text
//! facts       what `inspect` prints
//! stack       the types by their share of the bytes, one bar
//! odd         tensors with outliers, rows of zeros or what is no number, folded
//! outside     embedding, output, norms: a table of single tensors
//! blk, ..     a table for each stem: rows are layers, columns what follows the layer's number
//! cell        76 x 24 pixels of histogram, type, size, and a bar: bytes of the largest tensor are its full length
//! ```

use std::{collections::BTreeMap, fmt::Write};

use super::{facts::Facts, markdown::rows};
use crate::{
    check::{
        models::statistics::Statistics,
        page::{self, colour, escape},
    },
    format::catalog,
    model::{Model, Role, Tensor},
    size,
};

const STYLE: &str = "\
.facts td{text-align:left;white-space:normal}.stack{display:flex;height:1.4em;margin:1em 0}.stack i{min-width:1px}\
.grid{font-size:12px;line-height:1.3}.grid td,.grid th{padding:.35em .5em;text-align:left;vertical-align:top}\
.grid th{font-weight:600}.grid td{white-space:nowrap;min-width:76px}.grid tr>:first-child{position:sticky;left:0;background:var(--paper)}\
.grid svg{display:block;width:76px;height:24px;border-bottom:1px solid var(--line)}\
.grid .size{display:block;height:3px;margin-top:2px}\
";

/// A tensor's cell: what it is, and its statistics where its type is decoded.
struct Cell<'a> {
    tensor: &'a Tensor,
    found: &'a Option<Statistics>,
}

/// Tensors in layers: of the same words before the layer's number.
///
/// ```text
/// blk.3.attn_q.weight     stem "blk", row 3, column "attn_q.weight"
/// ```
///
/// Columns come in the order in which the file first has them.
#[derive(Default)]
struct Table<'a> {
    stem: String,
    /// The columns, by what follows the number.
    kinds: BTreeMap<String, usize>,
    rows: BTreeMap<u64, Vec<(usize, Cell<'a>)>>,
}

impl Table<'_> {
    /// Whether most of it would be empty.
    fn is_sparse(&self) -> bool {
        let cells: usize = self.rows.values().map(Vec::len).sum();
        // Less than one cell in 16 is filled: such numbers are no layers.
        self.kinds.len() * self.rows.len() > 16 * cells
    }
}

/// The page of a model; `found` has the statistics of its tensors in their order.
///
/// Every name is escaped: it comes from a file that nobody vouches for.
pub(super) fn page(facts: &Facts, model: &Model, found: &[Option<Statistics>]) -> String {
    let mut out = page::begin(facts.files.first().unwrap_or(&facts.file), STYLE);
    out.push_str("<table class=\"facts\">\n");
    let format = ("format".to_owned(), facts.title.clone());
    for (name, value) in std::iter::once(format).chain(rows(facts)) {
        let _ = writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(&name), escape(&value));
    }
    out.push_str("</table>\n");
    types(&mut out, facts);
    let cells = || model.tensors.iter().zip(found).map(|(tensor, found)| Cell { tensor, found });
    odd(&mut out, cells());
    let most = model.tensors.iter().map(Tensor::bytes).max().unwrap_or(0);
    let draw = |out: &mut String, cell: &Cell| draw(out, cell, facts, most);
    let (single, tables) = arranged(model, cells());
    if !single.is_empty() {
        out.push_str("<h2>Outside the layers</h2>\n<div class=\"wide\"><table class=\"grid\">\n");
        for cell in &single {
            let _ = write!(out, "<tr><th>{}</th>", escape(&cell.tensor.name));
            draw(&mut out, cell);
            out.push_str("</tr>\n");
        }
        out.push_str("</table></div>\n");
    }
    for table in &tables {
        let _ = writeln!(out, "<h2>{}</h2>", escape(&table.stem));
        out.push_str("<div class=\"wide\"><table class=\"grid\">\n<tr><th></th>");
        let mut kinds: Vec<_> = table.kinds.iter().collect();
        kinds.sort_by_key(|(_, column)| **column);
        for (kind, _) in kinds {
            let _ = write!(out, "<th>{}</th>", escape(kind.trim_end_matches(".weight")));
        }
        out.push_str("</tr>\n");
        for (layer, cells) in &table.rows {
            let _ = write!(out, "<tr><th>{layer}</th>");
            for column in 0..table.kinds.len() {
                match cells.iter().find(|(of, _)| *of == column) {
                    Some((_, cell)) => draw(&mut out, cell),
                    None => out.push_str("<td></td>"),
                }
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table></div>\n");
    }
    out + page::END
}

/// The types by their share of the bytes, as one bar and as a table.
/// A share that is too small to be seen has a pixel, and its figure in the table.
fn types(out: &mut String, facts: &Facts) {
    if facts.types.is_empty() {
        return;
    }
    let shares = || (0..).zip(&facts.types);
    out.push_str("<div class=\"stack\">");
    for (i, share) in shares() {
        let (name, colour) = (escape(&share.name), colour(i));
        let bytes = share.bytes;
        let _ =
            write!(out, "<i title=\"{name}\" style=\"flex:{bytes} 0 0;background:{colour}\"></i>");
    }
    out.push_str(
        "</div>\n<div class=\"wide\"><table><tr><th>type</th><th>tensors</th><th>size</th><th>share</th></tr>\n",
    );
    let all: u64 = facts.types.iter().map(|share| share.bytes).sum();
    for (i, share) in shares() {
        let _ = writeln!(
            out,
            "<tr><td><i class=\"swatch\" style=\"background:{}\"></i>{}</td><td>{}</td><td>{}</td>\
             <td>{:.1} %</td></tr>",
            colour(i),
            escape(&share.name),
            share.tensors,
            size::text(share.bytes),
            share.bytes as f64 * 100.0 / all.max(1) as f64
        );
    }
    out.push_str("</table></div>\n");
}

/// The tensors with something odd in them, by name.
fn odd<'a>(out: &mut String, cells: impl Iterator<Item = Cell<'a>>) {
    let mut lines = String::new();
    for Cell { tensor, found } in cells {
        let Some(said) = found.as_ref().map(Statistics::oddities).filter(|odd| !odd.is_empty())
        else {
            continue;
        };
        let _ = writeln!(lines, "<li>{}: {}</li>", escape(&tensor.name), said.join(", "));
    }
    if !lines.is_empty() {
        let count = lines.lines().count();
        let tensors = size::counted(count as u64, "tensor has", "tensors have");
        let _ = writeln!(
            out,
            "<details><summary>{tensors} outliers, rows of zeros or what is no number</summary>\
             <ul>\n{lines}</ul></details>"
        );
    }
}

/// A cell: the histogram, the type, the size, and the size as a bar whose full length is `most` bytes.
///
/// Histograms are scaled to their own highest bar, for their shape is what is looked at; sizes to the largest tensor.
fn draw(out: &mut String, cell: &Cell, facts: &Facts, most: u64) {
    let Cell { tensor, found } = cell;
    let name = tensor.quant.to_string();
    let kind = facts.types.iter().position(|share| share.name == name).unwrap_or(0);
    let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
    let mut title = format!("{}: {shape}", tensor.name);
    let mut bars = String::new();
    if let Some(s) = found {
        let _ = write!(
            title,
            "; {:.2} bits a weight; {:.3e} to {:.3e}, mean {:.3e}, deviation {:.3e}",
            s.bits, s.min, s.max, s.mean, s.deviation
        );
        let most = s.histogram.iter().copied().max().unwrap_or(0).max(1) as f64;
        for n in &s.histogram {
            // Up or down to the height of the bar, then one to the right: 24 is the bottom of the picture.
            let _ = write!(bars, "V{:.1}h1", 24.0 - 24.0 * *n as f64 / most);
        }
        bars = format!(
            "<svg viewBox=\"0 0 {} 24\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <path fill=\"{}\" d=\"M0 24{bars}V24z\"/></svg>",
            s.histogram.len().max(1),
            colour(kind)
        );
    }
    let _ = write!(
        out,
        "<td title=\"{}\">{bars}{} <small>{}</small><i class=\"size\" \
         style=\"width:{:.1}%;background:{}\"></i></td>",
        escape(&title),
        escape(tensor.quant.name()),
        size::text(tensor.bytes()),
        tensor.bytes() as f64 * 100.0 / most.max(1) as f64,
        colour(kind)
    );
}

/// The tensors outside of layers, and those in layers as tables.
///
/// Names alone tell layers where no family does: any name with a number between two parts of it.
fn arranged<'a>(
    model: &Model,
    cells: impl Iterator<Item = Cell<'a>>,
) -> (Vec<Cell<'a>>, Vec<Table<'a>>) {
    let family = catalog::family(&model.family);
    let (mut single, mut tables) = (Vec::new(), Vec::<Table>::new());
    let mut places = BTreeMap::new();
    for cell in cells {
        let name = &cell.tensor.name;
        let layer = family.and_then(|f| Role::find(f, name)).and_then(|(_, role)| role.layer);
        let Some((stem, layer, kind)) = parts(name, layer) else {
            single.push(cell);
            continue;
        };
        let place = *places.entry(stem.to_owned()).or_insert(tables.len());
        if place == tables.len() {
            tables.push(Table { stem: stem.to_owned(), ..Table::default() });
        }
        let Some(table) = tables.get_mut(place) else { continue };
        let next = table.kinds.len();
        let column = *table.kinds.entry(kind.to_owned()).or_insert(next);
        table.rows.entry(layer).or_default().push((column, cell));
    }
    // Tensors of tables that would be mostly empty are listed one by one instead.
    let (sparse, tables): (Vec<_>, _) = tables.into_iter().partition(Table::is_sparse);
    let rest = sparse.into_iter().flat_map(|table| table.rows.into_values().flatten());
    single.extend(rest.map(|(_, cell)| cell));
    (single, tables)
}

/// What is before a layer's number in a name, the number, and what follows: the first part that is a
/// number, or that ends in that of the `layer` where the family knows it.
fn parts(name: &str, layer: Option<u64>) -> Option<(&str, u64, &str)> {
    let mut at = 0;
    for part in name.split(['.', '/']) {
        let digits = part.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let number = digits.parse().ok().filter(|n| digits == part || layer == Some(*n));
        let end = at + part.len();
        if let Some(number) = number
            && end < name.len()
        {
            let stem = name.get(..end - digits.len())?.trim_end_matches(['.', '/']);
            return Some((stem, number, name.get(end + 1..)?));
        }
        at = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_at_the_number_of_the_layer() {
        let of = |name| parts(name, None);
        assert_eq!(of("blk.11.attn_q.weight"), Some(("blk", 11, "attn_q.weight")));
        assert_eq!(
            of("layers.0.feed_forward.w1.weight").map(|p| p.2),
            Some("feed_forward.w1.weight")
        );
        assert_eq!(of("v.blk.3.ln1.bias"), Some(("v.blk", 3, "ln1.bias")));
        assert_eq!(of("conv1.weight"), None);
        assert_eq!(parts("model/h7/attn/c_attn/w", Some(7)), Some(("model/h", 7, "attn/c_attn/w")));
        assert_eq!(
            (of("output.weight"), of("mm.0"), of("t.99999999999999999999.x")),
            (None, None, None)
        );
    }
}
