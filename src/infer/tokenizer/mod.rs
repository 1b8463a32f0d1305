//! Text to tokens and back, as a file's own vocabulary says.
//!
//! Four algorithms cover the families that are run: SentencePiece's byte pairs (`spm`) and unigrams
//! (`unigram`), byte-level BPE (`bpe`), and BERT's WordPiece (`wordpiece`).
//! Vocabularies of files before GGUF lack kinds, and the oldest lack scores; what is missing is put
//! back here, and [`Tokenizer::notes`] says so.

mod bpe;
mod matcher;
pub(crate) mod pretokenize;
mod spm;
#[cfg(test)]
mod tests;
mod unigram;
mod wordpiece;

use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    format::{
        catalog,
        container::{Container, Skeleton},
    },
    model::{
        Model, Sizes, TokenKind, Vocab,
        pretokenizer::PreTokenizer,
        printable::{bytes_of, spelled},
        vocab::SENTENCEPIECE,
    },
    remedy::{Notes, Setting},
};
use bpe::Bpe;
use matcher::Matcher;
use pretokenize::Splitter;
use spm::Spm;
use unigram::Unigram;
use wordpiece::WordPiece;

/// An encoder and decoder for one vocabulary.
#[derive(Debug)]
pub struct Tokenizer {
    algorithm: Algorithm,
    /// What each token stands for in a text, and its kind.
    pieces: Vec<(Vec<u8>, TokenKind)>,
    /// Tokens found in the text before the algorithm runs, when control tokens are meant.
    special: Matcher,
    /// The same when they are not: the user-defined ones.
    user: Matcher,
    /// Whether a space goes before a text.
    add_space: bool,
    /// What begins and what ends a text, and whether each goes around every text by itself.
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Tokens after which a model has nothing more to say, its own end and those of turns.
    ends: Vec<u32>,
    notes: Notes,
}

/// What turns the text between special tokens into tokens.
#[derive(Debug)]
enum Algorithm {
    Spm(Box<Spm>),
    Bpe(Box<Bpe>),
    Unigram(Box<Unigram>),
    WordPiece(Box<WordPiece>),
    /// There is none: a text is the ids of its tokens.
    Ids,
}

/// Whether the names of control tokens in a text stand for those tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Special {
    /// `<s>` in the text is three characters: for what people write.
    Text,
    /// `<s>` in the text is the control token: for templates.
    Token,
}

/// U+2581, which SentencePiece writes for a space.
const LOWER_BLOCK: &str = "\u{2581}";
/// What SentencePiece shows for the unknown token.
const UNKNOWN: &str = " \u{2047} ";
/// Tokens by which models end a turn, beside the file's own end-of-text token.
const END_OF_TURN: [&[u8]; 8] = [
    b"</s>",
    b"<|eot_id|>",
    b"<|eom_id|>",
    b"<|end_of_text|>",
    b"<|im_end|>",
    b"<|end|>",
    b"<|endoftext|>",
    b"<end_of_turn>",
];

impl Tokenizer {
    /// The tokenizer of `vocab`.
    ///
    /// # Errors
    /// Where the vocabulary is empty or of a kind that is not known here.
    pub fn new(vocab: &Vocab) -> Result<Tokenizer> {
        if vocab.is_empty() {
            return Err(Error::unsupported(
                "this file holds no vocabulary, so text cannot be turned into tokens",
                "convert it together with its tokenizer.model or tokenizer.json",
            ));
        }
        match vocab.model.as_str() {
            SENTENCEPIECE | "" => Ok(Tokenizer::sentencepiece(vocab)),
            "gpt2" => Tokenizer::byte_level(vocab),
            "t5" => Ok(Tokenizer::unigram(vocab)),
            "bert" => Tokenizer::wordpiece(vocab),
            other => Err(Error::unsupported(
                format!("tokenizer.ggml.model {other:?} is not known here"),
                "known are \"llama\" (SentencePiece BPE), \"t5\" (SentencePiece unigram), \"gpt2\" (byte-level \
                 BPE) and \"bert\" (WordPiece)",
            )),
        }
    }

