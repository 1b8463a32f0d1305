//! What the library says can be done, in the words of this command: its flags for settings, its verbs for calls.
//!
//! ```text
//! library   Remedy: settings and calls as data        never a flag, for other programs have none
//! here      flag, verb, typed                         `regguf quantize --to ggjt-v3 IN OUT q4_0`
//! ```
//!
//! The test below holds every flag and verb against the parser, so that no advice can name what does not exist.

use crate::{
    change::report::Report,
    check::Finding,
    error::Error,
    remedy::{Call, Means, Note, Setting},
};

/// The flag that sets it, and what stands for its value where it takes one.
fn flag(setting: Setting) -> (&'static str, &'static str) {
    match setting {
        Setting::Context => ("--context", "N"),
        Setting::Window => ("--ctx-size", "N"),
        Setting::Epsilon => ("--eps", "X"),
        Setting::RopeBase => ("--rope-base", "X"),
        Setting::RopeScale => ("--rope-scale", "N"),
        Setting::Vocabulary => ("--vocab", "tokenizer.model"),
        Setting::PreTokenizer => ("--pre-tokenizer", "NAME"),
        Setting::PadVocabulary => ("--pad-vocab", ""),
        Setting::Base => ("--base", "MODEL"),
        Setting::Rows => ("--rows", "ORDER"),
        Setting::Format => ("--format", "ID"),
        Setting::Blocks => ("--blocks", "STORAGE"),
        Setting::ReadAs => ("--read-as", "TYPE"),
        Setting::Parts => ("--n-parts", "N"),
        Setting::Target => ("--to", "FORMAT"),
        Setting::Type => ("--type", "TYPE"),
        Setting::TensorType => ("--tensor-type", "NAME=TYPE"),
        Setting::AllowRequantize => ("--allow-requantize", ""),
        Setting::Imatrix => ("--imatrix", "FILE"),
        Setting::FallbackType => ("--fallback-type", "TYPE"),
        Setting::ExcludeWeights => ("--exclude-weights", "NAME"),
        Setting::Pure => ("--pure", ""),
        Setting::Exact => ("--exact", ""),
        Setting::ClampScales => ("--clamp-scales", ""),
        Setting::KeepNan => ("--keep-nan", ""),
        Setting::Drop => ("--drop", "REGEX"),
        Setting::PruneLayers => ("--prune-layers", "N,N"),
        Setting::RepairRows => ("--repair-rows", ""),
        Setting::Delta => ("--delta", "FILE"),
        Setting::NewRows => ("--new-rows", "WHAT"),
        Setting::Force => ("--force", ""),
        Setting::Output => ("--output", "OUT"),
        Setting::InPlace => ("--in-place", ""),
        Setting::Anyway => ("--anyway", ""),
        Setting::Shard => ("--tensors --shard", "i/n"),
        Setting::Deep => ("--deep", ""),
        Setting::Text => ("--text", "FILE"),
        Setting::Prove => ("--prove", ""),
    }
}

/// The verb that does it.
fn verb(call: Call) -> &'static str {
    match call {
        Call::Inspect => "inspect",
        Call::Tokens => "inspect --vocab",
        Call::Tensors => "tensors",
        Call::Metadata => "metadata",
        Call::Explain => "explain",
        Call::Verify => "verify",
        Call::Compare => "compare",
        Call::Upgrade => "upgrade",
        Call::Convert => "convert",
        Call::Quantize => "quantize",
        Call::Join => "join",
        Call::Split => "split",
        Call::Batch => "batch",
    }
}

/// Means as they are typed.
fn typed(means: &Means) -> String {
    let settings = means.settings.iter().map(|(setting, value)| {
        let (flag, _) = flag(*setting);
        value.as_ref().map_or_else(|| flag.to_owned(), |value| format!("{flag} {value}"))
    });
    let call = means.call.map(|call| format!("regguf {}", verb(call)));
    // Verb, settings, then what it is done to: settings in front, so that a file name may begin with anything.
    let words: Vec<String> = call.into_iter().chain(settings).chain([means.on.clone()]).collect();
    let words = words.join(" ");
    match means.call {
        // A whole command is quoted; flags alone go into the sentence.
        Some(_) => format!("`{}`", words.trim_end()),
        None => words.trim_end().to_owned(),
    }
}

/// What was noticed and what to type, on one line.
pub fn note(note: &Note) -> String {
    note.told(typed)
}

/// What went wrong and what to type, on one line.
pub fn error(error: &Error) -> String {
    note(&error.into())
}

/// Puts notes in the words of this command, for JSON too.
pub fn word<'a>(notes: impl IntoIterator<Item = &'a mut Note>) {
    notes.into_iter().for_each(|one| *one = note(one).into());
}

/// Findings in the words of this command.
pub fn findings<'a>(findings: impl IntoIterator<Item = &'a mut Finding>) {
    word(findings.into_iter().map(|finding| &mut finding.message));
}

/// A report in the words of this command.
pub fn report(mut report: Report) -> Report {
    word(report.notes.iter_mut());
    for assumed in &mut report.assumed {
        let flag = assumed.setting.map(flag);
        assumed.flag = flag.map_or(String::new(), |(flag, value)| format!("{flag} {value}"));
    }
    report
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, ValueEnum};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_flag_and_verb_is_one_of_the_command() {
        let command = Cli::command();
        let verbs: BTreeSet<&str> =
            command.get_subcommands().map(clap::Command::get_name).collect();
        let flags: BTreeSet<String> = command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .filter_map(|arg| arg.get_long())
            .map(|long| format!("--{long}"))
            .collect();
        for setting in Setting::value_variants() {
            for word in flag(*setting).0.split(' ') {
                assert!(flags.contains(word), "{setting}: {word}");
            }
        }
        for call in Call::value_variants() {
            assert!(verbs.contains(verb(*call).split(' ').next().unwrap()), "{call:?}");
        }
    }

    #[test]
    fn remedies_are_typed_as_commands() {
        let remedy = Call::Quantize.on("IN OUT q4_0").with(Setting::Target.of("ggjt-v3"));
        let said = note(&Note::new("several types", remedy.to("make them one")));
        assert_eq!(
            said,
            "several types; make them one with `regguf quantize --to ggjt-v3 IN OUT q4_0`"
        );
        let said = error(&Error::refused("x", Setting::Force.to("replace it")));
        assert_eq!(said, "x; replace it with --force");
    }
}
