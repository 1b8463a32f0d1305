//! `regguf split`: a GGUF file into shards, as llama-gguf-split makes them.

use std::{num::NonZero, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    Globals,
    json::{self, VERSION},
    print, print_folded,
    progress::Bar,
    text,
    write::make_output_folder,
};
use crate::{
    bytes::Input,
    change::{
        self, Plan,
        split::{self, Most, Options},
    },
    cli::advice,
    container,
    error::Result,
    model::{Model, loader},
    size,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf split model.gguf --max-size 50G
  regguf split model.gguf shards/model --max-tensors 128 --dry-run
  regguf split old-00001-of-00009.gguf new --max-size 4G

The shards have the names and bytes that llama-gguf-split gives them; `regguf join` makes the \
file of them again, byte for byte. A tensor larger than --max-size has a shard of its own.")]
pub struct Args {
    /// The GGUF file; of a set, its first file
    input: PathBuf,
    /// The beginning of the shards' names, or a folder for them [default: the input's own name]
    output: Option<PathBuf>,
    /// The same, as most verbs have it
    #[arg(
        short = 'o',
        long = "output",
        value_name = "OUT",
        hide = true,
        conflicts_with = "output"
    )]
    named: Option<PathBuf>,
    /// Tensors that a shard holds at most
    #[arg(long, alias = "split-max-tensors", value_name = "N", default_value = "128")]
    max_tensors: NonZero<u64>,
    /// Bytes of tensors that a shard holds at most (4G, 700M)
    #[arg(long, alias = "split-max-size", value_name = "SIZE", conflicts_with = "max_tensors")]
    max_size: Option<String>,
    /// Give the first shard the metadata alone
    #[arg(long, alias = "no-tensor-first-split")]
    bare_first: bool,
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
    // A size goes before the number of tensors, which has a default.
    let most = match &args.max_size {
        Some(text) => Most::Bytes(size::read(text)?),
        None => Most::Tensors(args.max_tensors.get()),
    };
    let model = container::open(&args.input, &args.open.options())?;
    let output = args.output.as_ref().or(args.named.as_ref());
    let options = Options { output: output.cloned(), most, bare_first: args.bare_first };
    let plans = split::split(&model, &options)?;
    if !args.dry_run.dry_run {
        let _made = make_output_folder(output.map(PathBuf::as_path), 1)?;
        let bar = Bar::new(globals, plans.iter().map(|plan| plan.layout.total).sum());
        change::carry(&model, &plans, args.commit.commit(), &bar)?;
    }
    tell(&model, &plans, !args.dry_run.dry_run, args.json.json)
}

/// What was made of a model, tensors as they are.
#[derive(Serialize)]
struct Made {
    schema_version: u32,
    inputs: Vec<String>,
    written: bool,
    outputs: Vec<File>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct File {
    file: String,
    tensors: usize,
    bytes: u64,
}

/// Prints which files were made, or would be.
///
/// What today's llama.cpp would refuse the model for is told, too: it is then no fault of the cut.
pub(super) fn tell(model: &Model, plans: &[Plan], written: bool, json: bool) -> Result<ExitCode> {
    let file = |plan: &Plan| File {
        file: plan.output.display().to_string(),
        tensors: plan.steps.len(),
        bytes: plan.layout.total,
    };
    let made = Made {
        schema_version: VERSION,
        inputs: model.files.iter().map(Input::name).collect(),
        written,
        outputs: plans.iter().map(file).collect(),
        notes: plans
            .iter()
            .flat_map(|plan| plan.notes.iter())
            .map(advice::note)
            .chain(loader::objections(model))
            .collect(),
    };
    if json {
        json::print(&made)?;
        return Ok(ExitCode::SUCCESS);
    }
    let verb = if written { "wrote" } else { "would write" };
    let row = |file: &File| {
        let tensors = text::counted(file.tensors, "tensor", "tensors");
        vec![verb.to_owned(), file.file.clone(), size::text(file.bytes), tensors]
    };
    print(&text::table(&made.outputs.iter().map(row).collect::<Vec<_>>()))?;
    made.notes.iter().try_for_each(|note| print_folded(&format!("note: {note}\n")))?;
    Ok(ExitCode::SUCCESS)
}