    /// The tokenizer of `model`. Where its container has no place for a vocabulary, and none was given, texts are
    /// the ids of their tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::new`].
    pub fn of(model: &Model) -> Result<Tokenizer> {
        let holds = |c: &Container| c.vocab.is_some() || c.format.skeleton != Skeleton::Stream;
        if !model.vocab.is_empty() || catalog::container(&model.format).is_none_or(holds) {
            return Tokenizer::new(&model.vocab);
        }
        let ids = 0..Sizes::of(model).get("n_vocab").unwrap_or(0);
        Ok(Tokenizer {
            algorithm: Algorithm::Ids,
            pieces: ids.map(|id| (format!(" {id}").into_bytes(), TokenKind::Normal)).collect(),
            special: Matcher::default(),
            user: Matcher::default(),
            add_space: false,
            bos: None,
            eos: None,
            add_bos: false,
            add_eos: false,
            ends: Vec::new(),
            notes: ["the file holds no vocabulary: texts are the ids of tokens"]
                .into_iter()
                .collect(),
        })
    }

    /// A text that shows what a model does where nobody gives one: `text`, or ids where texts are ids.
    pub fn sample(&self, text: &str) -> String {
        match self.algorithm {
            // A step without a factor in common with usual sizes goes through all of them.
            Algorithm::Ids => {
                let ids = (0..self.len()).map(|i| (i * 7919 + 1) % self.len());
                ids.take(256).map(|id| format!("{id} ")).collect()
            }
            _ => text.to_owned(),
        }
    }

    /// `tokenizer.ggml.model` `llama`, or none in files before GGUF.
    fn sentencepiece(vocab: &Vocab) -> Tokenizer {
        let mut notes = Notes::default();
        // Without kinds the order of every LLaMA vocabulary says them: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes.
        let old = vocab.kinds.is_empty() && bytes_at_three(vocab);
        let kind = |id: usize| match id {
            0 if old => TokenKind::Unknown,
            1 | 2 if old => TokenKind::Control,
            3..=258 if old => TokenKind::Byte,
            _ => vocab.kind(id),
        };
        // Merges are ranked by score; every LLaMA vocabulary counts them down from its first merge, so
        // where scores are missing the order of the tokens is the same ranking.
        let scored = vocab.scores.iter().any(|score| *score != 0.0);
        if !scored {
            notes.push("the file holds no token scores; merges are ranked by token id".to_owned());
        }
        let score = |id: usize| if scored { vocab.score(id) } else { -(id as f32) };
        let mut bytes = vec![None; 256];
        let mut pieces = Vec::with_capacity(vocab.len());
        let mut scored_tokens = Vec::with_capacity(vocab.len());
        for (id, (number, stored)) in (0u32..).zip(vocab.tokens.iter()).enumerate() {
            let kind = kind(id);
            let text = with_spaces(stored);
            let piece = match kind {
                TokenKind::Byte => {
                    // Early files lost the text of bytes above 127; the place of a token still says which byte it is.
                    let by_place = old.then(|| u8::try_from(id.wrapping_sub(3)).ok()).flatten();
                    match by_place.or_else(|| byte_of(stored)) {
                        Some(byte) => {
                            if let Some(token) = bytes.get_mut(usize::from(byte)) {
                                token.get_or_insert(number);
                            }
                            vec![byte]
                        }
                        None => text.clone(),
                    }
                }
                TokenKind::Unknown => UNKNOWN.as_bytes().to_vec(),
                _ => text.clone(),
            };
            pieces.push((piece, kind));
            scored_tokens.push((text, score(id), kind));
        }
        let first = |wanted| pieces.iter().position(|(_, kind)| *kind == wanted);
        let unknown = first(TokenKind::Unknown).and_then(|id| id.try_into().ok());
        let unknown = vocab.unknown.or(unknown).unwrap_or(0);
        // Early GGUF files leave out ids that every SentencePiece model of LLaMA has.
        let (bos, eos) = (vocab.bos.unwrap_or(1), vocab.eos.unwrap_or(2));
        // User-defined tokens are found by the algorithm itself, behind the space that goes before a text.
        let control = by_kind(&pieces, &[TokenKind::Control]);
        Tokenizer {
            special: Matcher::new(control),
            user: Matcher::default(),
            add_space: vocab.add_space_prefix.unwrap_or(true),
            bos: Some(bos),
            eos: Some(eos),
            add_bos: vocab.add_bos.unwrap_or(true),
            add_eos: vocab.add_eos.unwrap_or(false),
            ends: ends(Some(eos), &pieces),
            algorithm: Algorithm::Spm(Box::new(Spm::new(&scored_tokens, bytes, unknown))),
            pieces,
            notes,
        }
    }

