//! `regguf compare`: the same or different, and how.

use std::{path::PathBuf, process::ExitCode};

use super::{
    Globals, json, print,
    progress::Bar,
    remark,
    runner::PrecisionArg,
    text::{folded, width},
};
use crate::{
    api,
    bytes::{
        read_text,
        replace::{check_target, write_small},
    },
    check::pair::{
        compare::compare,
        page::page,
        report::{Candidate, CompareReport, Side, verdict},
    },
    checkpoint::tokenizer::given,
    error::{Error, Result},
    infer::outputs,
    limits::Limits,
    model::{Model, Stated},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 0: the same weights and outputs; 1: something differs.

Examples:
  regguf compare ggml-model-q4_0.bin ggml-model-q4_0.gguf
  regguf compare llama.gguf --lora alpaca.gguf merged.gguf
  regguf compare f16.gguf q8_0.gguf q4_0.gguf --text wiki.test.raw
  regguf compare f16.gguf q4_0.gguf --text wiki.test.raw --html report.html")]
#[allow(missing_docs, reason = "the fields are documented for the person")]
pub struct Args {
    /// The reference: a file of any era, or the folder of a checkpoint
    reference: PathBuf,
    /// The models to compare with it
    #[arg(required = true)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    lora: super::lora::LoraArgs,
    /// Run the models over this text and compare what they say
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Read at most N tokens of the text
    #[arg(long, value_name = "N", default_value_t = 2048, requires = "text")]
    tokens: usize,
    /// Take the vocabulary for the text from this tokenizer.model or tokenizer.json, or from the one in this folder
    #[arg(long, value_name = "FILE|DIR", requires = "text")]
    vocab: Option<PathBuf>,
    /// Write one self-contained page with plots
    #[arg(long, value_name = "OUT")]
    html: Option<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    open: super::open::OpenArgs,
    #[command(flatten)]
    force: super::common::ForceArg,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Runs it.
///
/// ```text
/// each other model   weights, keys and vocabularies are compared as the files have them
///                    with a text: both are run over it, cut into tokens by the reference's vocabulary
/// exit code          1 where any of them differs in what matters ([`Candidate::same`])
/// ```
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    // Names that lead to no file are not mended: the other file may be the one that would be taken. What is said of the
    // reference counts where a file may be of two formats.
    let open = |path: &PathBuf| match api::open(path) {
        Err(Error::Unknown { .. }) => args.open.open_any(path, &Stated::default()),
        opened => opened,
    };
    let mut reference = args.open.open_any(&args.reference, &Stated::default())?;
    args.lora.add_to(&mut reference, &Stated::default())?;
    let mut reference_side = side(&reference);
    let text = args.text.as_ref().map(|p| read_text(p)).transpose()?;
    let models = args.models.iter().map(open).collect::<Result<Vec<_>>>()?;
    // Of the reference for the text alone: what the files hold is compared as they hold it.
    let mut reader = reference.clone();
    if let Some(vocab) = &args.vocab {
        reader.vocab = given::read(vocab, &Limits::DEFAULT)?;
    }
    args.html.iter().try_for_each(|page| check_target(page, args.force.existing(), &[]))?;
    let mut candidates = Vec::new();
    let bar = Bar::new(globals, 0);
    for model in models {
        let comparison = compare(&reference, &model, &bar)?;
        let outputs = match &text {
            Some(text) => {
                let precision = args.precision.activations;
                Some(outputs::compare(&reader, &model, text, args.tokens, precision, &bar)?)
            }
            None => None,
        };
        let mut side = side(&model);
        if let Some(outputs) = outputs.as_ref().filter(|outputs| outputs.cosine.is_none()) {
            reference_side.perplexity = Some(outputs.first);
            side.perplexity = Some(outputs.second);
        }
        let verdict = verdict(&comparison, outputs.as_ref());
        candidates.push(Candidate { side, verdict, comparison, outputs });
    }
    drop(bar);
    let report = CompareReport { schema_version: 1, reference: reference_side, candidates };
    if let Some(path) = &args.html {
        write_small(path, page(&report).as_bytes(), args.force.existing())?;
        remark(globals, &format!("wrote {}", path.display()));
    }
    match args.json.json {
        true => json::print(&report)?,
        false => {
            print(&folded(&report.text(globals.detail(), width())))?;
            if report.is_cut(globals.detail()) {
                remark(globals, "note: -v lists every tensor");
            }
        }
    }
    let same = report.candidates.iter().all(Candidate::same);
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A model without what running it shows.
fn side(model: &Model) -> Side {
    Side {
        name: model.files.first().map(crate::bytes::Input::name).unwrap_or_default(),
        format: model.format.clone(),
        bytes: model.data_bytes(),
        perplexity: None,
    }
}
