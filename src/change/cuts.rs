//! How a byte-level vocabulary's texts were cut before its merges were learned, by what the learned tokens show: the
//! evidence for a `tokenizer.ggml.pre` that is missing or wrong, where the vocabulary is not that of a published tokenizer
//! ([`published`]).
//!
//! ```text
//! a way of cutting is     where
//! impossible              it cuts learned tokens apart: what is cut apart in training is never learned
//! coarser                 it joins what another leaves apart, and no token lies across: such would have been learned
//! as good                 it gives the same ids for every text tried: either is right
//! open                    it gives others: the file does not say which is right
//! ```

use std::collections::HashSet;

use regex::Regex;

use super::published::{self, Published, Told};
use crate::{
    infer::tokenizer::{Special, Tokenizer, pretokenize::Splitter},
    model::{
        TokenKind, Vocab,
        pretokenizer::{ALL, PreTokenizer},
        spelling,
    },
    remedy::{Call, Note, Setting},
};

/// What is to say of `tokenizer.ggml.pre`.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// What is wrong and what shows it.
    pub note: Note,
    /// The right name; none where the file leaves several open.
    pub name: Option<&'static str>,
}

/// Learned tokens that are too few to prove how words were split.
const FEW: usize = 8192;
/// Of N learned tokens one may be cut apart by what made them: expressions were corrected after training.
const ODD: usize = 4096;
/// Of N learned tokens a name that is right cuts fewer than one apart; beyond, it is doubted.
const DOUBT: usize = 1000;
/// A way of cutting that cuts this many more tokens apart than another is not what made them.
const MORE: usize = 8;
/// Fewer tokens that are cut apart than this, or places where cuts differ, may be by chance.
const CHANCE: usize = 4;
/// Texts of learned tokens on which two ways of cutting are compared.
const TRIED: usize = 4096;

/// Text in which pre-tokenizers that cut no learned token differ: digits, punctuation, white space.
const SAMPLE: &str = "for (int i = 0; i < 12345; i++) {\n    total[i] += (x == \"y\") ? 2024 : -1; // it's\r\n}\n\n\
                      \tThe year 1999 -- (see page 12,345) was 'fine'; 100 % ... don't!\n";

/// What is missing or wrong in `tokenizer.ggml.pre`, or nothing.
pub(super) fn found(vocab: &Vocab, architecture: &str) -> Option<Found> {
    if vocab.model != "gpt2" {
        return None;
    }
    let stated = match vocab.pre.as_str() {
        "" => None,
        name => Some(PreTokenizer::named(name)?),
    };
    match published::told(vocab, stated) {
        Told::Right => return None,
        Told::Wrong(owners) => {
            if let Some(found) = owner(vocab, architecture, &owners) {
                return Some(found);
            }
        }
        Told::Open => {}
    }
    // A few thousand are enough to see that nothing is wrong.
    let some = learned(vocab, vocab.merges.len() / FEW + 1);
    // What is stated and cuts fewer than one in a thousand apart is doubted only where another is clearly better.
    if let Some(stated) = stated
        && cut_apart(stated, &some, usize::MAX)? * DOUBT <= some.len()
    {
        let (other, _) = finest(&possible(&some))?;
        return match other.stages == stated.stages {
            true => None,
            false => rival(vocab, architecture, stated),
        };
    }
    let learned = learned(vocab, 1);
    let all = learned.len();
    if all < FEW {
        return None;
    }
    let now = match stated {
        Some(stated) => {
            let cut = cut_apart(stated, &learned, usize::MAX)?;
            format!("is {:?}, which cuts {cut} of {all} learned tokens apart", vocab.pre)
        }
        None => "is missing, and llama.cpp would guess".to_owned(),
    };
    let fit = possible(&learned);
    let (right, least) = finest(&fit)?;
    let right = named(vocab, architecture, right);
    // What is no coarser is open where it gives other tokens.
    let mut kept = vec![format!("{} keeps {}", right.0, all - least)];
    let mut shown = None;
    for (other, cut) in &fit {
        if other.stages != right.1.stages && joins(other, right.1)? < CHANCE {
            let (name, _) = named(vocab, architecture, other);
            if let Some(text) = differ(vocab, right.0, name, &learned) {
                kept.push(format!("{name} {}", all - cut));
                shown.get_or_insert(text);
            }
        }
    }
    let Some(text) = shown else {
        let note = format!(
            "tokenizer.ggml.pre {now}: {} is what keeps {} of {all} whole",
            right.0,
            all - least
        );
        return Some(Found { note: note.into(), name: Some(right.0) });
    };
    let what = format!(
        "tokenizer.ggml.pre {now}: {} of {all} learned tokens whole, which give other tokens for {text:?}, and the file \
         does not say which is right",
        kept.join(", ")
    );
    let remedy = Call::Metadata.on("FILE").with(Setting::PreTokenizer.of("NAME"));
    Some(Found { note: Note::new(what, remedy.to("write what its maker names")), name: None })
}

