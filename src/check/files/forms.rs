//! The forms in which people keep digests that are no lines of `sha256sum`: tables, records, JSON.
//!
//! ```text
//! SHA256          6A038397…       C:\models\model.gguf          PowerShell's Get-FileHash, a table
//! Algorithm : SHA256                                           the same as a list: three lines
//! SHA256 hash of model.gguf:                                   certutil; the digest is on the next line
//! sha256    6a038397…  model.gguf:blk.0.attn_k.weight          llama-gguf-hash, of a tensor's data
//! | model.gguf | 6a038397… |                                   a table of a model card
//! sha256:6a038397…  model.gguf                                 with the algorithm in front
//! model.gguf  6a038397…                                        the other way round
//! [{"filename": "model.gguf", "md5sum": "…", "filesize": "4"}]  GPT4All's models.json
//! {"output": {"name": "model.gguf", "sha256": "…"}}             a receipt of `batch`
//! ```

use serde_json::Value;

use super::digest::{Algorithm, Digest};

/// What a line says: a digest, of which file, and of which tensor of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) name: Option<String>,
    pub(super) tensor: Option<String>,
    pub(super) digest: Digest,
    /// The digest may be of the data of all tensors instead of the file's bytes.
    pub(super) data: bool,
}

impl Said {
    /// A digest of a file.
    pub(super) fn of(name: Option<String>, digest: Digest) -> Self {
        Self { name, tensor: None, digest, data: false }
    }
}

/// Reads one line in any of the forms that need no other line.
pub(super) fn line(line: &str) -> Option<Said> {
    let line = line.trim();
    if line.contains('|') { row(line) } else { tagged(line).or_else(|| reversed(line)) }
}

/// `SHA256  6A03…  C:\models\model.gguf`, `sha256  6a03…  model.gguf:tensor`, `sha256:6a03…  name`.
fn tagged(line: &str) -> Option<Said> {
    let at = line.find([' ', '\t', ':'])?;
    let (tag, rest) = line.split_at_checked(at)?;
    let algorithm = Algorithm::named(tag)?;
    let rest = rest.trim_start_matches([' ', '\t', ':']);
    let (hex, name) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    let digest = Digest::tagged(algorithm, hex)?;
    let name = base(name.trim().trim_start_matches('*'));
    let name = (!name.is_empty()).then_some(name);
    // PowerShell writes its algorithms in capitals.
    let data = tag.bytes().all(|b| !b.is_ascii_uppercase()) && !line.contains(&format!("{tag}:"));
    let split = name.as_deref().filter(|_| data).and_then(|name| name.rsplit_once(".gguf:"));
    match split {
        Some((stem, tensor)) => {
            let (name, tensor) = (Some(format!("{stem}.gguf")), Some(tensor.to_owned()));
            Some(Said { name, tensor, digest, data: false })
        }
        None => Some(Said { name, tensor: None, digest, data }),
    }
}

/// `model.gguf  6a03…`
fn reversed(line: &str) -> Option<Said> {
    let (name, hex) = line.rsplit_once([' ', '\t'])?;
    let digest = word(hex)?;
    let name = name.trim_end().trim_end_matches([':', '=']).trim_end();
    // One word before the digest is a name; several may be a sentence.
    (!name.is_empty() && (name.contains('.') || !name.contains(' ')))
        .then(|| Said::of(Some(name.to_owned()), digest))
}

/// A row of a Markdown table: the cell that is a digest, and the one that names a file.
fn row(line: &str) -> Option<Said> {
    let cells: Vec<&str> = line.split('|').map(plain).filter(|cell| !cell.is_empty()).collect();
    let digest = cells.iter().find_map(|cell| word(cell))?;
    let mut names = cells.iter().filter(|cell| cell.contains('.') && word(cell).is_none());
    Some(Said::of(Some(base(names.next()?)), digest))
}

