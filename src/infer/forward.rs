//! The forward pass: tokens in, logits out.
//!
//! Shapes are written `[T][width]`: T vectors of `width` numbers, one after another. T is the number
//! of tokens evaluated together; which tokens share a batch changes no result.

use std::ops::Range;

use super::{
    Config, Weights,
    awake::awake,
    buffer::Buffer,
    cache::{Cache, Texts},
    dot::scaled,
    layer::{Tap, Tapped, add, capped, norm::Norm},
    weights::{After, Head, Mixing},
};
use crate::{
    bytes::{Progress, replace::check_interrupt},
    error::{Error, Result},
    remedy::{Call, Setting},
};

/// Tokens evaluated together: each row of weights is decoded once for all of them.
/// The stream of a width of 4096 is then 4 MB.
const BATCH: usize = 256;
/// Logits computed together, unless 32 positions have more.
/// 16 MB: of a vocabulary of 32,000 tokens 131 positions, of 128,000 the least, 32.
const LOGITS: usize = 4 << 20;

/// Which logits to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Want {
    /// Those after every token.
    All,
    /// Those after the last token.
    Last,
}

/// A text being read or written, or several side by side: the weights and the keys and values of the tokens so far.
///
/// ```text
/// Session::new(&weights, context)
///     .read(prompt, Want::Last, ..)     256 tokens at a time through all layers; logits of the last
///     .read(&[token], Want::Last, ..)   one token more, and so on
///     .truncate(n)                      goes back to the first n tokens
/// ```
pub struct Session<'w> {
    weights: &'w Weights,
    /// One for each text.
    caches: Vec<Cache>,
    /// Sees what goes into every matrix; none unless an imatrix is collected.
    tap: Tapped<'w>,
    /// Hears of a step's bytes after each layer, and after the head.
    progress: &'w dyn Progress,
}

impl Weights {
    /// Refuses a model that writes no text.
    ///
    /// # Errors
    /// Where it is one.
    pub fn check_writes(&self) -> Result<()> {
        self.head().map(|_| ())
    }

    /// What makes the next token.
    fn head(&self) -> Result<&Head> {
        self.head.as_ref().ok_or_else(|| {
            let what = "the model makes vectors of texts and no next token";
            Error::unsupported(
                what,
                Call::Compare.on("").with(Setting::Text).to("compare the vectors"),
            )
        })
    }
}

impl<'w> Session<'w> {
    /// An empty text of at most `context` tokens.
    ///
    /// `context` may be more than the model was made for; whether that makes sense is the caller's to know.
    pub fn new(weights: &'w Weights, context: usize) -> Session<'w> {
        let Config { layers, kv_heads, head, .. } = weights.config;
        let caches = vec![Cache::new(layers, kv_heads, head, context)];
        Session { weights, caches, tap: None, progress: &() }
    }

    /// The same for as many texts as fill a batch with `len` tokens each, to be read together
    /// ([`Session::read_each`]); at least one.
    #[must_use]
    pub fn side_by_side(mut self, len: usize) -> Session<'w> {
        let texts = (BATCH / len.max(1)).max(1);
        self.caches.truncate(1);
        let empty = self.caches.iter().cycle().take(texts).cloned().collect();
        Session { caches: empty, ..self }
    }

    /// How many texts it is for.
    pub fn texts(&self) -> usize {
        self.caches.len()
    }

    /// The same, and `progress` hears of the bytes of weights that are read.
    #[must_use]
    pub fn heard(self, progress: &'w dyn Progress) -> Session<'w> {
        Session { progress, ..self }
    }

    /// The same, with `tap` at every matrix.
    pub fn tapped(weights: &'w Weights, context: usize, tap: &'w mut dyn Tap) -> Session<'w> {
        Session { tap: Some(tap), ..Session::new(weights, context) }
    }

    /// Keys and values of the first text so far.
    pub fn cache(&self) -> &Cache {
        &self.caches[0]
    }

    /// Forgets all tokens from the `len`th of each text on.
    pub fn truncate(&mut self, len: usize) {
        self.caches.iter_mut().for_each(|cache| cache.truncate(len));
    }

    /// Reads `tokens` and hands the logits after each of them, or after the last, to `take` with the
    /// token's index in `tokens`.
    ///
    /// # Errors
    /// Where a token is not in the vocabulary, the context is full or the model returns NaN or infinity.
    pub fn read(
        &mut self,
        tokens: &[u32],
        want: Want,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let vocab = self.weights.config.vocab;
        self.read_many(tokens, want, |first, all| {
            (first..).zip(all.chunks_exact(vocab)).for_each(|(i, logits)| take(i, logits));
        })
    }

