//! Tokens that were stored as decoded text: bytes that are no text by themselves became U+FFFD, and
//! transformers took the space before some punctuation away.
//!
//! Single bytes can be won back: trainers give them the ids of a run, in the order of their letters.

use sha2::{Digest, Sha256};

use crate::{bytes::hex, format::vocabulary::Published, model::Texts};

/// U+FFFD.
const REPLACED: &[u8] = "\u{fffd}".as_bytes();

/// Whether any of these texts lost bytes.
pub(super) fn lossy(tokens: &Texts) -> bool {
    tokens.iter().any(has_lost)
}

/// Whether a text has U+FFFD in place of bytes that are none by themselves.
pub fn has_lost(token: &[u8]) -> bool {
    token.windows(REPLACED.len()).any(|part| part == REPLACED)
}

/// The one of `known` that these are, as far as they were stored.
///
/// Its digest is the SHA-256 of each token in order, the length as u32 and the bytes, but for those that decoding
/// changed.
pub(super) fn published<'k>(tokens: &Texts, known: &'k [Published]) -> Option<&'k Published> {
    known.iter().find(|published| {
        let mut sum = Sha256::new();
        for id in (0..published.vocabulary.tokens).filter(|id| !published.bytes.contains_key(id)) {
            let Some(token) = tokens.get(id) else { return false };
            sum.update(u32::try_from(token.len()).unwrap_or(u32::MAX).to_le_bytes());
            sum.update(token);
        }
        hex(&sum.finalize()) == published.vocabulary.digest
    })
}

/// The bytes of tokens, those that were lost as they were published.
pub(super) fn completed(tokens: &Texts, published: &Published) -> Vec<Option<Vec<u8>>> {
    let stored = tokens.iter().map(<[u8]>::to_vec).enumerate();
    stored.map(|(id, token)| Some(published.bytes.get(&id).cloned().unwrap_or(token))).collect()
}

/// The bytes of tokens, where they are known; and how many single bytes were won back.
pub(super) fn bytes(tokens: &Texts) -> (Vec<Option<Vec<u8>>>, usize) {
    let known = |token: &[u8]| (!has_lost(token)).then(|| token.to_vec());
    let mut all: Vec<_> = tokens.iter().map(known).collect();
    let mut won = 0;
    for (id, byte) in single_bytes(tokens).unwrap_or_default() {
        if let Some(token @ None) = all.get_mut(id) {
            *token = Some(vec![byte]);
            won += 1;
        }
    }
    (all, won)
}

/// The ids of single bytes above 0x7f, which follow `~` and 0x7f, and the bytes that they are; none where
/// there is no such run, or of another length than any that is known.
///
/// ```text
/// bytes                               ids     as they are stored
/// 0x21 to 0x7e                        94      the byte
/// 0xa1 to 0xac, 0xae to 0xff          94      U+FFFD; 81 without those that no UTF-8 text has
/// 0x00 to 0x20, 0x7f                  34      the byte
/// 0x80 to 0xa0, 0xad                  34      U+FFFD
/// ```
///
/// Source: gpt-2, src/encoder.py: bytes_to_unicode, which gives printing bytes their own letter and the others the
/// letters from U+0100 on; trainers number the letters in their order.
fn single_bytes(tokens: &Texts) -> Option<Vec<(usize, u8)>> {
    let lost = |id: &usize| tokens.get(*id) == Some(REPLACED);
    let is = |id: usize, byte: u8| tokens.get(id) == Some(&[byte]);
    let first = (0..tokens.len()).find(|id| (0..94).all(|n| is(id + usize::from(n), b'!' + n)))?;
    let after = first + 94;
    let run = (after..tokens.len()).take_while(lost).count();
    // Bytes that no UTF-8 text has may be missing.
    let never = |byte: &u8| matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    let printing = (0xa1..=0xac).chain(0xae..=0xff);
    let letters: Vec<u8> = match run {
        94 => printing.collect(),
        81 => printing.filter(|byte| !never(byte)).collect(),
        _ => return None,
    };
    let rest = after + run;
    let plain = (0..=b' ').chain([0x7f]);
    if !plain.enumerate().all(|(n, byte)| is(rest + n, byte)) {
        return None;
    }
    let high = (0x80..=0xa0).chain([0xad]).enumerate();
    let found = letters.into_iter().enumerate().map(|(n, byte)| (after + n, byte));
    Some(found.chain(high.map(|(n, byte)| (rest + 34 + n, byte))).collect())
}

/// What transformers takes the space from that is before it.
/// Source: transformers, tokenization_utils_base.py: clean_up_tokenization.
const CLEANED: [&str; 10] = [".", "?", "!", ",", "'", "n't", "'m", "'s", "'ve", "'re"];

/// Whether `text` may have lost a space.
pub(super) fn may_be_cleaned(text: &[u8]) -> bool {
    CLEANED.iter().any(|start| text.starts_with(start.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(missing: &[u8]) -> (Texts, Vec<u8>) {
        let order: Vec<u8> = (b'!'..=b'~')
            .chain(0xa1..=0xac)
            .chain(0xae..=0xff)
            .chain(0..=b' ')
            .chain(0x7f..=0xa0)
            .chain([0xad])
            .filter(|byte| !missing.contains(byte))
            .collect();
        let stored = |byte: &u8| String::from_utf8_lossy(&[*byte]).into_owned();
        (["<|endoftext|>".to_owned()].into_iter().chain(order.iter().map(stored)).collect(), order)
    }

    #[test]
    fn a_published_vocabulary_is_known_by_what_was_stored() {
        let stored: Texts = ["a", "\u{fffd}", "b", ".", ""].into_iter().collect();
        let mut sum = Sha256::new();
        sum.update(b"\x01\0\0\0a\x01\0\0\0b");
        let digest = hex(&sum.finalize());
        let text = format!(
            "[vocabulary]\nname='x'\ntitle=''\nsource=''\ntokens=4\ndigest='{digest}'\n\
             [bytes]\n1 = 'e4ba'\n3 = '202e'"
        );
        let known = [crate::format::vocabulary::parse("x", &text).unwrap()];
        let found = published(&stored, &known).unwrap();
        let whole: Vec<Vec<u8>> = completed(&stored, found).into_iter().flatten().collect();
        assert_eq!(whole, [&b"a"[..], b"\xe4\xba", b"b", b" .", b""]);
        let other: Texts = ["a", "\u{fffd}", "c", "."].into_iter().collect();
        let short: Texts = ["a", "\u{fffd}"].into_iter().collect();
        assert!(published(&other, &known).is_none() && published(&short, &known).is_none());
        assert_eq!(crate::format::catalog::vocabularies()[0].bytes.len(), 513 + 25);
    }

    #[test]
    fn single_bytes_are_won_back_by_their_place() {
        let never: Vec<u8> = [0xc0, 0xc1].into_iter().chain(0xf5..=0xff).collect();
        for missing in [&[][..], &never] {
            let (stored, order) = vocabulary(missing);
            assert!(lossy(&stored));
            let (all, won) = bytes(&stored);
            assert_eq!(won, 128 - missing.len());
            for (byte, found) in order.iter().zip(&all[1..]) {
                assert_eq!(found.as_deref(), Some(&[*byte][..]));
            }
        }
        // One more is missing, and nobody knows which.
        let (stored, _) = vocabulary(&[0xf1]);
        assert_eq!(bytes(&stored).1, 0);
    }
}