/// A cell without what Markdown writes around its text: code marks, stars, a link.
fn plain(cell: &str) -> &str {
    let cell = cell.trim().trim_matches(['`', '*', '"']).trim();
    let link = cell.strip_prefix('[').and_then(|c| c.split_once("](")).map(|(text, _)| text);
    link.unwrap_or(cell).trim_matches('`')
}

/// A digest with or without its algorithm in front.
pub(super) fn word(word: &str) -> Option<Digest> {
    let word = word.trim_matches(['`', '"', '\'', '(', ')', ',']);
    match word.split_once([':', '-']) {
        Some((tag, hex)) => Digest::tagged(Algorithm::named(tag)?, hex),
        None => Digest::parse(word),
    }
}

/// The file's own name where a path is one of another machine: `C:\models\model.gguf`.
fn base(path: &str) -> String {
    let drive = path.as_bytes().get(1) == Some(&b':');
    let far = drive || path.starts_with(['/', '\\']);
    let name = path.rsplit(['/', '\\']).next().filter(|_| far);
    name.unwrap_or(path).to_owned()
}

/// What earlier lines of a list say of the next: Get-FileHash's records and certutil's headings.
#[derive(Debug, Default)]
pub(super) struct Record {
    algorithm: Option<Algorithm>,
    digest: Option<Digest>,
    /// The file that certutil's next line is about.
    file: Option<String>,
}

/// What a line is to a [`Record`].
pub(super) enum Line {
    /// Part of one that is not whole yet, or a heading or rule that says nothing.
    Taken,
    /// The end of one.
    Ends(Said),
    /// Nothing of the kind.
    Other,
}

impl Record {
    /// Takes the next line.
    pub(super) fn take(&mut self, line: &str) -> Line {
        let rule = |c: char| matches!(c, '-' | '=' | '|' | ':' | ' ' | '\t');
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.chars().all(rule)
            || words == ["Algorithm", "Hash", "Path"]
            || line.starts_with("CertUtil:")
        {
            return Line::Taken;
        }
        if let Some(file) = heading(line, &mut self.algorithm) {
            self.file = Some(file);
            return Line::Taken;
        }
        // Older certutils part the bytes.
        let hex: String = words.concat();
        if let Some(digest) = Digest::parse(&hex)
            && let Some(file) = self.file.take()
        {
            return Line::Ends(Said::of(Some(file), digest));
        }
        let Some((key, value)) = line.split_once(" :").or_else(|| line.split_once(": ")) else {
            return Line::Other;
        };
        match (key.trim(), value.trim()) {
            ("Algorithm", name) => self.algorithm = Algorithm::named(name),
            ("Hash", hex) => self.digest = Digest::parse(hex),
            ("Path", path) => match self.digest.take() {
                Some(digest) => return Line::Ends(Said::of(Some(base(path)), digest)),
                None => return Line::Other,
            },
            _ => return Line::Other,
        }
        Line::Taken
    }
}

/// `SHA256 hash of model.gguf:`, also in German, French and Spanish.
fn heading(line: &str, algorithm: &mut Option<Algorithm>) -> Option<String> {
    let said = line.strip_suffix(':')?;
    let tag = said.split([' ', '-']).find_map(Algorithm::named)?;
    let name = [" of ", " von ", " de ", " del "].iter().find_map(|of| said.split_once(of))?.1;
    *algorithm = Some(tag);
    let name = name.strip_prefix("file ").unwrap_or(name);
    Some(base(name))
}

