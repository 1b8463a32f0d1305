//! `regguf run`: text from any model file, old or new.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use super::{Globals, chat, open, print_said, remark, runner::Loaded, writer::Writer};
use crate::{
    bytes::{read_stdin, read_text},
    error::{Error, Result},
    infer::Sampling,
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf run ggml-model-q4_0.bin -p \"Building a website takes 10 steps:\" -n 512
  regguf run model.gguf -f prompt.txt --temp 0 -n 64   the likeliest tokens
  regguf run llama-7b.gguf --lora alpaca.gguf -n 64    an adapter over its model
  regguf run model.gguf --interactive                  a conversation
  regguf run model.gguf -r \"User:\" -f chat-with-bob.txt   as `main` took turns

Flags of llama.cpp's `main` that change nothing here (-ngl 32, --mlock, -b 512 …) are accepted.")]
pub struct Args {
    #[command(flatten)]
    model: open::ModelArg,
    /// Text to go on from
    #[arg(short, long, value_name = "TEXT", default_value = "", conflicts_with = "file")]
    prompt: String,
    /// Read the prompt from a file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tokens to write; -1 for as many as fit
    #[arg(
        short,
        long = "n-predict",
        value_name = "N",
        default_value_t = 128,
        allow_negative_numbers = true
    )]
    n_predict: i64,
    /// Talk turn by turn, by the file's chat template; the prompt is the system message
    #[arg(short, long)]
    interactive: bool,
    /// Let me write where the model wrote this; repeatable
    #[arg(short, long, value_name = "TEXT")]
    reverse_prompt: Vec<String>,
    /// Below 1 sharpens, above 1 flattens, 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temp: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Keep the likeliest tokens that together reach this share
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Keep tokens at least this share as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,
    /// Divide the logits of recent tokens; 1 for none
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repeat_penalty: f32,
    /// Never choose the token that ends a text
    #[arg(long)]
    ignore_eos: bool,
    /// How many tokens are recent
    #[arg(long, value_name = "N", default_value_t = 64)]
    repeat_last_n: usize,
    /// The same seed gives the same text [default: the clock]
    #[arg(short, long, value_name = "SEED")]
    seed: Option<u64>,
    /// Tokens that fit, prompt included [default: what the model was made for]
    #[arg(short, long = "ctx-size", value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    lora: super::lora::LoraArgs,
    #[command(flatten)]
    precision: super::runner::PrecisionArg,
    #[command(flatten)]
    hints: super::runner::HintArgs,
    #[command(flatten)]
    t: super::common::ThreadsArg,
}

/// Writes text, or talks.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    super::runner::with_threads(args.t.t, || write(args, globals))
}

///
/// What is written goes to stdout as it is made, all else to stderr: `regguf run … > story.txt` has the text alone.
fn write(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let begun = Instant::now();
    let path = args.model.path(globals)?;
    let precision = args.precision.activations;
    let loaded = Loaded::open(&path, &args.hints, &args.lora, precision, globals)?;
    loaded.weights.check_writes()?;
    let seed = args.seed.unwrap_or_else(clock);
    let context = args.context.unwrap_or(loaded.weights.config.context);
    let prompt = match &args.file {
        Some(path)
            if path.as_os_str() == "-" && (args.interactive || !args.reverse_prompt.is_empty()) =>
        {
            let what = "-f -: standard input is where you talk; put the prompt into a file";
            return Err(Error::usage(what.to_owned()));
        }
        Some(path) => {
            // Editors end a file with a line break; llama.cpp's main drops one too.
            let text = if path.as_os_str() == "-" { read_stdin()? } else { read_text(path)? };
            text.strip_suffix('\n').unwrap_or(&text).to_owned()
        }
        None => args.prompt.clone(),
    };
    let sampling = Sampling {
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        repeat_last: args.repeat_last_n,
        seed,
    };
    if args.temp > 0.0 {
        remark(globals, &format!("seed: {seed}"));
    }
    let room = usize::try_from(args.n_predict).unwrap_or(usize::MAX);
    let mut writer = Writer::new(&loaded, sampling, context, room);
    writer.ignore_eos = args.ignore_eos;
    writer.timing.load = begun.elapsed();
    let done = match args.interactive {
        _ if !args.reverse_prompt.is_empty() => {
            chat::by_reverse_prompt(&mut writer, &prompt, &args.reverse_prompt)
        }
        true => chat::by_template(&mut writer, &prompt, globals),
        false => writer.go_on(&prompt),
    };
    print_said("\n")?;
    remark(globals, &writer.timing.to_string(begun.elapsed()));
    match done {
        Err(Error::Interrupted) => Ok(ExitCode::from(130)),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// A seed that differs from run to run; it is told, so that a text can be had again.
fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| u64::from(time.subsec_nanos()) ^ time.as_secs())
}
