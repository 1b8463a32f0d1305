//! `regguf perplexity`: how well a model predicts a text, with llama-perplexity's windows.

use std::{io, io::Write, process::ExitCode};

use super::{
    Globals,
    json::{self, VERSION},
    print,
    progress::Tokens,
    remark,
    runner::{HintArgs, WindowArgs, with_threads},
    text,
};
use crate::{
    error::{Error, Result},
    infer::{Perplexity, perplexity::perplexity},
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf perplexity ggml-model-q4_0.bin -f wiki.test.raw
  regguf perplexity download.gguf -f wiki.test.raw --chunks 4   is it sound?
  for m in *.gguf; do regguf perplexity $m -f wiki.test.raw --chunks 8; done")]
pub struct Args {
    #[command(flatten)]
    windows: WindowArgs,
    #[command(flatten)]
    hints: HintArgs,
    #[command(flatten)]
    json: super::common::JsonArg,
    #[command(flatten)]
    t: super::common::ThreadsArg,
}

/// Prints the running estimate and the final one with its error.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    with_threads(args.t.t, || score(args, globals))
}

///
/// ```text
/// [1]5.1234,[2]5.6789,…                    the estimate after each window, as llama-perplexity prints it
/// Final estimate: PPL = 5.6789 +/- 0.03    exp of the mean surprise a token, and its standard error
/// ```
fn score(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let json = args.json.json;
    let (loaded, tokens) = args.windows.open(&args.hints, globals)?;
    let args = &args.windows;
    let bos = loaded.tokenizer.leading_bos();
    remark(globals, &format!("arithmetic {}", args.precision.activations.words()));
    let (mut n, mut column) = (0, 0);
    let screen = text::width().unwrap_or(usize::MAX);
    let all = tokens.len().min(args.most().saturating_mul(args.window()));
    let mut bar = Some(Tokens::new(globals, all));
    let after_each = |estimate: Perplexity| {
        n += 1;
        if json {
            bar.iter().for_each(|bar| bar.advance(args.window()));
            return Ok(());
        }
        // From the first on, the running estimates tell people how far it is.
        bar = None;
        let shown = format!("[{n}]{:.4},", estimate.value);
        // One line for programs, as llama-perplexity prints it; on a terminal no figure is broken.
        let broken = column > 0 && column + shown.len() > screen;
        column = if broken { shown.len() } else { column + shown.len() };
        print(&format!("{}{shown}", if broken { "\n" } else { "" }))?;
        io::stdout().flush().map_err(|e| Error::io("<stdout>", "write", e))
    };
    let window = args.window();
    let estimate = perplexity(&loaded.weights, &tokens, window, bos, args.most(), after_each)?;
    let (value, error) = (estimate.value, estimate.error);
    if json {
        let data = serde_json::json!({
            "schema_version": VERSION, "perplexity": value, "error": error, "chunks": n,
            "activations": args.precision.activations,
        });
        return json::print(&data).map(|()| ExitCode::SUCCESS);
    }
    print(&format!("\nFinal estimate: PPL = {value:.4} +/- {error:.5}\n"))?;
    Ok(ExitCode::SUCCESS)
}
