//! What llama.cpp's `main` and `perplexity` of 2023 took: the words that people still type.
//!
//! Underscores were written for hyphens, and flags of several letters had one hyphen. What has another
//! name here gets it, what is not needed is left out with one note, and what would change the text is
//! refused, all at once.

use std::ffi::OsString;

use crate::error::{Error, Result};

/// What becomes of a flag.
#[derive(Clone, Copy)]
enum Fate {
    /// It has another name here.
    Named(&'static str),
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

use Fate::{Missing, MissingValue, Named, Needless, NeedlessValue, Scaled};

/// llama.cpp `gpt_params_parse` from March to December 2023, but for what is called the same here.
const FLAGS: &[(&[&str], Fate)] = &[
    (&["-ins", "--instruct", "--interactive-first"], Named("--interactive")),
    (&["-ngl", "--gpu-layers", "--n-gpu-layers", "-mg", "--main-gpu"], NeedlessValue),
    (&["-ts", "--tensor-split", "-b", "--batch-size", "-tb", "--threads-batch"], NeedlessValue),
    (&["-gqa", "--gqa", "--n-parts", "--keep", "--prompt-cache"], NeedlessValue),
    (&["--mlock", "--no-mmap", "--mtest", "--numa", "--color", "--simple-io"], Needless),
    (&["--memory-f32", "--memory-f16", "--verbose-prompt", "-lv", "--low-vram"], Needless),
    (&["-mmq", "--mul-mat-q", "-nommq", "--no-mul-mat-q", "--perplexity"], Needless),
    (&["--prompt-cache-all", "--prompt-cache-ro"], Needless),
    (&["--tfs", "--typical", "--cfg-scale"], MissingValue(Some(1.0))),
    (&["--mirostat", "--frequency-penalty", "--presence-penalty"], MissingValue(Some(0.0))),
    (&["--mirostat-lr", "--mirostat-ent", "-l", "--logit-bias"], MissingValue(None)),
    (&["--lora-base"], MissingValue(None)),
    (&["--lora-scaled"], Scaled),
    (&["--cfg-negative-prompt", "--grammar", "--grammar-file", "-r"], MissingValue(None)),
    (&["--reverse-prompt", "--in-prefix", "--in-suffix"], MissingValue(None)),
    (&["-eps", "--rms-norm-eps", "--rope-freq-base"], MissingValue(None)),
    (&["--rope-freq-scale", "--rope-scale"], MissingValue(Some(1.0))),
    (&["--ignore-eos", "--no-penalize-nl", "--random-prompt", "--in-prefix-bos"], Missing),
    (&["--multiline-input"], Missing),
];

/// The verbs that take them.
const VERBS: [&str; 3] = ["run", "perplexity", "imatrix"];
/// Flags whose value is anybody's text.
const TEXTS: [&str; 6] = ["-p", "--prompt", "-f", "--file", "-m", "--model"];

/// The words of a call as this program has them, with a note on what was left out.
///
/// # Errors
/// [`Error::Usage`] with every flag that would change the output and is not known here.
pub fn translate(words: Vec<OsString>) -> Result<(Vec<OsString>, Option<String>)> {
    let verb = words.iter().position(|word| VERBS.iter().any(|verb| word == verb));
    let Some(verb) = verb else { return Ok((words, None)) };
    let (mut out, mut needless, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let (mut escapes, mut rest) = (false, words.into_iter());
    out.extend(rest.by_ref().take(verb + 1));
    while let Some(word) = rest.next() {
        let Some(text) = word.to_str().filter(|text| text.starts_with('-') && *text != "--") else {
            out.push(word);
            continue;
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (text, None),
        };
        let name = match name.starts_with("--") {
            true => name.replace('_', "-"),
            false => name.to_owned(),
        };
        let mut value_of =
            || value.map(str::to_owned).or_else(|| Some(rest.next()?.display().to_string()));
        let known = FLAGS.iter().find(|(names, _)| names.contains(&name.as_str()));
        match known.map(|(_, fate)| *fate) {
            Some(Named(now)) => out.push(now.into()),
            Some(Scaled) => {
                let file = value.map(OsString::from).or_else(|| rest.next()).unwrap_or_default();
                let times = rest.next().unwrap_or_default();
                let parts = [file, times];
                out.extend(["--lora".into(), parts.join(std::ffi::OsStr::new("="))]);
            }
            Some(Needless) => needless.push(name),
            Some(NeedlessValue) => {
                let value = value_of().unwrap_or_default();
                needless.push(format!("{name} {value}"));
            }
            Some(Missing) => missing.push(name),
            Some(MissingValue(neutral)) => {
                let value = value_of().unwrap_or_default();
                match value.parse().ok() {
                    stated @ Some(_) if stated == neutral => {
                        needless.push(format!("{name} {value}"));
                    }
                    _ => missing.push(name),
                }
            }
            None if name == "-e" || name == "--escape" => escapes = true,
            None => {
                let is_text = TEXTS.contains(&name.as_str()) && value.is_none();
                out.push(value.map_or(name.clone(), |value| format!("{name}={value}")).into());
                if is_text {
                    out.extend(rest.next());
                }
            }
        }
    }
    if !missing.is_empty() {
        let what = format!("{}: not known here, and it would change the text", missing.join(", "));
        let advice = match missing.iter().any(|name| name == "--lora-base") {
            true => {
                "`regguf convert BASE --lora FILE --type q4_0` adds an adapter to the base's own weights: run what it \
                 makes"
            }
            false => "leave it out (--eps and --rope-base are for `regguf upgrade`)",
        };
        return Err(Error::Usage(format!("{what}; {advice}")));
    }
    if escapes {
        unescape_prompt(&mut out);
    }
    let note =
        (!needless.is_empty()).then(|| format!("note: not needed here: {}", needless.join(", ")));
    Ok((out, note))
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
        let error = translated("regguf run -m m --mirostat 2 --ignore-eos -b 8").unwrap_err();
        assert!(error.to_string().starts_with("--mirostat, --ignore-eos: not known here"));
        let (words, _) =
            translated("regguf run -m m --lora-scaled a.bin 0.5 --lora b.bin").unwrap();
        assert_eq!(words, "regguf run -m m --lora a.bin=0.5 --lora b.bin");
        let error = translated("regguf run -m q4.bin --lora a --lora-base f16.bin").unwrap_err();
        assert!(error.to_string().contains("`regguf convert BASE --lora FILE --type q4_0`"));
        let other = "regguf quantize -ngl --top_k";
        assert_eq!(translated(other).unwrap().0, other);
        let (words, _) = translated(r"regguf run -e -p a\nb\\n -n 4").unwrap();
        assert_eq!(words, "regguf run -p a\nb\\n -n 4");
    }
}
