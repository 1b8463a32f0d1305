//! `regguf run`: text from any model file, old or new.

use std::{
    io::{self, BufRead, IsTerminal, Read, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{Globals, print_said, remark, runner::Loaded};
use crate::{
    bytes::{input::TEXT, read_text, replace::check_interrupt},
    error::{Error, Result},
    infer::{Sampler, Sampling, Session, Special, Template, Want, tokenizer::StreamDecoder},
};

/// What the person typed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf run -m ggml-model-q4_0.bin -p \"Building a website can be done in 10 simple steps:\" -n 512
  regguf run -m model.gguf -f prompt.txt --temp 0 -n 64     the likeliest tokens, always
  regguf run -m llama-7b.gguf --lora alpaca.gguf -n 64    an adapter over its model
  regguf run -m model.gguf --interactive                    a conversation")]
pub struct Args {
    /// The model: a file of any era, the first of a set, or a folder
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    /// Text to go on from
    #[arg(short, long, value_name = "TEXT", default_value = "", conflicts_with = "file")]
    prompt: String,
    /// Read the prompt from a file
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
    /// How many tokens are recent
    #[arg(long, value_name = "N", default_value_t = 64)]
    repeat_last_n: usize,
    /// The same seed gives the same text [default: the clock]
    #[arg(short, long, value_name = "SEED")]
    seed: Option<u64>,
    /// Tokens that fit, prompt included [default: what the model was made for]
    #[arg(short, long = "ctx-size", value_name = "N")]
    context: Option<usize>,
    /// Number of threads, as --threads
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    t: Option<u16>,
    #[command(flatten)]
    lora: super::lora::LoraArgs,
    #[command(flatten)]
    stated: super::stated::StatedArgs,
}

/// What was spent on what.
#[derive(Default)]
struct Timing {
    load: Duration,
    prompt: (Duration, usize),
    eval: (Duration, usize),
}

/// Writes text, or talks.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    super::runner::with_threads(args.t, || write(args, globals))
}

fn write(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let begun = Instant::now();
    let loaded = Loaded::open(&args.model, &args.lora, &args.stated.stated(), globals)?;
    let seed = args.seed.unwrap_or_else(clock);
    let context = args.context.unwrap_or(loaded.weights.config.context);
    let prompt = match &args.file {
        Some(path) => {
            // Editors end a file with a line break; llama.cpp's main drops one too.
            let text = read_text(path)?;
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
    let mut writer = Writer {
        loaded: &loaded,
        session: Session::new(&loaded.weights, context),
        sampler: Sampler::new(sampling),
        timing: Timing { load: begun.elapsed(), ..Timing::default() },
        room: usize::try_from(args.n_predict).unwrap_or(usize::MAX),
    };
    let done = match args.interactive {
        true => writer.talk(&prompt),
        false => writer.go_on(&prompt),
    };
    print_said("\n")?;
    remark(globals, &writer.timing.to_string(begun.elapsed()));
    match done {
        Err(Error::Interrupted) => Ok(ExitCode::from(130)),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

struct Writer<'a> {
    loaded: &'a Loaded,
    session: Session<'a>,
    sampler: Sampler,
    timing: Timing,
    /// Tokens to write in one go.
    room: usize,
}

impl Writer<'_> {
    fn go_on(&mut self, prompt: &str) -> Result<()> {
        let mut tokens = self.loaded.tokenizer.read(prompt)?;
        // A model without a beginning-of-text token cannot start from nothing.
        if tokens.is_empty() {
            tokens.extend(self.loaded.tokenizer.bos().or(self.loaded.tokenizer.eos()));
        }
        print_said(prompt)?;
        self.answer(&tokens, StreamDecoder::continuing(), None).map(|_| ())
    }

    fn talk(&mut self, system: &str) -> Result<()> {
        let template = Template::of(self.loaded.chat_template.as_deref());
        let tokenizer = &self.loaded.tokenizer;
        let mut system = Some(system).filter(|text| !text.is_empty());
        let mut before: Vec<u32> = tokenizer.leading_bos().into_iter().collect();
        let mut lines = io::stdin().lock().take(TEXT).lines();
        loop {
            if io::stdin().is_terminal() {
                print_said("\n> ")?;
                let _ = io::stdout().flush();
            }
            let Some(line) = lines.next() else { return Ok(()) };
            let line = line.map_err(|e| Error::io("<stdin>", "read", e))?;
            if line.trim().is_empty() {
                continue;
            }
            before.extend(tokenizer.encode(&template.turn(system.take(), &line), Special::Token));
            let last = self.answer(&before, StreamDecoder::continuing(), template.stop())?;
            before = vec![last];
            print_said("\n")?;
        }
    }

    /// Reads `tokens` and writes what follows; answers the last token, which is not read yet.
    fn answer(
        &mut self,
        tokens: &[u32],
        mut decoder: StreamDecoder,
        stop: Option<&str>,
    ) -> Result<u32> {
        let tokenizer = &self.loaded.tokenizer;
        let begun = Instant::now();
        for token in tokens {
            self.sampler.accept(*token);
        }
        let mut logits = Vec::new();
        self.session.read(tokens, Want::Last, |_, found| logits = found.to_vec())?;
        self.timing.prompt.0 += begun.elapsed();
        self.timing.prompt.1 += tokens.len();
        let begun = Instant::now();
        let mut said = String::new();
        let mut token = self.sampler.choose(&logits);
        for n in 0..self.room {
            check_interrupt()?;
            if tokenizer.ends(token) {
                break;
            }
            let text = decoder.push(tokenizer, token);
            print_said(&text)?;
            let _ = io::stdout().flush();
            said += &text;
            self.sampler.accept(token);
            let full = self.session.cache().free() == 0;
            if n + 1 == self.room || full || stop.is_some_and(|stop| said.ends_with(stop)) {
                break;
            }
            self.session.read(&[token], Want::Last, |_, found| logits.copy_from_slice(found))?;
            token = self.sampler.choose(&logits);
            self.timing.eval.1 += 1;
        }
        print_said(&decoder.finish())?;
        self.timing.eval.0 += begun.elapsed();
        Ok(token)
    }
}

impl Timing {
    /// Lines as users of llama.cpp know them.
    fn to_string(&self, total: Duration) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let line = |(time, tokens): (Duration, usize)| {
            let each = ms(time) / tokens.max(1) as f64;
            let rate = tokens as f64 / time.as_secs_f64().max(1e-9);
            format!(
                "{:10.2} ms / {tokens:5} tokens ({each:8.2} ms per token, {rate:8.2} tokens per second)",
                ms(time)
            )
        };
        format!(
            "       load time = {:10.2} ms\nprompt eval time = {}\n       eval time = {}\n      total time = {:10.2} ms",
            ms(self.load),
            line(self.prompt),
            line(self.eval),
            ms(total)
        )
    }
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| u64::from(time.subsec_nanos()) ^ time.as_secs())
}
