//! File types: the names and numbers that llama-quantize takes, and what most tensors become.
//!
//! A file type is a recipe for a whole file (`Q4_K_M`, number 15 in `general.file_type`); the type of
//! one tensor (`q4_k`) is chosen from it by [`super::mix`].

use crate::error::{Error, Result};
use crate::remedy::{Note, Setting};

/// What a file is to be quantized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileType {
    /// Its name, as `Q4_K_M`; the default name of the output is made of it.
    pub name: &'static str,
    /// Its number in `general.file_type`.
    pub number: u32,
    /// The lower-case ggml type of its tensors before the mix rules.
    pub base: &'static str,
    /// Whether tensors are only copied.
    pub copy: bool,
}

/// Names, numbers and base types in the order in which llama-quantize looks through them.
///
/// An alias is before the type that it means, so a number found in this order finds the alias:
/// `15` makes `ggml-model-Q4_K.gguf`, as there (llama.cpp tools/quantize, `QUANT_OPTIONS`). The last
/// three it does not take: one is a type of tensors only, two are types of ggjt v1.
#[rustfmt::skip]
const TABLE: [(&str, u32, &str); 42] = [
    ("Q1_0", 40, "q1_0"), ("Q2_0", 41, "q2_0"), ("Q4_0", 2, "q4_0"), ("Q4_1", 3, "q4_1"),
    ("MXFP4_MOE", 38, "mxfp4"), ("Q5_0", 8, "q5_0"), ("Q5_1", 9, "q5_1"),
    ("IQ2_XXS", 19, "iq2_xxs"), ("IQ2_XS", 20, "iq2_xs"), ("IQ2_S", 28, "iq2_xs"),
    ("IQ2_M", 29, "iq2_s"), ("IQ1_S", 24, "iq1_s"), ("IQ1_M", 31, "iq1_m"),
    ("TQ1_0", 36, "tq1_0"), ("TQ2_0", 37, "tq2_0"), ("Q2_K", 10, "q2_k"), ("Q2_K_S", 21, "q2_k"),
    ("IQ3_XXS", 23, "iq3_xxs"), ("IQ3_S", 26, "iq3_s"), ("IQ3_M", 27, "iq3_s"),
    ("Q3_K", 12, "q3_k"), ("IQ3_XS", 22, "iq3_s"), ("Q3_K_S", 11, "q3_k"), ("Q3_K_M", 12, "q3_k"),
    ("Q3_K_L", 13, "q3_k"), ("IQ4_NL", 25, "iq4_nl"), ("IQ4_XS", 30, "iq4_xs"),
    ("Q4_K", 15, "q4_k"), ("Q4_K_S", 14, "q4_k"), ("Q4_K_M", 15, "q4_k"),
    ("Q5_K", 17, "q5_k"), ("Q5_K_S", 16, "q5_k"), ("Q5_K_M", 17, "q5_k"), ("Q6_K", 18, "q6_k"),
    ("Q8_0", 7, "q8_0"), ("F16", 1, "f16"), ("BF16", 32, "bf16"), ("F32", 0, "f32"),
    ("COPY", 0, "f32"), ("NVFP4", 39, "nvfp4"), ("Q4_2", 5, "q4_2"), ("Q4_3", 6, "q4_3"),
];

impl FileType {
    /// Every file type that llama-quantize takes, aliases too.
    pub fn all() -> impl Iterator<Item = FileType> {
        TABLE.into_iter().take(TABLE.len() - 3).map(FileType::from_row)
    }

    /// Whether a word is a type rather than the name of a file.
    pub fn is_known(word: &str) -> bool {
        let number = word.parse().unwrap_or(u32::MAX);
        TABLE.iter().any(|row| row.0.eq_ignore_ascii_case(word) || row.1 == number)
    }

    /// A row of the table as a file type.
    fn from_row((name, number, base): (&'static str, u32, &'static str)) -> FileType {
        FileType { name, number, base, copy: name == "COPY" }
    }

    /// The file type of this name (in any case) or number.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is none, with the nearest advice.
    pub fn parse(word: &str) -> Result<FileType> {
        let named = TABLE.iter().find(|row| row.0.eq_ignore_ascii_case(word));
        let numbered = || word.parse().ok().and_then(|n: u32| TABLE.iter().find(|row| row.1 == n));
        match named.or_else(numbered) {
            Some((name @ "NVFP4", ..)) => Err(Error::usage(Note::new(
                format!("{name} is a type of tensors, not of files"),
                Setting::TensorType
                    .of(".=nvfp4")
                    .to("quantize to Q8_0 and store every weight matrix so"),
            ))),
            Some(row) => Ok(FileType::from_row(*row)),
            None => Err(Error::usage(format!(
                "{word} is no quantization type; the types are {}",
                FileType::all().map(|f| f.name).collect::<Vec<_>>().join(" ")
            ))),
        }
    }

    /// The name under which the mix rules know it: the one that an alias means.
    pub fn rule_name(self) -> &'static str {
        match self.name {
            "Q3_K" => "Q3_K_M",
            "Q4_K" => "Q4_K_M",
            "Q5_K" => "Q5_K_M",
            name => name,
        }
    }

    /// The number of the file type named after a ggml type, of a K type its usual mix.
    pub fn usual(ggml_type: &str) -> u32 {
        match ggml_type {
            "mxfp4" => 38,
            "q2_k" => 10,
            other => FileType::guess(other) & 1023,
        }
    }

    /// The number that llama.cpp guesses for a file whose commonest tensor type is `ggml_type`,
    /// with the bit that marks a guess (llama.cpp `llama_model_loader`).
    pub fn guess(ggml_type: &str) -> u32 {
        const GUESSED: u32 = 1024;
        let number = match ggml_type {
            "iq2_xs" => 20,
            "iq2_s" => 28,
            "iq3_s" => 26,
            "q3_k" => 12,
            "mxfp4" => 0,
            other => TABLE.iter().find(|row| row.2 == other).map_or(0, |row| row.1),
        };
        GUESSED | number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_aliases() {
        let found = |word| FileType::parse(word).map(|f| (f.name, f.rule_name(), f.number)).ok();
        assert_eq!(found("q4_k_m"), Some(("Q4_K_M", "Q4_K_M", 15)));
        assert_eq!(found("Q5_k"), Some(("Q5_K", "Q5_K_M", 17)));
        assert_eq!(found("15"), Some(("Q4_K", "Q4_K_M", 15)));
        assert_eq!(found("0"), Some(("F32", "F32", 0)));
        assert_eq!(found("40"), Some(("Q1_0", "Q1_0", 40)));
        assert_eq!(found("q4_2"), Some(("Q4_2", "Q4_2", 5)));
        for word in ["4", "33", "34", "35", "39", "42", "nvfp4", "", "-1", "q4"] {
            assert_eq!(found(word), None, "{word}");
        }
        assert!(FileType::parse("copy").unwrap().copy);
        assert_eq!(FileType::guess("q4_k"), 1024 + 15);
        assert_eq!(FileType::guess("q2_k"), 1024 + 10);
    }
}
