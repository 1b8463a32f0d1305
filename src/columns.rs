//! Rows of cells as aligned lines that fit a screen: words are cut, and what matters least is left out.

/// What a column of a table holds, and what becomes of it where there is no room.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its cells are not cut below this many characters.
    least: usize,
    kind: Kind,
    /// Columns of less worth are left out first.
    worth: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Words,
    Names,
    Figures,
}

impl Column {
    /// Words, which may lose their end.
    pub const fn words(least: usize, worth: u8) -> Column {
        Column { least, kind: Kind::Words, worth }
    }

    /// Names, which may lose their middle: many begin alike.
    pub const fn names(least: usize, worth: u8) -> Column {
        Column { least, kind: Kind::Names, worth }
    }

    /// Figures, which are whole or not there, and end at the right.
    pub const fn figures(worth: u8) -> Column {
        Column { least: usize::MAX, kind: Kind::Figures, worth }
    }
}

/// Spaces between two columns.
const GAP: usize = 2;

/// The rows as lines, each behind `indent` spaces and within `screen` characters, where that is said.
pub fn table(
    rows: &[Vec<String>],
    columns: &[Column],
    indent: usize,
    screen: Option<usize>,
) -> String {
    let widths = fitted(rows, columns, screen.map(|screen| screen.saturating_sub(indent)));
    let mut out = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        let cells = row.iter().zip(columns).zip(&widths).filter(|(_, width)| **width > 0);
        for (i, ((cell, column), width)) in cells.enumerate() {
            let gap = " ".repeat(if i == 0 { 0 } else { GAP });
            let cell = match column.kind {
                Kind::Names => name_within(cell, *width),
                _ => cut(cell, *width, 0),
            };
            line += &match column.kind {
                Kind::Figures => format!("{gap}{cell:>width$}"),
                _ => format!("{gap}{cell:<width$}"),
            };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// The width of each column, 0 for those that are left out. As few are as can be; of the others the widest words give
/// way first.
///
/// ```text
/// columns      names, 6 at least, worth 9; words, 4, worth 5; figures, worth 7
/// 31 wide      blk.0.attn_q.weight  q4_0  21.5
/// 21           blk.…ight  q4_0  21.5               the widest gave way
/// 14           blk…ight  21.5                      the words are worth least and are gone
///  6           bl…ght                              and so are the figures
/// ```
fn fitted(rows: &[Vec<String>], columns: &[Column], screen: Option<usize>) -> Vec<usize> {
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let whole: Vec<usize> = (0..columns.len()).map(widest).collect();
    let Some(screen) = screen else { return whole };
    let mut by_worth: Vec<usize> = (0..columns.len()).collect();
    by_worth.sort_by_key(|i| columns.get(*i).map(|column| column.worth));
    let mut widths = whole.clone();
    for out in 0..columns.len().max(1) {
        let gone = by_worth.get(..out).unwrap_or_default();
        widths.clone_from(&whole);
        for i in gone {
            if let Some(width) = widths.get_mut(*i) {
                *width = 0;
            }
        }
        let there = widths.iter().filter(|width| **width > 0).count();
        let mut over =
            (widths.iter().sum::<usize>() + GAP * there.saturating_sub(1)).saturating_sub(screen);
        while over > 0 {
            let give = widths.iter_mut().zip(columns).filter(|(width, c)| **width > c.least);
            let Some((width, _)) = give.max_by_key(|(width, _)| **width) else { break };
            (*width, over) = (*width - 1, over - 1);
        }
        if over == 0 {
            break;
        }
    }
    widths
}

/// A name that may lose its middle to be of `width` characters; the end, where that is the `.weight` of nearly every
/// tensor.
pub fn name_within(name: &str, width: usize) -> String {
    let stem = name.strip_suffix(".weight").map(|stem| stem.chars().count() + 3);
    cut(name, width, if stem.is_some_and(|least| least <= width) { 0 } else { width / 2 })
}

/// At most `width` characters of `text`: what is left out leaves a mark, and `behind` characters after it.
fn cut(text: &str, width: usize, behind: usize) -> String {
    let len = text.chars().count();
    if len <= width {
        return text.to_owned();
    }
    let before = width.saturating_sub(behind + 1);
    let end = text.chars().skip(len - behind.min(len));
    text.chars().take(before).chain(['…']).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::names(6, 9), Column::words(4, 5), Column::figures(7)];

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        vec![row(["blk.0.attn_q.weight", "q4_0", "21.5"]), row(["output.weight", "f16", "-"])]
    }

    #[test]
    fn words_give_way_before_columns_go() {
        let all = "blk.0.attn_q.weight  q4_0  21.5\noutput.weight        f16      -\n";
        assert_eq!(table(&rows(), &COLUMNS, 0, None), all);
        assert_eq!(table(&rows(), &COLUMNS, 0, Some(31)), all);
        let cut = "  blk.…ight  q4_0  21.5\n  output.w…  f16      -\n";
        assert_eq!(table(&rows(), &COLUMNS, 2, Some(23)), cut);
        let without = "blk…ight  21.5\nout…ight     -\n";
        assert_eq!(table(&rows(), &COLUMNS, 0, Some(14)), without);
        assert_eq!(table(&rows(), &COLUMNS, 0, Some(6)), "bl…ght\nou…ght\n");
        let words = table(&rows(), &[Column::words(6, 9)], 0, Some(9));
        assert_eq!(words, "blk.0.at…\noutput.w…\n");
        for screen in 6..40 {
            let text = table(&rows(), &COLUMNS, 0, Some(screen));
            assert!(text.lines().all(|line| line.chars().count() <= screen), "{screen}: {text}");
        }
    }

    #[test]
    fn an_empty_column_takes_no_room() {
        let rows = vec![vec!["a".to_owned(), String::new(), "1".to_owned()]];
        assert_eq!(table(&rows, &COLUMNS, 1, None), " a  1\n");
    }
}
