//! The tensors of a model by what they do, at the place where they lie.

use std::{ops::Range, sync::Arc};

use memmap2::Mmap;

use super::{
    Config,
    config::{Position, not_run},
    layer::{
        Linear,
        attention::Attention,
        experts::{Mlp, Shared},
        mlp::FeedForward,
        norm::Norm,
        recurrence::{ChannelMix, TimeMix},
    },
    matrix::{Bytes, Matrix, Product},
};
use crate::{
    bytes::{Input, map},
    error::{Error, Result},
    format::{
        arithmetic::MlpKind,
        catalog,
        family::{Bias, Family},
    },
    model::{
        Join, Model, Order, Piece, Tensor,
        role::{Naming, Role, expert_of},
        tensor::Term,
    },
    quant::{decode_rows, isa::Isa},
};

/// All weights of a model. Matrices stay in the mapped files; vectors are copied.
#[derive(Debug)]
pub struct Weights {
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

/// Finds tensors of one model.
struct Finder<'m> {
    model: &'m Model,
    maps: Vec<Option<Arc<Mmap>>>,
    family: &'static Family,
    naming: Naming,
    config: Config,
}

impl Weights {
    /// The weights of `model`.
    ///
    /// # Errors
    /// Where its family is not one that is run; where a tensor is missing, has another shape than the
    /// model's sizes say, or cannot be mapped.
    pub fn new(model: &Model) -> Result<Weights> {
        let model = &model.readable();
        model.check_decodable()?;
        let said = model.metadata.str("general.architecture").unwrap_or(&model.format);
        let family = catalog::family(&model.family).ok_or_else(|| not_run(said))?;
        Weights::of(model, family)
    }

