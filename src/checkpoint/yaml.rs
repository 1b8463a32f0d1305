//! The little of YAML that model cards use: texts and lists of texts under top-level keys.
//!
//! ```text
//! ---
//! license: apache-2.0            a text
//! tags: [chat, "7b"]             a list, here or item by item
//! - name: x                      an item with keys of its own: passed over
//! description: >                 a block: lines that are indented
//!   first line
//! ---
//! ```

/// A card's keys, or the value of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Yaml {
    /// Nothing readable.
    #[default]
    Nothing,
    /// A plain or quoted text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// Keys and values in order.
    Keys(Vec<(String, Yaml)>),
}

impl Yaml {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        match self {
            Yaml::Keys(keys) => keys.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Its text, where it is one.
    pub fn text(&self) -> Option<String> {
        match self {
            Yaml::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// Its text or its list's texts.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Yaml::Text(text) => vec![text.clone()],
            Yaml::List(texts) => texts.clone(),
            _ => Vec::new(),
        }
    }
}

/// The block between `---` lines at the top of a Markdown file. Anything nested deeper than a list is
/// passed over.
pub fn front_matter(markdown: &str) -> Yaml {
    let mut lines = markdown.lines();
    if lines.next() != Some("---") {
        return Yaml::Nothing;
    }
    let mut lines = lines.take_while(|l| *l != "---").peekable();
    let mut keys: Vec<(String, Yaml)> = Vec::new();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(item) = trimmed.strip_prefix("- ") {
            // Lists may be at the margin or indented; an item with keys of its own is no text.
            let nested = item.contains(": ") && !item.starts_with(['"', '\'']);
            if let (Some((_, value)), false) = (keys.last_mut(), nested) {
                match value {
                    Yaml::Nothing => *value = Yaml::List(vec![scalar(item)]),
                    Yaml::List(items) => items.push(scalar(item)),
                    _ => {}
                }
            }
        } else if let (false, Some((key, value))) = (is_indented(line), trimmed.split_once(':')) {
            let value = value.trim();
            let value = match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
                Some(items) => {
                    Yaml::List(items.split(',').map(scalar).filter(|i| !i.is_empty()).collect())
                }
                None if value.starts_with(['|', '>']) => {
                    let mut block = Vec::new();
                    while let Some(l) = lines.next_if(|l| is_indented(l) || l.trim().is_empty()) {
                        block.push(l.trim());
                    }
                    Yaml::Text(joined(value, &block))
                }
                None if value.is_empty() || value.starts_with(['#', '{']) => Yaml::Nothing,
                None => Yaml::Text(scalar(value)),
            };
            keys.push((scalar(key), value));
        }
    }
    Yaml::Keys(keys)
}

/// Whether a line belongs to the key above it.
fn is_indented(line: &str) -> bool {
    line.starts_with([' ', '\t'])
}

/// The text of a block: `|` keeps its lines, `>` joins them, `-` drops the line feed at the end.
fn joined(style: &str, block: &[&str]) -> String {
    let text = if style.starts_with('|') {
        block.join("\n")
    } else {
        let paragraphs: Vec<_> = block.split(|l| l.is_empty()).map(|p| p.join(" ")).collect();
        paragraphs.join("\n")
    };
    let text = text.trim_end().to_owned();
    if style.contains('-') { text } else { text + "\n" }
}

/// A text without its quotes or the comment after it.
fn scalar(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inside) = text.strip_prefix(quote).and_then(|t| t.split(quote).next()) {
            return inside.to_owned();
        }
    }
    text.split(" #").next().unwrap_or_default().trim().to_owned()
}