    /// As [`Session::read`], but hands on the logits after many tokens at a time, with the index of the
    /// first: `[T][vocab]`.
    ///
    /// After an error some of the tokens may have been read: [`Session::truncate`] goes back to where it was.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_many(
        &mut self,
        tokens: &[u32],
        want: Want,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.read_each(&[tokens], want, |_, first, logits| take(first, logits))
    }

    /// As [`Session::read_many`] with the tokens that come next in each text; `take` hears the number of the text first.
    ///
    /// ```text
    /// texts      a: 5 tokens, b: 3       a step is 256 / 2 = 128 tokens of each
    /// stream     [a0 a1 a2 a3 a4 b0 b1 b2][width]
    /// wanted     All: each of them       Last: a4, b2
    /// ```
    ///
    /// Texts share each reading of the weights, and not a bit of what comes out.
    ///
    /// # Errors
    /// As [`Session::read`].
    ///
    /// # Panics
    /// Where there are more texts than the session is for.
    pub fn read_each(
        &mut self,
        texts: &[&[u32]],
        want: Want,
        mut take: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        assert!(texts.len() <= self.caches.len(), "a cache for each text");
        self.check(texts)?;
        let config = &self.weights.config;
        let head = self.weights.head()?;
        let (width, vocab) = (config.width, config.vocab);
        // Each row of the head is decoded once for all of these.
        let many = (LOGITS / vocab.max(1)).clamp(32, BATCH);
        let step = (BATCH / texts.len().max(1)).max(1);
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        for from in (0..longest).step_by(step) {
            // A batch at a time: matrices are read once for all of its tokens.
            let parts: Vec<&[u32]> = texts
                .iter()
                .map(|text| &text[from.min(text.len())..text.len().min(from + step)])
                .collect();
            // A text that is shorter than others has an empty part here, and no place in the stream.
            let stream = awake(|| self.layers(&parts))?; // [T][width]
            // Of each vector the text and the token. The head is the largest matrix of a small model: unless all are
            // wanted, only the last token of a text needs it.
            let of_text =
                |(text, part): (usize, &&[u32])| (from..from + part.len()).map(move |t| (text, t));
            let tokens = parts.iter().enumerate().flat_map(of_text);
            let wanted =
                |(text, t): (usize, usize)| want == Want::All || t + 1 == texts[text].len();
            let (mut places, mut xs) = (Vec::new(), Vec::new()); // [wanted], [wanted][width]
            for (place, x) in
                tokens.zip(stream.chunks_exact(width)).filter(|(place, _)| wanted(*place))
            {
                places.push(place);
                xs.extend_from_slice(x);
            }
            if places.is_empty() {
                continue;
            }
            for (places, xs) in places.chunks(many).zip(xs.chunks(many * width)) {
                let tap = &mut self.tap;
                let logits = awake(|| {
                    let x = head.norm.of(config.norm, config.epsilon, xs); // [T][width]
                    let mut logits = head.output.of(&x, tap); // [T][vocab]
                    scaled(&mut logits, config.logit_scale);
                    capped(&mut logits, config.logit_cap);
                    logits
                });
                // A mapped file that was written to meanwhile gives numbers of neither version: none are handed out.
                self.weights.check_unchanged()?;
                self.check_finite(&logits)?;
                // One call a text: what is side by side belongs together only as far as the text is the same.
                let mut rest = &*logits;
                for same in places.chunk_by(|a, b| a.0 == b.0) {
                    let (logits, behind) = rest.split_at(same.len() * vocab);
                    take(same[0].0, same[0].1, logits);
                    rest = behind;
                }
            }
            self.progress.advance(self.weights.step_bytes());
        }
        Ok(())
    }

    /// What the last layer makes of each of `tokens`, which are a whole text where the model reads whole texts:
    /// `[T][width]`.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn vectors(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.check(&[tokens])?;
        let all = match self.weights.config.whole_text {
            // Every token sees those behind it: no part of the text can be read before the rest.
            true => awake(|| self.layers(&[tokens]))?.to_vec(),
            false => {
                let mut all = Vec::new();
                for batch in tokens.chunks(BATCH) {
                    all.extend(&*awake(|| self.layers(&[batch]))?);
                }
                all
            }
        };
        self.weights.check_unchanged()?;
        self.check_finite(&all)?;
        Ok(all)
    }

    /// One check behind the head is enough: NaN and infinity go through sums and products to the end.
    ///
    /// Refuses what no model that is whole returns.
    fn check_finite(&self, numbers: &[f32]) -> Result<()> {
        if numbers.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        let name = &self.weights.name;
        let what = format!("{name} returns NaN or infinity: its weights are damaged");
        let look = Call::Verify.on("").with(Setting::Deep);
        Err(Error::unsupported(what, look.to("look for them")))
    }

    /// Refuses tokens that are none, or more than there is place for.
    fn check(&self, texts: &[&[u32]]) -> Result<()> {
        let config = &self.weights.config;
        let learned = self.weights.positions.as_ref();
        for (tokens, cache) in texts.iter().zip(&self.caches) {
            // Learned positions end; computed ones do not.
            let known = learned.map_or(usize::MAX, |all| all.rows.saturating_sub(cache.len()));
            if tokens.len() > known {
                let what = format!("the model has learned {} positions", cache.len() + known);
                return Err(Error::unsupported(what, "give a shorter text"));
            }
            if tokens.len() > cache.free() {
                let (len, free) = (tokens.len(), cache.free());
                let what =
                    format!("{len} tokens do not fit into the {free} free places of the context");
                return Err(Error::unsupported(what, Setting::Window.to("give a larger context")));
            }
            if let Some(token) = tokens.iter().find(|t| **t as usize >= config.vocab) {
                let what = format!("token {token} is outside the {} of the model", config.vocab);
                return Err(Error::unsupported(
                    what,
                    "the vocabulary does not belong to these weights",
                ));
            }
        }
        Ok(())
    }

    /// The next tokens of each text through all layers: `[T][width]` out, text after text.
    fn layers(&mut self, parts: &[&[u32]]) -> Result<Buffer> {
        let Weights { config, layers, .. } = self.weights;
        // x = embedding; then for each layer, with what a family leaves out left out:
        //
        //     x = norm_after(x + scale * post(mixing(norm(x))))
        //     x = norm_after(x + scale * post(after(norm(x))))
        //
        // Where both parts are parallel they see the same x.
        // `after` is the feed-forward part or the experts; both norms are one tensor, of which a family says
        // where it is. A parallel layer without a second norm has both parts read the same normed vectors.
        let Config { norm, epsilon, parallel, norm_after, residual_scale, width, .. } = *config;
        let tap = &mut self.tap;
        let mut texts = Texts::of(&mut self.caches, parts.iter().map(|part| part.len()));
        let mut stream = embed(self.weights, &parts.concat(), &texts.positions()); // [T][width]
        for (n, layer) in layers.iter().enumerate() {
            check_interrupt()?;
            // What a part sees of the stream; families differ in whether norms are before it or behind.
            let seen = |before: Option<&Norm>, stream: &[f32]| match before.filter(|_| !norm_after)
            {
                Some(before) => before.of(norm, epsilon, stream),
                None => Buffer::from(stream),
            };
            // What it made, on its way to the stream.
            let made = |post: &Option<Norm>, mut made: Buffer| {
                if let Some(post) = post {
                    made = post.of(norm, epsilon, &made);
                }
                scaled(&mut made, residual_scale);
                made
            };
            // The stream with that.
            let normed = |after: Option<&Norm>, stream: Buffer| match after.filter(|_| norm_after) {
                Some(after) => after.of(norm, epsilon, &stream),
                None => stream,
            };
            let x = seen(layer.attention_norm.as_ref(), &stream); // [T][width]
            let attended = match &layer.mixing {
                Mixing::Attention(attention) => attention.of(config, n, &x, &mut texts, tap),
                Mixing::Latent(latent) => latent.of(config, n, &x, &mut texts, tap),
                Mixing::Recurrence(mix) => {
                    texts.each(|cache, at| mix.of(of_tokens(&x, &at, width), cache.state(n), tap))
                }
            }; // [T][width]
            let attended = made(&layer.attention_post_norm, attended);
            if !parallel {
                add(&mut stream, &attended);
                stream = normed(layer.attention_norm.as_ref(), stream);
            }
            let x = match &layer.mlp_norm {
                None if parallel => x,
                before => seen(before.as_ref(), &stream),
            }; // [T][width]
            let said = match &layer.after {
                After::Mlp(mlp) => mlp.of(config, &x, tap),
                After::Channels(mix) => texts.each(|cache, at| {
                    mix.of(config.activation, of_tokens(&x, &at, width), cache.state(n), tap)
                }),
            }; // [T][width]
            let said = made(&layer.mlp_post_norm, said);
            if parallel {
                add(&mut stream, &attended);
            }
            add(&mut stream, &said);
            stream = normed(layer.mlp_norm.as_ref(), stream);
            self.progress.advance(self.weights.step_bytes());
        }
        // Only now: an interrupted pass leaves keys and values behind the last position, where the next pass writes.
        texts.advance();
        Ok(stream)
    }
}

