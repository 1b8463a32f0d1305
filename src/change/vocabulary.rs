//! Vocabularies across eras: old records to GGUF tokens and back.
//!
//! ggml, ggmf and ggjt files keep a token as plain text: a space for U+2581, one raw byte for a byte
//! token, nothing for control tokens. Only the id tells the byte token `a` (id 100) from the piece `a`,
//! so the rules go by id range, as llama.cpp's `convert_llama_ggml_to_gguf.py: GGMLToGGUF.add_vocab`
//! has them for scores and bytes, and as its vocabulary writers (`convert.py: sentencepiece_tokens`)
//! had them in the other direction.
//!
//! ```text
//! id            record of an old file     token of GGUF            kind           score
//! 0             " ⁇ "                     <unk>                    unknown        0
//! 1, 2          nothing                   <s>, </s>                control        0
//! 3 to 258      one byte, id - 3          <0x00> to <0xFF>         byte           0
//! 259 on        text with spaces          text with U+2581         normal         stored, or -(id - 259)
//! added later   text                      the same, spaces kept    user-defined   -1000, or as stored
//! ```

use super::Assumed;
use crate::{
    bytes::Input,
    error::{Error, Result},
    format::{container::Spelling, family::Tokenizer},
    model::{Model, TokenKind, Vocab, spelling, vocab::SENTENCEPIECE},
    remedy::{Notes, Setting},
};

/// First byte token; the 256 of them follow the unknown token and the two that begin and end a text.
const FIRST_BYTE: usize = 3;
/// First piece that was learned.
const FIRST_PIECE: usize = FIRST_BYTE + 256;
/// Tokens of the vocabulary that LLaMA 1 and 2 share; later ids were added by hand.
const LLAMA_PIECES: usize = 32_000;
/// The score that `convert.py` gave to tokens of added_tokens.json.
const ADDED_SCORE: f32 = -1000.0;
/// The word separator of SentencePiece.
const SEPARATOR: &str = "\u{2581}";

/// A vocabulary in GGUF's terms and what was done to get it.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// The vocabulary.
    pub vocab: Vocab,
    /// Sentences for the report.
    pub notes: Notes,
    /// Whether scores had to be made up by the canonical rule.
    pub canonical_scores: bool,
}

