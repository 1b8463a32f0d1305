//! Flags of the verbs that write a model file: where to, in which container, saying how much.

use std::path::{Path, PathBuf};

use super::common::{CommitArgs, DryRunArg, JsonArg, OUTPUT};
use crate::{
    bytes::{
        Input,
        replace::{Commit, Made, make_folder},
    },
    change::{Plan, output::is_written_as_folder, upgrade::Options},
    check::pair::prove::Proof,
    error::{Error, Result},
};

/// Where a model goes, and what is known of it beside what its file says.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = OUTPUT)]
pub struct WriteArgs {
    /// Where to write [default: beside the input]
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// The container to write [default: gguf-v3, or the present one of a family that GGUF has no name for]
    #[arg(long, value_name = "FORMAT", value_parser = super::words::Words(super::words::targets), hide_possible_values = true)]
    pub to: Option<String>,
    #[command(flatten)]
    dry_run: DryRunArg,
    /// Run the source and every new file over a text before any gets its name, and print the verdicts
    ///
    /// It fails, and no file is kept, where one gives NaN, differs though nothing was rounded, or diverges from
    /// its source more than its type explains (512 / 4^bits nats in the mean).
    #[arg(long, conflicts_with = "dry_run")]
    pub prove: bool,
    /// Write infinite and NaN weights as they are, instead of refusing
    #[arg(long)]
    pub keep_nan: bool,
    #[command(flatten)]
    commit: CommitArgs,
    #[command(flatten)]
    pub stated: super::stated::StatedArgs,
    #[command(flatten)]
    json: JsonArg,
}

impl WriteArgs {
    /// Whether the plan is printed and nothing written.
    pub fn dry_run(&self) -> bool {
        self.dry_run.dry_run
    }

    /// How outputs take their places.
    pub fn commit(&self) -> Commit {
        self.commit.commit()
    }

    /// What is asked of new files.
    pub fn proof(&self) -> Proof {
        if self.prove { Proof::Text } else { Proof::Header }
    }

    /// Whether the report is JSON.
    pub fn json(&self) -> bool {
        self.json.json
    }

    /// What they say to the planner.
    pub fn options(&self) -> Options {
        Options {
            output: self.output.clone(),
            to: self.to.clone(),
            stated: self.stated.stated(),
            keep_nan: self.keep_nan,
            ..Options::default()
        }
    }
}

/// Makes the folder that outputs were named to go to, where it is not there. It goes again if nothing does.
pub fn make_output_folder(named: Option<&Path>, outputs: usize) -> Result<Made> {
    let folder = named.filter(|named| outputs > 1 || is_written_as_folder(named));
    folder.map_or_else(|| Ok(Made::default()), make_folder)
}

/// Refuses to write once more, beside the input, what is there already.
pub fn check_not_made(plan: &Plan, input: &Path) -> Result<()> {
    let (output, input) = (plan.output.display(), input.display());
    match Input::look(&plan.output).and_then(|there| plan.describes(&there)) {
        Ok(true) => Err(Error::refused(
            format!("{output}: is there already, with the header and size of this upgrade"),
            format!(
                "`regguf compare {input} {output}` compares the weights; --force writes it anew, -o NAME \
                 another"
            ),
        )),
        // Whatever else is there, is said when the output begins.
        _ => Ok(()),
    }
}
