//! A plan: every tensor, every byte range and every loss, before anything is written.
//!
//! | step | what it decides |
//! |---|---|
//! | `prepare` | the model in the terms of its target: names, stacked experts, order of rows |
//! | `keys` | metadata or header words, the vocabulary, what had to be assumed |
//! | `quant::recast` | of each tensor, whether it is copied, reordered, rescaled or encoded anew |
//! | `choose` | other types, where `convert` and `quantize` are asked for them |
//! | [`Plan::lay_out`] | every byte that is no weight, and the place of every tensor |
//! | `execute` | nothing: it does what is planned, and holds the finished file against it |
//!
//! So loss, size and place are known before the first byte is written, and a dry run is the same plan.
//!
//! ```text
//! layout.chunks   (0, header)  (place, padding) ..      bytes that are no weight, at their places
//! layout.data     place of each step, in bytes from the start of the file, in the order of the steps
//! layout.total    bytes of the whole file
//! ```

use std::{path::PathBuf, sync::Arc};

use super::Target;
use crate::{
    bytes::Input,
    container::{Layout, TensorHead, keyed, stream},
    error::{Error, Result},
    model::{Assumed, Metadata, Model, Tensor, Vocab, tensor::stretch},
    quant::{
        QuantType,
        encode::{EncodeRows, encoder},
        permute::Transform,
    },
    remedy::{Call, Notes, Setting},
};

/// What one output file will be. Everything is known before the first byte is written: what becomes of each
/// tensor, what is rounded, what is assumed, where every byte goes.
///
/// ```
/// use regguf::{Job, change::{Loss, upgrade}};
/// # fn main() -> regguf::error::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/T/E4/ggml-model-q4_0.bin");
/// # if !std::path::Path::new(path).exists() { return Ok(()); }
/// let job = Job::upgrade(&regguf::open(path)?, &upgrade::Options::default())?;
/// let plan = &job.plans()[0];
/// assert_eq!((plan.target.id(), plan.steps.len()), ("gguf-v3", 21));
/// // Scales were float32 and become f16; norms are copied.
/// assert_eq!(plan.steps.iter().filter(|step| step.loss() == Loss::Rounded).count(), 16);
/// assert!(plan.assumed.iter().any(|value| value.key == "llama.context_length"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Where it will be.
    pub output: PathBuf,
    /// The container it is written in.
    pub target: Target,
    /// Its metadata (GGUF targets).
    pub metadata: Metadata,
    /// Its header words under their original names (older targets).
    pub header: Vec<(String, i64)>,
    /// Its vocabulary records (older targets).
    pub vocab: Vocab,
    /// Its tensors in file order.
    pub steps: Vec<Step>,
    /// Values that no old file stores and that had to be assumed.
    pub assumed: Vec<Assumed>,
    /// What was noticed on the way, as sentences.
    pub notes: Notes,
    /// Tensors of another type than was wanted, for want of imatrix data.
    pub stand_ins: usize,
    /// Where everything is in the output; filled in by [`Plan::lay_out`].
    pub layout: Layout,
    /// Whether infinite and NaN weights pass instead of ending the job.
    pub keep_nan: bool,
    /// Whether those that the source has are copied and told, where nothing is encoded.
    pub tells_nan: bool,
    /// Whether scales that leave the range of f16 are clamped instead of ending the job.
    pub clamp_scales: bool,
    /// Whether encoded weights are decoded again to say how far they are from their source.
    pub measure: bool,
    /// Whether this is a part of a file ([`Plan::part`]), which nothing can open alone.
    pub is_part: bool,
}

/// One tensor of the output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Step {
    /// Index of its source in the model's tensors.
    pub source: usize,
    /// Its name in the output.
    pub name: String,
    /// Its shape in the output, outermost first.
    pub shape: Vec<u64>,
    /// Whether the output gives it no dimensions; see [`crate::model::Tensor::scalar`].
    pub scalar: bool,
    /// Its type in the output.
    pub quant: QuantType,
    /// How many rows of the shape are coded as one; see [`crate::model::Tensor::fold`].
    pub fold: u64,
    /// Its bytes where its type does not tell them; see [`crate::model::Tensor::span`].
    pub span: Option<u64>,
    /// How its rows are made.
    pub act: Act,
}

