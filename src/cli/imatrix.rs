//! `regguf imatrix`: which columns of each matrix matter, for `quantize --imatrix`.

use std::{fs, path::PathBuf, process::ExitCode};

use super::{
    Globals, remark,
    runner::{Loaded, with_threads},
};
use crate::{
    bytes::replace::{check_interrupt, write_small},
    error::{Error, Result},
    infer::{Importance, Session, Special, Want, perplexity::windows},
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf imatrix model-f16.gguf -f calibration.txt
  regguf imatrix -m model-f16.gguf -f calibration.txt --chunks 100 -o imatrix.dat
  regguf quantize --imatrix imatrix.gguf model-f16.gguf IQ3_XXS       what it is for")]
pub struct Args {
    /// The model: a file of any era, or the first of a set
    #[arg(value_name = "MODEL", required_unless_present = "named")]
    model: Option<PathBuf>,
    /// The same, as llama-imatrix takes it
    #[arg(short = 'm', long = "model", value_name = "MODEL", conflicts_with = "model")]
    named: Option<PathBuf>,
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// Where to write: `.dat` in the format of 2024, anything else as GGUF
    #[arg(short, long, value_name = "OUT", default_value = "imatrix.gguf")]
    output: PathBuf,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    /// Tokens in a window
    #[arg(short, long = "ctx-size", value_name = "N", default_value_t = 512)]
    context: u32,
    /// Read only the first N windows
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Number of threads, as --threads
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    t: Option<u16>,
}

/// Reads the text window by window and writes what was seen.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    with_threads(args.t, || collect(args, globals))
}

fn collect(args: &Args, globals: &Globals) -> Result<ExitCode> {
    crate::bytes::replace::check_target(&args.output, args.force, &[])?;
    let path = args.model.as_ref().or(args.named.as_ref());
    let path = path.ok_or_else(|| Error::Usage("which model?".to_owned()))?;
    let loaded = Loaded::open(path, globals)?;
    let text = fs::read_to_string(&args.file).map_err(|e| Error::io(&args.file, "read", e))?;
    let tokens = loaded.tokenizer.encode_whole(&text, Special::Text);
    let context = usize::try_from(args.context).unwrap_or(0).max(1);
    let most = args.chunks.unwrap_or(usize::MAX);
    let windows: Vec<_> =
        windows(&tokens, context, loaded.tokenizer.leading_bos()).take(most).collect();
    if windows.is_empty() {
        return Err(Error::Usage(format!(
            "the text has {} tokens, fewer than one window of {context}: give a longer text or a \
             smaller -c",
            tokens.len()
        )));
    }
    let mut importance = Importance::default();
    let mut session = Session::tapped(&loaded.weights, context, &mut importance);
    for window in &windows {
        check_interrupt()?;
        session.truncate(0);
        session.read(window, Want::Last, |_, _| {})?;
    }
    drop(session);
    let dataset = args.file.display().to_string();
    let count = u32::try_from(windows.len()).unwrap_or(u32::MAX);
    let bytes = match args.output.extension().is_some_and(|e| e == "dat") {
        true => importance.to_dat(&dataset, count, args.context),
        false => importance.to_gguf(&dataset, count, args.context)?,
    };
    write_small(&args.output, &bytes, args.force)?;
    let (matrices, output) = (importance.len(), args.output.display());
    remark(globals, &format!("{output}: {matrices} matrices over {count} windows"));
    Ok(ExitCode::SUCCESS)
}
