//! The tensors of a model by what they do, at the place where they lie.

use std::sync::Arc;

use memmap2::Mmap;

use super::{
    Config,
    matrix::{Bytes, Matrix},
};
use crate::{
    bytes::{Input, map},
    error::{Error, Result},
    format::catalog,
    model::{
        Join, Model, Order, Piece, Tensor,
        role::{Naming, Role},
    },
    quant::{decode_rows, isa::Isa},
};

/// All weights of a model. Matrices stay in the mapped files; vectors are copied.
#[derive(Debug)]
pub struct Weights {
    /// Sizes and constants.
    pub config: Config,
    /// A row for each token.
    pub embedding: Matrix,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Weights of the last norm.
    pub norm: Vec<f32>,
    /// A row for each token; the embedding again where a file has no `output.weight`.
    pub output: Matrix,
    /// The files that are mapped.
    files: Vec<Input>,
}

/// The weights of one layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before attention.
    pub attention_norm: Vec<f32>,
    /// To queries.
    pub query: Matrix,
    /// To keys.
    pub key: Matrix,
    /// To values.
    pub value: Matrix,
    /// From heads back to the stream.
    pub attention_out: Matrix,
    /// Norm before the feed-forward part.
    pub ffn_norm: Vec<f32>,
    /// Without experts one feed-forward part, else one for each.
    pub experts: Vec<FeedForward>,
    /// A row for each expert; none where there is one part for all.
    pub router: Option<Matrix>,
}

/// A feed-forward part.
#[derive(Debug)]
pub struct FeedForward {
    /// Stream to the gate.
    pub gate: Matrix,
    /// Stream to what is gated.
    pub up: Matrix,
    /// Back to the stream.
    pub down: Matrix,
}

/// Finds tensors of one model.
struct Finder<'m> {
    model: &'m Model,
    maps: Vec<Option<Arc<Mmap>>>,
    naming: Naming,
}

impl Weights {
    /// The weights of `model`.
    ///
    /// # Errors
    /// Where a tensor is missing, has another shape than the model's sizes say, or cannot be mapped.
    pub fn new(model: &Model) -> Result<Weights> {
        let mut config = Config::new(model)?;
        let llama = catalog::family("llama").ok_or_else(|| missing("the family llama"))?;
        // `output.weight` has one name in two namings; the tensors of layers tell them apart.
        let naming = |t: &Tensor| {
            let (naming, role) = Role::find(llama, &t.name)?;
            role.layer.map(|_| naming)
        };
        let naming = model.tensors.iter().find_map(naming).ok_or_else(|| missing("known names"))?;
        let mut finder = Finder { model, maps: vec![None; model.files.len()], naming };
        let Config { width, vocab, layers, .. } = config;
        let layers: Vec<Layer> =
            (0..layers).map(|n| finder.layer(&config, n)).collect::<Result<_>>()?;
        let embedding = finder.matrix("token_embedding", None, vocab, width)?;
        let output = match finder.tensor("output", None) {
            Some(tensor) => finder.load(&tensor, vocab, width)?,
            None => embedding.clone(),
        };
        let norm = finder.vector("final_norm", None, width)?;
        if let Some(tensor) = model.tensor("rope_freqs.weight") {
            let factors = finder.numbers(tensor)?;
            config.rope = config.rope.divided(&factors)?;
        }
        let mapped = model.files.iter().zip(&finder.maps).filter(|(_, map)| map.is_some());
        let files = mapped.map(|(file, _)| file.clone()).collect();
        Ok(Weights { config, embedding, layers, norm, output, files })
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
    fn layer(&mut self, config: &Config, n: usize) -> Result<Layer> {
        let Config { width, heads, kv_heads, head, .. } = *config;
        let at = Some(n as u64);
        for bias in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            let name = format!("blk.{n}.{bias}.bias");
            if self.model.tensor(&name).is_some() {
                let what = format!("{name}: the runner does not add biases");
                return Err(Error::unsupported(what, "convert and upgrade work without running"));
            }
        }
        let router = format!("blk.{n}.ffn_gate_inp.weight");
        let (router, experts) = match self.model.tensor(&router).cloned() {
            Some(tensor) => {
                let count = usize::try_from(tensor.rows()).unwrap_or(0);
                let router = self.load(&tensor, count, width)?;
                (Some(router), self.experts(n, count, width)?)
            }
            None => {
                let gate = self.free_matrix("gate", at, width)?;
                let up = self.matrix("up", at, gate.rows, width)?;
                let down = self.matrix("down", at, width, gate.rows)?;
                (None, vec![FeedForward { gate, up, down }])
            }
        };
        Ok(Layer {
            attention_norm: self.vector("attention_norm", at, width)?,
            query: self.matrix("query", at, heads * head, width)?,
            key: self.matrix("key", at, kv_heads * head, width)?,
            value: self.matrix("value", at, kv_heads * head, width)?,
            attention_out: self.matrix("attention_out", at, width, heads * head)?,
            ffn_norm: self.vector("ffn_norm", at, width)?,
            experts,
            router,
        })
    }

