//! What llama.cpp's `main`, `perplexity` and converters of 2023 took: the words that people still type.
//!
//! Underscores were written for hyphens, and flags of several letters had one hyphen. What has another
//! name here gets it, what is not needed is left out with one note, and what would change the text is
//! refused, all at once.
//!
//! ```text
//! -ngl 32        nothing: layers are not put anywhere            left out, with a note
//! --tfs 1.0      the value that does nothing                     left out, with a note
//! --tfs 0.9      another text                                    refused
//! --rope-freq-scale 0.5                                          --rope-scale 2
//! --top_k 10                                                     --top-k 10
//! ```

use std::{
    ffi::{OsStr, OsString},
    vec::IntoIter,
};

use crate::error::{Error, Result};

/// What becomes of a flag.
#[derive(Clone, Copy)]
enum Fate {
    /// It has another name here.
    Named(&'static str),
    /// What follows it is written without it.
    Bare,
    /// It is said with these words.
    Said(&'static [&'static str]),
    /// A factor that is stated the other way round here.
    Inverse(&'static str),
    /// `--lora`, and a scale follows the file.
    Scaled,
    /// It changes no word of the output.
    Needless,
    /// The same, and a value follows it.
    NeedlessValue,
    /// It changes the output, and there is no such thing here.
    Missing,
    /// The same, and a value follows it, which may be the one that changes nothing.
    MissingValue(Option<f32>),
}

use Fate::{Bare, Inverse, Missing, MissingValue, Named, Needless, NeedlessValue, Said, Scaled};

type Flags = &'static [(&'static [&'static str], Fate)];

/// llama.cpp `gpt_params_parse` from March to December 2023 and what was added since, but for what is called
/// the same here.
const MAIN: Flags = &[
    (
        &["-ins", "--instruct", "--interactive-first", "-cnv", "--conversation"],
        Named("--interactive"),
    ),
    (&["-ngl", "--gpu-layers", "--n-gpu-layers", "-mg", "--main-gpu"], NeedlessValue),
    (&["-ts", "--tensor-split", "-b", "--batch-size", "-tb", "--threads-batch"], NeedlessValue),
    (&["-ub", "--ubatch-size", "-sm", "--split-mode", "-dev", "--device"], NeedlessValue),
    (&["-gqa", "--gqa", "--n-parts", "--keep", "--prompt-cache"], NeedlessValue),
    (&["--mlock", "--no-mmap", "--mtest", "--numa", "--color", "-co", "--simple-io"], Needless),
    (&["--memory-f32", "--memory-f16", "--verbose-prompt", "-lv", "--low-vram"], Needless),
    (&["-mmq", "--mul-mat-q", "-nommq", "--no-mul-mat-q", "--perplexity"], Needless),
    (
        &["--prompt-cache-all", "--prompt-cache-ro", "-fa", "--flash-attn", "--log-disable"],
        Needless,
    ),
    (&["-nkvo", "--no-kv-offload", "-no-cnv", "--no-conversation", "--no-warmup"], Needless),
    (&["--tfs", "--typical", "--cfg-scale"], MissingValue(Some(1.0))),
    (&["--mirostat", "--frequency-penalty", "--presence-penalty"], MissingValue(Some(0.0))),
    (&["--mirostat-lr", "--mirostat-ent", "-l", "--logit-bias"], MissingValue(None)),
    (&["--lora-base"], MissingValue(None)),
    (&["--lora-scaled"], Scaled),
    (&["--cfg-negative-prompt", "--grammar", "--grammar-file"], MissingValue(None)),
    (&["--in-prefix", "--in-suffix"], MissingValue(None)),
    (&["-eps", "--rms-norm-eps"], Named("--eps")),
    (&["--rope-freq-base"], Named("--rope-base")),
    (&["--rope-freq-scale"], Inverse("--rope-scale")),
    (&["--no-penalize-nl", "--random-prompt", "--in-prefix-bos"], Missing),
    (&["--multiline-input"], Missing),
];

/// llama.cpp's convert.py of 2023 and 2024, and convert_hf_to_gguf.py after it.
const CONVERT: Flags = &[
    (&["--concurrency", "--vocab-type", "--vocabtype"], NeedlessValue),
    (&["--skip-unknown", "--no-lazy", "--use-temp-file"], Needless),
    (&["--padvocab"], Named("--pad-vocab")),
    (&["--big-endian", "--bigendian"], Said(&["--to", "gguf-v3-be"])),
];

/// llama.cpp's convert-llama-ggml-to-gguf.py, which read the only file that it took from a flag.
const UPGRADE: Flags = &[
    (&["-i", "--input"], Bare),
    (&["-c", "--context-length"], Named("--context")),
    (&["-m", "--model-metadata-dir"], Named("--vocab")),
    (&["--gqa", "--vocabtype"], NeedlessValue),
];

/// The verbs that take them.
const VERBS: [(&str, Flags); 5] = [
    ("run", MAIN),
    ("perplexity", MAIN),
    ("imatrix", MAIN),
    ("convert", CONVERT),
    ("upgrade", UPGRADE),
];

/// Flags whose value is anybody's text.
/// `-p "-ngl"` is a prompt: what follows one of these is not looked at.
const TEXTS: [&str; 10] =
    ["-p", "--prompt", "-f", "--file", "-m", "--model", "-r", "--reverse-prompt", "-o", "--output"];

/// The words of a call as they are translated.
struct Words {
    rest: IntoIter<OsString>,
    out: Vec<OsString>,
    needless: Vec<String>,
    missing: Vec<String>,
}

/// The words of a call as this program has them, with a note on what was left out.
///
/// # Errors
/// [`Error::Usage`] with every flag that would change the output and is not known here.
pub fn translate(words: Vec<OsString>) -> Result<(Vec<OsString>, Option<String>)> {
    // The verb is the first word that is no flag of the whole command.
    let verb = words.iter().enumerate().skip(1).find_map(|(at, word)| {
        let (_, flags) = VERBS.iter().find(|(verb, _)| word == verb)?;
        Some((at, *flags))
    });
    let Some((verb, flags)) = verb else { return Ok((words, None)) };
    let mut words = Words {
        rest: words.into_iter(),
        out: Vec::new(),
        needless: Vec::new(),
        missing: Vec::new(),
    };
    words.out.extend(words.rest.by_ref().take(verb + 1));
    // Escapes and one-hyphen words are `main`'s alone.
    let is_main = std::ptr::eq(flags, MAIN);
    let mut escapes = false;
    while let Some(word) = words.rest.next() {
        let Some(text) = word.to_str().filter(|text| text.starts_with('-') && *text != "--") else {
            words.out.push(word);
            continue;
        };
        // `--flag=value` is one word; its value is taken from there and not from the next word.
        let (name, value) = match text.split_once('=') {
            Some((name, value)) if name.len() > 2 => (name, Some(value.to_owned())),
            _ => (text, None),
        };
        let name = match name.starts_with("--") {
            true => name.replace('_', "-"),
            false => name.to_owned(),
        };
        let known = flags.iter().find(|(names, _)| names.contains(&name.as_str()));
        match known.map(|(_, fate)| *fate) {
            Some(fate) => words.take(fate, name, value),
            None if is_main && (name == "-e" || name == "--escape") => escapes = true,
            // One letter of it would be taken, and the rest for its value: `-nkvo` as `-n kvo`.
            None if is_main && is_long_for_one_hyphen(&name) => words.missing.push(name),
            None => {
                let is_text = TEXTS.contains(&name.as_str()) && value.is_none();
                let word = value.map_or(name.clone(), |value| format!("{name}={value}"));
                words.out.push(word.into());
                if is_text {
                    // A prompt may begin with a hyphen, or be called as a flag is.
                    words.out.extend(words.rest.next());
                }
            }
        }
    }
    if !words.missing.is_empty() {
        return Err(refused(&words.missing));
    }
    if escapes {
        unescape_prompt(&mut words.out);
    }
    let needless = words.needless.join(", ");
    let note = (!needless.is_empty()).then(|| format!("note: not needed here: {needless}"));
    Ok((words.out, note))
}

/// Whether a word with one hyphen is of several letters, as no flag here is but those of `-qv`.
fn is_long_for_one_hyphen(name: &str) -> bool {
    let letters = name.strip_prefix('-').filter(|rest| !rest.starts_with('-')).unwrap_or_default();
    let plain = letters.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    plain && letters.len() > 1 && !letters.chars().all(|c| "qvih".contains(c))
}

/// Every flag that would change the output and is not known here.
fn refused(missing: &[String]) -> Error {
    let what = format!("{}: not known here, and it would change the text", missing.join(", "));
    let advice = match missing.iter().any(|name| name == "--lora-base") {
        true => {
            "`regguf convert BASE --lora FILE --type q4_0` adds an adapter to the base's own weights: run what it \
             makes"
        }
        false => "leave it out",
    };
    Error::usage(format!("{what}; {advice}"))
}

impl Words {
    /// Takes the flag `name` with its value, where that was written in the same word.
    fn take(&mut self, fate: Fate, name: String, value: Option<String>) {
        let rest = &mut self.rest;
        let mut value_of = || value.clone().map(OsString::from).or_else(|| rest.next());
        match fate {
            Named(now) => {
                self.out.push(now.into());
                self.out.extend(value.map(OsString::from));
            }
            Bare => self.out.extend(value_of()),
            Said(words) => self.out.extend(words.iter().map(OsString::from)),
            Inverse(now) => {
                let value = value_of().unwrap_or_default().display().to_string();
                let factor = value.parse::<f32>().ok().filter(|factor| *factor > 0.0);
                let stated = factor.map_or(value, |factor| (1.0 / factor).to_string());
                self.out.extend([now.into(), stated.into()]);
            }
            Scaled => {
                let file = value_of().unwrap_or_default();
                let times = rest.next().unwrap_or_default();
                self.out.extend(["--lora".into(), [file, times].join(OsStr::new("="))]);
            }
            Needless => self.needless.push(name),
            NeedlessValue => {
                let value = value_of().unwrap_or_default();
                self.needless.push(format!("{name} {}", value.display()));
            }
            Missing => self.missing.push(name),
            MissingValue(neutral) => {
                let value = value_of().unwrap_or_default().display().to_string();
                match value.parse().ok() {
                    stated @ Some(_) if stated == neutral => {
                        self.needless.push(format!("{name} {value}"));
                    }
                    _ => self.missing.push(name),
                }
            }
        }
    }
}

/// `-e`: the escapes of the prompt mean what they mean in C.
fn unescape_prompt(words: &mut [OsString]) {
    let mut is_prompt = false;
    for word in words {
        if is_prompt && let Some(text) = word.to_str() {
            *word = unescaped(text).into();
        }
        is_prompt = word == "-p" || word == "--prompt";
    }
}

/// A text with its escapes as the characters that they stand for; what is none of them stays as it is.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let next = (c == '\\').then(|| chars.clone().next()).flatten();
        let meant = match next {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c @ ('\'' | '"' | '\\')) => c,
            _ => {
                out.push(c);
                continue;
            }
        };
        out.push(meant);
        chars.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(words: &str) -> Result<(String, String)> {
        let words = words.split(' ').map(OsString::from).collect();
        let (words, note) = translate(words)?;
        let words: Vec<String> = words.iter().map(|word| word.display().to_string()).collect();
        Ok((words.join(" "), note.unwrap_or_default()))
    }