/// The name of the published tokenizer that a vocabulary belongs to; none where those take tokens whole otherwise.
fn owner(
    vocab: &Vocab,
    architecture: &str,
    owners: &[(&'static Published, &'static PreTokenizer)],
) -> Option<Found> {
    let (first, pre) = *owners.first()?;
    let by_name = |name: &str| owners.iter().map(|(owner, _)| *owner).find(|o| o.pre == name);
    // The model's own name; of others that put a token before texts the first; else one that takes tokens whole as this
    // vocabulary needs.
    let (own, entry) = named(vocab, architecture, pre);
    let owner = by_name(architecture)
        .or_else(|| pre.adds_bos.then_some(first))
        .or_else(|| by_name(own))
        .or_else(|| entry.names.iter().find_map(|name| by_name(name)))?;
    let now = match vocab.pre.as_str() {
        "" => "is missing, and llama.cpp would guess its ids".to_owned(),
        stated => format!("is {stated:?}, by which its ids are those of no published tokenizer"),
    };
    let note = format!(
        "tokenizer.ggml.pre {now}: by {}, they are those of {}, for the text from which llama.cpp's converter takes the name",
        owner.pre, owner.model
    );
    Some(Found { note: note.into(), name: Some(owner.pre.as_str()) })
}

/// Where the stated way of cutting is possible, and another more likely: a finer one across whose cuts no token lies, or
/// one that cuts clearly fewer tokens apart. It is told where it makes a difference and never written, for what a file
/// states counts.
fn rival(vocab: &Vocab, architecture: &str, stated: &PreTokenizer) -> Option<Found> {
    let learned = learned(vocab, 1);
    let all = learned.len();
    let (other, less) = finest(&possible(&learned))?;
    let cut = cut_apart(stated, &learned, usize::MAX)?;
    let finer = joins(stated, other)? >= CHANCE && joins(other, stated)? < CHANCE;
    if all < FEW || !(finer && less < cut + CHANCE || cut >= less + MORE) {
        return None;
    }
    let (name, pre) = named(vocab, architecture, other);
    let starts = vocab.bos.filter(|_| vocab.add_bos.is_none() && stated.adds_bos != pre.adds_bos);
    let text = match differ(vocab, &vocab.pre, name, &learned) {
        Some(text) => format!("{text:?}"),
        None => starts.map(|bos| format!("every text: one puts token {bos} before it"))?,
    };
    let across = if finer { ", and none lies across the cuts that only that makes" } else { "" };
    let what = format!(
        "tokenizer.ggml.pre is {:?}, which keeps {} of {all} learned tokens whole, but {name} keeps {}{across}: they give \
         different tokens for {text}, and the file does not say which is right",
        vocab.pre,
        all - cut,
        all - less
    );
    let remedy = Call::Metadata.on("FILE").with(Setting::PreTokenizer.of(name));
    let note = Note::new(what, remedy.to(format!("if its maker names {name}, write it")));
    Some(Found { note, name: None })
}