    /// The weights of `model`, which is of `family`.
    ///
    /// # Errors
    /// As [`Weights::new`].
    pub fn of(model: &Model, family: &'static Family) -> Result<Weights> {
        // `output.weight` has one name in two namings; the tensors of layers tell them apart.
        let naming = |t: &Tensor| {
            let (naming, role) = Role::find(family, &t.name)?;
            role.layer.map(|_| naming)
        };
        let naming = model.tensors.iter().find_map(naming).unwrap_or(Naming::Gguf);
        // What has a part in a model's arithmetic that is not known here must not be left out in silence.
        let known = |t: &&Tensor| {
            let ignored = |end: &String| t.name.ends_with(end.as_str());
            Role::find(family, &t.name).is_some()
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
        let maps = vec![None; model.files.len()];
        let mut finder = Finder { model, maps, family, naming, config };
        let recurrent = finder.config.position == Position::Recurrent;
        let layer = |n| if recurrent { finder.recurrent_layer(n) } else { finder.layer(n) };
        let layers = (0..layers).map(layer).collect::<Result<_>>()?;
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
        if let Some(tensor) = model.tensor("rope_freqs.weight") {
            let factors = finder.numbers(tensor)?;
            finder.config.position = finder.config.position.divided(&factors)?;
        }
        let mapped = model.files.iter().zip(&finder.maps).filter(|(_, map)| map.is_some());
        let files = mapped.map(|(file, _)| file.clone()).collect();
        let config = finder.config;
        Ok(Weights { config, embedding, positions, text_type, embedding_norm, layers, head, files })
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

    fn layer(&mut self, n: usize) -> Result<Layer> {
        let Config { width, heads, kv_heads, head, .. } = self.config;
        let at = Some(n as u64);
        let [query, key, value] = self.query_key_value(at)?;
        let out = self.linear("attention_out", at, width, heads * head)?;
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
            mixing: Mixing::Attention(Attention {
                query,
                key,
                value,
                query_norm: self.head_norm("query_norm", at, heads)?,
                key_norm: self.head_norm("key_norm", at, kv_heads)?,
                out,
            }),
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
        let (inner, between) = (rows(&self.found("key", at)?), rows(&self.found("up", at)?));
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
            return Ok(Mlp { router: Some(router), parts, shared });
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
        Ok(Mlp { router: None, parts: vec![FeedForward { gate, up, down }], shared: None })
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
            let stacked = self.tensor(&format!("{kind}_experts"), Some(n as u64));
            if let Some(tensor) = stacked {
                let cols = usize::try_from(tensor.row_len()).unwrap_or(0);
                let rows = usize::try_from(tensor.rows()).unwrap_or(0);
                let all = self.load(&tensor, rows, cols)?;
                let each = rows / count.max(1);
                out.extend((0..count).map(|e| linear(e, all.band(e * each..(e + 1) * each))));
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
            let [g, u, d] = [&gate, &up, &down].map(|l| (l.matrix.rows, l.matrix.cols));
            if (g, u, d) != ((g.0, width), (g.0, width), (width, g.0)) {
                return Err(missing(&format!("experts of fitting shapes in layer {n}")));
            }
            experts.push(FeedForward { gate: Some(gate), up, down });
        }
        Ok(experts)
    }

    /// The tensor of a role, in the row order of ggml.
    fn tensor(&self, role: &str, layer: Option<u64>) -> Option<Tensor> {
        let role = self.role(role, layer)?;
        let mut tensor = role.tensor(self.model, self.naming)?.clone();
        if self.naming == Naming::Hf && role.names.rotary && tensor.orders.is_empty() {
            let Config { heads, kv_heads, .. } = self.config;
            let heads = if role.id == "query" { heads } else { kv_heads };
            let rows_per_head = tensor.rows().checked_div(heads as u64)?;
            tensor.orders.push(Order::PairsFromHalves { rows_per_head });
        }
        Some(tensor)
    }

    fn role(&self, role: &str, layer: Option<u64>) -> Option<Role> {
        let (id, names) = self.family.roles.get_key_value(role)?;
        Some(Role { id, names, layer, bias: false })
    }

    fn found(&self, role: &str, layer: Option<u64>) -> Result<Tensor> {
        let place = layer.map_or(String::new(), |n| format!(" of layer {n}"));
        let tensor = self.tensor(role, layer);
        tensor.ok_or_else(|| missing(&format!("the tensor {role}{place}")))
    }

    fn matrix(
        &mut self,
        role: &str,
        layer: Option<u64>,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix> {
        let tensor = self.found(role, layer)?;
        self.load(&tensor, rows, cols)
    }

    /// A matrix with its bias, where the file has one.
    fn linear(
        &mut self,
        role: &str,
        layer: Option<u64>,
        rows: usize,
        cols: usize,
    ) -> Result<Linear> {
        Ok(Linear {
            name: self.role(role, layer).and_then(|role| role.name(Naming::Gguf)),
            expert: (0, 1),
            matrix: self.matrix(role, layer, rows, cols)?,
            bias: self.bias(role, layer, rows)?,
        })
    }

    /// What is added to the products of a role's tensor: what the file has, and must have where the
    /// family says so.
    fn bias(&self, role: &str, layer: Option<u64>, len: usize) -> Result<Vec<f32>> {
        let Some(role) = self.role(role, layer) else { return Ok(Vec::new()) };
        let bias = Role { bias: true, ..role };
        match bias.tensor(self.model, self.naming) {
            Some(tensor) => self.vector(tensor, len),
            None if bias.names.bias == Bias::Always => Err(missing(&bias.title())),
            None => Ok(Vec::new()),
        }
    }

    /// `tensor` as a matrix: in the mapped files where its rows stand in order there, else copied.
    fn load(&mut self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Matrix> {
        if tensor.rows() != rows as u64 || tensor.row_len() != cols as u64 || rows == 0 || cols == 0
        {
            let (name, shape) = (&tensor.name, &tensor.shape);
            let what = format!("{name} has shape {shape:?}; the model needs {rows} rows of {cols}");
            return Err(Error::unsupported(what, "check the file with regguf verify"));
        }
        let row_bytes = usize::try_from(tensor.row_bytes()).unwrap_or(0);
        if let Some(matrix) = self.unmerged(tensor, rows, cols)? {
            return Ok(matrix);
        }
        let in_order = tensor.sum.is_none()
            && tensor.join == Join::Rows
            && tensor.orders.is_empty()
            && tensor.pieces.iter().all(Piece::is_dense)
            && !tensor.big_endian;
        if in_order && tensor.pieces.iter().all(|p| p.rows % tensor.quant.row_group() as u64 == 0) {
            let mut parts = Vec::with_capacity(tensor.pieces.len());
            for piece in &tensor.pieces {
                let map = self.map(piece.file)?;
                let start = usize::try_from(piece.at).unwrap_or(usize::MAX);
                let count = usize::try_from(piece.rows).unwrap_or(usize::MAX);
                let end = count.checked_mul(row_bytes).and_then(|len| start.checked_add(len));
                let end = end.filter(|end| *end <= map.len());
                let end = end.ok_or_else(|| missing(&format!("all bytes of {}", tensor.name)))?;
                parts.push((count, Bytes::Mapped(map, start..end)));
            }
            return Ok(Matrix::new(tensor.quant, cols, row_bytes, parts));
        }
        let mut bytes = vec![0; rows * row_bytes];
        self.model.read_rows(tensor, 0, rows as u64, &mut bytes)?;
        let all = 0..bytes.len();
        let parts = vec![(rows, Bytes::Owned(Arc::new(bytes), all))];
        Ok(Matrix::new(tensor.quant, cols, row_bytes, parts))
    }

    /// A matrix to which adapters add their products, as it is stored, and the products beside it; none where
    /// it is another thing.
    fn unmerged(&mut self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Option<Matrix>> {
        let Some(sum) = tensor.sum.as_ref().filter(|_| tensor.orders.is_empty()) else {
            return Ok(None);
        };
        if sum.terms.iter().any(|term| matches!(term, Term::Rows { .. })) {
            return Ok(None);
        }
        let mut matrix = self.load(&sum.base, rows, cols)?;
        for term in &sum.terms {
            if let Term::Product { a, b, scale, .. } = term {
                let rank = usize::try_from(a.rows()).unwrap_or(0);
                let (a, b) = (self.load(a, rank, cols)?, self.load(b, rows, rank)?);
                matrix.add(Product { a, b, scale: *scale });
            }
        }
        Ok(Some(matrix))
    }

    fn map(&mut self, file: usize) -> Result<Arc<Mmap>> {
        let known = self.maps.get(file).ok_or_else(|| missing("a file of the model"))?;
        if let Some(map) = known {
            return Ok(map.clone());
        }
        let map = Arc::new(map::map(&self.model.files[file])?);
        self.maps[file] = Some(map.clone());
        Ok(map)
    }

    fn norm(&self, role: &str, layer: Option<u64>) -> Result<Norm> {
        let weight = self.vector(&self.found(role, layer)?, self.config.width)?;
        Ok(Norm { weight, bias: self.bias(role, layer, self.config.width)? })
    }

    /// A norm that some families or models have.
    fn some_norm(&self, role: &str, layer: Option<u64>) -> Result<Option<Norm>> {
        self.has(role, layer).then(|| self.norm(role, layer)).transpose()
    }

    /// A norm of queries or keys, as long as one head or as all of them.
    fn head_norm(&self, role: &str, layer: Option<u64>, heads: usize) -> Result<Option<Norm>> {
        if !self.has(role, layer) {
            return Ok(None);
        }
        let tensor = self.found(role, layer)?;
        let head = self.config.head;
        let len = if tensor.elements() == head as u64 { head } else { heads * head };
        let bias = self.bias(role, layer, len)?;
        Ok(Some(Norm { weight: self.vector(&tensor, len)?, bias }))
    }

    /// Whether the tensor of a role must be there: where the family or any layer says so.
    fn has(&self, role: &str, layer: Option<u64>) -> bool {
        let Some(needed) = self.role(role, layer).map(|role| !role.names.optional) else {
            return false;
        };
        let layers = 0..self.config.layers as u64;
        needed
            || match layer {
                Some(_) => layers.into_iter().any(|n| self.tensor(role, Some(n)).is_some()),
                None => self.tensor(role, None).is_some(),
            }
    }

    fn vector(&self, tensor: &Tensor, len: usize) -> Result<Vec<f32>> {
        let numbers = self.numbers(tensor)?;
        if numbers.len() != len {
            let what = format!("{} has {} numbers; {len} are needed", tensor.name, numbers.len());
            return Err(Error::unsupported(what, "check the file with regguf verify"));
        }
        Ok(numbers)
    }

    fn numbers(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        // Vectors of a model are as long as a row of its matrices; anything longer is no vector.
        if tensor.elements() > 1 << 24 {
            return Err(missing(&format!("{} as a vector", tensor.name)));
        }
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap_or(0)];
        self.model.read_rows(tensor, 0, tensor.rows(), &mut bytes)?;
        let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap_or(0)];
        let row_len = usize::try_from(tensor.row_len()).unwrap_or(0);
        decode_rows(tensor.quant, Isa::best(), &bytes, row_len, &mut out);
        Ok(out)
    }
}

fn missing(what: &str) -> Error {
    Error::unsupported(format!("the model cannot be run: it lacks {what}"), "try regguf inspect")
}

/// Rows of a matrix that stands for several, as a matrix of its own.
fn band(all: &Linear, name: Option<String>, rows: Range<usize>) -> Result<Linear> {
    let group = all.matrix.quant().row_group();
    if !(rows.start.is_multiple_of(group) && rows.end.is_multiple_of(group)) {
        let what = format!("rows of {} are coded {group} together", all.matrix.quant());
        return Err(Error::unsupported(what, "convert it to another type to run it"));
    }
    let bias = all.bias.get(rows.clone()).unwrap_or_default().to_vec();
    Ok(Linear { name, expert: all.expert, bias, matrix: all.matrix.band(rows) })
}
