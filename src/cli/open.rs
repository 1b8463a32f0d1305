//! Flags that say what a file is, for files that could be several things.

use crate::container::{OpenOptions, RowStorage};

/// How to read a file that could be several things.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What the input is")]
pub struct OpenArgs {
    /// Read it as this format (see `regguf explain`)
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// How an unversioned file stores Q4 rows
    #[arg(long, value_name = "STORAGE")]
    blocks: Option<RowStorage>,
    /// Of how many files a multi-part set consists
    #[arg(long, value_name = "N")]
    n_parts: Option<u32>,
}

impl OpenArgs {
    /// What they say.
    pub fn options(&self) -> OpenOptions {
        OpenOptions {
            format: self.format.clone(),
            blocks: self.blocks,
            n_parts: self.n_parts,
            ..OpenOptions::default()
        }
    }
}