/// Everything in a JSON value that names a file and gives its digest, with its size.
pub(super) fn json(value: &Value, out: &mut Vec<(String, Digest, Option<u64>)>) {
    const NAMES: [&str; 5] = ["filename", "rfilename", "name", "file", "path"];
    const DIGESTS: [&str; 7] = ["md5sum", "md5", "sha256sum", "sha256", "sha512", "sha1", "sha384"];
    match value {
        Value::Array(items) => items.iter().for_each(|item| json(item, out)),
        Value::Object(map) => {
            let text = |key: &&str| map.get(*key).and_then(Value::as_str);
            let name = NAMES.iter().find_map(text);
            let lfs = map.get("lfs").and_then(|lfs| lfs.get("sha256").or_else(|| lfs.get("oid")));
            let digests =
                DIGESTS.iter().filter_map(|key| Digest::tagged(Algorithm::named(key)?, text(key)?));
            let digests = digests.chain(lfs.and_then(Value::as_str).and_then(word));
            let size = ["filesize", "size"].iter().find_map(|key| map.get(*key));
            let size = size.and_then(|s| s.as_u64().or_else(|| s.as_str()?.parse().ok()));
            if let Some(name) = name {
                out.extend(digests.map(|digest| (name.to_owned(), digest, size)));
            }
            // What a batch read may have had the name of what it wrote, and lies elsewhere.
            let written = map.get("output").and_then(|output| output.get("name")?.as_str());
            // What an unfinished batch replaces is no longer what its name is.
            for (key, inner) in map.iter().filter(|(key, _)| *key != "replaces") {
                let before = out.len();
                json(inner, out);
                if key == "inputs" {
                    let read = out.split_off(before);
                    out.extend(read.into_iter().filter(|(name, ..)| Some(&**name) != written));
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_form() {
        let hex = "6a038397f1a9e6c8a139580ca135015cd7c13e77a3cf3d12e55074d1e2a7cc9d";
        let of_file = [
            format!("SHA256          {}       C:\\models\\model.gguf", hex.to_uppercase()),
            format!("| model.gguf | {hex} |"),
            format!("| [model.gguf](https://x/model.gguf) | 4 GB | `{hex}` |"),
            format!("sha256:{hex}  model.gguf"),
            format!("model.gguf  {hex}"),
            format!("sha256    {hex}  model.gguf"),
        ];
        for text in of_file {
            let said = line(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((said.name.as_deref(), said.digest.hex.as_str()), (Some("model.gguf"), hex));
            assert_eq!(said.tensor, None);
        }
        let said =
            line("xxh64     f66e9cd66a4396a0  model.gguf:blk.0.attn_k.weight").expect("read");
        assert_eq!(said.name.as_deref(), Some("model.gguf"));
        assert_eq!(said.tensor.as_deref(), Some("blk.0.attn_k.weight"));
        for text in ["# SHA256", "| Filename | SHA256 |", "url: https://huggingface.co/a/b", "a b"]
        {
            assert_eq!(line(text), None, "{text}");
        }
    }

    #[test]
    fn json_in_its_forms() {
        let text = r#"[{"filename": "a.bin", "filesize": "12", "md5sum":
            "900150983cd24fb0d6963f7d28e17f72"}, {"x": {"rfilename": "b.gguf", "lfs": {"sha256":
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}}]"#;
        let mut found = Vec::new();
        json(&serde_json::from_str(text).expect("JSON"), &mut found);
        let shown: Vec<_> = found.iter().map(|(n, d, s)| (n.as_str(), d.algorithm, *s)).collect();
        assert_eq!(
            shown,
            [("a.bin", Algorithm::Md5, Some(12)), ("b.gguf", Algorithm::Sha256, None)]
        );
        // Receipts of files that were upgraded in their own container, and of others.
        for (read, names) in [("a.bin", &["a.bin"][..]), ("b.bin", &["b.bin", "a.bin"])] {
            let md5 = "900150983cd24fb0d6963f7d28e17f72";
            let file =
                |name: &str| serde_json::json!({"name": name, "size": name.len(), "md5": md5});
            let receipt = serde_json::json!({"inputs": [file(read)], "output": file("a.bin")});
            let mut found = Vec::new();
            json(&receipt, &mut found);
            let found: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
            assert_eq!(found, names, "{read}");
        }
    }
}
