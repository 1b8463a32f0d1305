//! Pre-tokenizers: what a `tokenizer.ggml.pre` name means, as the expressions that cut text apart
//! before byte pairs are merged.
//!
//! Each name stands for stages; every stage cuts each piece of the one before, and both what its
//! expression matches and what lies between matches become pieces. The expressions are those of the
//! published `tokenizer.json` files, so one table serves both to run a GGUF vocabulary and to find the
//! name for a Hugging Face one. Names and their meaning: llama.cpp, llama-vocab.cpp, `llm_tokenizer_bpe`.
//!
//! ```text
//! "I'm 2023"    GPT-2      I | 'm | ␣2023
//!               LLaMA 3    I | 'm | ␣ | 202 | 3           digits by threes
//!               Qwen 2     I | 'm | ␣ | 2 | 0 | 2 | 3     digits by ones
//! ```
//!
//! Pairs are merged inside a piece only, so a wrong name gives other tokens without an error: a model reads such a
//! text, and answers worse.

/// What one family of vocabularies does before merging.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PreTokenizer {
    /// Its names, the one that converters write first.
    pub names: &'static [&'static str],
    /// Expressions, applied one after the other.
    pub stages: &'static [&'static str],
    /// Whether a piece that is a token as a whole is taken without merging.
    pub ignore_merges: bool,
    /// Whether the beginning-of-text token goes before a text when the file does not say.
    pub adds_bos: bool,
}

/// The expression of GPT-2, which the `ByteLevel` step of `tokenizer.json` implies.
pub const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Runs of punctuation, as the `Punctuation` step cuts them.
pub const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";
/// Single digits, as `Digits` with `individual_digits` cuts them.
pub const DIGIT: &str = r"\p{N}";
/// Runs of digits.
pub const DIGITS: &str = r"\p{N}+";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const HAN_OLD: &str = "[一-龥ࠀ-一가-퟿]+";
const THREE_DIGITS: &str = r"[0-9][0-9][0-9]";
const CASED_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const WIDE_PUNCTUATION: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const fn plain(names: &'static [&'static str], stages: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, stages, ignore_merges: false, adds_bos: false }
}

/// Every pre-tokenizer known here. Where two share their stages, the first is what a
/// `tokenizer.json` with the same `ignore_merges` is taken for.
pub const ALL: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"],
        stages: &[LLAMA3],
        ignore_merges: true,
        adds_bos: true,
    },
    plain(&["smaug-bpe", "dbrx", "chatglm-bpe"], &[LLAMA3]),
    PreTokenizer {
        names: &["glm4", "glm5"],
        stages: &[LLAMA3],
        ignore_merges: true,
        adds_bos: false,
    },
    plain(
        &["gpt-2", "mpt", "olmo", "phi-2", "jais", "gigachat", "exaone4", "trillion", "mellum"],
        &[GPT2],
    ),
    plain(
        &[
            "qwen2",
            "stablelm2",
            "deepseek-r1-qwen",
            "hunyuan",
            "megrez",
            "grok-2",
            "kormo",
            "solar-open",
        ],
        &[QWEN2],
    ),
    plain(
        &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[DIGIT, GPT2],
    ),
    plain(
        &["deepseek-llm"],
        &[r"[\r\n]", CASED_LETTERS, WIDE_PUNCTUATION, r"\s+$", HAN_OLD, DIGITS],
    ),
    plain(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_OLD, DIGIT]),
    plain(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
    ),
    plain(&["falcon"], &[PUNCTUATION, GPT2, THREE_DIGITS]),
    PreTokenizer { names: &["tekken"], stages: &[TEKKEN], ignore_merges: true, adds_bos: true },
    plain(&["gpt-4o", "llama4", "kanana2", "minimax-m2"], &[GPT4O]),
    plain(&["bloom", "poro-chat", "gpt3-finnish"], &[r" ?[^(\s|.,!?…。，、।۔،)]+"]),
    plain(&["viking"], &[r" ?[^(\s|.,!?…。，、।۔،)]+", DIGIT]),
    plain(
        &["seed-coder"],
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
    PreTokenizer {
        names: &["minicpm5"],
        stages: &[
            r"\p{N}{1,3}",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: true,
        adds_bos: false,
    },
    plain(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, DIGITS, THREE_DIGITS]),
];

/// Stages of published files, and the name that stands for them: they cut in more places or are spelled otherwise, where
/// merges, which were learned from what they cut, never join.
const SPELLED: [(&[&str], &str); 2] = [
    (&[PUNCTUATION, GPT2, DIGITS, THREE_DIGITS], "falcon"),
    (&[r" ?[^(\s|[.,!?…。，、।۔،])]+"], "bloom"),
];

impl PreTokenizer {
    /// The first of its names.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    /// The pre-tokenizer with this name. An empty name is that of files made before April 2024, which
    /// did not say; they are read as llama.cpp reads them, by `default`.
    pub fn named(name: &str) -> Option<&'static PreTokenizer> {
        let name = if name.is_empty() { "default" } else { name };
        ALL.iter().find(|pre| pre.names.contains(&name))
    }

    /// The pre-tokenizers of a `tokenizer.json` whose steps amount to `stages`.
    pub fn recognise(stages: &[String]) -> impl Iterator<Item = &'static PreTokenizer> + Clone {
        let same = move |pre: &&PreTokenizer| {
            pre.stages.len() == stages.len()
                && pre.stages.iter().zip(stages).all(|(a, b)| alike(a, b))
        };
        let spelled = SPELLED.iter().find(|(known, _)| *known == stages);
        let spelled = spelled.and_then(|(_, name)| PreTokenizer::named(name));
        ALL.iter().filter(same).chain(spelled)
    }
}

/// Whether two published expressions cut text in the same way: digit runs and single digits differ
/// between releases of one family whose merges never join digits.
fn alike(a: &str, b: &str) -> bool {
    a == b || [a, b].iter().all(|e| [DIGIT, DIGITS].contains(e))
}