/// How the rows of one tensor are made from those of its source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Act {
    /// The same bytes.
    Copy,
    /// The same codes in another order, or with scales stored otherwise.
    Transform(Transform),
    /// Decoded to f32 and encoded again.
    Recode {
        /// The encoder.
        encode: EncodeRows,
        /// Importance of each column; for stacked experts one row of it per matrix.
        weights: Option<Arc<[f32]>>,
        /// What each weight is multiplied with before.
        times: f32,
    },
}

impl Act {
    /// Decoded and encoded again as they are.
    pub fn recode(encode: EncodeRows, weights: Option<Arc<[f32]>>) -> Act {
        Act::Recode { encode, weights, times: 1.0 }
    }
}

/// What a step loses, as far as it is known before reading; the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Loss {
    /// Every weight decodes to the same f32.
    Exact,
    /// Only stored scales are rounded from f32 to f16.
    Rounded,
    /// The weights are encoded anew.
    Recoded,
}

impl Plan {
    /// A plan that writes no tensor yet.
    pub fn new(output: PathBuf, target: Target) -> Plan {
        Plan {
            output,
            target,
            metadata: Metadata::new(),
            header: Vec::new(),
            vocab: Vocab::default(),
            steps: Vec::new(),
            assumed: Vec::new(),
            notes: Notes::default(),
            stand_ins: 0,
            layout: Layout::default(),
            keep_nan: false,
            tells_nan: false,
            clamp_scales: false,
            measure: false,
            is_part: false,
        }
    }

    /// Computes where everything is in the output.
    ///
    /// # Errors
    /// Where the target cannot store a name, a shape, a type or a value.
    pub fn lay_out(&mut self) -> Result<()> {
        // What a container asks of a tensor; how its rows are made is none of its business.
        let head = |s: &Step| TensorHead {
            name: s.name.clone(),
            shape: if s.scalar { Vec::new() } else { s.shape.clone() },
            quant: s.quant,
            bytes: s.bytes(),
        };
        let heads: Vec<TensorHead> = self.steps.iter().map(head).collect();
        let format = self.target.container();
        self.layout = match self.target.is_keyed() {
            true => keyed::layout(format, &self.header, &self.metadata, &heads)?,
            false => {
                // GGUF says it in metadata; older files in the same word as the file type, or nowhere.
                self.state_version();
                stream::layout(format, &self.header, &self.metadata, &self.vocab, &heads)?
            }
        };
        Ok(())
    }

    /// Has the header say by which version blocks were laid out, which floats do not need.
    fn state_version(&mut self) {
        let Some((name, newest)) = self.target.container().newest() else { return };
        // Floats were never laid out otherwise: such files say 0.
        let quantized = self.steps.iter().any(|step| step.quant.layout().elements > 1);
        let version = if quantized { newest } else { 0 };
        match self.header.iter_mut().find(|(word, _)| word == name) {
            Some((_, word)) => *word = version,
            None => self.header.push((name.to_owned(), version)),
        }
    }

    /// States the file type: the one of this name among tensor types, whose number in GGUF is `number`.
    pub(super) fn state_type(&mut self, name: &str, number: u32) {
        if self.target.is_keyed() {
            self.metadata.set("general.file_type", number);
            return;
        }
        // Several numbers may mean one type, as those of mixtures do where there are none.
        if !name.is_empty() && self.target.container().stated_type(&self.header) == Some(name) {
            return;
        }
        let own = self.target.container().file_type(name);
        let (word, number) = own.unwrap_or(("ftype", number.into()));
        if let Some((_, stated)) = self.header.iter_mut().find(|(known, _)| known == word) {
            *stated = number;
        }
    }

