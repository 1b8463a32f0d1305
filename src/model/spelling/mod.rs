//! Vocabularies of files before GGUF in the terms that GGUF writes: tokens in its alphabet, with kinds and
//! merges, which those files never stored.
//!
//! ```text
//! id    record   what it is                        merge
//! 0-2   t h e    single bytes
//! 3     th       t and h stand before it           t h
//! 4     the      in two parts after that merge     th e
//! 5     <|end|>  no merge makes it: added          none
//! ```
//!
//! Ids of byte pairs were given in the order of the merges, so the merges follow from them: a token that the
//! merges before it leave in two parts is the next merge. What is behind the first token that no merge
//! makes was added by hand, and so were runs of spaces behind the last merge.

mod decoded;
mod merges;

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use super::{TokenKind, Vocab};
use crate::format::{catalog, container::Spelling, family::Tokenizer};
use crate::remedy::{Note, Notes, Setting};
pub use decoded::has_lost;
use merges::Merges;

/// The merges of a GGUF of byte pairs that lacks them, where the order of its tokens gives them.
pub fn lost_merges(vocab: &Vocab) -> Option<Vec<String>> {
    let lost = vocab.model == "gpt2" && vocab.merges.is_empty();
    lost.then(|| merges::of_tokens(vocab)).flatten()
}

/// A vocabulary in GGUF's terms.
#[derive(Debug)]
#[non_exhaustive]
pub struct Spelled {
    /// The vocabulary.
    pub vocab: Vocab,
    /// What a person should know.
    pub notes: Notes,
}

/// The vocabulary in GGUF's terms, or why it cannot be had. Of several spellings the records tell which it is.
///
/// # Errors
/// Where the ids are not in the order in which byte pairs were learned, so no merges can be told from them.
///
/// ```text
/// records  --spelling-->  texts as bytes, none where bytes were lost
/// texts    --Walk::over-->  what each is: a byte, the merge of some rank, added, lost
/// found    --learned-->   the last merge; behind it tokens were added
///          --vocab-->     tokens in GPT-2's letters, kinds, merges
/// ```
pub fn read(rule: &Tokenizer, spellings: &[Spelling], records: &Vocab) -> Result<Spelled, String> {
    let is_text = |record: &[u8]| std::str::from_utf8(record).is_ok();
    let spelling = match spellings {
        // Both of these write valid UTF-8 only: a record that is none was written as its bytes.
        [Spelling::Decoded | Spelling::Latin1, ..] if !records.tokens.iter().all(is_text) => {
            Spelling::Bytes
        }
        [one] => *one,
        many if decoded::lossy(&records.tokens) && many.contains(&Spelling::Decoded) => {
            Spelling::Decoded
        }
        many => many.first().copied().unwrap_or(Spelling::Bytes),
    };
    let (mut won, mut notes) = (0, Notes::default());
    let published = || decoded::published(&records.tokens, catalog::vocabularies());
    let known = (spelling == Spelling::Decoded).then(published).flatten();
    let texts = match (spelling, known) {
        (Spelling::Pieces, _) => return Ok(pieces(rule, records)),
        (Spelling::Wordpiece, _) => return Ok(words(rule, records)),
        (Spelling::Decoded, Some(known)) => {
            let (title, lost) = (&known.vocabulary.title, known.bytes.len());
            notes.push(format!("the vocabulary is {title}: {lost} tokens are as it has them"));
            decoded::completed(&records.tokens, known)
        }
        (Spelling::Decoded, None) => {
            let (texts, bytes) = decoded::bytes(&records.tokens);
            won = bytes;
            texts
        }
        (Spelling::Latin1, _) => records.tokens.iter().map(|token| Some(latin1(token))).collect(),
        (Spelling::Bytes, _) => records.tokens.iter().map(|token| Some(token.to_vec())).collect(),
    };
    let walk = Walk::over(texts, spelling == Spelling::Decoded && known.is_none());
    let learned = walk.learned()?;
    notes.extend(walk.losses(won, learned.0));
    Ok(Spelled { vocab: walk.vocab(rule, &records.kinds, learned), notes })
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// A byte.
    Byte,
    /// What the merge of this rank makes.
    Merged(usize),
    /// What no merge makes.
    Other,
    /// What no merge makes because tokens that it is made of were lost.
    Apart,
    /// An earlier token again.
    Again,
    /// No text.
    Empty,
    /// Bytes that were not stored.
    Lost,
}

