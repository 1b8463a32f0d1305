//! Flags that several verbs have: one name, one sentence and one place in the help for each.

use crate::{
    bytes::replace::{Commit, Durability, Existing},
    change::report::Detail,
};
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

/// `--force` and `--no-sync`, of verbs that write a model.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = OUTPUT)]
pub struct CommitArgs {
    #[command(flatten)]
    force: ForceArg,
    /// Leave flushing to the system: sooner done, but a power cut may damage the new file
    ///
    /// By default every byte is on the disk before a file gets its name, so that it is there whole or not at
    /// all. With this flag a file that has its name may still be in memory for a minute; after a power cut,
    /// `regguf verify` tells whether it is whole.
    #[arg(long)]
    no_sync: bool,
}

impl CommitArgs {
    /// How outputs take their places.
    pub fn commit(self) -> Commit {
        let durability = if self.no_sync { Durability::Cached } else { Durability::Flushed };
        Commit { existing: self.force.existing(), durability }
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