    /// The type that holds most bytes of matrices, of those that are quantized at all.
    pub(super) fn main_type(&self) -> &'static str {
        let mut sizes: Vec<(&str, u64)> = Vec::new();
        let kept = &self.target.container().tensors.kept;
        // Vectors, and matrices that programs want as floats whatever the rest is, say nothing of the type.
        let counts = |step: &&Step| step.shape.len() > 1 && !kept.has(&step.name);
        for step in self.steps.iter().filter(counts) {
            match sizes.iter_mut().find(|(name, _)| *name == step.quant.name()) {
                Some((_, n)) => *n += step.bytes(),
                None => sizes.push((step.quant.name(), step.bytes())),
            }
        }
        sizes.iter().max_by_key(|(_, n)| *n).map_or("f32", |(name, _)| *name)
    }

    /// Checks that all matrices have one type, where the programs of the target take no other.
    ///
    /// # Errors
    /// Where they do not.
    pub(super) fn check_types(&self) -> Result<()> {
        let container = self.target.container();
        if !container.header.file_type.as_ref().is_some_and(|stated| stated.of_all) {
            return Ok(());
        }
        let main = self.main_type();
        let kept = &container.tensors.kept;
        let differs = |step: &&Step| {
            step.shape.len() > 1 && !kept.has(&step.name) && step.quant.name() != main
        };
        // chatglm.cpp and its like have one type in their code for all matrices: a file of two would be read as
        // garbage.
        let mut others = self.steps.iter().filter(differs);
        let Some(first) = others.next() else { return Ok(()) };
        let (id, more) = (self.target.id(), others.count());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Err(Error::refused(
            format!(
                "{}{more}: {} among matrices of {main}, and programs of {id} take one type for all",
                first.name, first.quant
            ),
            Call::Quantize
                .on(format!("IN OUT {main}"))
                .with(Setting::Target.of(id))
                .with(Setting::AllowRequantize)
                .to("make them one"),
        ))
    }

    /// Matrices that are F16 among others are F32 where those are: readers want them so.
    pub(super) fn widen_kept(&mut self, main: &str) {
        let Some(encode) = encoder("f32").filter(|_| main == "f32") else { return };
        let ends = &self.target.container().tensors.kept.f16;
        let kept = |s: &&mut Step| ends.iter().any(|end| s.name.ends_with(end.as_str()));
        let target = self.target;
        for step in self.steps.iter_mut().filter(kept) {
            let Some(f32) = QuantType::today("f32").filter(|q| target.holds(*q)) else { return };
            if step.quant != f32 {
                step.become_type(f32, encode);
            }
        }
    }

    /// Checks that every tensor of `model` that is not copied can be decoded.
    ///
    /// # Errors
    /// Where one is of a type that only another program reads, or turned as only that undoes.
    pub fn check_sources(&self, model: &Model) -> Result<()> {
        if self.steps.iter().any(|step| !matches!(step.act, Act::Copy)) {
            model.check_unturned()?;
        }
        let made = self.steps.iter().filter(|step| matches!(step.act, Act::Recode { .. }));
        let mut sources = made.filter_map(|step| model.tensors.get(step.source));
        sources.try_for_each(Tensor::check_decodable)
    }

    /// Pads the header of a file without tensors to where data would begin, as llama.cpp's writer does and
    /// gguf-py does not.
    pub(super) fn pad_header(&mut self) {
        // One chunk: with tensors there is another between each two of them.
        let [(_, header)] = self.layout.chunks.as_mut_slice() else { return };
        if self.steps.is_empty() && self.target.is_keyed() {
            self.layout.total = keyed::data_start(&self.metadata, header.len() as u64);
            header.resize(usize::try_from(self.layout.total).unwrap_or(usize::MAX), 0);
        }
    }

    /// Whether a file has the size of this one, and all that is no weight.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn describes(&self, file: &Input) -> Result<bool> {
        if file.len() != self.layout.total {
            return Ok(false);
        }
        // Header, padding, all that is between tensors; the weights would take minutes.
        for (at, bytes) in &self.layout.chunks {
            let mut there = vec![0; bytes.len()];
            file.read_at(*at, &mut there)?;
            if there != *bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What whoever opens the output will find, without a weight of it; none of what is no whole model.
    pub(super) fn described(&self, family: &str) -> Option<Model> {
        if self.is_part || self.metadata.get("split.count").is_some() {
            return None;
        }
        // As the reader would make them: none where a type leaves sizes open.
        let tensor = |(step, at): (&Step, &u64)| {
            Tensor::whole(step.name.clone(), step.shape.clone(), step.quant, 0, *at)
        };
        let tensors = self.steps.iter().zip(&self.layout.data).map(tensor);
        Some(Model {
            format: self.target.id().to_owned(),
            family: family.to_owned(),
            metadata: self.metadata.clone(),
            vocab: Vocab::from_metadata(&self.metadata),
            tensors: tensors.collect::<Option<_>>()?,
            ..Model::default()
        })
    }

    /// Part `index` of `count` of a plan that is laid out: a file with the bytes of some tensors that
    /// follow one another, and of what is before and between them. The parts laid end to end are
    /// the whole file. Every part gets as nearly the same size as whole tensors allow.
    pub fn part(&self, index: usize, count: usize) -> Plan {
        let (first, last) = (self.cut(index, count), self.cut(index + 1, count));
        // A part begins where the tensor before it ends, so padding goes with the later part.
        let begin = |n: usize, cut: usize| match cut.checked_sub(1) {
            _ if n == 0 => 0,
            _ if cut == self.steps.len() => self.layout.total,
            Some(before) => self.end(before),
            None => 0,
        };
        // Part 0 begins with the header, the last ends with the file's padding.
        let (from, to) = (begin(index, first), begin(index + 1, last));
        let mut part = self.clone();
        part.is_part = true;
        part.steps = self.steps.get(first..last).unwrap_or_default().to_vec();
        let data = self.layout.data.get(first..last).unwrap_or_default();
        let inside = |at: &u64| (from..to).contains(at);
        part.layout = Layout {
            chunks: self.layout.chunks.iter().filter(|(at, _)| inside(at)).cloned().collect(),
            data: data.iter().map(|at| at - from).collect(),
            total: to - from,
        };
        // Places in a part count from its own beginning.
        part.layout.chunks.iter_mut().for_each(|(at, _)| *at -= from);
        part
    }

    /// The first tensor of part `index`: the one whose middle lies beyond that share of all bytes.
    fn cut(&self, index: usize, count: usize) -> usize {
        if index == count {
            return self.steps.len();
        }
        let all: u64 = self.steps.iter().map(Step::bytes).sum();
        // middle / all < index / count, with whole numbers: 2 * middle * count < all * 2 * index.
        let share = u128::from(all) * 2 * index as u128;
        let mut before = 0;
        let lies_before = |step: &Step| {
            let twice_middle = 2 * before + step.bytes();
            before += step.bytes();
            u128::from(twice_middle) * (count as u128) < share
        };
        self.steps.iter().map(lies_before).take_while(|before| *before).count()
    }

    /// Where the data of a step ends.
    fn end(&self, step: usize) -> u64 {
        let size = self.steps.get(step).map_or(0, Step::bytes);
        self.layout.data.get(step).copied().unwrap_or(0) + size
    }
}