/// Records in the order of their ids.
struct Walk {
    texts: Vec<Option<Vec<u8>>>,
    found: Vec<Found>,
    merges: Merges,
    decoded: bool,
    /// Tokens of which only a merge tells that they begin with a space.
    spaced: usize,
}

impl Walk {
    /// Goes through the records once: each is a byte, the next merge, or something else. `decoded` texts may lack a
    /// space at their beginning, which only a merge tells.
    fn over(mut texts: Vec<Option<Vec<u8>>>, decoded: bool) -> Walk {
        let lossy = texts.iter().any(Option::is_none);
        let (mut found, mut merges, mut spaced) = (Vec::new(), Merges::default(), 0);
        let mut known: HashMap<String, usize> = HashMap::new();
        for (id, text) in texts.iter_mut().enumerate() {
            let Some(bytes) = text else {
                found.push(Found::Lost);
                continue;
            };
            if bytes.is_empty() {
                found.push(Found::Empty);
                continue;
            }
            let mut letters = alphabet(bytes);
            let mut what = match known.contains_key(&letters) {
                true => Found::Again,
                false => match merges.add(&letters) {
                    Some(rank) => Found::Merged(rank),
                    None if letters.chars().count() == 1 => Found::Byte,
                    None if lossy && !bytes.is_ascii() => Found::Apart,
                    None => Found::Other,
                },
            };
            if decoded
                && matches!(what, Found::Again | Found::Other)
                && decoded::may_be_cleaned(bytes)
            {
                bytes.insert(0, b' ');
                let with_space = alphabet(bytes);
                match merges.add(&with_space).filter(|_| !known.contains_key(&with_space)) {
                    Some(rank) => {
                        (letters, what) = (with_space, Found::Merged(rank));
                        spaced += 1;
                    }
                    None => {
                        bytes.remove(0);
                    }
                }
            }
            known.entry(letters).or_insert(id);
            found.push(what);
        }
        Walk { texts, found, merges, decoded, spaced }
    }

    /// The text of a record; nothing for one that was lost.
    fn text(&self, id: usize) -> &[u8] {
        self.texts.get(id).and_then(Option::as_deref).unwrap_or_default()
    }

    /// The id and the rank of the last token that was learned, or why there is none.
    ///
    /// Ids behind it belong to tokens that were added, even where one happens to be what two others make.
    fn learned(&self) -> Result<(usize, usize), String> {
        let mut first = None;
        let mut tail = None;
        let (mut late, mut added) = (0, 0);
        let mut last = None;
        for (id, what) in self.found.iter().enumerate() {
            let spaces = spaces(self.text(id));
            match what {
                // Behind tokens that no merge makes: some chance hits are no harm, many mean that nothing is in
                // order.
                Found::Merged(_) if tail.is_some() => late += usize::from(!spaces),
                Found::Merged(rank) => {
                    first.get_or_insert(id);
                    if !spaces {
                        last = Some((id, *rank));
                    }
                }
                Found::Other if first.is_some() && !is_special(self.text(id)) => {
                    tail.get_or_insert(id);
                    added += 1;
                }
                _ => {}
            }
        }
        match tail {
            Some(id) if late > added => {
                Err(format!("token {id} is among the byte pairs and is none"))
            }
            _ => last.ok_or_else(|| {
                "its tokens are no byte pairs in the order in which they were learned".to_owned()
            }),
        }
    }