/// The vectors of tokens at these positions: `[T][width]` out.
///
/// ```text
/// x = embedding[token] * scale  (+ position)  (+ text type)  then a norm, where there is one
/// ```
fn embed(weights: &Weights, tokens: &[u32], at: &[usize]) -> Buffer {
    let Weights { config, embedding, positions, text_type, embedding_norm, .. } = weights;
    let mut stream = Buffer::of(tokens.len() * config.width);
    for (x, token) in stream.chunks_exact_mut(config.width).zip(tokens) {
        embedding.row(*token as usize, x);
    }
    scaled(&mut stream, config.embedding_scale);
    if let Some(positions) = positions {
        let mut vector = vec![0.0; config.width];
        for (at, x) in at.iter().zip(stream.chunks_exact_mut(config.width)) {
            positions.row(*at, &mut vector);
            add(x, &vector);
        }
    }
    if !text_type.is_empty() {
        stream.chunks_exact_mut(config.width).for_each(|x| add(x, text_type));
    }
    match embedding_norm {
        Some(norm) => norm.of(config.norm, config.epsilon, &stream),
        None => stream,
    }
}

/// Those of `[T][width]` that belong to these tokens.
fn of_tokens<'x>(x: &'x [f32], tokens: &Range<usize>, width: usize) -> &'x [f32] {
    &x[tokens.start * width..tokens.end * width]
}
