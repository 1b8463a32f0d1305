//! The command's words: each verb is one file with its `Args` and a `run` function.
//!
//! Only this layer prints. What was asked for goes to stdout, everything else to stderr; an error is
//! one line, `error: …`. Exit codes:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, nothing to remark |
//! | 1 | done, and something was found (a damaged file in a check, two models that differ) |
//! | 2 | usage error |
//! | 3 | a file is malformed or unknown |
//! | 4 | refused: it would lose data, overwrite a file or is not supported |
//! | 5 | reading or writing failed |
//! | 130 | Ctrl-C |

pub mod advice;
mod batch;
mod chat;
mod common;
mod compare;
mod completions;
mod convert;
mod explain;
mod imatrix;
pub(crate) mod inspect;
mod join;
pub(crate) mod json;
mod lora;
mod man;
mod metadata;
mod open;
mod output;
mod perplexity;
mod progress;
mod quantize;
mod run;
mod runner;
mod split;
mod stated;
mod tensors;
pub(crate) mod text;
mod threads;
mod upgrade;
mod verify;
mod words;
mod words2023;
mod write;
mod writer;

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::atomic::Ordering,
};

use clap::{CommandFactory, Parser, Subcommand};

use common::Globals;
use output::{
    escaped, failed, flush, may_draw, print, print_folded, print_raw, print_said, remark,
    stdout_failed,
};
use threads::{start_threads, within_processors};

use crate::{
    bytes::{inputs, map, replace::INTERRUPTED},
    error::{Error, Result},
};

/// What to type, for the three people whom this serves.
const EXAMPLES: &str = "\
With an old file and a laptop:
  regguf inspect ggml-model-q4_0.bin     what it is, and what to do next
  regguf upgrade ggml-model-q4_0.bin     today's GGUF, the same weights
  regguf run ggml-model-q4_0.gguf -p \"Once upon a time\"
  regguf convert models/7B/              raw weights to GGUF
  regguf quantize f16.gguf Q4_K_M        called as llama-quantize is

Checking a download:
  regguf verify models/                  digest lists, known files, structure
  regguf compare a.gguf b.gguf           whether they are the same, or how near

Keeping directories of models:
  regguf batch upgrade models/ -o new/ --dry-run
  regguf batch quantize models/ --type q4_0,q8_0 -o small/ --keep-going
";

