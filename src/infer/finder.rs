//! Finding the tensors of a model by what they do, and taking them as matrices and vectors.
//!
//! A role ("query of layer 3") has a name in each naming, Meta's, transformers' or GGUF's, in the family's table; a
//! [`Finder`] asks for roles and never for names. Each tensor is held against the shape that the sizes demand when it
//! is taken, so an error names the tensor, and the forward pass checks nothing again.
//!
//! ```text
//! role  ->  Tensor  ->  in order in the file?   yes: a range of the mapped file
//!                                               no:  a copy, its rows put in order
//! ```

use std::{ops::Range, sync::Arc};

use memmap2::Mmap;

use super::{
    Config,
    layer::{Linear, norm::Norm},
    matrix::{Bytes, Matrix, Precision, Product},
};
use crate::{
    bytes::{Input, map},
    error::{Error, Result},
    format::family::{Bias, Family},
    model::{
        Join, Model, Order, Piece, Tensor,
        role::{Naming, Role},
        tensor::Term,
    },
    quant::{decode_rows, isa::Isa},
    remedy::Call,
};

/// Finds tensors of one model.
pub struct Finder<'m> {
    /// Whose tensors.
    pub model: &'m Model,
    /// Its files that are mapped so far.
    pub maps: Vec<Option<Arc<Mmap>>>,
    /// Of which family it is.
    pub family: &'static Family,
    /// Whose names its tensors bear.
    pub naming: Naming,
    /// Its sizes.
    pub config: Config,
    /// At which its matrices are multiplied.
    pub precision: Precision,
}

