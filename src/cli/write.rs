//! Flags of the verbs that write a model file: where to, in which container, saying how much.

use std::path::PathBuf;

use crate::change::upgrade::Options;

/// Where a model goes, and what is known of it beside what its file says.
#[derive(Clone, Debug, clap::Args)]
pub struct WriteArgs {
    /// Where to write [default: beside the input]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// The container to write, gguf-v3 or an older one
    #[arg(long, value_name = "FORMAT", default_value = "gguf-v3")]
    pub to: String,
    /// Print the plan and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Run old and new over a text before the new file gets its name, and print the verdict. It fails,
    /// and nothing is kept, where a lossless file does not answer with the same bits, where one answers
    /// with NaN, or where it diverges more than its type explains (512 / 4^bits nats in the mean)
    #[arg(long, conflicts_with = "dry_run")]
    pub prove: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Replace outputs that exist
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub stated: super::stated::StatedArgs,
}

impl WriteArgs {
    /// What they say to the planner.
    pub fn options(&self) -> Options {
        Options {
            output: self.output.clone(),
            to: Some(self.to.clone()),
            stated: self.stated.stated(),
            ..Options::default()
        }
    }
}
