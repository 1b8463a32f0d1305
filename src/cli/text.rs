//! How text is laid out for people: colour where it is wanted, counts, tables.
//!
//! | what | on a terminal | in a pipe or a file |
//! |---|---|---|
//! | tables | cut to the width, least useful column first | whole |
//! | sentences | folded at spaces, behind their label | one line |
//! | paths of outputs, words of errors | whole, to be copied | whole |
//! | colour | red for failures, unless NO_COLOR is set | none |

use std::{
    borrow::Cow,
    env,
    io::{self, IsTerminal},
};

pub use crate::columns::Column;
pub use crate::size::counted;
use crate::{columns, error::plain};

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

/// The longest cell of a table, in characters.
const CELL: usize = 4096;

/// The narrowest that a column is made to fit a screen.
const NARROW: usize = 6;

/// Keys and values of metadata.
pub const KEYS: [Column; 2] = [Column::names(30, 9), Column::words(10, 5)];

/// A stream that may be a terminal, whose size the system tells.
#[cfg(unix)]
pub trait Stream: IsTerminal + std::os::fd::AsFd {}
#[cfg(unix)]
impl<S: IsTerminal + std::os::fd::AsFd> Stream for S {}
#[cfg(not(unix))]
pub use std::io::IsTerminal as Stream;

/// The columns of the terminal that stdout is; none where it is none, for what is read by programs is never cut.
pub fn width() -> Option<usize> {
    width_of(&io::stdout())
}

fn width_of(stream: &impl Stream) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(stream)
        && size.ws_col > 0
    {
        return Some(size.ws_col.into());
    }
    env::var("COLUMNS").ok()?.parse().ok()
}

/// Rows as lines with aligned columns, two spaces apart; the last column is not padded. Control characters
/// in cells are escaped, what is too long for any screen is cut, and on a terminal what is too long for it.
pub fn table(rows: &[Vec<String>]) -> String {
    table_within(rows, width())
}

/// As [`table`], of figures and words that matter more or less.
pub fn table_of(rows: &[Vec<String>], columns: &[Column]) -> String {
    columns::table(&shown(rows), columns, 0, width())
}

/// As [`table`], but what is too long for a terminal is broken: for rows of which no word may be missing, each behind
/// two spaces.
pub fn whole_table(rows: &[Vec<String>]) -> String {
    let screen = width();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let whole = columns::table(&shown(rows), &vec![Column::words(NARROW, 0); columns], 2, None);
    match screen.filter(|screen| whole.lines().any(|line| line.chars().count() > *screen)) {
        Some(screen) if columns > 3 => listed(rows, screen),
        _ => folded(&whole),
    }
}

/// Rows of more columns than a screen has room for: behind what is first in each, its other cells one after the other.
fn listed(rows: &[Vec<String>], screen: usize) -> String {
    let rows = shown(rows);
    let len = |cell: &String| cell.chars().count();
    let widest = rows.iter().filter_map(|row| row.first()).map(len).max().unwrap_or(0);
    // Where the first cells take more than a third of the screen, the others go below them.
    let (first, hang) = if widest + 4 > screen / 3 { (0, 6) } else { (widest, widest + 4) };
    let mut out = String::new();
    for row in rows {
        let mut cells = row.iter().filter(|cell| !cell.is_empty());
        let mut line = format!("  {:<first$}", cells.next().map_or("", String::as_str));
        for cell in cells {
            if line.chars().count() + 2 + len(cell) > screen && line.trim_start() != "" {
                out += line.trim_end();
                out.push('\n');
                line = " ".repeat(hang - 2);
            }
            line += "  ";
            line += cell;
        }
        out += line.trim_end();
        out.push('\n');
    }
    folded_to(&out, screen)
}

/// The name of a file in the middle of a line to `stream`: on a terminal, of at most half of it.
pub fn short_name(stream: &impl Stream, name: &str) -> String {
    let room = width_of(stream).map(|width| (width / 2).saturating_sub(2));
    room.map_or_else(|| name.to_owned(), |room| columns::name_within(name, room))
}

/// Lines that are too long for a terminal are broken at spaces, and go on where their text began.
pub fn folded(text: &str) -> String {
    folded_for(&io::stdout(), text)
}

/// The same for what goes to `stream`.
pub fn folded_for(stream: &impl Stream, text: &str) -> String {
    width_of(stream).map_or_else(|| text.to_owned(), |width| folded_to(text, width))
}

///
/// ```text
/// format      ggml, unversioned
///             (GPT-J)                  what goes on begins where the text began
/// ```
fn folded_to(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n').map(|line| with_short_name(line, width)) {
        let line = line.as_ref();
        // Never further in than half of the screen, else a narrow one has no room for words.
        let hang = " ".repeat(beginning(line).min(width / 2));
        let mut column = 0;
        for word in words(line) {
            let len = word.trim_end().chars().count();
            // A word that is longer than a line stays whole: a path is to be copied.
            if column > hang.len() && column + len > width {
                out.truncate(out.trim_end_matches(' ').len());
                out += "\n";
                out += &hang;
                column = hang.len();
            }
            out += word;
            column += word.chars().count();
        }
    }
    out
}

