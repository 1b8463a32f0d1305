//! Names with `*` for any characters and `?` for one, as shells have them.

/// Whether `name` is one of those that `glob` means.
///
/// Stars are tried short first: where the rest does not fit, the last star takes one character more. Earlier stars
/// never have to be tried again, so it takes time by the product of the two lengths at most.
///
/// ```text
/// blk.*.attn_?.weight      blk.3.attn_q.weight, blk.11.attn_k.weight, not blk.3.attn_norm.weight
/// ```
pub fn matches(glob: &str, name: &str) -> bool {
    let (mut glob, mut name) = (glob, name);
    // Where the last star stood, and the name behind what it has taken so far.
    let mut star: Option<(&str, &str)> = None;
    loop {
        let (mut pattern, mut rest) = (glob.chars(), name.chars());
        match (pattern.next(), rest.next()) {
            (Some('*'), _) => {
                glob = pattern.as_str();
                star = Some((glob, name));
            }
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                (glob, name) = (pattern.as_str(), rest.as_str());
            }
            _ => {
                let Some((after, taken)) = star else { return false };
                let mut taken = taken.chars();
                if taken.next().is_none() {
                    return false;
                }
                (glob, name) = (after, taken.as_str());
                star = Some((after, name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_take_any_characters_and_marks_one() {
        let yes = [
            ("a", "a"),
            ("*", ""),
            ("*", "blk.0"),
            ("blk.?.attn_*.weight", "blk.3.attn_q.weight"),
            ("*q*t", "blk.3.attn_q.weight"),
            ("a*b*b", "aXbYbZb"),
            ("?é*", "xé"),
        ];
        let no =
            [("a", "b"), ("", "a"), ("a", ""), ("?", ""), ("blk.?.x", "blk.11.x"), ("a*b", "abc")];
        assert!(yes.iter().all(|(glob, name)| matches(glob, name)));
        assert!(!no.iter().any(|(glob, name)| matches(glob, name)));
    }
}