    /// `tokenizer.ggml.model` `gpt2`: the only kind that needs merges and the name of a pre-tokenizer.
    fn byte_level(vocab: &Vocab) -> Result<Tokenizer> {
        let mut notes = Notes::default();
        if vocab.merges.is_empty() {
            return Err(Error::unsupported(
                "a byte-level BPE vocabulary without its merges cannot encode text",
                "convert the model again from its original tokenizer.json",
            ));
        }
        let Some(pre) = PreTokenizer::named(&vocab.pre) else {
            return Err(Error::unsupported(
                format!("tokenizer.ggml.pre {:?} is not known here", vocab.pre),
                "this pre-tokenizer decides where words are cut; guessing it would give wrong tokens",
            ));
        };
        if vocab.pre.is_empty() {
            notes.push(
                "the file does not name its pre-tokenizer (tokenizer.ggml.pre); text may be cut \
                 otherwise than the model learnt"
                    .to_owned(),
            );
        }
        let mut pieces = Vec::with_capacity(vocab.len());
        let (mut ids, mut raw) = (HashMap::with_capacity(vocab.len()), Vec::new());
        for (id, (number, stored)) in (0u32..).zip(vocab.tokens.iter()).enumerate() {
            let kind = vocab.kind(id);
            let plain = matches!(kind, TokenKind::Normal | TokenKind::Byte | TokenKind::Unused);
            let spelled = if plain { spelled(stored) } else { None };
            let is_raw = plain && spelled.is_none();
            let piece = spelled.unwrap_or_else(|| stored.to_vec());
            let text = || piece.clone().into_boxed_slice();
            if is_raw {
                raw.push((text(), number));
            } else if plain && !piece.is_empty() {
                ids.entry(text()).or_insert(number);
            }
            pieces.push((piece, kind));
        }
        // Command R has some letters as they are beside the bytes that spell them; merges make only the latter.
        for (text, number) in raw {
            ids.entry(text).or_insert(number);
        }
        let merges = vocab.merges.iter().filter_map(|merge| {
            let mut parts = merge.splitn(2, |b| *b == b' ');
            Some((bytes_of(parts.next()?), bytes_of(parts.next()?)))
        });
        let bpe = Bpe::new(ids, merges, Splitter::new(pre)?, pre.ignore_merges);
        let user = by_kind(&pieces, &[TokenKind::UserDefined]);
        let special =
            by_kind(&pieces, &[TokenKind::UserDefined, TokenKind::Control, TokenKind::Unknown]);
        Ok(Tokenizer {
            algorithm: Algorithm::Bpe(Box::new(bpe)),
            special: Matcher::new(special),
            user: Matcher::new(user),
            add_space: vocab.add_space_prefix.unwrap_or(false),
            bos: vocab.bos,
            eos: vocab.eos,
            add_bos: vocab.add_bos.unwrap_or(pre.adds_bos),
            add_eos: vocab.add_eos.unwrap_or(false),
            ends: ends(vocab.eos, &pieces),
            pieces,
            notes,
        })
    }

    /// `tokenizer.ggml.model` `t5`.
    fn unigram(vocab: &Vocab) -> Tokenizer {
        let token =
            |(id, stored): (usize, &[u8])| (with_spaces(stored), vocab.score(id), vocab.kind(id));
        let tokens: Vec<_> = vocab.tokens.iter().enumerate().map(token).collect();
        let shown = |(text, _, kind): &(Vec<u8>, f32, TokenKind)| match kind {
            TokenKind::Unknown => (UNKNOWN.as_bytes().to_vec(), *kind),
            _ => (text.clone(), *kind),
        };
        let pieces: Vec<_> = tokens.iter().map(shown).collect();
        let unknown = pieces.iter().position(|(_, kind)| *kind == TokenKind::Unknown);
        let unknown = vocab.unknown.or(unknown.and_then(|id| id.try_into().ok())).unwrap_or(0);
        let special = by_kind(&pieces, &[TokenKind::UserDefined, TokenKind::Control]);
        Tokenizer {
            algorithm: Algorithm::Unigram(Box::new(Unigram::new(&tokens, unknown))),
            special: Matcher::new(special),
            user: Matcher::new(by_kind(&pieces, &[TokenKind::UserDefined])),
            add_space: vocab.add_space_prefix.unwrap_or(false),
            bos: vocab.bos,
            eos: vocab.eos,
            add_bos: vocab.add_bos.unwrap_or(false),
            add_eos: vocab.add_eos.unwrap_or(true),
            ends: ends(vocab.eos, &pieces),
            pieces,
            notes: Notes::default(),
        }
    }