/// A line that begins with the name of a file, as those of a report do, in its middle without what would not fit: beside
/// the rest of the line, else alone. Names further in stay whole, as those of outputs and in errors: they are copied.
fn with_short_name(line: &str, width: usize) -> Cow<'_, str> {
    let (name, rest) = line.split_at(line.find([' ', '\n']).unwrap_or(line.len()));
    let rest_len = rest.trim_end().chars().count();
    let room = if rest_len > width / 2 { width } else { width - rest_len };
    if name.chars().count() <= room {
        return Cow::Borrowed(line);
    }
    Cow::Owned(columns::name_within(name, room) + rest)
}

/// The words of a line, each with the space behind it; a figure and its unit are one.
fn words(line: &str) -> impl Iterator<Item = &str> {
    const UNITS: [&str; 7] = ["B", "KB", "MB", "GB", "TB", "s", "dB"];
    let mut rest = line;
    std::iter::from_fn(move || {
        let end = |text: &str| text.find(' ').map_or(text.len(), |at| at + 1);
        let first = end(rest);
        let (word, behind) = rest.split_at(first);
        let unit = behind.split_at(end(behind)).0;
        let known = UNITS.contains(&unit.trim_end().trim_end_matches([')', ',', ';', '.', ':']));
        let figure = word.trim_start_matches('(').starts_with(|c: char| c.is_ascii_digit());
        let len = if figure && known { first + unit.len() } else { first };
        let (word, behind) = rest.split_at(len);
        rest = behind;
        (!word.is_empty()).then_some(word)
    })
}

/// The column where the text of a line begins: behind a label, or a little further in than the line.
///
/// A label is what two spaces or more follow, in the first 22 columns: tables of two columns are read so, too.
fn beginning(line: &str) -> usize {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let labelled = line.char_indices().skip(indent + 1).take(22).find_map(|(at, _)| {
        let rest = line.get(at..)?;
        let gap = rest.len() - rest.trim_start_matches(' ').len();
        (gap >= 2).then(|| line.chars().count() - rest.chars().count() + gap)
    });
    match labelled {
        Some(column) => column,
        None if indent >= 8 => indent,
        None => indent + 2,
    }
}

fn table_within(rows: &[Vec<String>], screen: Option<usize>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    columns::table(&shown(rows), &vec![Column::words(NARROW, 0); columns], 0, screen)
}

/// Cells as they may be shown: on one line, and of a length that some screen has.
fn shown(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let shown = |cell: &String| {
        let cell = plain(cell);
        match cell.char_indices().nth(CELL) {
            Some((cut, _)) => format!("{}…", cell.get(..cut).unwrap_or_default()),
            None => cell,
        }
    };
    rows.iter().map(|row| row.iter().map(shown).collect()).collect()
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
    fn what_is_too_wide_for_a_terminal_is_cut_or_broken() {
        let rows = [vec!["a".repeat(30), "b".repeat(25), "short".into()], vec!["x".into()]];
        let text = table_within(&rows, Some(50));
        assert!(text.lines().all(|line| line.chars().count() <= 50), "{text}");
        assert!(text.contains("aaa…  bbb") && text.contains("bbb…  short"), "{text}");
        assert_eq!(table_within(&rows, None).lines().next().unwrap().len(), 64);
        assert_eq!(
            folded_to("  one two three four\nnote: short\n", 12),
            "  one two\n    three\n    four\nnote: short\n"
        );
        assert_eq!(folded_to("would write a (110.7 KB)\n", 22), "would write a\n  (110.7 KB)\n");
        assert_eq!(folded_to("models/a-long-name.gguf: OK\n", 20), "models/a…me.gguf: OK\n");
        assert_eq!(
            folded_to("models/a-long-name.gguf: is no model\n", 20),
            "models/a-…name.gguf:\n  is no model\n"
        );
        let copied = "error: models/a-long-name.gguf: not there\n";
        assert_eq!(folded_to(copied, 20), "error:\n  models/a-long-name.gguf:\n  not there\n");
        let rows = [vec!["n_ctx".into(), String::new(), "b".repeat(9), "c".into()]];
        assert_eq!(listed(&rows, 16), "  n_ctx\n      bbbbbbbbb\n      c\n");
        assert_eq!(listed(&rows, 27), "  n_ctx  bbbbbbbbb  c\n");
        let rows = [rows.concat(), vec!["x".into(), "b".repeat(9), "d".repeat(20)]];
        let listed_wide =
            "  n_ctx  bbbbbbbbb  c\n  x      bbbbbbbbb\n         dddddddddddddddddddd\n";
        assert_eq!(listed(&rows, 30), listed_wide);
        let labelled = "  format  one two three\n          four five\n";
        assert_eq!(
            folded_to(labelled, 20),
            "  format  one two\n          three\n          four five\n"
        );
    }

    #[test]
    fn counts_and_tables_read_well() {
        assert_eq!(count(6_738_415_616), "6.7 billion");
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }
}