/// Each way of cutting that can have made these tokens, once, however many names it has, with how many of them it cuts
/// apart.
fn possible(learned: &[String]) -> Vec<(&'static PreTokenizer, usize)> {
    let most = (learned.len() / ODD).max(CHANCE - 1);
    let mut out: Vec<(&PreTokenizer, usize)> = Vec::new();
    for pre in ALL {
        if !out.iter().any(|(other, _)| other.stages == pre.stages)
            && let Some(cut) = cut_apart(pre, learned, most + 1).filter(|cut| *cut <= most)
        {
            out.push((pre, cut));
        }
    }
    let least = out.iter().map(|(_, cut)| *cut).min().unwrap_or(0);
    // One that is clearly worse than the best is out, though it alone might pass.
    out.retain(|(_, cut)| *cut < least + MORE);
    out
}

/// The one that cuts texts most finely; of equals the one that cuts fewest tokens apart.
fn finest(fit: &[(&'static PreTokenizer, usize)]) -> Option<(&'static PreTokenizer, usize)> {
    let pieces = |pre: &PreTokenizer| Some(Splitter::new(pre).ok()?.split(SAMPLE).len());
    fit.iter().rev().max_by_key(|(pre, cut)| (pieces(pre), usize::MAX - cut)).copied()
}

/// In how many places of the sample one joins what another cuts apart.
fn joins(one: &PreTokenizer, other: &PreTokenizer) -> Option<usize> {
    let cuts = |pre: &PreTokenizer| {
        // Pieces are slices of the sample: where each begins is the distance of addresses.
        let start = SAMPLE.as_ptr() as usize;
        let pieces = Splitter::new(pre).ok()?.split(SAMPLE);
        Some(pieces.iter().map(|piece| piece.as_ptr() as usize - start).collect::<HashSet<_>>())
    };
    Some(cuts(other)?.difference(&cuts(one)?).count())
}

/// The name for this way of cutting: of those that take tokens whole as this vocabulary needs, the model's own or else
/// the first.
fn named(
    vocab: &Vocab,
    architecture: &str,
    right: &'static PreTokenizer,
) -> (&'static str, &'static PreTokenizer) {
    // Tokens that no merge makes are found as a whole, or never.
    let made: HashSet<String> = merges(vocab).map(|(left, right)| left + &right).collect();
    let whole = |id: usize, text: &[u8]| {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let one = text.chars().nth(1).is_none();
        vocab.kind(id) == TokenKind::Normal && !one && !made.contains(text)
    };
    let ignores = vocab.tokens.iter().enumerate().any(|(id, text)| whole(id, text));
    let mut same = ALL.iter().filter(|pre| pre.stages == right.stages);
    let right = same.find(|pre| pre.ignore_merges == ignores).unwrap_or(right);
    let own = right.names.iter().find(|name| **name == architecture);
    (own.copied().unwrap_or(right.name()), right)
}

/// A text for which two names give different ids, or none in thousands that learned tokens make.
fn differ(vocab: &Vocab, one: &str, other: &str, learned: &[String]) -> Option<String> {
    let tokenizer = |name: &str| {
        let vocab = Vocab { pre: name.to_owned(), ..vocab.clone() };
        Tokenizer::new(&vocab).ok()
    };
    let (one, other) = (tokenizer(one)?, tokenizer(other)?);
    let text = |n: usize| learned.get(n % learned.len()).map_or("", String::as_str);
    // Neighbours that stand nowhere beside each other in the list.
    let made = (0..TRIED).map(|n| {
        let at = n * (learned.len() / TRIED + 1);
        [text(at), text(at * 7 + 3), text(at * 31 + 11)].concat()
    });
    let given = ["1234567", "\n\nx", "a  b\n \n c", "x)\n\ny", "'S 'tis we'll"].map(str::to_owned);
    let mut texts = given.into_iter().chain(SAMPLE.lines().map(str::to_owned)).chain(made);
    let ids = |of: &Tokenizer, text: &str| of.encode(text, Special::Text);
    texts.find(|text| ids(&one, text) != ids(&other, text))
}

/// The two parts of every merge, as they are stored or come about by the order of the tokens.
fn merges(vocab: &Vocab) -> impl Iterator<Item = (String, String)> {
    let rebuilt = spelling::lost_merges(vocab).unwrap_or_default();
    let stored = vocab.merges.iter().filter_map(|merge| String::from_utf8(merge.to_vec()).ok());
    let halves = |merge: String| {
        let (left, right) = merge.split_once(' ')?;
        Some((left.to_owned(), right.to_owned()))
    };
    stored.chain(rebuilt).filter_map(halves)
}

/// The texts that every `step`-th merge makes, each once. What is no UTF-8 is part of a letter; marks are left out, for
/// expressions that made vocabularies and those published with them differ in whether these belong to words.
fn learned(vocab: &Vocab, step: usize) -> Vec<String> {
    let marks = Regex::new(r"\p{M}").ok();
    let mut seen = HashSet::new();
    let text = |(left, right): (String, String)| {
        let bytes = spelling::from_alphabet((left + &right).as_bytes())?;
        String::from_utf8(bytes).ok().filter(|t| !marks.as_ref().is_some_and(|m| m.is_match(t)))
    };
    merges(vocab).step_by(step).filter_map(text).filter(|text| seen.insert(text.clone())).collect()
}

/// How many of these texts a pre-tokenizer cuts apart, counted up to `enough`.
fn cut_apart(pre: &PreTokenizer, texts: &[String], enough: usize) -> Option<usize> {
    let splitter = Splitter::new(pre).ok()?;
    let cut = texts.iter().filter(|text| splitter.split(text).len() > 1);
    Some(cut.take(enough).count())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::model::Texts;

    /// What this house has written, as a text with words, numbers and code.
    fn corpus() -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let names = ["README.md", "CHANGELOG.md", "src/cli/json.md", "src/model/pretokenizer.rs"];
        let sources = ["src/change", "src/quant/decode", "src/container", "src/checkpoint/packed"];
        let listed = sources.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
        let files = listed.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let files = files.chain(names.iter().map(|name| root.join(name)));
        let mut files: Vec<_> = files.collect();
        files.sort();
        let counts: String = (0..3000).map(|n| format!(" {n} {}", n * 7919)).collect();
        files.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>() + &counts
    }

    /// A vocabulary with merges that make every beginning of the pieces into which `pre` cuts a text.
    fn vocabulary(pre: &PreTokenizer, text: &str) -> Vocab {
        let splitter = Splitter::new(pre).unwrap();
        let mut seen = HashSet::new();
        let mut merges = Texts::default();
        for piece in splitter.split(text) {
            let ends = piece.char_indices().skip(2).map(|(at, _)| at).chain([piece.len()]);
            for (end, c) in ends.zip(piece.chars().skip(1)) {
                let left = &piece[..end - c.len_utf8()];
                let whole = &piece[..end];
                if left.is_ascii()
                    && c.is_ascii()
                    && splitter.split(whole).len() == 1
                    && seen.insert(whole)
                {
                    merges.push(format!(
                        "{} {}",
                        spelling::alphabet(left.as_bytes()),
                        spelling::alphabet(&whole.as_bytes()[left.len()..])
                    ));
                }
            }
        }
        Vocab { model: "gpt2".to_owned(), merges, ..Vocab::default() }
    }

    #[test]
    fn merges_tell_how_words_were_split() {
        let text = corpus();
        for name in ["gpt-2", "starcoder", "falcon", "llama-bpe", "deepseek-coder", "gpt-4o"] {
            let right = PreTokenizer::named(name).unwrap();
            let mut vocab = vocabulary(right, &text);
            assert!(vocab.merges.len() > FEW, "{name}: {} merges", vocab.merges.len());
            let told = |vocab: &Vocab| found(vocab, "mpt").and_then(|found| found.name);
            let names = PreTokenizer::named(told(&vocab).unwrap_or_default());
            assert_eq!(names.map(|pre| pre.stages), Some(right.stages), "{name}");
            vocab.pre = name.to_owned();
            assert_eq!(told(&vocab), None, "{name} is right");
            vocab.pre = "viking".to_owned();
            let names = PreTokenizer::named(told(&vocab).unwrap());
            assert_eq!(names.map(|pre| pre.stages), Some(right.stages), "{name}");
            vocab.pre = "of-tomorrow".to_owned();
            assert_eq!(told(&vocab), None, "what is not known here is not doubted");
            vocab.merges = vocab.merges.iter().take(FEW - 1).collect();
            assert_eq!(told(&vocab), None, "too few to prove anything");
        }
    }
}