    /// What was lost, as a sentence.
    fn losses(&self, won: usize, last: usize) -> Option<Note> {
        let count = |wanted: Found| self.found.iter().filter(|found| **found == wanted).count();
        let again = self.found.iter().take(last).filter(|found| **found == Found::Again).count();
        let (lost, apart) = (count(Found::Lost) + again, count(Found::Apart));
        if lost + apart + won + self.spaced == 0 || !self.decoded {
            return None;
        }
        let won = format!(
            "tokens were stored as decoded text: {won} single bytes are won back from their ids, {} spaces from \
             the merges",
            self.spaced
        );
        if lost + apart == 0 {
            return Some(format!("{won}; nothing else was lost").into());
        }
        Some(Note::new(
            format!(
                "{won}; {lost} of {} tokens are lost and can be neither typed nor printed, {apart} more can only \
                 be printed",
                self.found.len()
            ),
            Setting::Vocabulary.of("tokenizer.json").to("give the true ones"),
        ))
    }

    /// The tokens with their kinds, and the merges up to the last that was learned: the records behind it were added.
    fn vocab(mut self, rule: &Tokenizer, kinds: &[TokenKind], learned: (usize, usize)) -> Vocab {
        let (last, rank) = learned;
        // Added tokens are as people type them, runs of spaces that were learned too among them.
        let mut added = HashSet::new();
        let mut vocab =
            Vocab { model: rule.model.clone(), pre: rule.pre.clone(), ..Vocab::default() };
        name_special(&mut vocab, rule, |wanted| {
            self.texts.iter().position(|text| text.as_deref() == Some(wanted))
        });
        for (id, what) in self.found.iter().enumerate() {
            let text = self.text(id);
            let marked = kinds.get(id) == Some(&TokenKind::Control);
            let special =
                marked || is_special(text) || rule.special.iter().any(|s| s.as_bytes() == text);
            let plain = || String::from_utf8_lossy(text).into_owned();
            let (text, kind) = match what {
                Found::Lost => (format!("[UNK_BYTES{id}]"), TokenKind::Unused),
                Found::Again if self.decoded && id < last => {
                    (format!("[UNK_BYTES{id}]"), TokenKind::Unused)
                }
                // Behind the merges: added by hand, the first time it comes.
                Found::Again if spaces(text) && id > last && added.insert(plain()) => {
                    (plain(), TokenKind::UserDefined)
                }
                Found::Again | Found::Empty => (format!("[PAD{id}]"), TokenKind::Unused),
                // No merge leads to it, yet it is written as it is: it can be printed, and a byte can be typed.
                Found::Byte | Found::Apart => (alphabet(text), TokenKind::Normal),
                Found::Merged(_) if id <= last && !marked => (alphabet(text), TokenKind::Normal),
                _ if special => (plain(), TokenKind::Control),
                _ => {
                    added.insert(plain());
                    (plain(), TokenKind::UserDefined)
                }
            };
            vocab.tokens.push(text.into_bytes());
            vocab.kinds.push(kind);
        }
        self.merges.in_order.truncate(rank + 1);
        vocab.merges.extend(self.merges.in_order);
        vocab
    }
}

/// Says which tokens are special: those that `rule` names, each where `find` has its text.
pub fn name_special(vocab: &mut Vocab, rule: &Tokenizer, find: impl Fn(&[u8]) -> Option<usize>) {
    let id = |wanted: &str| find(wanted.as_bytes()).and_then(|at| u32::try_from(at).ok());
    let end = id(&rule.end);
    (vocab.bos, vocab.eos) = (rule.begin.as_deref().map_or(end, id), end);
    vocab.unknown = rule.unknown.as_deref().and_then(id);
    vocab.padding = rule.padding.as_deref().and_then(id);
    vocab.separator = rule.separator.as_deref().and_then(id);
    vocab.mask = rule.mask.as_deref().and_then(id);
}