    /// The experts of layer `n`: stacked in one tensor of three dimensions, or (until April 2024) one
    /// tensor each.
    fn experts(&mut self, n: usize, count: usize, width: usize) -> Result<Vec<FeedForward>> {
        let mut parts: [Vec<Matrix>; 3] = Default::default();
        for (out, kind) in parts.iter_mut().zip(["gate", "up", "down"]) {
            let stacked = format!("blk.{n}.ffn_{kind}_exps.weight");
            if let Some(tensor) = self.model.tensor(&stacked).cloned() {
                let cols = usize::try_from(tensor.row_len()).unwrap_or(0);
                let rows = usize::try_from(tensor.rows()).unwrap_or(0);
                let all = self.load(&tensor, rows, cols)?;
                let each = rows / count.max(1);
                out.extend((0..count).map(|e| all.band(e * each..(e + 1) * each)));
            } else {
                for e in 0..count {
                    let name = format!("blk.{n}.ffn_{kind}.{e}.weight");
                    let tensor = self.model.tensor(&name).cloned();
                    let tensor = tensor.ok_or_else(|| missing(&name))?;
                    let rows = usize::try_from(tensor.rows()).unwrap_or(0);
                    let cols = usize::try_from(tensor.row_len()).unwrap_or(0);
                    out.push(self.load(&tensor, rows, cols)?);
                }
            }
        }
        let [gates, ups, downs] = parts;
        let mut experts = Vec::with_capacity(count);
        for ((gate, up), down) in gates.into_iter().zip(ups).zip(downs) {
            let shapes = [gate.cols, up.cols, down.rows, up.rows, down.cols];
            if shapes != [width, width, width, gate.rows, gate.rows] {
                return Err(missing(&format!("experts of fitting shapes in layer {n}")));
            }
            experts.push(FeedForward { gate, up, down });
        }
        Ok(experts)
    }

    /// The tensor of a role, in the row order of ggml.
    fn tensor(&self, role: &str, layer: Option<u64>) -> Option<Tensor> {
        let (id, names) = catalog::family("llama")?.roles.get_key_value(role)?;
        let role = Role { id, names, layer };
        let mut tensor = self.model.tensor(&role.name(self.naming))?.clone();
        if self.naming == Naming::Hf && names.rotary && tensor.orders.is_empty() {
            let heads = crate::model::role::Symbols::of(self.model);
            let heads = if role.id == "query" { heads.n_head } else { heads.n_head_kv };
            let rows_per_head = tensor.rows().checked_div(heads?)?;
            tensor.orders.push(Order::PairsFromHalves { rows_per_head });
        }
        Some(tensor)
    }

    fn found(&self, role: &str, layer: Option<u64>) -> Result<Tensor> {
        let place = layer.map_or(String::new(), |n| format!(" of layer {n}"));
        self.tensor(role, layer).ok_or_else(|| missing(&format!("the tensor {role}{place}")))
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

    /// A matrix of which only the row length is known.
    fn free_matrix(&mut self, role: &str, layer: Option<u64>, cols: usize) -> Result<Matrix> {
        let tensor = self.found(role, layer)?;
        let rows = usize::try_from(tensor.rows()).unwrap_or(0);
        self.load(&tensor, rows, cols)
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
        let in_order = tensor.join == Join::Rows
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

    fn map(&mut self, file: usize) -> Result<Arc<Mmap>> {
        let known = self.maps.get(file).ok_or_else(|| missing("a file of the model"))?;
        if let Some(map) = known {
            return Ok(map.clone());
        }
        let map = Arc::new(map::map(&self.model.files[file])?);
        self.maps[file] = Some(map.clone());
        Ok(map)
    }

    fn vector(&mut self, role: &str, layer: Option<u64>, len: usize) -> Result<Vec<f32>> {
        let tensor = self.found(role, layer)?;
        let numbers = self.numbers(&tensor)?;
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
