//! The tensors of a model by what they do, at the place where they lie.

use super::{
    Config,
    config::{Position, not_run},
    finder::{Finder, band, missing},
    layer::{
        Linear,
        attention::Attention,
        experts::{Mlp, Shared},
        latent::Latent,
        mlp::FeedForward,
        norm::Norm,
        recurrence::{ChannelMix, TimeMix},
    },
    matrix::{Matrix, Precision},
    numbers::Numbers,
};
use crate::{
    bytes::{Input, map},
    error::{Error, Result},
    format::{arithmetic::MlpKind, catalog, family::Family},
    model::{
        Model, Tensor,
        role::{Naming, Role, expert_of, scaled_by},
    },
};

/// All weights of a model. Matrices stay in the mapped files; vectors are copied.
#[derive(Debug)]
pub struct Weights {
    /// The name of the model's first file.
    pub name: String,
    /// Sizes and choices.
    pub config: Config,
    /// A row for each token.
    pub embedding: Matrix,
    /// A row for each position, where positions are learned.
    pub positions: Option<Matrix>,
    /// Added to every token's vector, where texts have types: that of a first text.
    pub text_type: Vec<f32>,
    /// Norm of the embedding, where there is one.
    pub embedding_norm: Option<Norm>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// What follows the last layer; none where a text becomes vectors.
    pub head: Option<Head>,
    /// The files that are mapped.
    files: Vec<Input>,
    /// Bytes that one pass over all of them reads.
    bytes: u64,
}

/// From the stream to the next token.
#[derive(Debug)]
pub struct Head {
    /// The last norm.
    pub norm: Norm,
    /// A row for each token; the embedding again where a file has no `output.weight`.
    pub output: Linear,
}

/// The weights of one layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before attention, or behind the stream that has it; none where neither is.
    pub attention_norm: Option<Norm>,
    /// How tokens learn of those before them.
    pub mixing: Mixing,
    /// Norm of what attention made.
    pub attention_post_norm: Option<Norm>,
    /// Norm before the feed-forward part, or behind the stream that has it; none where it shares that of attention, or
    /// neither is.
    pub mlp_norm: Option<Norm>,
    /// What follows.
    pub after: After,
    /// Norm of what that made.
    pub mlp_post_norm: Option<Norm>,
}

/// How tokens learn of those before them.
#[derive(Debug)]
pub enum Mixing {
    /// They attend to keys and values.
    Attention(Attention),
    /// They attend to short vectors.
    Latent(Latent),
    /// From a state.
    Recurrence(TimeMix),
}

/// What follows in a layer.
#[derive(Debug)]
pub enum After {
    /// One feed-forward part, or experts.
    Mlp(Mlp),
    /// A part that sees the vector before, too.
    Channels(Box<ChannelMix>),
}

impl Weights {
    /// The weights of `model`.
    ///
    /// # Errors
    /// Where its family is not one that is run; where a tensor is missing, has another shape than the
    /// model's sizes say, or cannot be mapped.
    pub fn new(model: &Model) -> Result<Weights> {
        Weights::computed(model, Precision::Exact)
    }

    /// The weights of `model`, multiplied at this precision.
    ///
    /// # Errors
    /// As [`Weights::new`].
    pub fn computed(model: &Model, precision: Precision) -> Result<Weights> {
        let model = &model.readable();
        model.check_decodable()?;
        model.check_unturned()?;
        let said = model.metadata.str("general.architecture").unwrap_or(&model.format);
        let family = catalog::family(&model.family).ok_or_else(|| not_run(said))?;
        Weights::of(model, family, precision)
    }