/// The vocabulary of a tokenizer's own file, and behind it the tokens for control that programs have in their code.
///
/// chatglm.cpp keeps SentencePiece's own file in the model and has `[gMASK]`, `sop` and their kin as numbers in its
/// code; a GGUF has to name them.
pub fn behind(rule: &Tokenizer, word: impl Fn(&str) -> Option<i64>, file: &Vocab) -> Vocab {
    let mut vocab = Vocab {
        model: rule.model.clone(),
        pre: rule.pre.clone(),
        add_bos: Some(false),
        ..file.clone()
    };
    let some = rule.special_if.as_ref().filter(|some| word(&some.word) == Some(some.is));
    for text in rule.special.iter().chain(some.into_iter().flat_map(|some| &some.tokens)) {
        vocab.tokens.push(text.as_bytes());
        vocab.kinds.push(TokenKind::Control);
        if !file.scores.is_empty() {
            vocab.scores.push(0.0);
        }
    }
    if file.eos.is_none() {
        let texts = vocab.tokens.clone();
        name_special(&mut vocab, rule, |wanted| texts.iter().position(|text| text == wanted));
    }
    vocab
}

/// SentencePiece's pieces, which are as GGUF writes them.
fn pieces(rule: &Tokenizer, records: &Vocab) -> Spelled {
    let mut vocab = Vocab {
        model: rule.model.clone(),
        scores: records.scores.clone(),
        add_bos: Some(false),
        add_eos: Some(false),
        add_space_prefix: Some(false),
        remove_extra_whitespaces: Some(false),
        ..Vocab::default()
    };
    name_special(&mut vocab, rule, |wanted| records.tokens.iter().position(|t| t == wanted));
    for (id, text) in records.tokens.iter().enumerate() {
        let unknown = rule.unknown.as_deref().is_some_and(|unknown| unknown.as_bytes() == text);
        let (text, kind) = match text {
            [] => (format!("[PAD{id}]").into_bytes(), TokenKind::Unused),
            text if unknown => (text.to_vec(), TokenKind::Unknown),
            text if is_special(text) => (text.to_vec(), TokenKind::Control),
            text => (text.to_vec(), TokenKind::Normal),
        };
        vocab.tokens.push(text);
        vocab.kinds.push(kind);
    }
    Spelled { vocab, notes: Notes::default() }
}

/// Lines of a `vocab.txt`: GGUF marks what begins a word, and not what continues it.
fn words(rule: &Tokenizer, records: &Vocab) -> Spelled {
    let mut vocab = Vocab {
        model: rule.model.clone(),
        pre: rule.pre.clone(),
        add_bos: Some(true),
        add_eos: Some(true),
        lowercase: Some(true),
        ..Vocab::default()
    };
    name_special(&mut vocab, rule, |wanted| records.tokens.iter().position(|t| t == wanted));
    for text in records.tokens.iter() {
        // `[CLS]` and its like are looked for in the text as they are, and begin no word.
        let special = rule.special.iter().any(|special| special.as_bytes() == text);
        let (text, kind) = match special {
            true => (text.to_vec(), TokenKind::Control),
            false => (word(text), TokenKind::Normal),
        };
        vocab.tokens.push(text);
        vocab.kinds.push(kind);
    }
    Spelled { vocab, notes: Notes::default() }
}

/// A line of `vocab.txt` as GGUF has it.
pub fn word(line: &[u8]) -> Vec<u8> {
    match line.strip_prefix(b"##") {
        Some(rest) => rest.to_vec(),
        None => [WORD, line].concat(),
    }
}

/// U+2581.
const WORD: &[u8] = "\u{2581}".as_bytes();

/// Whether a text is a run of spaces.
fn spaces(text: &[u8]) -> bool {
    text.len() > 1 && text.iter().all(|byte| *byte == b' ')
}

/// `<|endoftext|>`, `<fim_prefix>`.
fn is_special(record: &[u8]) -> bool {
    record.len() > 2 && record.starts_with(b"<") && record.ends_with(b">")
}