    /// `tokenizer.ggml.model` `bert`.
    fn wordpiece(vocab: &Vocab) -> Result<Tokenizer> {
        let kinds = (0..).map(|id| vocab.kind(id));
        let pieces: Vec<_> = vocab.tokens.iter().map(with_spaces).zip(kinds).collect();
        let normal = (0u32..).zip(&pieces).filter(|(_, (_, kind))| *kind == TokenKind::Normal);
        let texts = normal.map(|(id, (text, _))| (id, text.as_slice()));
        let lowercase = vocab.lowercase.unwrap_or(true);
        let algorithm = WordPiece::new(texts, vocab.unknown.unwrap_or(100), lowercase)?;
        let special = by_kind(&pieces, &[TokenKind::UserDefined, TokenKind::Control]);
        Ok(Tokenizer {
            algorithm: Algorithm::WordPiece(Box::new(algorithm)),
            special: Matcher::new(special),
            user: Matcher::new(by_kind(&pieces, &[TokenKind::UserDefined])),
            add_space: true,
            bos: vocab.bos,
            eos: vocab.eos,
            add_bos: vocab.add_bos.unwrap_or(true),
            add_eos: vocab.add_eos.unwrap_or(true),
            ends: ends(vocab.eos, &pieces),
            pieces,
            notes: Notes::default(),
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are no tokens; never true.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that begins a text, where this vocabulary puts it before every text.
    pub fn leading_bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a model that says `token` has finished its text or its turn.
    pub fn ends(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// What was missing from the vocabulary and how it was put back.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The tokens of a text that a person gives, as [`Tokenizer::encode_whole`].
    ///
    /// # Errors
    /// Where texts are ids, and something else is in this one, or nothing.
    pub fn read(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.encode_whole(text, Special::Text);
        let strange = tokens.is_empty() || tokens.iter().any(|id| self.stored(*id).is_none());
        if strange && matches!(self.algorithm, Algorithm::Ids) {
            let most = self.len().saturating_sub(1);
            let what = format!(
                "the file holds no vocabulary, and the text is no list of ids from 0 to {most}"
            );
            let next = Setting::Vocabulary.to("give its tokenizer.json");
            return Err(Error::unsupported(what, next.or("ids (\"58 277 423\")")));
        }
        Ok(tokens)
    }

    /// Cuts text in another way from now on, where it is byte-level BPE.
    ///
    /// # Errors
    /// Where an expression of `pre` cannot be compiled.
    pub(crate) fn cut_by(&mut self, pre: &PreTokenizer) -> Result<()> {
        if let Algorithm::Bpe(bpe) = &mut self.algorithm {
            bpe.cut_by(Splitter::new(pre)?, pre.ignore_merges);
        }
        Ok(())
    }

    /// The tokens of `text` between the tokens that this vocabulary puts around every text.
    pub fn encode_whole(&self, text: &str, special: Special) -> Vec<u32> {
        let mut out: Vec<u32> = self.leading_bos().into_iter().collect();
        self.encode_into(text, special, &mut out);
        out.extend(self.eos.filter(|_| self.add_eos));
        out
    }

    /// The tokens of `text`, nothing added before or after but SentencePiece's space.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut out = Vec::new();
        self.encode_into(text, special, &mut out);
        out
    }

    /// Special tokens are cut out first; what is between them goes through the algorithm.
    fn encode_into(&self, text: &str, special: Special, out: &mut Vec<u32>) {
        let matcher = match special {
            Special::Text => &self.user,
            Special::Token => &self.special,
        };
        let mut done = 0;
        for (start, len, id) in matcher.matches(text.as_bytes()) {
            self.encode_plain(text.get(done..start).unwrap_or_default(), out);
            out.push(id);
            done = start + len;
        }
        self.encode_plain(text.get(done..).unwrap_or_default(), out);
    }

    /// A text without special tokens.
    fn encode_plain(&self, text: &str, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        match &self.algorithm {
            Algorithm::Spm(spm) => {
                let space = if self.add_space { " " } else { "" };
                spm.encode(&format!("{space}{}", text.replace(LOWER_BLOCK, " ")), out);
            }
            Algorithm::Unigram(unigram) => {
                let space = if self.add_space { " " } else { "" };
                unigram.encode(&format!("{space}{}", text.replace(LOWER_BLOCK, " ")), out);
            }
            Algorithm::WordPiece(words) => words.encode(text, out),
            Algorithm::Bpe(bpe) if self.add_space && !text.starts_with(' ') => {
                bpe.encode(&format!(" {text}"), out);
            }
            Algorithm::Bpe(bpe) => bpe.encode(text, out),
            Algorithm::Ids => {
                let words = text.split(|c: char| c.is_whitespace() || c == ',');
                let words = words.filter(|word| !word.is_empty());
                out.extend(words.map(|word| word.parse().unwrap_or(u32::MAX)));
            }
        }
    }

    /// What `token` stands for in a text: nothing for control tokens and ids outside the vocabulary.
    pub fn piece(&self, token: u32) -> &[u8] {
        match self.stored(token) {
            Some((_, TokenKind::Control)) | None => &[],
            Some((piece, _)) => piece,
        }
    }

    /// The name of `token`, control tokens included.
    pub fn name(&self, token: u32) -> &[u8] {
        self.stored(token).map_or(&[], |(piece, _)| piece)
    }

    /// What a token is; none outside the vocabulary.
    fn stored(&self, token: u32) -> Option<&(Vec<u8>, TokenKind)> {
        self.pieces.get(usize::try_from(token).ok()?)
    }

    /// The text of `tokens`: what [`Tokenizer::encode`] took, without the space that it put first.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text = String::new();
        for token in tokens {
            text += &decoder.push(self, *token);
        }
        text + &decoder.finish()
    }

    /// A decoder for a text that comes token by token.
    pub fn decoder(&self) -> StreamDecoder {
        let drop_space = self.add_space && !matches!(self.algorithm, Algorithm::Bpe(_));
        StreamDecoder { held: Vec::new(), drop_space }
    }
}

/// Turns tokens into text as they come, holding back the first bytes of a character until the rest
/// is there.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    held: Vec<u8>,
    /// Whether nothing has come yet and the first space is the one that encoding put there.
    drop_space: bool,
}

impl StreamDecoder {
    /// A decoder that takes tokens from the middle of a text.
    pub fn continuing() -> StreamDecoder {
        StreamDecoder { held: Vec::new(), drop_space: false }
    }