    /// The same of a `model` that is of `family`.
    ///
    /// # Errors
    /// As [`Weights::new`].
    pub fn of(model: &Model, family: &'static Family, precision: Precision) -> Result<Weights> {
        // `output.weight` has one name in two namings; the tensors of layers tell them apart.
        let naming = |t: &Tensor| {
            let (naming, role) = Role::find(family, &t.name)?;
            role.layer.map(|_| naming)
        };
        let naming = model.tensors.iter().find_map(naming).unwrap_or(Naming::Gguf);
        // What has a part in a model's arithmetic that is not known here must not be left out in silence.
        let known = |t: &&Tensor| {
            let ignored = |end: &String| t.name.ends_with(end.as_str());
            let scaled = scaled_by(&t.name);
            Role::find(family, scaled.as_ref().unwrap_or(&t.name)).is_some()
                || expert_of(&t.name).is_some()
                || family.family.ignored.iter().any(ignored)
        };
        if let Some(tensor) = model.tensors.iter().find(|t| !known(t)) {
            let (name, title) = (&tensor.name, &family.family.title);
            let what = format!("{name}: what {title} computes with it is not known here");
            return Err(Error::unsupported(
                what,
                "inspect, verify and compare work without running",
            ));
        }
        let rows = |id: &str| {
            let role = Role::first(family.roles.get(id)?);
            Some(role.tensor(model, naming)?.rows())
        };
        let config = Config::new(model, family, rows)?;
        let Config { width, vocab, layers, .. } = config;
        // A file is mapped when the first matrix in it is asked for.
        let maps = vec![None; model.files.len()];
        let mut finder = Finder { model, maps, family, naming, config, precision };
        let recurrent = finder.config.position == Position::Recurrent;
        let layer = |n| if recurrent { finder.recurrent_layer(n) } else { finder.layer(n) };
        let layers = (0..layers).map(layer).collect::<Result<_>>()?;
        // Every shape is held against the sizes as it is taken: what runs needs no further check.
        let embedding = finder.matrix("token_embedding", None, vocab, width)?;
        let positions = match finder.has("position_embedding", None) {
            true => {
                let tensor = finder.found("position_embedding", None)?;
                let rows = usize::try_from(tensor.rows()).unwrap_or(0);
                Some(finder.load(&tensor, rows, width)?)
            }
            false => None,
        };
        let text_type = match finder.tensor("token_types", None) {
            Some(tensor) => finder.numbers(&tensor)?.get(..width).unwrap_or_default().to_vec(),
            None => Vec::new(),
        };
        let head = match finder.config.whole_text {
            true => None,
            false => Some(finder.head(&embedding)?),
        };
        let embedding_norm = finder.some_norm("embedding_norm", None)?;
        // LLaMA 3.1 and later: what each pair's turn is divided by, worked out by the converter.
        if let Some(tensor) = model.tensor("rope_freqs.weight") {
            let factors = finder.numbers(tensor)?;
            finder.config.position = finder.config.position.divided(&factors)?;
        }
        let [short, long] = ["short", "long"].map(|kind| format!("rope_factors_{kind}.weight"));
        // Phi-3: two sets of such numbers, of which the length of the context chooses.
        if let (Some(short), Some(long)) = (model.tensor(&short), model.tensor(&long)) {
            let (short, long) = (finder.numbers(short)?, finder.numbers(long)?);
            let numbers = Numbers::of(family, &model.metadata);
            let trained = match numbers.u64("rope.scaling.original_context_length") {
                Some(_) => numbers.size("rope.scaling.original_context_length", 1 << 32)?,
                None => finder.config.context,
            };
            finder.config.position = finder.config.position.reaching(&short, &long, trained)?;
        }
        let mapped = model.files.iter().zip(&finder.maps).filter(|(_, map)| map.is_some());
        let files = mapped.map(|(file, _)| file.clone()).collect();
        let (config, bytes) = (finder.config, model.data_bytes());
        Ok(Weights {
            name: model.files.first().map(Input::name).unwrap_or_default(),
            config,
            embedding,
            positions,
            text_type,
            embedding_norm,
            layers,
            head,
            files,
            bytes,
        })
    }

    /// Bytes of one of the equal steps of a pass: each layer is one, the head another.
    pub fn step_bytes(&self) -> u64 {
        self.bytes / (self.layers.len() as u64 + 1)
    }

    /// Bytes of all steps of a pass.
    pub fn pass_bytes(&self) -> u64 {
        self.step_bytes() * (self.layers.len() + usize::from(self.head.is_some())) as u64
    }

    /// Whether the files still hold what they held; asked before anything computed is handed out.
    ///
    /// # Errors
    /// [`Error::Changed`] where one was written to meanwhile.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(map::check)
    }
}

