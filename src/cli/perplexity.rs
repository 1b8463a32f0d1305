//! `regguf perplexity`: how well a model predicts a text, with llama-perplexity's windows.

use std::{fs, path::PathBuf, process::ExitCode};

use super::{
    Globals, print,
    runner::{Loaded, with_threads},
};
use crate::{
    error::{Error, Result},
    infer::{Special, perplexity::perplexity},
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf perplexity ggml-model-q4_0.bin -f wiki.test.raw              an old file, as it is
  regguf perplexity download.gguf -f wiki.test.raw --chunks 4         does it still make sense?
  for m in models/*.gguf; do regguf perplexity $m -f wiki.test.raw --chunks 8; done")]
pub struct Args {
    /// The model: a file of any era, or the first of a set
    #[arg(value_name = "MODEL", required_unless_present = "named")]
    model: Option<PathBuf>,
    /// The same, as llama-perplexity takes it
    #[arg(short = 'm', long = "model", value_name = "MODEL", conflicts_with = "model")]
    named: Option<PathBuf>,
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// Tokens in a window
    #[arg(short, long = "ctx-size", value_name = "N", default_value_t = 512)]
    context: usize,
    /// Score only the first N windows
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Number of threads, as --threads
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    t: Option<u16>,
}

/// Prints the running estimate and the final one with its error.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    with_threads(args.t, || score(args, globals))
}

fn score(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let path = args.model.as_ref().or(args.named.as_ref());
    let path = path.ok_or_else(|| Error::Usage("which model?".to_owned()))?;
    let loaded = Loaded::open(path, globals)?;
    let text = fs::read_to_string(&args.file).map_err(|e| Error::io(&args.file, "read", e))?;
    let tokens = loaded.tokenizer.encode_whole(&text, Special::Text);
    let bos = loaded.tokenizer.leading_bos();
    let most = args.chunks.unwrap_or(usize::MAX);
    let mut n = 0;
    let estimate = perplexity(&loaded.weights, &tokens, args.context, bos, most, |estimate| {
        n += 1;
        print(&format!("[{n}]{:.4},", estimate.value))?;
        std::io::Write::flush(&mut std::io::stdout()).map_err(|e| Error::io("<stdout>", "write", e))
    })?;
    let (value, error) = (estimate.value, estimate.error);
    print(&format!("\nFinal estimate: PPL = {value:.4} +/- {error:.5}\n"))?;
    Ok(ExitCode::SUCCESS)
}