    /// The text that `token` completes. A byte that can begin no character gives U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> String {
        let mut piece = tokenizer.piece(token);
        if self.drop_space && !piece.is_empty() {
            self.drop_space = false;
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.held.extend_from_slice(piece);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.held.utf8_chunks() {
            text += chunk.valid();
            used += chunk.valid().len();
            let bad = chunk.invalid();
            if !bad.is_empty() && (used + bad.len() < self.held.len() || !could_go_on(bad)) {
                text.extend(bad.iter().map(|_| char::REPLACEMENT_CHARACTER));
                used += bad.len();
            }
        }
        self.held.drain(..used);
        text
    }

    /// What was held back: one U+FFFD for each byte of a character that never came.
    pub fn finish(&mut self) -> String {
        self.held.drain(..).map(|_| char::REPLACEMENT_CHARACTER).collect()
    }
}

/// Whether `bytes`, all of which belong to one character that is not complete, may still become it.
fn could_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Texts and ids of the tokens of these kinds, for a [`Matcher`].
fn by_kind(pieces: &[(Vec<u8>, TokenKind)], kinds: &[TokenKind]) -> Vec<(Vec<u8>, u32)> {
    let of = |(id, (text, kind)): (u32, &(Vec<u8>, TokenKind))| {
        kinds.contains(kind).then(|| (text.clone(), id))
    };
    (0u32..).zip(pieces).filter_map(of).collect()
}

/// The tokens at which a model is done: the file's own end, and control tokens with a known name.
fn ends(eos: Option<u32>, pieces: &[(Vec<u8>, TokenKind)]) -> Vec<u32> {
    let marks = |(text, kind): &(Vec<u8>, TokenKind)| {
        *kind == TokenKind::Control && END_OF_TURN.contains(&text.as_slice())
    };
    let named = (0u32..).zip(pieces).filter(|(_, piece)| marks(piece)).map(|(id, _)| id);
    eos.into_iter().chain(named).collect()
}

/// A stored SentencePiece text with plain spaces.
fn with_spaces(stored: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(stored) {
        Ok(text) => text.replace(LOWER_BLOCK, " ").into_bytes(),
        Err(_) => stored.to_vec(),
    }
}

/// The byte of a byte token: `<0x0A>`, or in old files the byte itself.
fn byte_of(stored: &[u8]) -> Option<u8> {
    match stored {
        [byte] => Some(*byte),
        [b'<', b'0', b'x', digits @ .., b'>'] if digits.len() == 2 => {
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        }
        _ => None,
    }
}

/// Whether tokens 3 to 258 are the 256 bytes, as in every LLaMA vocabulary. Those below 128 decide:
/// files of early March 2023 lost the others.
fn bytes_at_three(vocab: &Vocab) -> bool {
    let is = |(byte, stored): (u8, &[u8])| byte_of(stored) == Some(byte);
    vocab.len() >= 259 && (0..128).zip(vocab.tokens.iter().skip(3)).all(is)
}
