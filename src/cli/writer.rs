//! A model that writes: reads a prompt, chooses token after token, prints them as they come.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use super::{print_said, runner::Loaded};
use crate::{
    bytes::replace::check_interrupt,
    error::Result,
    infer::{Sampler, Sampling, Session, Want, tokenizer::StreamDecoder},
};

/// What was spent on what.
#[derive(Default)]
pub struct Timing {
    /// Opening the model.
    pub load: Duration,
    /// Reading, and how many tokens.
    prompt: (Duration, usize),
    /// Writing, and how many tokens.
    eval: (Duration, usize),
}

/// A model that writes, with all that it read and wrote before.
pub struct Writer<'a> {
    /// What writes.
    pub loaded: &'a Loaded,
    session: Session<'a>,
    sampler: Sampler,
    sampling: Sampling,
    context: usize,
    /// The token that ends a text is never chosen.
    pub ignore_eos: bool,
    /// What was spent so far.
    pub timing: Timing,
    /// Tokens to write in one go.
    room: usize,
}

impl<'a> Writer<'a> {
    /// One that has read nothing, and writes up to `room` tokens in one go.
    pub fn new(loaded: &'a Loaded, sampling: Sampling, context: usize, room: usize) -> Self {
        Writer {
            loaded,
            session: Session::new(&loaded.weights, context),
            sampler: Sampler::new(sampling),
            sampling,
            context,
            ignore_eos: false,
            timing: Timing::default(),
            room,
        }
    }

    /// Writes `prompt` and what follows it.
    pub fn go_on(&mut self, prompt: &str) -> Result<()> {
        let mut tokens = self.loaded.tokenizer.read(prompt)?;
        // A model without a beginning-of-text token cannot start from nothing.
        if tokens.is_empty() {
            tokens.extend(self.loaded.tokenizer.bos().or(self.loaded.tokenizer.eos()));
        }
        print_said(prompt)?;
        self.answer(&tokens, StreamDecoder::continuing(), &[]).map(|_| ())
    }

    /// Begins anew, with nothing read.
    pub fn forget(&mut self) {
        self.session = Session::new(&self.loaded.weights, self.context);
        self.sampler = Sampler::new(self.sampling);
    }

    /// Reads `tokens` and writes what follows, up to one of `stops`. Returns the last token, which is not
    /// read yet, and the text.
    pub fn answer(
        &mut self,
        tokens: &[u32],
        mut decoder: StreamDecoder,
        stops: &[String],
    ) -> Result<(u32, String)> {
        let loaded: &'a Loaded = self.loaded;
        let tokenizer = &loaded.tokenizer;
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
        let mut token = self.choose(&mut logits);
        // Ends at the token that ends a text, at as many tokens as were asked for, where the cache is full, or at a
        // stop.
        for n in 0..self.room {
            check_interrupt()?;
            if tokenizer.ends(token) {
                break;
            }
            // A letter may be of several tokens: the decoder holds bytes back until it is whole.
            let text = decoder.push(tokenizer, token);
            print_said(&text)?;
            let _ = io::stdout().flush();
            said += &text;
            self.sampler.accept(token);
            let full = self.session.cache().free() == 0;
            if n + 1 == self.room || full || stops.iter().any(|stop| said.ends_with(stop)) {
                break;
            }
            self.session.read(&[token], Want::Last, |_, found| logits.copy_from_slice(found))?;
            token = self.choose(&mut logits);
            self.timing.eval.1 += 1;
        }
        print_said(&decoder.finish())?;
        self.timing.eval.0 += begun.elapsed();
        Ok((token, said))
    }

    /// The next token.
    fn choose(&mut self, logits: &mut [f32]) -> u32 {
        if self.ignore_eos {
            for (token, logit) in (0..).zip(logits.iter_mut()) {
                if self.loaded.tokenizer.ends(token) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        self.sampler.choose(logits)
    }
}

impl Timing {
    /// Lines as users of llama.cpp know them.
    pub fn to_string(&self, total: Duration) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let line = |(time, tokens): (Duration, usize)| {
            if tokens == 0 || ms(time) < 0.01 {
                // No rate is to be had of nothing.
                return format!("{:10.2} ms / {tokens:5} tokens", ms(time));
            }
            // Milliseconds a token, which llama.cpp tells too, would take the line beyond 80 columns.
            let rate = tokens as f64 / time.as_secs_f64();
            format!("{:10.2} ms / {tokens:5} tokens, {rate:8.2} tokens per second", ms(time))
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