/// Rebuilds GGUF's tokens, scores and kinds from the records of an old file.
///
/// `n_vocab` is the header's count; a file that holds fewer records (GPT4All-lora of March 2023 held
/// one less) gets padding tokens for the rest.
pub fn to_gguf(old: &Vocab, n_vocab: usize) -> Rebuilt {
    let mut notes = Notes::default();
    let scored = !old.scores.is_empty() && old.scores.iter().any(|s| *s != 0.0);
    let lossy = lost_bytes(old);
    // The 256 byte tokens are where LLaMA has them, each of one byte; then ids tell bytes from pieces.
    let bytes = lossy
        || (FIRST_BYTE..FIRST_PIECE).all(|id| old.tokens.get(id).is_some_and(|t| t.len() == 1));
    if lossy {
        notes.push(LOST_BYTES.to_owned());
    }
    if !bytes {
        notes.push(
            "ids 3 to 258 are not the 256 byte tokens of LLaMA; texts taken as they are".to_owned(),
        );
    }
    let mut vocab = Vocab {
        model: SENTENCEPIECE.to_owned(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..Vocab::default()
    };
    let first_added = first_added(old, scored);
    for (id, text) in old.tokens.iter().enumerate() {
        let score = if scored { old.score(id) } else { canonical_score(id) };
        // The first three were stored as ` ⁇ `, nothing and nothing.
        let (token, kind, score) = match id {
            0 => (b"<unk>".to_vec(), TokenKind::Unknown, score),
            1 => (b"<s>".to_vec(), TokenKind::Control, score),
            2 => (b"</s>".to_vec(), TokenKind::Control, score),
            FIRST_BYTE..FIRST_PIECE if bytes => (byte_token(id), TokenKind::Byte, score),
            _ if id >= first_added => {
                (text.to_vec(), TokenKind::UserDefined, if scored { score } else { ADDED_SCORE })
            }
            _ if text.is_empty() => (Vec::new(), TokenKind::Control, score),
            _ => (separated(text), TokenKind::Normal, score),
        };
        vocab.tokens.push(token);
        vocab.kinds.push(kind);
        vocab.scores.push(score);
    }
    let added = old.len().saturating_sub(first_added);
    if added > 0 {
        notes.push(format!(
            "{added} tokens were added to the vocabulary by hand: kept as user-defined"
        ));
    }
    for n in vocab.len()..n_vocab {
        // Called so where it is the only one, as in the model that lacks it.
        let text = if n == vocab.len() && n + 1 == n_vocab {
            "<pad>".to_owned()
        } else {
            format!("<pad{n}>")
        };
        notes.push(format!("token {n} added as {text}"));
        vocab.tokens.push(text.into_bytes());
        vocab.kinds.push(TokenKind::UserDefined);
        vocab.scores.push(0.0);
    }
    Rebuilt { vocab, notes, canonical_scores: !scored }
}

/// The vocabulary of a GGUF made from one of the first files by a converter that took its records as they
/// stood: with the bytes that those lost, and with scores. `None` where nothing is to mend.
///
/// ```text
/// id 200     U+FFFD, normal, score 0        <0xC5>, byte, score 0
/// id 300     its text, normal, score 0      its text, normal, score -41
/// ```
pub fn mend(old: &Vocab) -> Option<Rebuilt> {
    let lossy = lost_bytes(old);
    let pieces = |kind: &TokenKind| *kind == TokenKind::Normal;
    let bare = old.scores.iter().all(|s| *s == 0.0) && old.len() > FIRST_PIECE + 1;
    if old.model != SENTENCEPIECE || !(lossy || bare && old.kinds.iter().any(pieces)) {
        return None;
    }
    let mut vocab = old.clone();
    vocab.kinds.resize(old.len(), TokenKind::Normal);
    if lossy {
        let bytes = FIRST_BYTE..FIRST_PIECE.min(old.len());
        vocab.tokens = old.tokens.with(&bytes.clone().map(|id| (id, byte_token(id))).collect());
        vocab.kinds.get_mut(bytes).into_iter().flatten().for_each(|kind| *kind = TokenKind::Byte);
    }
    if bare {
        let score = |id| if old.kind(id) == TokenKind::Normal { canonical_score(id) } else { 0.0 };
        vocab.scores = (0..old.len()).map(score).collect();
    }
    let notes = lossy.then_some(LOST_BYTES).into_iter().collect();
    Some(Rebuilt { vocab, notes, canonical_scores: bare })
}

/// Scores by the canonical rule, said aloud.
pub fn assumed_scores() -> Assumed {
    Assumed {
        key: "tokenizer.ggml.scores".to_owned(),
        value: "the order of the ids".to_owned(),
        because: "the file has no scores; LLaMA's count down from id 259".to_owned(),
        setting: Some(Setting::Vocabulary),
    }
}

/// Whether bytes above 0x7f were stored as U+FFFD.
fn lost_bytes(old: &Vocab) -> bool {
    old.tokens.iter().take(FIRST_PIECE).skip(FIRST_BYTE + 128).any(|token| token == REPLACED)
}

/// What is said of files whose converter wrote tokens as text.
const LOST_BYTES: &str =
    "byte tokens above 0x7f were stored as U+FFFD before 13 March 2023; rebuilt from their ids";

/// `<0x0A>` for the id of the byte token of a line feed.
fn byte_token(id: usize) -> Vec<u8> {
    format!("<0x{:02X}>", id - FIRST_BYTE).into_bytes()
}

/// U+FFFD, which stands for every byte that is not UTF-8 alone in the first files.
const REPLACED: &[u8] = "\u{fffd}".as_bytes();

/// Score of token `id` in a vocabulary trained as byte-pair merges: the order of the merges.
fn canonical_score(id: usize) -> f32 {
    if id < FIRST_PIECE { 0.0 } else { -((id - FIRST_PIECE) as f32) }
}

/// The first token beyond the learned pieces: by scores where there are any, by number where not.
///
/// Learned pieces count down; what was added later has -1000 (convert.py) or 0 (GPT4All's script).
fn first_added(old: &Vocab, scored: bool) -> usize {
    if !scored {
        return LLAMA_PIECES;
    }
    // From the end backwards, as long as scores are none that training gives.
    let added = |id: &usize| {
        let score = old.score(*id);
        *id > FIRST_PIECE && (score == ADDED_SCORE || score == 0.0) && score != canonical_score(*id)
    };
    old.len() - (0..old.len()).rev().take_while(added).count()
}

/// Spaces to word separators.
fn separated(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 4);
    for byte in text {
        match byte {
            b' ' => out.extend(SEPARATOR.as_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

/// The records that an old file has for a GGUF vocabulary.
///
/// `None` where the vocabulary is not SentencePiece: no old LLaMA file could hold it.
pub fn from_gguf(vocab: &Vocab) -> Option<Vocab> {
    if vocab.model != SENTENCEPIECE {
        return None;
    }
    let text = |id: usize, token: &[u8]| match vocab.kind(id) {
        // What SentencePiece decodes it to, which is what those converters asked it for.
        TokenKind::Unknown => " \u{2047} ".as_bytes().to_vec(),
        TokenKind::Control => Vec::new(),
        TokenKind::Byte => byte_of(token).map_or_else(|| token.to_vec(), |b| vec![b]),
        TokenKind::UserDefined => token.to_vec(),
        TokenKind::Normal | TokenKind::Unused => spaced(token),
    };
    let tokens = vocab.tokens.iter().enumerate().map(|(id, t)| text(id, t)).collect();
    Some(Vocab { tokens, scores: vocab.scores.clone(), ..Vocab::default() })
}

/// The records of tokens where a container spells them so, and nothing for those without a text.
pub fn records(vocab: &Vocab, spelling: Spelling) -> Vocab {
    let tokens = (0..vocab.len()).map(|id| spelling::spelled(vocab, id, spelling)).collect();
    Vocab { tokens, scores: vocab.scores.clone(), ..Vocab::default() }
}

/// The byte that `<0x0A>` names.
pub fn byte_of(token: &[u8]) -> Option<u8> {
    let hex = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let hex = std::str::from_utf8(hex).ok().filter(|h| h.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}

/// Word separators to spaces.
fn spaced(token: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(token).replace(SEPARATOR, " ").into_bytes()
}

/// How a vocabulary that is given differs from the one in the file: at most a few sentences.
pub fn differences(given: &Vocab, rebuilt: &Rebuilt) -> Notes {
    let mut notes = Notes::default();
    let old = &rebuilt.vocab;
    if given.len() != old.len() {
        notes.push(format!(
            "the given vocabulary has {} tokens, the file {}",
            given.len(),
            old.len()
        ));
    }
    let texts: Vec<usize> = (0..given.len().min(old.len()))
        .filter(|id| given.tokens.get(*id) != old.tokens.get(*id))
        .collect();
    if let Some(first) = texts.first() {
        notes.push(format!(
            "{} tokens have another text in the given vocabulary, the first is {first}",
            texts.len()
        ));
    }
    let scores =
        (0..given.len().min(old.len())).filter(|id| given.score(*id) != old.score(*id)).count();
    if scores > 0 && !rebuilt.canonical_scores {
        notes.push(format!("{scores} tokens have another score in the given vocabulary"));
    }
    notes
}

/// The vocabulary of a model whose tokens `rule` describes: the one that is given, else that of the file.
///
/// # Errors
/// Where none is given and the file's cannot be put into GGUF's terms.
///
/// | from | what |
/// |---|---|
/// | what is given | tokens, kinds, scores, merges; special ids that the rule does not find; `pre` where it is said |
/// | the rule | texts of the special tokens; the kind of tokenizer; `pre` otherwise |
/// | the file | `add_bos`, `add_eos`, what becomes of spaces; lowercase where nothing is given; the number of rows |
pub fn of_family(
    rule: &Tokenizer,
    model: &Model,
    given: Option<Vocab>,
    notes: &mut Notes,
) -> Result<Vocab> {
    let own = &model.vocab;
    let Some(mut vocab) = given else {
        if own.model.is_empty() && !own.is_empty() {
            let name = model.files.first().map(Input::name).unwrap_or_default();
            return Err(Error::refused(
                format!("{name}: its tokens cannot be put into GGUF's terms (inspect says why)"),
                Setting::Vocabulary.of("tokenizer.json").to("give the model's own tokenizer"),
            ));
        }
        return Ok(own.clone());
    };
    notes.extend(disagreements(&vocab, own));
    let (tokens, stated) = (vocab.tokens.clone(), (vocab.bos, vocab.eos, vocab.unknown));
    spelling::name_special(&mut vocab, rule, |wanted| tokens.iter().position(|t| t == wanted));
    (vocab.bos, vocab.eos) = (vocab.bos.or(stated.0), vocab.eos.or(stated.1));
    vocab.unknown = vocab.unknown.or(stated.2);
    // Of settings the file's count: a tokenizer's own file says nothing of them, or something else.
    vocab.add_bos = own.add_bos;
    vocab.add_eos = own.add_eos;
    vocab.add_space_prefix = own.add_space_prefix;
    vocab.remove_extra_whitespaces = own.remove_extra_whitespaces;
    vocab.lowercase = vocab.lowercase.or(own.lowercase);
    vocab.model.clone_from(&rule.model);
    if vocab.pre.is_empty() {
        vocab.pre.clone_from(&rule.pre);
    }
    // Rows behind the tokenizer's last token are there to fill the matrix.
    while vocab.len() < own.len() {
        vocab.push_unused();
    }
    Ok(vocab)
}

/// How a vocabulary that is given differs from the file's, where the file's tokens are whole.
fn disagreements(given: &Vocab, own: &Vocab) -> Option<String> {
    let lost = |text: &[u8]| text.is_empty() || spelling::has_lost(text);
    let differ = |id: &usize| {
        let (stored, true_one) = (spelling::record(own, *id), spelling::record(given, *id));
        !lost(&stored) && stored != true_one
    };
    let ids: Vec<usize> = (0..own.len()).filter(differ).collect();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    ids.first().map(|first| {
        format!(
            "{} tokens have another text in the given vocabulary, the first is {first}: {:?} there, {:?} in \
             the file",
            ids.len(),
            text(spelling::record(given, *first)),
            text(spelling::record(own, *first))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalog;

    fn old_vocab(extra: &[(&str, f32)]) -> Vocab {
        let mut vocab = Vocab::default();
        let mut push = |text: Vec<u8>, score: f32| {
            vocab.tokens.push(text);
            vocab.scores.push(score);
        };
        push(" \u{2047} ".into(), 0.0);
        push(Vec::new(), 0.0);
        push(Vec::new(), 0.0);
        (0..=255).for_each(|b| push(vec![b], 0.0));
        for (i, text) in ["  ", " t", "a"].iter().enumerate() {
            push(text.as_bytes().to_vec(), -(i as f32));
        }
        extra.iter().for_each(|(text, score)| push(text.as_bytes().to_vec(), *score));
        vocab
    }

    #[test]
    fn ids_decide_between_bytes_and_pieces() {
        let new = to_gguf(&old_vocab(&[]), 262).vocab;
        assert_eq!(new.tokens.get(100).unwrap(), b"<0x61>");
        assert_eq!(new.tokens.get(261).unwrap(), b"a");
        assert_eq!(new.tokens.get(260).unwrap(), "\u{2581}t".as_bytes());
        assert_eq!(new.kinds[100], TokenKind::Byte);
        assert_eq!(new.kinds[261], TokenKind::Normal);
        assert_eq!(new.kinds[..3], [TokenKind::Unknown, TokenKind::Control, TokenKind::Control]);
    }

    #[test]
    fn there_and_back_is_the_same() {
        let old = old_vocab(&[("<pad>", -1000.0)]);
        let back = from_gguf(&to_gguf(&old, 263).vocab).unwrap();
        assert_eq!(back.tokens, old.tokens);
        assert_eq!(back.scores, old.scores);
    }

    #[test]
    fn added_tokens_keep_their_spaces() {
        let new = to_gguf(&old_vocab(&[("<im start>", -1000.0), ("<end>", 0.0)]), 264).vocab;
        assert_eq!(new.tokens.get(262).unwrap(), b"<im start>");
        assert_eq!(new.kinds[262..], [TokenKind::UserDefined, TokenKind::UserDefined]);
    }

    #[test]
    fn a_missing_record_becomes_padding() {
        let new = to_gguf(&old_vocab(&[]), 263);
        assert_eq!(new.vocab.tokens.get(262).unwrap(), b"<pad>");
        assert_eq!(new.vocab.kinds[262], TokenKind::UserDefined);
        assert_eq!(new.notes.len(), 1);
    }

    #[test]
    fn special_tokens_of_a_given_vocabulary_are_those_of_the_family() {
        let given = |texts: &[&str]| Vocab {
            tokens: texts.iter().collect(),
            kinds: vec![TokenKind::Normal; texts.len()],
            ..Vocab::default()
        };
        let special = |family: &str, texts: &[&str]| {
            let rule = catalog::family(family).and_then(|family| family.tokenizer.as_ref());
            let (model, mut notes) = (Model::default(), Notes::default());
            let vocab = of_family(rule.unwrap(), &model, Some(given(texts)), &mut notes).unwrap();
            (vocab.bos, vocab.eos, vocab.unknown, vocab.padding)
        };
        let bloom = special("bloom", &["<unk>", "<s>", "</s>", "<pad>", "a"]);
        assert_eq!(bloom, (Some(1), Some(2), Some(0), Some(3)));
        let falcon = special("falcon", &[">>TITLE<<", "<|endoftext|>", "a"]);
        assert_eq!(falcon, (Some(1), Some(1), None, None));
        let gpt2 = special("gpt2", &["a", "<|endoftext|>"]);
        assert_eq!(gpt2, (Some(1), Some(1), Some(1), None));
    }

    #[test]
    fn files_without_scores_get_the_order_of_merges() {
        let mut old = old_vocab(&[]);
        old.scores.clear();
        let new = to_gguf(&old, 262);
        assert!(new.canonical_scores);
        assert_eq!(new.vocab.scores[258..], [0.0, -0.0, -1.0, -2.0]);
    }
}
