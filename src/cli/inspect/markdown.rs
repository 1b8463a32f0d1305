//! What `inspect` found as Markdown, as cards of models want it.
//!
//! ```text
//! ## model.gguf
//!
//! | | |
//! |---|---|
//! | format | GGUF v3 (`gguf-v3`) |
//! | architecture | LLaMA |
//! …
//! | tensors of type | count | size | share |
//! ```

use super::facts::Facts;
use crate::size;

/// A heading, a table of what the model is, and one of its types.
pub(super) fn card(facts: &Facts) -> String {
    let name = facts.files.first().unwrap_or(&facts.file);
    let mut out = format!("## {}\n\n| | |\n|---|---|\n", escaped(name));
    out += &format!("| format | {} (`{}`) |\n", escaped(&facts.title), facts.format);
    for (name, value) in rows(facts) {
        out += &format!("| {} | {} |\n", escaped(&name), escaped(&value));
    }
    let all: u64 = facts.types.iter().map(|share| share.bytes).sum();
    if !facts.types.is_empty() {
        out += "\n| tensors of type | count | size | share |\n|---|---:|---:|---:|\n";
    }
    for share in &facts.types {
        let percent = share.bytes as f64 * 100.0 / all.max(1) as f64;
        let (name, bytes) = (escaped(&share.name), size::text(share.bytes));
        out += &format!("| {name} | {} | {bytes} | {percent:.1} % |\n", share.tensors);
    }
    if !facts.findings.is_empty() {
        out += "\n";
    }
    for finding in &facts.findings {
        let about =
            if finding.about.is_empty() { String::new() } else { format!("`{}`: ", finding.about) };
        out += &format!("- {about}{}\n", escaped(&finding.message));
    }
    out
}

/// What the model is beside its format, as names and values.
/// The page of `--html` begins with the same.
pub(super) fn rows(facts: &Facts) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push((name.to_owned(), value));
        }
    };
    add("architecture", facts.family.clone());
    add("content", facts.content.to_owned());
    add("file type", facts.file_type.clone().unwrap_or_default());
    add("parameters", grouped(facts.parameters));
    for (name, value) in &facts.sizes {
        add(name, grouped(*value));
    }
    if let Some(vocabulary) = facts.vocabulary.as_ref().filter(|v| v.tokens > 0) {
        add("vocabulary", format!("{} tokens", grouped(vocabulary.tokens as u64)));
    }
    let whole = size::text(facts.bytes);
    add(
        "size",
        match facts.files.len() {
            0 | 1 => whole,
            n => format!("{whole} in {n} files"),
        },
    );
    if facts.parameters > 0 {
        let bits = facts.bytes as f64 * 8.0 / facts.parameters as f64;
        add("bits per weight", format!("{bits:.2}"));
    }
    rows
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && i % 3 == first {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The text with nothing in it that Markdown means something by in a table.
/// An underscore inside a word means nothing there, and names of tensors are full of them.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '|' | '\\' | '*' | '<' | '[' | ']' => out.extend(['\\', c]),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_as_a_card_has_them() {
        let numbers = [0, 7, 999, 1000, 721_664, 6_738_415_616].map(grouped);
        assert_eq!(numbers, ["0", "7", "999", "1,000", "721,664", "6,738,415,616"]);
        assert_eq!(escaped("a|b\nc*d_e"), r"a\|b c\*d_e");
    }
}