/// Bytes that were stored as the code points of their numbers; other texts are their own bytes.
fn latin1(record: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(record).unwrap_or_default();
    let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>();
    bytes.filter(|bytes| !bytes.is_empty()).unwrap_or_else(|| record.to_vec())
}

/// Whether a byte is written as itself.
fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The letter that GPT-2 writes for a byte: those that print as themselves, the others from U+0100 on.
/// A space is U+0120. These are the letters of [`super::printable`], which has their table.
fn letter(byte: u8) -> char {
    let others = (0..byte).filter(|other| !prints(*other)).count();
    let code = match prints(byte) {
        true => u32::from(byte),
        false => 0x100 + u32::try_from(others).unwrap_or(0),
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Bytes in GPT-2's letters.
pub(crate) fn alphabet(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| letter(*byte)).collect()
}

/// The bytes of a token that is in GPT-2's letters; none where it has others.
pub fn from_alphabet(text: &[u8]) -> Option<Vec<u8>> {
    static BYTES: LazyLock<HashMap<char, u8>> =
        LazyLock::new(|| (0..=255).map(|byte| (letter(byte), byte)).collect());
    let byte = |c: char| BYTES.get(&c).copied();
    std::str::from_utf8(text).ok()?.chars().map(byte).collect()
}

/// The record of a token where a container spells them so. Text that [`Spelling::Decoded`] loses is written as its
/// bytes, which programs print as they are.
pub fn spelled(vocab: &Vocab, id: usize, spelling: Spelling) -> Vec<u8> {
    let bytes = record(vocab, id);
    match spelling {
        Spelling::Latin1 => bytes.into_iter().map(char::from).collect::<String>().into_bytes(),
        _ => bytes,
    }
}

/// The record that a token of GGUF was: its bytes, and nothing for one without a text.
///
/// ```text
/// gpt2   Ġthe          20 74 68 65              letters are bytes again
/// bert   ▁play, ing    play, ##ing              what continues a word is marked, not what begins one
/// any    [PAD7]        nothing                  a filler had no text
/// ```
pub fn record(vocab: &Vocab, id: usize) -> Vec<u8> {
    let token = vocab.tokens.get(id).unwrap_or_default();
    match vocab.kind(id) {
        TokenKind::Unused => Vec::new(),
        TokenKind::Normal if vocab.model == "bert" => match token.strip_prefix(WORD) {
            Some(word) => word.to_vec(),
            None => [b"##", token].concat(),
        },
        TokenKind::Normal if vocab.model == "gpt2" => {
            from_alphabet(token).unwrap_or_else(|| token.to_vec())
        }
        _ => token.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Tokenizer {
        let (model, pre, end) = ("gpt2".into(), "gpt-2".into(), "<|endoftext|>".into());
        Tokenizer { model, pre, end, special: vec!["### End".into()], ..Tokenizer::default() }
    }

    fn records(texts: &[&str]) -> Vocab {
        let mut vocab = Vocab::default();
        texts.iter().for_each(|text| vocab.tokens.push(text.as_bytes()));
        vocab
    }

    fn bytes(texts: &[&str]) -> Result<Vocab, String> {
        read(&rule(), &[Spelling::Bytes], &records(texts)).map(|spelled| spelled.vocab)
    }

    fn merges(vocab: &Vocab) -> Vec<String> {
        vocab.merges.iter().map(|merge| String::from_utf8_lossy(merge).into_owned()).collect()
    }

    #[test]
    fn merges_follow_from_the_order_of_ids() {
        let old = ["t", "h", "e", " ", "th", "the", " the", "<|endoftext|>", "  x", "e"];
        let new = bytes(&old).unwrap();
        assert_eq!(merges(&new), ["t h", "th e", "Ġ the"]);
        assert_eq!(new.tokens.get(6), Some("Ġthe".as_bytes()));
        assert_eq!(
            new.kinds[6..],
            [TokenKind::Normal, TokenKind::Control, TokenKind::UserDefined, TokenKind::Unused]
        );
        assert_eq!(new.tokens.get(8), Some(&b"  x"[..]));
        assert_eq!(new.tokens.get(9), Some(&b"[PAD9]"[..]));
        assert_eq!(new.eos, Some(7));
        let back: Vec<Vec<u8>> = (0..9).map(|id| record(&new, id)).collect();
        assert_eq!(back, old[..9].iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn what_stands_behind_the_last_merge_was_added() {
        let old = ["a", " ", "aa", "  ", " a", "  ", "   ", "### End", "aaa", "### Other"];
        let new = bytes(&old).unwrap();
        // Spaces before other merges were learned.
        assert_eq!(merges(&new), ["a a", "Ġ Ġ", "Ġ a"]);
        let (user, control) = (TokenKind::UserDefined, TokenKind::Control);
        let unused = TokenKind::Unused;
        assert_eq!(new.kinds[5..], [user, user, control, user, user]);
        assert_eq!(new.tokens.get(5), Some(&b"  "[..]));
        let twice = bytes(&["a", " ", "aa", "  ", " a", "  ", "  ", "  "]).unwrap();
        assert_eq!(twice.kinds[5..], [user, unused, unused]);
        let old = ["a", " ", "aa", " a", "  ", "    ", "### End", "aaa", "### Other"];
        let new = bytes(&old).unwrap();
        assert_eq!(merges(&new), ["a a", "Ġ a"]);
        assert_eq!(new.kinds[4..], [user, user, control, user, user]);
        assert_eq!(new.tokens.get(4), Some(&b"  "[..]));
    }

    #[test]
    fn what_is_in_no_order_is_refused() {
        assert!(bytes(&["a", "b", "ab", "abxb", "ba", "aab"]).is_err());
        assert!(bytes(&["a", "b"]).is_err());
    }

    #[test]
    fn code_points_are_bytes() {
        let old = records(&["\u{c3}", "\u{a9}", "\u{c3}\u{a9}", "<|\u{2581}|>"]);
        let new = read(&rule(), &[Spelling::Latin1, Spelling::Decoded], &old).unwrap().vocab;
        assert_eq!(record(&new, 2), "\u{e9}".as_bytes());
        assert_eq!(record(&new, 3), "<|\u{2581}|>".as_bytes());
    }

    #[test]
    fn what_decoding_lost_is_counted() {
        let old = ["a", ".", " ", "aa", ".", "a\u{fffd}", "\u{e9}", "aa", " a", "", "."];
        let new = read(&rule(), &[Spelling::Decoded], &records(&old)).unwrap();
        assert_eq!(merges(&new.vocab), ["a a", "Ġ .", "Ġ a"]);
        let text = |id| String::from_utf8_lossy(new.vocab.tokens.get(id).unwrap()).into_owned();
        assert_eq!(text(4), "Ġ.");
        for id in [5, 7] {
            assert_eq!(text(id), format!("[UNK_BYTES{id}]"));
            assert_eq!(new.vocab.kind(id), TokenKind::Unused);
        }
        assert_eq!((new.vocab.kind(6), text(9)), (TokenKind::Normal, "[PAD9]".to_owned()));
        assert!(new.notes[0].contains("1 spaces from"), "{:?}", new.notes);
        assert!(new.notes[0].contains("2 of 11 tokens are lost"), "{:?}", new.notes);
    }

    #[test]
    fn bytes_have_letters_of_their_own() {
        let all: Vec<u8> = (0..=255).collect();
        let letters: HashSet<char> = alphabet(&all).chars().collect();
        assert_eq!(letters.len(), 256);
        assert_eq!(from_alphabet(alphabet(&all).as_bytes()), Some(all));
        assert_eq!(alphabet(b" \n\x7f\xad!"), "\u{120}\u{10a}\u{121}\u{143}!");
    }
}
