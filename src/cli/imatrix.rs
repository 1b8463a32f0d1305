//! `regguf imatrix`: which columns of each matrix matter, for `quantize --imatrix`.

use std::{path::PathBuf, process::ExitCode};

use super::{
    Globals,
    json::{self, VERSION},
    progress::Tokens,
    remark,
    runner::{WindowArgs, with_threads},
};
use crate::{
    bytes::{
        Input,
        replace::{check_interrupt, check_target, write_small},
    },
    container::imatrix::{Importance, Measured},
    error::{Error, Result},
    infer::{Session, Want, perplexity::windows},
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf imatrix model-f16.gguf -f calibration.txt
  regguf imatrix -m model-f16.gguf -f calibration.txt --chunks 100 -o imatrix.dat
  regguf quantize --imatrix imatrix.gguf model-f16.gguf IQ3_XXS       what it is for")]
pub struct Args {
    #[command(flatten)]
    windows: WindowArgs,
    /// Where to write: `.dat` in the format of 2024, anything else as GGUF
    #[arg(short, long, value_name = "OUT", default_value = "imatrix.gguf")]
    output: PathBuf,
    #[command(flatten)]
    force: super::common::ForceArg,
    #[command(flatten)]
    json: super::common::JsonArg,
}

/// Reads the text window by window and writes what was seen.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    with_threads(args.windows.t.t, || collect(args, globals))
}

fn collect(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let (loaded, tokens) = args.windows.open(globals)?;
    check_target(&args.output, args.force.force, &[])?;
    let context = args.windows.window();
    let bos = loaded.tokenizer.leading_bos();
    let windows: Vec<_> = windows(&tokens, context, bos).take(args.windows.most()).collect();
    if windows.is_empty() {
        return Err(Error::Usage(format!(
            "the text has {} tokens, fewer than one window of {context}: give a longer text or a \
             smaller -c",
            tokens.len()
        )));
    }
    let mut measured = Measured::default();
    let mut session = Session::tapped(&loaded.weights, context, &mut measured);
    let bar = Tokens::new(globals, windows.len().saturating_mul(context));
    for window in &windows {
        check_interrupt()?;
        session.truncate(0);
        session.read(window, Want::Last, |_, _| {})?;
        bar.advance(window.len());
    }
    drop((session, bar));
    let dataset = args.windows.file.display().to_string();
    let count = u32::try_from(windows.len()).unwrap_or(u32::MAX);
    let bytes = match args.output.extension().is_some_and(|e| e == "dat") {
        true => measured.to_dat(&dataset, count, args.windows.context)?,
        false => measured.to_gguf(&dataset, count, args.windows.context)?,
    };
    // As quantize will read it.
    Importance::of(&Input::memory(&args.output, bytes.clone()))?;
    write_small(&args.output, &bytes, args.force.force)?;
    let (matrices, output) = (measured.len(), args.output.display());
    if args.json.json {
        let report = serde_json::json!({
            "schema_version": VERSION, "output": output.to_string(), "matrices": matrices,
            "windows": count, "tokens": count.saturating_mul(args.windows.context),
        });
        return json::print(&report).map(|()| ExitCode::SUCCESS);
    }
    remark(globals, &format!("{output}: {matrices} matrices over {count} windows"));
    Ok(ExitCode::SUCCESS)
}
