//! What a file looks like that is no model: downloads gone wrong, other people's formats.
//!
//! Asked only of files that no candidate took. The order is that of certainty: zeros and texts first, magics of
//! archives, then what is like a magic of ours, last what is merely short or text. Each answer is a sentence that goes
//! on from the file's name, with what to do.

use std::path::Path;

use crate::{
    bytes::Input,
    checkpoint::easylm,
    error::Result,
    model::Model,
    remedy::{Call, Note, Setting},
};

/// Bytes that are looked at.
const HEAD: u64 = 4096;

/// What `input` looks like, and what can be done about it.
pub(super) fn like(input: &Input) -> Result<Note> {
    if input.is_empty() {
        return Ok("is empty: download or copy it again".into());
    }
    let mut head = vec![0; usize::try_from(input.len().min(HEAD)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    Ok(by_head(&head, input.len()))
}

/// A note where a file's extension promises another format than it has.
pub(super) fn wrong_extension(path: &Path, model: &Model) -> Option<String> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    let keyed = model.format.starts_with("gguf");
    let wrong = match extension.as_str() {
        "gguf" => !keyed,
        "bin" | "ggml" | "ggmf" | "ggjt" => keyed,
        "safetensors" | "pth" | "pt" | "zip" | "gz" | "json" | "txt" => true,
        _ => false,
    };
    wrong.then(|| format!("the extension .{extension} is wrong: the file is {}", model.format))
}

/// What a file of `len` bytes is whose first 4 KB are `head`.
/// Sentences begin with a verb: what is before them is the name of the file.
fn by_head(head: &[u8], len: u64) -> Note {
    let begins = |bytes: &[u8]| head.starts_with(bytes);
    // Preallocated by a downloader that did not come this far.
    if head.iter().all(|b| *b == 0) {
        let what = if len <= HEAD { "is" } else { "begins with" };
        return format!("{what} all zeros: a download that never finished; get it again").into();
    }
    if len < 4 {
        return format!("is only {len} bytes long: download or copy it again").into();
    }
    // Texts in place of a file: what git, a server or a proxy gave instead of it.
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    if text.starts_with("version https://git-lfs.github.com") {
        let size = text.lines().find_map(|line| line.strip_prefix("size ")).unwrap_or("unknown");
        return format!(
            "is a Git LFS pointer, not the file itself ({size} bytes): run `git lfs pull` in its \
             repository, or download the file itself"
        )
        .into();
    }
    if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        return "is a web page, not a model: the download needs a login or another address".into();
    }
    // The files `._NAME` that tar and zip of macOS put beside NAME.
    if begins(b"\x00\x05\x16\x07") {
        return "is no model: macOS keeps in it what it knows of another file (AppleDouble)".into();
    }
    // Archives by their magic. PyTorch's zip files were tried, and taken, before anything comes here.
    if begins(b"PK\x03\x04") {
        return "is a zip archive, but not a PyTorch checkpoint: unpack it first".into();
    }
    if begins(b"\x1f\x8b") {
        return "is compressed with gzip: unpack it first (gunzip)".into();
    }
    if begins(b"\x28\xb5\x2f\xfd") {
        return "is compressed with zstd: unpack it first (zstd -d)".into();
    }
    if begins(b"\xfd7zXZ") || begins(b"7z\xbc\xaf") || begins(b"BZh") || begins(b"Rar!") {
        return "is a compressed archive: unpack it first".into();
    }
    // safetensors: u64 length of the header, then JSON.
    let json = head.get(8) == Some(&b'{');
    let size = head.first_chunk().map(|b| u64::from_le_bytes(*b)).unwrap_or(u64::MAX);
    if json && size < len {
        return "looks like safetensors with a broken header".into();
    }
    // Opcode PROTO, then the protocol: 2 is what torch.save has always written.
    if begins(b"\x80\x02") {
        return "is a Python pickle, but not a PyTorch checkpoint".into();
    }
    // ggml's magics are written as numbers, so that little-endian files begin "lmgg"; these are written as text.
    if begins(b"ggml") || begins(b"ggmf") || begins(b"ggjt") || begins(b"ggla") {
        return "has its first four bytes reversed, as chatglm.cpp's files do: only that program reads \
                them"
            .into();
    }
    // Magics that the descriptions know, under a version that they do not.
    if begins(b"GGUF") || begins(b"lmgg") || begins(b"fmgg") || begins(b"tjgg") || begins(b"algg") {
        let version = head.get(4..8).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
        let magic = String::from_utf8_lossy(head.get(..4).unwrap_or_default()).into_owned();
        let magic = if magic == "GGUF" { magic } else { magic.chars().rev().collect() };
        return match version {
            Some(version) => format!(
                "is {magic} version {version}, which is not known: a newer regguf may read it, or it \
                 is damaged: download or copy it again"
            ),
            None => format!("is {magic} cut after {len} bytes: download or copy it again"),
        }
        .into();
    }
    if easylm::begins_so(head) {
        return Note::new(
            "is a checkpoint streamed by EasyLM, as Koala's differences were published",
            Call::Convert.on("LLAMA").with(Setting::Delta.of("FILE")).to("add it to LLaMA"),
        );
    }
    if let Some(kind) = imatrix(head) {
        return kind.into();
    }
    if let Some(text) = short_text(head, len) {
        if text.starts_with("../") && !text.contains(' ') {
            return format!(
                "is the text of a link to {text}, left by a copy that does not keep links: copy the file itself"
            ).into();
        }
        return format!(
            "is {len} bytes of text, not a model ({text}): servers send this where they refuse a download"
        ).into();
    }
    // Of what nobody knows the first bytes help whoever is asked.
    let shown: String = head.iter().take(8).map(|b| format!("{b:02x} ")).collect();
    Note::new(
        format!("is no known format (it begins {})", shown.trim_end()),
        Call::Explain.to("see which are known"),
    )
}

