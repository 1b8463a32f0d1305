//! Flags that several verbs have: one name, one sentence and one place in the help for each.

use crate::{bytes::replace::Existing, change::report::Detail};
use clap::ArgAction;

/// The heading of what every verb has, after its own flags.
pub const COMMON: &str = "Common options";
/// The heading of where outputs go.
pub const OUTPUT: &str = "Output";

/// What holds for every verb.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = COMMON)]
pub struct Globals {
    /// Print results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 900)]
    pub quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 901)]
    pub verbose: u8,
    /// Number of threads [default: one per core]
    #[arg(long, global = true, value_name = "N", env = "REGGUF_THREADS", hide_env_values = true,
          display_order = 902, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

impl Globals {
    /// How much a report tells: of each tensor with `-v`.
    pub fn detail(&self) -> Detail {
        if self.verbose > 0 { Detail::Tensors } else { Detail::Kinds }
    }
}

/// `--json`, of verbs that report.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = COMMON)]
pub struct JsonArg {
    /// Print the result as JSON
    #[arg(long, display_order = 903)]
    pub json: bool,
}

/// `--force`, of verbs that write.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = OUTPUT)]
pub struct ForceArg {
    /// Replace outputs that exist
    #[arg(long)]
    pub force: bool,
}

impl ForceArg {
    /// What becomes of outputs that exist.
    pub fn existing(self) -> Existing {
        existing(self.force)
    }
}

/// What becomes of outputs that exist, by `--force`.
pub fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

/// `--dry-run`, of verbs that write.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = OUTPUT)]
pub struct DryRunArg {
    /// Print the plan and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `-t`, as the programs of llama.cpp have it.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = COMMON)]
pub struct ThreadsArg {
    /// Number of threads, as --threads
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), display_order = 904)]
    pub t: Option<u16>,
}
