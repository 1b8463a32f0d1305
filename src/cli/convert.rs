//! `regguf convert`: raw weights and any other model into GGUF or an older container, and back.

use std::{path::PathBuf, process::ExitCode};

use super::{
    Globals, json, open::input, print_folded, progress::Bar, remark, text,
    write::make_output_folder,
};
use crate::{
    change::{
        self, Plan,
        convert::{self, Options},
        export,
        report::Report,
    },
    check::pair::prove::proof,
    checkpoint,
    cli::advice,
    error::{Error, Result},
    model::{Model, Stated},
};

/// Convert raw weights, or any model, to GGUF, an older container or safetensors
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf convert models/7B/
  regguf convert models/7B/ --type f16,q4_k_m,q8_0
  regguf convert Mistral-7B-v0.1/ -o mistral.gguf --type bf16
  regguf convert pytorch_model.bin.index.json --dry-run
  regguf convert llama-7b-hf/ --lora alpaca-lora.gguf -o alpaca.gguf --type q4_0
  regguf convert llama-7b-hf/ --delta vicuna-7b-delta-v1.1/ -o vicuna.gguf
  regguf convert ggml-model-q4_0.bin --to safetensors -o llama-hf/

IN is a folder with consolidated.*.pth, *.safetensors or pytorch_model*.bin, an index, one shard, or any \
model file that regguf reads. OUT is a file, or a folder for names by GGUF's naming convention; by \
default such a name in the folder of IN, and for Meta's folders ggml-model-f16.gguf, as in 2023. Types \
are auto (as stored), f32, f16, bf16, q8_0 and those of quantize. Formats are gguf-v3, gguf-v3-be, gguf-v2, gguf-v1, ggjt-v3, ggjt-v2, ggjt-v1, ggmf-v1, ggml \
and safetensors.")]
pub struct Args {
    /// What to convert
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// 0 for f32, 1 for f16, as convert-pth-to-ggml.py took it
    #[arg(hide = true, value_name = "FTYPE")]
    file_type: Option<PathBuf>,
    /// The type of the weights; several make several files from one reading
    #[arg(
        long = "type",
        alias = "outtype",
        value_name = "TYPE,TYPE",
        value_delimiter = ',',
        default_value = "auto",
        value_parser = super::words::Words(super::words::types), hide_possible_values = true
    )]
    types: Vec<String>,
    /// Leave out tensors of raw weights whose names this regular expression finds
    #[arg(long, value_name = "REGEX")]
    drop: Option<regex::Regex>,
    /// Quantize again what is quantized already
    #[arg(long)]
    allow_requantize: bool,
    #[command(flatten)]
    lora: super::lora::LoraArgs,
    #[command(flatten)]
    delta: super::lora::DeltaArgs,
    #[command(flatten)]
    open: super::open::OpenArgs,
    #[command(flatten)]
    write: super::write::WriteArgs,
}

/// Runs it.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let input = input(&args.input, globals);
    let types = types(args)?;
    let stated = args.write.stated.stated();
    // Read, then added to, then converted: what an adapter or a difference changes is made while rows are read.
    let raw = checkpoint::is_checkpoint(&input)?;
    let model = if raw {
        let drop = args.drop.clone();
        let mut options = checkpoint::Options { drop, ..checkpoint::Options::of(&stated) };
        // Blocks cannot be added to: with an adapter or a difference, packed matrices are decoded.
        let added = args.lora.is_any() || args.delta.delta.is_some();
        options.blocks = !added && convert::keeps_blocks(&types, args.write.to.as_deref());
        if args.delta.has_tokens()? {
            // Its own tokens are not asked for.
            options.misfit = checkpoint::Misfit::Leave;
        }
        checkpoint::open(&input, &options)?
    } else {
        args.open.open(&input)?
    };
    let mut model = args.delta.added_to(model, &stated, args.write.dry_run())?;
    args.lora.add_to(&mut model, &stated)?;
    if args.write.to.as_deref() == Some("safetensors") {
        return export(args, model, &stated, globals);
    }
    let options = Options {
        types,
        upgrade: args.write.options(),
        output: args.write.output.clone(),
        folder: convert::folder_of(&input),
        allow_requantize: args.allow_requantize,
        ..Options::default()
    };
    let (model, plans) = convert::plan(model, &options)?;
    let outcomes = if args.write.dry_run() {
        Vec::new()
    } else {
        let _made = make_output_folder(args.write.output.as_deref(), plans.len())?;
        let bar = Bar::new(globals, plans.iter().map(|p| p.layout.total).sum());
        change::carry_proved(
            &model,
            &plans,
            args.write.commit(),
            &bar,
            &proof(&model, args.write.proof(), &bar),
        )?
    };
    let report =
        |(i, plan): (usize, &Plan)| advice::report(Report::new(&model, plan, outcomes.get(i)));
    let reports: Vec<Report> = plans.iter().enumerate().map(report).collect();
    if args.write.json() {
        json::print(&reports)?;
    } else {
        for report in &reports {
            print_folded(&report.text(globals.detail(), text::width()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The types that were asked for, by flag or as the first script of 2023 took them.
fn types(args: &Args) -> Result<Vec<String>> {
    let Some(word) = &args.file_type else { return Ok(args.types.clone()) };
    match (word.to_str(), args.types.as_slice()) {
        // convert-pth-to-ggml.py took 0 for f32 and 1 for f16.
        (Some("0"), [auto]) if auto == "auto" => Ok(vec!["f32".to_owned()]),
        (Some("1"), [auto]) if auto == "auto" => Ok(vec!["f16".to_owned()]),
        _ => {
            let (input, word) = (args.input.display(), word.display());
            Err(Error::usage(format!(
                "convert takes one model: `regguf convert {input} -o {word}` names the output, --type {word} a type"
            )))
        }
    }
}

/// A Hugging Face checkpoint.
fn export(args: &Args, model: Model, stated: &Stated, globals: &Globals) -> Result<ExitCode> {
    // A folder holds one set of weights.
    let [dtype] = args.types.as_slice() else {
        return Err(Error::usage("--to safetensors: one --type at a time".to_owned()));
    };
    if args.write.prove {
        return Err(Error::usage(
            "--prove: run the folder beside its source with compare".to_owned(),
        ));
    }
    let folder = args.write.output.clone().unwrap_or_else(|| export::folder_beside(&args.input));
    let mut export = export::plan(model, folder, &dtype.to_lowercase(), stated)?;
    export.keep_nan = args.write.keep_nan;
    advice::word(export.notes.iter_mut());
    export.notes.iter().for_each(|note| remark(globals, note));
    if !args.write.dry_run() {
        export.write(args.write.commit(), &Bar::new(globals, export.total()))?;
    }
    let mut names: Vec<&str> = export.files.iter().map(|(name, _)| *name).collect();
    names.push("model.safetensors");
    if args.write.json() {
        let report = serde_json::json!({
            "schema_version": 1, "output": export.folder, "to": "safetensors", "files": names,
            "bytes": export.total(), "written": !args.write.dry_run(), "notes": export.notes,
        });
        return json::print(&report).map(|()| ExitCode::SUCCESS);
    }
    let verb = if args.write.dry_run() { "would write" } else { "wrote" };
    let (target, bytes) = (export.target(), crate::size::text(export.total()));
    let said = format!("{verb} {} ({bytes}): {}\n", target.display(), names.join(", "));
    print_folded(&said)?;
    Ok(ExitCode::SUCCESS)
}
