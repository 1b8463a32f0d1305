//! The health of a vocabulary: what is there, what was lost, what is odd.
//!
//! | code | what it means | how grave |
//! |---|---|---|
//! | `no-vocabulary` | the file stores none | note |
//! | `no-scores` | an old file of LLaMA's without scores | note |
//! | `lost-bytes` | U+FFFD stands for bytes that were no text by themselves | note |
//! | `added-tokens` | more than LLaMA's 32000, by fewer than 1000 | note |
//! | `vocabulary-sizes` | as many scores or kinds as tokens there are not | warning |
//! | `no-pre-tokenizer` | byte pairs that do not say how text is split | warning |
//! | `byte-tokens` | another number of them than 256 | warning |
//! | `special-token` | an id beyond the last token | warning |
//! | `vocabulary-embedding` | another number of rows than tokens | warning |

use serde::Serialize;

use crate::check::Finding;
use crate::model::{Model, TokenKind, Vocab};
use crate::remedy::{Note, Setting};

/// What a vocabulary consists of.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Tokens stored.
    pub tokens: usize,
    /// Tokenizer model as GGUF names it; empty where the file cannot say.
    pub model: String,
    /// Whether there are scores that tell tokens apart.
    pub scores: bool,
    /// Tokens that stand for one byte each.
    pub bytes: usize,
    /// Merges of a byte-pair vocabulary.
    pub merges: usize,
    /// What a person should know.
    pub findings: Vec<Finding>,
}

/// The first and last id of the byte tokens in LLaMA's vocabulary.
const BYTES: std::ops::RangeInclusive<usize> = 3..=258;

/// U+FFFD in UTF-8: what day-one converters stored for a byte that is no text.
const LOST: &[u8] = "\u{fffd}".as_bytes();

/// Looks at the vocabulary of `model`.
pub fn health(model: &Model) -> Health {
    let vocab = &model.vocab;
    let old = !model.header.is_empty() && vocab.kinds.is_empty();
    // What follows for ids and scores is so in LLaMA's vocabulary only.
    let foreign = old && model.family != "llama";
    let bytes = match (old, foreign) {
        (_, true) => vocab.tokens.iter().filter(|token| token.len() == 1).count(),
        (true, _) => raw_bytes(vocab),
        _ => byte_tokens(vocab),
    };
    let scores = vocab.scores.iter().any(|s| Some(s) != vocab.scores.first());
    let mut findings = Vec::new();
    if vocab.is_empty() {
        findings.push(Finding::note("no-vocabulary", "no vocabulary is stored"));
    } else {
        if foreign {
            look_at_foreign(vocab, &mut findings);
        } else if old {
            look_at_old(vocab, scores, &mut findings);
        } else {
            look_at_new(vocab, bytes, &mut findings);
        }
        look_at_sizes(model, &mut findings);
    }
    let (tokens, merges) = (vocab.len(), vocab.merges.len());
    Health { tokens, model: vocab.model.clone(), scores, bytes, merges, findings }
}

/// Byte tokens of a vocabulary that stores them raw.
fn raw_bytes(vocab: &Vocab) -> usize {
    let ids = vocab.tokens.iter().enumerate().filter(|(id, _)| BYTES.contains(id));
    ids.filter(|(_, token)| token.len() == 1 || *token == LOST).count()
}

/// Byte tokens by their kind, or written `<0x0A>`.
fn byte_tokens(vocab: &Vocab) -> usize {
    let written = |t: &[u8]| t.len() == 6 && t.starts_with(b"<0x") && t.ends_with(b">");
    let one = |(id, t): &(usize, &[u8])| vocab.kind(*id) == TokenKind::Byte || written(t);
    vocab.tokens.iter().enumerate().filter(one).count()
}

/// Of an old file of another family: only what shows whatever the ids mean.
fn look_at_foreign(vocab: &Vocab, findings: &mut Vec<Finding>) {
    let lost = |token: &[u8]| token.windows(LOST.len()).any(|part| part == LOST);
    let lost = vocab.tokens.iter().filter(|token| lost(token)).count();
    if lost > 0 {
        let message = format!("{lost} tokens hold U+FFFD where bytes were no text by themselves");
        findings.push(Finding::note("lost-bytes", message));
    }
}

/// Of an old file of LLaMA: ids tell bytes and added tokens.
fn look_at_old(vocab: &Vocab, scores: bool, findings: &mut Vec<Finding>) {
    if !scores {
        let next = Setting::Vocabulary.of("tokenizer.model").to("give it the true ones");
        let what = "no scores are stored: an upgrade takes LLaMA's canonical ones";
        findings.push(Finding::note("no-scores", Note::new(what, next)));
    }
    let lost = vocab.tokens.iter().enumerate().filter(|(id, t)| BYTES.contains(id) && *t == LOST);
    let lost = lost.count();
    if lost > 0 {
        findings.push(Finding::note(
            "lost-bytes",
            format!(
                "{lost} byte tokens were stored as U+FFFD: their ids tell which bytes they were"
            ),
        ));
    }
    let added = vocab.tokens.len().saturating_sub(32_000);
    if added > 0 && vocab.tokens.len() < 33_000 {
        let message = format!("{added} tokens were added to LLaMA's 32000");
        findings.push(Finding::note("added-tokens", message));
    }
}

/// Of a vocabulary in GGUF's terms: kinds, the name of its cuts and special ids are stated, and held against each
/// other.
fn look_at_new(vocab: &Vocab, bytes: usize, findings: &mut Vec<Finding>) {
    let n = vocab.len();
    for (what, len) in [("scores", vocab.scores.len()), ("token types", vocab.kinds.len())] {
        if len != 0 && len != n {
            let message = format!("{len} {what} for {n} tokens");
            findings.push(Finding::warning("vocabulary-sizes", message));
        }
    }
    if vocab.model == "gpt2" && vocab.pre.is_empty() {
        findings.push(Finding::warning(
            "no-pre-tokenizer",
            "tokenizer.ggml.pre is missing (files before 29 April 2024): llama.cpp guesses how to split text",
        ));
    }
    if vocab.model == "llama" && bytes != 256 {
        let message = format!("{bytes} byte tokens instead of 256");
        findings.push(Finding::warning("byte-tokens", message));
    }
    for (name, id) in [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unknown)] {
        if id.is_some_and(|id| id as usize >= n) {
            let message = format!("the {name} token is {}, of {n}", id.unwrap_or(0));
            findings.push(Finding::warning("special-token", message));
        }
    }
}

/// Whether the embedding has a row for every token, and no more.
fn look_at_sizes(model: &Model, findings: &mut Vec<Finding>) {
    let rows = model.tensor("tok_embeddings.weight").or_else(|| model.tensor("token_embd.weight"));
    let rows = rows.and_then(|t| t.shape.first().copied()).unwrap_or(0);
    let tokens = model.vocab.len() as u64;
    if rows != 0 && rows != tokens {
        let message = format!("{tokens} tokens for an embedding of {rows}");
        findings.push(Finding::warning("vocabulary-embedding", message));
    }
}
