//! `regguf join`: shards, and pieces that were cut by bytes, into one file.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    Globals,
    common::OUTPUT,
    json::{self, VERSION},
    print_folded,
    progress::Bar,
    split::tell,
    write::make_output_folder,
};
use crate::{
    bytes::Input,
    change::{self, pieces::Pieces, split},
    container::{self, shards},
    error::Result,
    limits::Limits,
    size,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf join model-00001-of-00005.gguf
  regguf join a.gguf b.gguf c.gguf -o model.gguf    shards under other names
  regguf join shards-joined-with-cat.gguf -o model.gguf
  regguf join model.gguf.part1of2

Shards are found beside the first; a missing one is named. Files cut by bytes (.part1of2, -split-a, \
.gguf.000) become what they were, byte for byte.")]
pub struct Args {
    /// A file of the set, or all of them
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// Where to write [default: the name without what makes it one of a set]
    #[arg(short, long, value_name = "OUT", help_heading = OUTPUT)]
    output: Option<PathBuf>,
    #[command(flatten)]
    dry_run: super::common::DryRunArg,
    #[command(flatten)]
    commit: super::common::CommitArgs,
    #[command(flatten)]
    open: super::open::OpenArgs,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Runs it.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let output = args.output.as_deref();
    let first = args.inputs.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
    if let Some(pieces) = Pieces::of(first, output, Limits::DEFAULT)? {
        return join_pieces(args, globals, &pieces);
    }
    // Pieces cut by bytes are told by their names alone: none but the first begins like a model.
    let options = args.open.options();
    let model = match args.inputs.as_slice() {
        [one] if !shards::is_row(one, &options)? => container::open(one, &options)?,
        several => shards::gather(several, &options)?,
    };
    let plan = split::join(&model, output)?;
    if !args.dry_run.dry_run {
        let _made = make_output_folder(output, 1)?;
        let bar = Bar::new(globals, plan.layout.total);
        change::carry(&model, std::slice::from_ref(&plan), args.commit.commit(), &bar)?;
    }
    tell(&model, &[plan], !args.dry_run.dry_run, args.json.json)
}

/// Lays pieces end to end: no container is looked into, so any file comes back byte for byte.
fn join_pieces(args: &Args, globals: &Globals, pieces: &Pieces) -> Result<ExitCode> {
    match args.dry_run.dry_run {
        true => pieces.check()?,
        false => {
            let _made = make_output_folder(args.output.as_deref(), 1)?;
            pieces.join(args.commit.commit(), &Bar::new(globals, pieces.len()))?;
        }
    }
    let (output, bytes) = (pieces.output.display().to_string(), pieces.len());
    let inputs: Vec<String> = pieces.inputs.iter().map(Input::name).collect();
    if args.json.json {
        json::print(&serde_json::json!({
            "schema_version": VERSION,
            "inputs": inputs,
            "written": !args.dry_run.dry_run,
            "outputs": [{ "file": output, "bytes": bytes }],
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let verb = if args.dry_run.dry_run { "would write" } else { "wrote" };
    let (count, bytes) = (inputs.len(), size::text(bytes));
    let said = format!("{verb} {output}  {bytes}  of {count} pieces, byte for byte\n");
    print_folded(&said)?;
    Ok(ExitCode::SUCCESS)
}