impl Step {
    /// Every tensor of a model as it is.
    pub fn all(model: &Model) -> impl Iterator<Item = Step> {
        model.tensors.iter().enumerate().map(|(source, tensor)| Step::copy(source, tensor))
    }

    /// The tensor `source` of a model as it is.
    pub fn copy(source: usize, tensor: &Tensor) -> Step {
        Step {
            source,
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            scalar: tensor.scalar,
            quant: tensor.quant,
            fold: tensor.fold,
            span: tensor.span,
            act: Act::Copy,
        }
    }

    /// Has its rows decoded and encoded in another type.
    pub(super) fn become_type(&mut self, to: QuantType, encode: EncodeRows) {
        self.quant = to;
        // Blocks that went on over rows are a matter of the old coding.
        self.fold = 1;
        self.act = Act::recode(encode, None);
    }

    /// What this step loses.
    pub fn loss(&self) -> Loss {
        match &self.act {
            Act::Copy => Loss::Exact,
            Act::Transform(t) if t.exact => Loss::Exact,
            Act::Transform(_) => Loss::Rounded,
            // Decoding into f32 rounds nothing; any other encoder may.
            Act::Recode { .. } if is_float(self.quant) => Loss::Exact,
            Act::Recode { .. } => Loss::Recoded,
        }
    }

    /// What happens to the tensor, in one word.
    pub fn how(&self) -> &'static str {
        match &self.act {
            Act::Copy => "copied",
            Act::Transform(t) if t.exact => "reordered",
            Act::Transform(_) => "rescaled",
            Act::Recode { .. } if is_float(self.quant) => "decoded",
            Act::Recode { .. } => "encoded",
        }
    }

    /// Weights of one row as it is coded in the output.
    pub fn row_len(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1) * self.fold
    }

    /// Bytes of one row in the output.
    pub fn row_bytes(&self) -> u64 {
        if let Some(bytes) = self.span {
            return stretch(bytes);
        }
        self.quant.row_bytes(self.row_len()).unwrap_or(0)
    }

    /// Rows in the output.
    pub fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).product::<u64>() / self.fold
    }

    /// Bytes in the output.
    pub fn bytes(&self) -> u64 {
        self.span.unwrap_or_else(|| self.rows() * self.row_bytes())
    }
}

/// Every present weight type decodes to an f32 without rounding, so f32 holds any of them.
fn is_float(quant: QuantType) -> bool {
    quant.name() == "f32"
}