    #[test]
    fn the_words_of_2023_are_understood() {
        let (words, note) = translated(
            "regguf run -m m.bin -p -ngl -n 4 -ngl 32 --color --top_k 10 --repeat_penalty=1.1 -ins --tfs 1.0",
        )
        .unwrap();
        let now = "regguf run -m m.bin -p -ngl -n 4 --top-k 10 --repeat-penalty=1.1 --interactive";
        assert_eq!(words, now);
        assert_eq!(note, "note: not needed here: -ngl 32, --color, --tfs 1.0");
        let error = translated("regguf run -m m --mirostat 2 --random-prompt -b 8").unwrap_err();
        assert!(error.to_string().starts_with("--mirostat, --random-prompt: not known here"));
        let error = translated("regguf run -m m -n 8 -nxyz").unwrap_err();
        assert!(error.to_string().starts_with("-nxyz: not known here"));
        let (words, _) =
            translated("regguf run -m m --lora-scaled a.bin 0.5 --lora b.bin").unwrap();
        assert_eq!(words, "regguf run -m m --lora a.bin=0.5 --lora b.bin");
        let error = translated("regguf run -m q4.bin --lora a --lora-base f16.bin").unwrap_err();
        assert!(error.to_string().contains("`regguf convert BASE --lora FILE --type q4_0`"));
        let other = "regguf quantize -ngl --top_k";
        assert_eq!(translated(other).unwrap().0, other);
        let (words, _) =
            translated("regguf run m -ngl=9 -eps 1e-5 --rope-freq-scale 0.5 -n8").unwrap();
        assert_eq!(words, "regguf run m --eps 1e-5 --rope-scale 2 -n8");
        let (words, note) =
            translated("regguf convert models/7B/ --outtype f16 --concurrency 4").unwrap();
        assert_eq!(words, "regguf convert models/7B/ --outtype f16");
        assert_eq!(note, "note: not needed here: --concurrency 4");
        let (words, _) = translated("regguf upgrade --input a.bin -o b -c 4096 --gqa 8").unwrap();
        assert_eq!(words, "regguf upgrade a.bin -o b --context 4096");
        let (words, _) = translated(r"regguf run -e -p a\nb\\n -n 4").unwrap();
        assert_eq!(words, "regguf run -p a\nb\\n -n 4");
    }
}
