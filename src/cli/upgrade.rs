//! `regguf upgrade`: any old file to today's GGUF, and to older versions for those held on old builds.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use regex::Regex;

use super::{
    Globals, json, print_folded,
    progress::Bar,
    text,
    write::{check_not_made, make_output_folder},
};
use crate::{
    bytes::replace::Existing,
    change::{self, Plan, graft::Graft, report::Report, upgrade::Options},
    check::pair::{
        orders::Orders,
        prove::{Proof, proof, running},
        scrambled::Scrambled,
    },
    checkpoint::adapter,
    cli::advice,
    error::{Error, Result},
    limits::Limits,
    model::{Model, lora},
    remedy::Note,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf upgrade ggml-model-q4_0.bin
  regguf upgrade ggml-model-q4_0.bin --dry-run
  regguf upgrade llama-2-7b.ggmlv3.q4_K_M.bin --eps 1e-5 --context 4096
  regguf upgrade alpaca-lora.bin --base llama-7b.gguf --prove
  regguf upgrade talks-nonsense.gguf --repair-rows --dry-run
  regguf upgrade with-vision.gguf --drop '^(v|mm)\\.' -o text.gguf
  regguf upgrade model.gguf --to ggjt-v3 -o for-an-old-build.bin

Formats are gguf-v3, gguf-v3-be, gguf-v2, gguf-v1, ggjt-v3, ggjt-v2, ggjt-v1, ggmf-v1 and ggml.")]
pub struct Args {
    /// The model file; of a multi-part or sharded set, its first file
    input: PathBuf,
    /// Nothing: what is here was meant for -o or for a batch
    #[arg(hide = true)]
    rest: Vec<PathBuf>,
    /// Never round: what would be rounded becomes F32
    #[arg(long, conflicts_with = "clamp_scales")]
    exact: bool,
    /// Take the nearest f16 for scales outside its range
    #[arg(long)]
    clamp_scales: bool,
    /// Put rows of queries and keys in order that a converter left in another
    ///
    /// Such a model loads everywhere and talks nonsense, or only worse. It is run over a text in every order that a
    /// known fault explains (a dozen readings of 64 tokens), and written in the one that costs clearly least; where it is
    /// in order, or the text does not tell, it says so and writes nothing.
    #[arg(long, alias = "repair-key-rows")]
    repair_rows: bool,
    /// Write experts one by one, as llama.cpp from 13 December 2023 to 3 April 2024 read them
    #[arg(long)]
    split_experts: bool,
    /// Write attn_kv_b in place of attn_k_b and attn_v_b, as llama.cpp before 15 April 2025 read it
    #[arg(long)]
    join_kv_b: bool,
    /// Write the vision tensors of a model of Ollama's to a file of their own, as llama.cpp reads them
    #[arg(long, value_name = "FILE", conflicts_with = "prove")]
    mmproj: Option<PathBuf>,
    /// Leave out tensors whose names this regular expression finds
    #[arg(long, value_name = "REGEX")]
    drop: Vec<Regex>,
    /// Take the tensors of another GGUF whose names a regular expression finds
    #[arg(long, num_args = 2, value_names = ["OTHER", "REGEX"])]
    take_from: Vec<String>,
    #[command(flatten)]
    open: super::open::OpenArgs,
    #[command(flatten)]
    write: super::write::WriteArgs,
}

/// Runs it.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    one_file(&args.input, &args.rest)?;
    let model = change::adapter::open(&args.input, &args.open.options())
        .map_err(|error| args.open.told(&args.input, error))?;
    let mut options = Options {
        exact: args.exact,
        clamp_scales: args.clamp_scales,
        split_experts: args.split_experts,
        join_kv_b: args.join_kv_b,
        graft: graft(args)?,
        ..args.write.options()
    };
    let mut unproved = None;
    let orders = match orders(&model, &options, args.write.prove) {
        // Without a proof nothing depends on it.
        Err(error) if !args.write.prove => {
            let Note { text, remedy, .. } = Note::from(&error);
            let what = format!("which order of rows is right is not known: {text}");
            unproved = Some(Note::new(what, remedy));
            None
        }
        orders => orders?,
    };
    if let Some(orders) = orders.filter(|_| args.write.prove) {
        // Without a proof the names of tensors decide, and what the base says is told.
        options.stated.rows = options.stated.rows.or(Some(orders.better()));
    }
    // An adapter alone writes no text: of its file only the header is looked at again.
    let is_adapter = lora::is_foreign(&model);
    let (mut model, mut plan) = change::upgrade::plan(model, &options)?;
    plan.notes.extend(orders.map(|orders| orders.told(options.stated.rows)).or(unproved));
    if args.repair_rows {
        let found = Scrambled::find(&running(&model, &plan), &Bar::new(globals, 0))?;
        found.undo(&mut model)?;
        plan.notes.push(found.told());
    }
    let mut plans = vec![plan];
    if let (Some(path), Some(plan)) = (&args.mmproj, plans.first_mut()) {
        let projector = change::vision::take_out(&mut model, plan, path)?;
        plans.push(projector);
    }
    let outcomes = match args.write.dry_run() {
        true => Vec::new(),
        false => {
            // Before a weight is read: under a name that is made up here the same upgrade may be there already.
            let named = |plan: &Plan| args.write.output.as_ref() == Some(&plan.output);
            if args.write.commit().existing == Existing::Keep && !plans.iter().any(named) {
                plans.iter().try_for_each(|plan| check_not_made(plan, &args.input))?;
            }
            let _made = make_output_folder(args.write.output.as_deref(), 1)?;
            let bar = Bar::new(globals, plans.iter().map(|plan| plan.layout.total).sum());
            let asked = if is_adapter { Proof::Header } else { args.write.proof() };
            let proof = proof(&model, asked, &bar);
            change::carry_proved(&model, &plans, args.write.commit(), &bar, &proof)?
        }
    };
    let report =
        |(i, plan): (usize, &Plan)| advice::report(Report::new(&model, plan, outcomes.get(i)));
    let reports: Vec<Report> = plans.iter().enumerate().map(report).collect();
    match (args.write.json(), reports.as_slice()) {
        (true, [report]) => json::print(report)?,
        (true, reports) => json::print(&reports)?,
        (false, reports) => {
            for report in reports {
                print_folded(&report.text(globals.detail(), text::width()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Which tensors go and which come.
fn graft(args: &Args) -> Result<Graft> {
    let pair = |pair: &[String; 2]| {
        let wrong = |error| Error::usage(format!("--take-from … {}: {error}", pair[1]));
        Ok((PathBuf::from(&pair[0]), Regex::new(&pair[1]).map_err(wrong)?))
    };
    let take = args.take_from.as_chunks().0.iter().map(pair).collect::<Result<_>>()?;
    Ok(Graft { drop: args.drop.clone(), take })
}

/// What its base says of the rows of an old adapter; a proof wants one.
///
/// Two programs of 2023 wrote such files with rows in two orders and no mark; run over its model the right one says the
/// text with less surprise.
fn orders(model: &Model, options: &Options, proved: bool) -> Result<Option<Orders>> {
    if !lora::is_foreign(model) || !proved && options.stated.base.is_none() {
        return Ok(None);
    }
    let Some(base) = &options.stated.base else {
        let what = "--prove: an adapter is run over its model: name it with --base".to_owned();
        return Err(Error::usage(what));
    };
    Orders::of(model, &change::adapter::base(base, &model.limits)?)
}

/// Refuses several words and folders, with what was meant.
fn one_file(input: &Path, rest: &[PathBuf]) -> Result<()> {
    let shown = input.display();
    if let [second, ..] = rest {
        let all: Vec<String> = rest.iter().map(|path| path.display().to_string()).collect();
        let next = match rest.iter().all(|path| path.is_file()) {
            true => {
                format!("`regguf batch upgrade {shown} {}` upgrades all of them", all.join(" "))
            }
            false => format!("`regguf upgrade {shown} -o {}` names the output", second.display()),
        };
        return Err(Error::usage(format!("upgrade takes one model: {next}")));
    }
    if !input.is_dir() || adapter::is_adapter(input, &Limits::DEFAULT)? {
        return Ok(());
    }
    let next = format!(
        "`regguf batch upgrade {shown}` takes the models in it, `regguf convert {shown}` raw weights"
    );
    Err(Error::refused(format!("{shown}: is a folder"), next))
}