/// The first line of a file that is nothing but a short text.
/// Control characters are left to binary files.
fn short_text(head: &[u8], len: u64) -> Option<String> {
    let text = std::str::from_utf8(head).ok().filter(|_| len <= HEAD)?;
    let plain = !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    plain.then(|| text.trim().lines().next().unwrap_or_default().chars().take(80).collect())
}

/// An importance matrix has no magic: a small count, then a short name that ends ".weight".
///
/// ```text
/// e0 00 00 00   13 00 00 00   blk.0.attn_q.weight …        224 entries, the first name has 19 letters
/// ```
fn imatrix(head: &[u8]) -> Option<String> {
    // imatrix.dat: i32 entries; for each i32 length, name, …
    let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let (count, len) = (word(0)?, usize::try_from(word(4)?).ok()?);
    let name = head.get(8..8 + len.min(128))?;
    (count < 100_000 && name.ends_with(b".weight"))
        .then(|| "is an importance matrix (imatrix.dat), not a model".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_named() {
        let says = |head: &[u8], words: &str| {
            let text = by_head(head, head.len() as u64);
            assert!(text.contains(words), "{text}");
        };
        says(b"<!DOCTYPE html><html>", "web page");
        says(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n", "123 bytes");
        says(b"\x1f\x8b\x08\0", "gzip");
        says(b"\0\x05\x16\x07\0\x02\0\0", "AppleDouble");
        says(b"\x92\x93\xabtransformer\xa4ln_f\xa6kernel\xc5", "streamed by EasyLM");
        says(&[0; 64], "zeros");
        says(b"GGUF\x09\0\0\0", "version 9");
        says(b"tjgg\x04\0\0\0", "ggjt version 4");
        says(b"Entry not found", "15 bytes of text, not a model (Entry not found)");
        says(b"../../blobs/6a03", "a link to ../../blobs/6a03");
        says(b"GG", "only 2 bytes");
        says(b"GGML\x01", "47 47 4d 4c 01");
        says(b"GGUF", "cut after 4");
        says(b"\x01\0\0\0\x0a\0\0\0abc.weight", "importance matrix");
    }
}