/// Brings any historical ggml, ggmf, ggjt or GGUF model file forward.
#[derive(Debug, Parser)]
#[command(name = "regguf", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what files are, what is in them and what to do next
    Inspect(inspect::Args),
    /// Bring an old model file forward: today's GGUF, the same quant types, nothing rounded unsaid
    Upgrade(upgrade::Args),
    /// Quantize a model, called as llama-quantize is: the same bytes in every tensor
    Quantize(Box<quantize::Args>),
    /// List, set, remove, rename and copy metadata keys, and touch nothing else
    Metadata(metadata::Args),
    /// Tell what the weights of tensors are like; print rows, write them as .npy or .npz
    Tensors(tensors::Args),
    /// Split a GGUF file into shards, as llama-gguf-split does
    Split(split::Args),
    /// Join shards, or pieces cut by bytes, into the file that they were
    Join(join::Args),
    /// Convert raw weights, or any model, to GGUF, an older container or safetensors
    Convert(Box<convert::Args>),
    /// Say whether two models are the same, and if not, how they differ
    Compare(compare::Args),
    /// Write text with a model of any era
    Run(run::Args),
    /// Score how well a model predicts a text, with llama-perplexity's windows
    Perplexity(perplexity::Args),
    /// Collect which columns of each matrix matter, for quantize --imatrix
    Imatrix(imatrix::Args),
    /// Do one task to every model of a folder, resumable and split over machines
    Batch(batch::Args),
    /// Check downloads offline: digest lists, caches, public digests, structure
    Verify(verify::Args),
    /// Draw a format from its description
    Explain(explain::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

impl Command {
    fn run(&self, globals: &Globals) -> Result<ExitCode> {
        match self {
            Command::Inspect(args) => inspect::run(args, globals),
            Command::Upgrade(args) => upgrade::run(args, globals),
            Command::Quantize(args) => quantize::run(args, globals),
            Command::Convert(args) => convert::run(args, globals),
            Command::Tensors(args) => tensors::run(args, globals),
            Command::Split(args) => split::run(args, globals),
            Command::Join(args) => join::run(args, globals),
            Command::Metadata(args) => metadata::run(args, globals),
            Command::Compare(args) => compare::run(args, globals),
            Command::Run(args) => run::run(args, globals),
            Command::Perplexity(args) => perplexity::run(args, globals),
            Command::Imatrix(args) => imatrix::run(args, globals),
            Command::Batch(args) => batch::run(args, globals),
            Command::Verify(args) => verify::run(args, globals),
            Command::Explain(args) => explain::run(args, globals),
            Command::Completions(args) => completions::run(args, Cli::command()),
            Command::Man(args) => man::run(args, Cli::command()),
        }
    }
}

/// Runs the command with the words of this process and returns its exit code.
pub fn main() -> ExitCode {
    if std::env::args_os().len() < 2 {
        // Whoever does not know what to type gets one screen, not every option.
        let head = "regguf brings any old ggml model file to today's GGUF.";
        let tail = "regguf --help lists all commands, regguf COMMAND --help what each can do.\n\
                    No input is written to without --in-place, and no output appears before it is whole.";
        let said = format!("{head}\n\n{EXAMPLES}\n{tail}\n");
        let _ = write!(io::stderr(), "{}", text::folded_for(&io::stderr(), &said));
        return ExitCode::from(2);
    }
    // Before the parser sees them: it would take `-ngl` for `-n gl`.
    let (words, note) = match words2023::translate(std::env::args_os().collect()) {
        Ok(translated) => translated,
        Err(error) => return failed(&error),
    };
    let cli = Cli::parse_from(words);
    note.iter().for_each(|note| remark(&cli.globals, note));
    // All that changes the process happens here, before a file is opened or a thread begins.
    inputs::watch();
    map::survive_lost_pages();
    open_many_files();
    // A second handler or a second thread pool cannot exist in this process, so neither call fails.
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
    start_threads(cli.globals.threads());
    match cli.command.run(&cli.globals).and_then(flush) {
        Ok(code) => code,
        // Whoever read the output has seen enough, as `head` has: no failure.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

/// Raises the number of files that may be open to what the system allows: a set of a thousand shards is
/// open at once.
fn open_many_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        // Where it is refused, a large set fails with a line that says so.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_fit_together() {
        Cli::command().debug_assert();
    }

    /// In clap a heading holds for all flags that are declared behind it, so own flags go first.
    #[test]
    fn help_has_common_flags_last_and_no_other_flag_among_them() {
        let under = |heading: &str| -> &[&str] {
            match heading {
                common::COMMON => &["quiet", "verbose", "threads", "json", "t"],
                common::OUTPUT => &[
                    "output",
                    "out",
                    "to",
                    "dry_run",
                    "prove",
                    "keep_nan",
                    "force",
                    "no_sync",
                    "plan",
                    "in_place",
                    "anyway",
                    "output_format",
                ],
                "What the input is" => &["format", "blocks", "read_as", "n_parts"],
                _ => &[
                    "eps",
                    "stated-context",
                    "rope_base",
                    "rope_scale",
                    "vocab",
                    "pad_vocab",
                    "base",
                    "rows",
                ],
            }
        };
        let mut all = Cli::command();
        all.build();
        for verb in all.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let mut headings = Vec::new();
            for arg in verb.get_arguments() {
                let Some(heading) = arg.get_help_heading() else { continue };
                let id = arg.get_id().as_str();
                let is_there = under(heading).contains(&id) && !arg.is_positional();
                assert!(is_there, "{} {id}: under {heading:?}", verb.get_name());
                headings.push(heading);
            }
            headings.dedup();
            let common = headings.iter().position(|heading| *heading == common::COMMON);
            assert_eq!(common, Some(headings.len() - 1), "{}: {headings:?}", verb.get_name());
        }
    }

    #[test]
    fn examples_fit_80_columns() {
        for verb in Cli::command().get_subcommands() {
            let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines().filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 80, "{}: {line}", verb.get_name());
            }
        }
    }
}