impl Finder<'_> {
    /// The last norm and the output matrix: the embedding again where a file has none, as models with tied weights.
    fn head(&mut self, embedding: &Matrix) -> Result<Head> {
        let Config { width, vocab, .. } = self.config;
        let matrix = match self.tensor("output", None) {
            Some(tensor) => self.load(&tensor, vocab, width)?,
            None => embedding.clone(),
        };
        let bias = self.bias("output", None, vocab)?;
        // The output matrix is left out of importance, as llama-imatrix leaves it out.
        let output = Linear { name: None, expert: (0, 1), matrix, bias };
        Ok(Head { norm: self.norm("final_norm", None)?, output })
    }

    /// Four matrices, `[heads * head][width]` (query), `[kv_heads * head][width]` (key, value) and
    /// `[width][heads * head]` (out), with the norms of heads that some families have.
    fn attention(&mut self, n: usize) -> Result<Attention> {
        let Config { width, heads, kv_heads, head, .. } = self.config;
        let at = Some(n as u64);
        let [query, key, value] = self.query_key_value(at)?;
        let out = self.linear("attention_out", at, width, heads * head)?;
        Ok(Attention {
            query,
            key,
            value,
            query_norm: self.head_norm("query_norm", at, heads)?,
            key_norm: self.head_norm("key_norm", at, kv_heads)?,
            sinks: match self.family.roles.contains_key("sinks") {
                true => self.vector(&self.found("sinks", at)?, heads)?,
                false => Vec::new(),
            },
            out,
        })
    }

    /// Attention over short vectors, from which every head makes its key and its value.
    fn latent(&mut self, n: usize) -> Result<Latent> {
        let Config { width, heads, head, .. } = self.config;
        let (at, count) = (Some(n as u64), |n: u64| usize::try_from(n).unwrap_or(0));
        let weight = self.vector_of("short_norm", at)?;
        let short = weight.len();
        let [keys, values] = ["key_of_short", "value_of_short"].map(|role| self.by_head(role, n));
        let (keys, values) = (keys?, values?);
        // Of each head: [short][still] from its still query to the short vector, [value][short] from there to the
        // value.
        let still = keys.first().map_or(0, |keys| keys.matrix.cols);
        let fits =
            |linear: &Linear, rows, cols| (linear.matrix.rows, linear.matrix.cols) == (rows, cols);
        let value = values.first().map_or(0, |values| values.matrix.rows);
        if short >= head
            || !keys.iter().all(|keys| fits(keys, short, still))
            || !values.iter().all(|values| fits(values, value, short))
        {
            return Err(missing(&format!(
                "matrices of fitting shapes in the attention of layer {n}"
            )));
        }
        // head is the row of `short`: the short vector and, behind it, the part of the key that turns, one for all
        // heads.
        // A head's key is then `still` numbers of its own and those.
        let whole = heads * (still + head - short);
        // Larger models make their queries of a short vector too.
        let (query_short, query) = match self.tensor("query_short", at) {
            Some(tensor) => {
                let rows = count(tensor.rows());
                let norm = Norm { weight: self.vector_of("query_norm", at)?, bias: Vec::new() };
                if norm.weight.len() != rows {
                    return Err(missing(&format!("a fitting norm of queries in layer {n}")));
                }
                let to_short = self.linear("query_short", at, rows, width)?;
                (Some((to_short, norm)), self.linear("query_of_short", at, whole, rows)?)
            }
            None => (None, self.linear("query", at, whole, width)?),
        };
        Ok(Latent {
            query_short,
            query,
            short: self.linear("short", at, head, width)?,
            short_norm: Norm { weight, bias: Vec::new() },
            keys,
            values,
            out: self.linear("attention_out", at, width, heads * value)?,
        })
    }

    /// All numbers of a vector.
    fn vector_of(&self, role: &str, at: Option<u64>) -> Result<Vec<f32>> {
        let tensor = self.found(role, at)?;
        self.numbers(&tensor)
    }

    /// The matrices of a stack, one for each head.
    fn by_head(&mut self, role: &str, n: usize) -> Result<Vec<Linear>> {
        let (at, heads) = (Some(n as u64), self.config.heads);
        let tensor = self.found(role, at)?;
        let [rows, cols] =
            [tensor.rows(), tensor.row_len()].map(|n| usize::try_from(n).unwrap_or(0));
        let all = self.linear(role, at, rows, cols)?;
        // Stacked as `[heads][rows of one][columns]`: a head's matrix is a band of rows.
        let each = rows / heads.max(1);
        let part = |h: usize| {
            let one = band(&all, all.name.clone(), h * each..(h + 1) * each)?;
            Ok(Linear { expert: (h, heads), ..one })
        };
        (0..heads).map(part).collect()
    }

    /// One layer: attention and what follows it, with the norms that the file has.
    fn layer(&mut self, n: usize) -> Result<Layer> {
        let at = Some(n as u64);
        let mixing = match self.config.latent {
            true => Mixing::Latent(self.latent(n)?),
            false => Mixing::Attention(self.attention(n)?),
        };
        // Falcon of 40 billion weights has a norm for each part, and calls the one of attention the second.
        let (attention_norm, mlp_norm) = match self.some_norm("attention_norm_2", at)? {
            Some(norm) => (Some(norm), Some(self.norm("attention_norm", at)?)),
            None => (self.some_norm("attention_norm", at)?, self.some_norm("ffn_norm", at)?),
        };
        let described = self.family.roles.contains_key("ffn_norm");
        if !self.config.parallel && described && mlp_norm.is_none() {
            return Err(missing(&format!("the tensor ffn_norm of layer {n}")));
        }
        Ok(Layer {
            attention_norm,
            mixing,
            attention_post_norm: self.some_norm("attention_post_norm", at)?,
            mlp_norm,
            after: After::Mlp(self.mlp(n)?),
            mlp_post_norm: self.some_norm("ffn_post_norm", at)?,
        })
    }

    /// A layer that keeps a state in place of keys and values.
    fn recurrent_layer(&mut self, n: usize) -> Result<Layer> {
        let (width, at) = (self.config.width, Some(n as u64));
        let rows = |role: &Tensor| usize::try_from(role.rows()).unwrap_or(0);
        // Of RWKV no header says how wide the parts are inside: the matrices do.
        let (inner, between) = (rows(&self.found("key", at)?), rows(&self.found("up", at)?));
        // Shares of mixing have a number for each of the stream's, decay and first one for each of the state's.
        let share = |role, len| self.vector(&self.found(role, at)?, len);
        let [mix_key, mix_value, mix_receptance, mix_up, mix_gate] =
            ["mix_key", "mix_value", "mix_receptance", "mix_up", "mix_gate"]
                .map(|role| share(role, width));
        let [decay, first] = ["time_decay", "time_first"].map(|role| share(role, inner));
        Ok(Layer {
            attention_norm: Some(self.norm("attention_norm", at)?),
            attention_post_norm: None,
            mixing: Mixing::Recurrence(TimeMix {
                mix_key: mix_key?,
                mix_value: mix_value?,
                mix_receptance: mix_receptance?,
                decay: decay?,
                first: first?,
                key: self.linear("key", at, inner, width)?,
                value: self.linear("value", at, inner, width)?,
                receptance: self.linear("receptance", at, inner, width)?,
                out: self.linear("attention_out", at, width, inner)?,
            }),
            mlp_norm: Some(self.norm("ffn_norm", at)?),
            after: After::Channels(Box::new(ChannelMix {
                mix_up: mix_up?,
                mix_gate: mix_gate?,
                gate: self.linear("gate", at, width, width)?,
                up: self.linear("up", at, between, width)?,
                down: self.linear("down", at, width, between)?,
            })),
            mlp_post_norm: None,
        })
    }

    /// Queries, keys and values, each a matrix: three of their own, or bands of one.
    fn query_key_value(&mut self, at: Option<u64>) -> Result<[Linear; 3]> {
        let Config { width, heads, kv_heads, head, .. } = self.config;
        let (q, kv) = (heads * head, kv_heads * head);
        if !self.config.joined {
            return Ok([
                self.linear("query", at, q, width)?,
                self.linear("key", at, kv, width)?,
                self.linear("value", at, kv, width)?,
            ]);
        }
        let all = self.linear("query_key_value", at, q + 2 * kv, width)?;
        // What goes into the three is counted once.
        Ok([
            band(&all, all.name.clone(), 0..q)?,
            band(&all, None, q..q + kv)?,
            band(&all, None, q + kv..q + 2 * kv)?,
        ])
    }

    fn mlp(&mut self, n: usize) -> Result<Mlp> {
        let (width, at) = (self.config.width, Some(n as u64));
        if let Some(router) = self.tensor("router", at) {
            if self.config.experts_used == 0 {
                return Err(missing("the number of experts, which is not said"));
            }
            let count = usize::try_from(router.rows()).unwrap_or(0);
            let router = self.linear("router", at, count, width)?;
            let (parts, shared) = (self.experts(n, count)?, self.shared(at)?);
            let shift = match self.tensor("router_shift", at) {
                Some(tensor) => self.vector(&tensor, count)?,
                None => Vec::new(),
            };
            return Ok(Mlp { router: Some(router), shift, parts, shared });
        }
        let rows = usize::try_from(self.found("up", at)?.rows()).unwrap_or(0);
        let up = self.linear("up", at, rows, width)?;
        let (gate, up) = match self.config.mlp {
            MlpKind::Gated => (Some(self.linear("gate", at, rows, width)?), up),
            // What goes into the two is counted once.
            MlpKind::GatedJoined => {
                (Some(band(&up, up.name.clone(), 0..rows / 2)?), band(&up, None, rows / 2..rows)?)
            }
            MlpKind::Plain => (None, up),
        };
        let down = self.linear("down", at, width, up.matrix.rows)?;
        Ok(Mlp {
            router: None,
            shift: Vec::new(),
            parts: vec![FeedForward { gate, up, down }],
            shared: None,
        })
    }

    /// The expert that every token is sent to, where layers of the family have one.
    fn shared(&mut self, at: Option<u64>) -> Result<Option<Box<Shared>>> {
        let width = self.config.width;
        let Some(up) = self.tensor("shared_up", at) else { return Ok(None) };
        let rows = usize::try_from(up.rows()).unwrap_or(0);
        let router = self.tensor("shared_router", at).is_some();
        let router = router.then(|| self.linear("shared_router", at, 1, width)).transpose()?;
        let part = FeedForward {
            gate: Some(self.linear("shared_gate", at, rows, width)?),
            up: self.linear("shared_up", at, rows, width)?,
            down: self.linear("shared_down", at, width, rows)?,
        };
        Ok(Some(Box::new(Shared { part, router })))
    }

    /// The experts of layer `n`: stacked in one tensor of three dimensions, or (until April 2024) one
    /// tensor each.
    fn experts(&mut self, n: usize, count: usize) -> Result<Vec<FeedForward>> {
        let width = self.config.width;
        let mut parts: [Vec<Linear>; 3] = Default::default();
        for (out, kind) in parts.iter_mut().zip(["gate", "up", "down"]) {
            let name = format!("blk.{n}.ffn_{kind}_exps.weight");
            let linear = |expert, matrix| Linear {
                name: Some(name.clone()),
                expert: (expert, count),
                matrix,
                bias: Vec::new(),
            };
            // [experts][rows][columns]
            let stacked = self.tensor(&format!("{kind}_experts"), Some(n as u64));
            if let Some(tensor) = stacked {
                let cols = usize::try_from(tensor.row_len()).unwrap_or(0);
                let rows = usize::try_from(tensor.rows()).unwrap_or(0);
                let all = self.load(&tensor, rows, cols)?;
                let each = rows / count.max(1);
                let scales = self.scales(&tensor, count)?;
                let biases = match self.tensor(&format!("{kind}_experts_bias"), Some(n as u64)) {
                    Some(tensor) => self.vector(&tensor, rows)?,
                    None if self.family.roles.contains_key(&format!("{kind}_experts_bias")) => {
                        return Err(missing(&format!("the biases of {name}")));
                    }
                    None => Vec::new(),
                };
                out.extend((0..count).map(|e| {
                    let rows = e * each..(e + 1) * each;
                    let bias = biases.get(rows.clone()).unwrap_or_default().to_vec();
                    let scale = scales.get(e).copied().unwrap_or(1.0);
                    Linear { bias, ..linear(e, all.band(rows).times(scale)) }
                }));
            } else {
                for e in 0..count {
                    let name = format!("blk.{n}.ffn_{kind}.{e}.weight");
                    let tensor = self.model.tensor(&name).cloned();
                    let tensor = tensor.ok_or_else(|| missing(&name))?;
                    let rows = usize::try_from(tensor.rows()).unwrap_or(0);
                    let cols = usize::try_from(tensor.row_len()).unwrap_or(0);
                    out.push(linear(e, self.load(&tensor, rows, cols)?));
                }
            }
        }
        let [gates, ups, downs] = parts;
        let mut experts = Vec::with_capacity(count);
        for ((gate, up), down) in gates.into_iter().zip(ups).zip(downs) {
            // gate and up: [inner][width]; down: [width][inner].
            let [g, u, d] = [&gate, &up, &down].map(|l| (l.matrix.rows, l.matrix.cols));
            if (g, u, d) != ((g.0, width), (g.0, width), (width, g.0)) {
                return Err(missing(&format!("experts of fitting shapes in layer {n}")));
            }
            experts.push(FeedForward { gate: Some(gate), up, down });
        }
        Ok(experts)
    }
}
