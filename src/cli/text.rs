//! How text is laid out for people: colour where it is wanted, counts, tables.

use std::{env, io::IsTerminal};

use crate::error::plain;

/// Whether `stream` may carry colour: a terminal, and NO_COLOR is not set.
pub fn has_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// `text` in red where `stream` may carry colour.
pub fn red(stream: &impl IsTerminal, text: &str) -> String {
    if has_colour(stream) { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

/// A large count for people: `6.7 billion`.
pub fn count(n: u64) -> String {
    let value = n as f64;
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} million", value / 1e6),
        _ => format!("{:.1} billion", value / 1e9),
    }
}

/// A number of things: `1 file`, `2 files`.
pub fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The longest cell of a table, in characters.
const CELL: usize = 4096;

/// Rows as lines with aligned columns, two spaces apart; the last column is not padded. Control characters
/// in cells are escaped, and what is too long for any screen is cut.
pub fn table(rows: &[Vec<String>]) -> String {
    let shown = |cell: &String| {
        let cell = plain(cell);
        match cell.char_indices().nth(CELL) {
            Some((cut, _)) => format!("{}…", cell.get(..cut).unwrap_or_default()),
            None => cell,
        }
    };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(shown).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_on_their_line_whatever_their_length() {
        let text = table(&[vec!["a\n\u{1b}b".into(), "x".repeat(70_000), "c".into()]]);
        assert!(text.starts_with("a\\n\\u{1b}b  xx") && text.ends_with("x…  c\n"));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn counts_and_tables_read_well() {
        assert_eq!(count(6_738_415_616), "6.7 billion");
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }
}