impl Finder<'_> {
    /// The tensor of a role, in the row order of ggml.
    pub fn tensor(&self, role: &str, layer: Option<u64>) -> Option<Tensor> {
        let role = self.role(role, layer)?;
        let mut tensor = role.tensor(self.model, self.naming)?.clone();
        // Checkpoints keep the halves of a head apart that ggml turns as neighbours.
        if self.naming == Naming::Hf && role.names.rotary && tensor.orders.is_empty() {
            let Config { heads, kv_heads, .. } = self.config;
            let heads = if role.id == "query" { heads } else { kv_heads };
            let rows_per_head = tensor.rows().checked_div(heads as u64)?;
            tensor.orders.push(Order::PairsFromHalves { rows_per_head });
        }
        Some(tensor)
    }

    /// What a tensor is in the family's table.
    pub fn role(&self, role: &str, layer: Option<u64>) -> Option<Role> {
        let (id, names) = self.family.roles.get_key_value(role)?;
        Some(Role { id, names, layer, bias: false })
    }

    /// The same, of a tensor that must be there.
    pub fn found(&self, role: &str, layer: Option<u64>) -> Result<Tensor> {
        let place = layer.map_or(String::new(), |n| format!(" of layer {n}"));
        let tensor = self.tensor(role, layer);
        tensor.ok_or_else(|| missing(&format!("the tensor {role}{place}")))
    }

    /// The matrix of a role.
    ///
    /// # Errors
    /// Where the tensor is not there, or has another shape than `rows` of `cols`.
    pub fn matrix(
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
    ///
    /// # Errors
    /// As [`Finder::matrix`], and where a bias is missing that the family always has.
    pub fn linear(
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
    pub fn bias(&self, role: &str, layer: Option<u64>, len: usize) -> Result<Vec<f32>> {
        let Some(role) = self.role(role, layer) else { return Ok(Vec::new()) };
        let bias = Role { bias: true, ..role };
        match bias.tensor(self.model, self.naming) {
            Some(tensor) => self.vector(tensor, len),
            None if bias.names.bias == Bias::Always => Err(missing(&bias.title())),
            None => Ok(Vec::new()),
        }
    }

    /// What the numbers of a tensor are multiplied with, where a tensor beside it says that: `count` numbers, or none.
    pub fn scales(&self, tensor: &Tensor, count: usize) -> Result<Vec<f32>> {
        let stem = tensor.name.strip_suffix("weight");
        match stem.and_then(|stem| self.model.tensor(&format!("{stem}scale"))) {
            Some(scale) => self.vector(scale, count),
            None => Ok(Vec::new()),
        }
    }

    /// `tensor` as a matrix: in the mapped files where its rows are in order there, else copied; times its number,
    /// where it has one that is not for experts.
    ///
    /// # Errors
    /// Where its shape is not `rows` of `cols`, or the file is shorter than it was when it was opened.
    pub fn load(&mut self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Matrix> {
        let matrix = self.stored(tensor, rows, cols)?;
        let scale = match tensor.shape.len() {
            2 => self.scales(tensor, 1)?.first().copied(),
            _ => None,
        };
        Ok(matrix.times(scale.unwrap_or(1.0)))
    }

    /// The bytes of a matrix, where they lie or copied.
    ///
    /// ```text
    /// adapters on it                        the stored matrix, and products beside it
    /// whole rows in order, on a disk        mapped: pages come in as they are multiplied
    /// anything else                         read whole, rows put in order, into memory
    /// ```
    fn stored(&mut self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Matrix> {
        if tensor.rows() != rows as u64 || tensor.row_len() != cols as u64 || rows == 0 || cols == 0
        {
            let (name, shape) = (&tensor.name, &tensor.shape);
            let what = format!("{name} has shape {shape:?}; the model needs {rows} rows of {cols}");
            return Err(Error::unsupported(what, Call::Verify.to("check the file")));
        }
        let row_bytes = usize::try_from(tensor.row_bytes()).unwrap_or(0);
        // W + scale * B A stays three matrices: added up it would have to be float32, and copied.
        if let Some(matrix) = self.unmerged(tensor, rows, cols)? {
            return Ok(matrix);
        }
        // Rows that lie one behind the other in a file can be read where they are; anything else, and what is only made
        // while it is read, is copied once, in order.
        let on_disk =
            |piece: &Piece| self.model.files.get(piece.file).is_some_and(Input::is_on_disk);
        let in_order = tensor.sum.is_none()
            && tensor.join == Join::Rows
            && tensor.orders.is_empty()
            && tensor.pieces.iter().all(|piece| piece.is_dense() && on_disk(piece))
            && !tensor.big_endian;
        if in_order && tensor.pieces.iter().all(|p| p.rows % tensor.quant.row_group() as u64 == 0) {
            let mut parts = Vec::with_capacity(tensor.pieces.len());
            for piece in &tensor.pieces {
                let map = self.map(piece.file)?;
                let start = usize::try_from(piece.at).unwrap_or(usize::MAX);
                let count = usize::try_from(piece.rows).unwrap_or(usize::MAX);
                let end = count.checked_mul(row_bytes).and_then(|len| start.checked_add(len));
                // The reader checked it when the file was opened; the file may have become shorter since.
                let end = end.filter(|end| *end <= map.len());
                let end = end.ok_or_else(|| missing(&format!("all bytes of {}", tensor.name)))?;
                parts.push((count, Bytes::Mapped(map, start..end)));
            }
            let matrix = Matrix::new(tensor.quant, cols, row_bytes, parts);
            return Ok(matrix.with(self.precision));
        }
        let mut bytes = vec![0; rows * row_bytes];
        self.model.read_rows(tensor, 0, rows as u64, &mut bytes)?;
        let all = 0..bytes.len();
        let parts = vec![(rows, Bytes::Owned(Arc::new(bytes), all))];
        Ok(Matrix::new(tensor.quant, cols, row_bytes, parts).with(self.precision))
    }

    /// A matrix to which adapters add their products, as it is stored, and the products beside it; none where
    /// it is another thing.
    fn unmerged(&mut self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Option<Matrix>> {
        let Some(sum) = tensor.sum.as_ref().filter(|_| tensor.orders.is_empty()) else {
            return Ok(None);
        };
        // Rows that a difference adds are no product, and neither are rows that are turned.
        if !sum.terms.iter().all(|term| matches!(term, Term::Product { .. })) {
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
        // One map a file, however many of its tensors are asked for.
        let map = Arc::new(map::map(&self.model.files[file])?);
        self.maps[file] = Some(map.clone());
        Ok(map)
    }

    /// A norm that must be there.
    pub fn norm(&self, role: &str, layer: Option<u64>) -> Result<Norm> {
        let weight = self.vector(&self.found(role, layer)?, self.config.width)?;
        Ok(Norm { weight, bias: self.bias(role, layer, self.config.width)? })
    }

    /// A norm that some families or models have.
    pub fn some_norm(&self, role: &str, layer: Option<u64>) -> Result<Option<Norm>> {
        self.has(role, layer).then(|| self.norm(role, layer)).transpose()
    }

    /// Norms of queries or keys: one as long as a head or as all of them, or one for each head; none where there is none.
    pub fn head_norm(&self, role: &str, layer: Option<u64>, heads: usize) -> Result<Vec<Norm>> {
        if !self.has(role, layer) {
            return Ok(Vec::new());
        }
        let tensor = self.found(role, layer)?;
        let head = self.config.head;
        // Qwen3 has one norm for all heads, OLMo 2 one over all of them together.
        let len = if tensor.elements() == head as u64 { head } else { heads * head };
        let bias = self.bias(role, layer, len)?;
        let weight = self.vector(&tensor, len)?;
        if tensor.shape.len() == 1 {
            return Ok(vec![Norm { weight, bias }]);
        }
        let own = |weight: &[f32]| Norm { weight: weight.to_vec(), bias: Vec::new() };
        Ok(weight.chunks_exact(head).map(own).collect())
    }

    /// Whether the tensor of a role must be there: where the family or any layer says so.
    pub fn has(&self, role: &str, layer: Option<u64>) -> bool {
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

    /// The numbers of a tensor, of which there must be `len`.
    pub fn vector(&self, tensor: &Tensor, len: usize) -> Result<Vec<f32>> {
        let numbers = self.numbers(tensor)?;
        if numbers.len() != len {
            let what = format!("{} has {} numbers; {len} are needed", tensor.name, numbers.len());
            return Err(Error::unsupported(what, Call::Verify.to("check the file")));
        }
        Ok(numbers)
    }

    /// The numbers of a small tensor.
    pub fn numbers(&self, tensor: &Tensor) -> Result<Vec<f32>> {
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

/// The refusal of a model that lacks something.
pub fn missing(what: &str) -> Error {
    Error::unsupported(
        format!("the model cannot be run: it lacks {what}"),
        Call::Inspect.to("look at what is in it"),
    )
}

/// Rows of a matrix that stands for several, as a matrix of its own.
///
/// # Errors
/// Where the cut goes through rows that are coded together.
pub fn band(all: &Linear, name: Option<String>, rows: Range<usize>) -> Result<Linear> {
    let group = all.matrix.quant().row_group();
    if !(rows.start.is_multiple_of(group) && rows.end.is_multiple_of(group)) {
        let what = format!("rows of {} are coded {group} together", all.matrix.quant());
        return Err(Error::unsupported(what, "convert it to another type to run it"));
    }
    let bias = all.bias.get(rows.clone()).unwrap_or_default().to_vec();
    Ok(Linear { name, expert: all.expert, bias, matrix: all.matrix.band(rows) })
}
