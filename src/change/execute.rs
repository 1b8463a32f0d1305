//! Executes plans: rows are streamed once from the model through every plan into its new file.
//!
//! ```text
//! input order   chunk 0    chunk 1    chunk 2 …             pulled by all threads, so the disk reads forward
//! each chunk    read -> for each plan that wants it: copy | transform | recode -> written at its own place
//! in the end    headers are there, sizes match, every file opened again, proved, then all get their names
//!
//! order of writing   header and padding of each file under a name of its own for the time being
//!                    rows, wherever they belong, as they are ready
//!                    sizes are checked, the file is opened and compared with the plan, the proof runs
//!                    the caller sees each file (`sealed`)
//!                    each gets its name, once all have come so far
//! ```
//!
//! Work is cut into chunks of whole rows, pulled in file order by all threads; every chunk has its
//! place in the output beforehand, so the bytes do not depend on the number of threads. Memory stays
//! at a few buffers a thread. A failure or Ctrl-C leaves no output behind.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

use rayon::prelude::*;

use super::{
    plan::{Act, Plan, Step},
    recode::{Origin, Recode, Weights, check_made},
};
use crate::{
    bytes::{
        Input, Paged, Progress, Replace,
        replace::{Commit, Durability, check_interrupt, check_target},
    },
    container::{self, OpenOptions, Verdict, tail},
    error::{Error, Result},
    limits::Limits,
    model::{Model, Tensor, loader, sum::Room},
    quant::{QuantType, distance::Distance, isa::Isa, loss::ScaleLoss, product::high},
    remedy::Setting,
};

/// What became of one plan.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// Bytes of the finished file.
    pub bytes: u64,
    /// Seconds that it took, shared by plans carried together.
    pub seconds: f64,
    /// What each step lost, in the plan's order.
    pub steps: Vec<StepOutcome>,
    /// What the proof said, if there was one.
    pub verdict: Option<String>,
    /// Whether the file was on the disk when it got its name.
    pub durability: Durability,
    /// Why today's llama.cpp refuses what was written, where it does.
    pub refused: Vec<String>,
}

/// What one step lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepOutcome {
    /// Scales that were rounded.
    pub scales: ScaleLoss,
    /// How far encoded weights are from their source.
    pub distance: Distance,
    /// Whether a number that is infinite or NaN was written.
    pub kept_odd: bool,
}

/// Some rows of one source tensor.
struct Chunk {
    /// Index among the model's tensors.
    source: usize,
    /// The first of its rows.
    first: u64,
    /// How many.
    rows: u64,
}

/// Weights of a chunk that is decoded: reads and writes of less than some hundred kilobytes cost more.
const CHUNK_WEIGHTS: u64 = 512 << 10;
/// Bytes of a chunk that is not decoded.
const CHUNK_BYTES: u64 = 1 << 20;
/// The threads beyond those that compute, which read and wait for the disk meanwhile.
const WAITING: usize = 2;

/// Writes the files of `plans`, all made from `model`, reading every row once.
///
/// # Errors
/// Where an input cannot be read or changes, an output cannot be written or exists (unless it is replaced),
/// a scale leaves the range of its new type, or weights to be encoded are not numbers.
pub fn carry(
    model: &Model,
    plans: &[Plan],
    commit: impl Into<Commit>,
    progress: &dyn Progress,
) -> Result<Vec<Outcome>> {
    carry_proved(model, plans, commit, progress, &|_, _| Ok(None))
}

/// What looks at a finished file before it gets its name: the plan, and the file as it was opened again.
/// Returns a verdict; its error keeps the file from being kept.
pub type Proof<'a> = &'a dyn Fn(&Plan, Model) -> Result<Option<String>>;

/// As [`carry`]; every file must pass `proof` before any gets its name.
///
/// # Errors
/// As [`carry`], and where `proof` returns one: then no file has its name.
pub fn carry_proved(
    model: &Model,
    plans: &[Plan],
    commit: impl Into<Commit>,
    progress: &dyn Progress,
    proof: Proof,
) -> Result<Vec<Outcome>> {
    let commit = commit.into();
    carry_with(model, plans, &Writing { commit, progress, proof, sealed: &|_, _| Ok(()) })
}

/// How the files of plans are written.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    /// How outputs take their places.
    pub commit: Commit,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
    /// Looks at each file.
    pub proof: Proof<'a>,
    /// Called for each file, before any gets its name, with the number of its plan and its place so far.
    pub sealed: &'a dyn Fn(usize, &Path) -> Result<()>,
}

/// As [`carry_proved`], and the caller sees each whole file before it gets its name.
///
/// # Errors
/// As [`carry`], and those of the caller.
pub fn carry_with(model: &Model, plans: &[Plan], how: &Writing) -> Result<Vec<Outcome>> {
    let Writing { commit, progress, proof, sealed } = *how;
    let began = Instant::now();
    // A download that began anew in the middle looks whole by its size, and its tensors are not.
    tail::check(model)?;
    let inputs: Vec<&Input> = model.files.iter().collect();
    for plan in plans {
        check_target(&plan.output, commit.existing, &inputs)?;
        // No tensor may be written where something else is.
        if plan.layout.data.len() != plan.steps.len() {
            let what = format!("{}: not every tensor has a place", plan.output.display());
            return Err(Error::unsupported(what, "lay the plan out again"));
        }
    }
    let outputs: Vec<Replace> = plans
        .iter()
        .map(|plan| {
            let out = Replace::begin(&plan.output, plan.layout.total, commit, &inputs)?;
            // All that is no weight goes first; a file that is cut short afterwards still has no name.
            plan.layout.chunks.iter().try_for_each(|(at, bytes)| out.write_at(*at, bytes))?;
            Ok(out)
        })
        .collect::<Result<_>>()?;

    let job = Job {
        model,
        plans,
        outputs: &outputs,
        uses: uses(plans),
        progress,
        isa: Isa::best(),
        turns: Turns { free: Mutex::new(rayon::current_num_threads()), freed: Condvar::new() },
    };
    let chunks = job.chunks();
    let work = || {
        let chunks = chunks.iter().enumerate().par_bridge();
        let run = |buffers: &mut Buffers, (i, chunk)| Ok((i, job.run(chunk, buffers)?));
        chunks.map_init(Buffers::default, run).collect::<Result<Vec<_>>>()
    };
    // As many compute as were asked for (`Turns`); the others read ahead and write behind.
    let threads = rayon::current_num_threads() + WAITING;
    // Where no pool can be had, the caller's threads do it: slower, and the same bytes.
    let mut done = match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(work)?,
        Err(_) => work()?,
    };
    // Losses are summed in the order of the chunks: float sums must not depend on who was first.
    done.sort_by_key(|(i, _)| *i);

    let mut outcomes: Vec<Outcome> = plans
        .iter()
        .map(|p| Outcome {
            bytes: p.layout.total,
            steps: vec![StepOutcome::default(); p.steps.len()],
            ..Outcome::default()
        })
        .collect();
    for (plan, step, part) in done.into_iter().flat_map(|(_, parts)| parts) {
        if let Some(sum) = outcomes.get_mut(plan).and_then(|o| o.steps.get_mut(step)) {
            sum.scales = sum.scales.merge(part.scales);
            sum.distance.merge(part.distance);
            sum.kept_odd |= part.kept_odd;
        }
    }
    // Whether a file changed while it was read, and whether what archives state of their entries is true.
    model.files.iter().try_for_each(Input::check_read)?;
    for ((plan, out), outcome) in plans.iter().zip(&outputs).zip(&mut outcomes) {
        out.finish()?;
        if !plan.is_part {
            let written = check_written(plan, out, plans.len(), model.limits)?;
            // Shards are no models by themselves.
            if written.metadata.get("split.count").is_none() {
                outcome.refused = loader::objections(&written);
            }
            outcome.verdict = proof(plan, written)?;
        }
    }
    // Only when all are whole does any get its name.
    outputs.iter().enumerate().try_for_each(|(i, out)| sealed(i, out.temp_path()))?;
    for (out, outcome) in outputs.into_iter().zip(&mut outcomes) {
        outcome.durability = out.commit()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    outcomes.iter_mut().for_each(|o| o.seconds = seconds);
    Ok(outcomes)
}

/// Which steps of which plans take their rows from a source: source -> (plan, step).
fn uses(plans: &[Plan]) -> HashMap<usize, Vec<(usize, usize)>> {
    let mut uses: HashMap<usize, Vec<(usize, usize)>> = HashMap::new();
    for (p, plan) in plans.iter().enumerate() {
        for (s, step) in plan.steps.iter().enumerate() {
            uses.entry(step.source).or_default().push((p, s));
        }
    }
    uses
}

/// Memory of one thread, used again for its next chunk.
#[derive(Default)]
struct Buffers {
    /// Rows as they are read; copied ones go to the disk from here.
    raw: Paged,
    /// Rows as they will be in the file.
    made: Paged,
    /// Rows as float32 on the way from one to the other.
    weights: Weights,
    /// For rows that are sums of several tensors.
    sums: Room,
}

/// What all threads share.
struct Job<'a> {
    model: &'a Model,
    plans: &'a [Plan],
    /// A file for each plan, in their order.
    outputs: &'a [Replace],
    /// Of each source the plans and steps that want its rows: they are read once for all.
    uses: HashMap<usize, Vec<(usize, usize)>>,
    progress: &'a dyn Progress,
    isa: Isa,
    turns: Turns,
}

/// Turns to compute, as many as threads were asked for: the others read, write or wait.
///
/// There are two more threads than turns: while some wait for the disk the others have work, and no more cores are used
/// than were asked for.
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Turns {
    /// Waits for a turn, which lasts until it is dropped.
    fn take(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_while(free, |free| *free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

/// A thread's turn to compute.
struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

/// What some rows lost: plan, step, and what.
type Parts = Vec<(usize, usize, StepOutcome)>;

impl Job<'_> {
    /// The steps of all plans that take their rows from tensor `source`.
    fn steps(&self, source: usize) -> impl Iterator<Item = (usize, usize, &Plan, &Step)> {
        let uses = self.uses.get(&source).map(Vec::as_slice).unwrap_or_default();
        uses.iter().filter_map(|(p, s)| {
            let plan = self.plans.get(*p)?;
            Some((*p, *s, plan, plan.steps.get(*s)?))
        })
    }

    /// All work, in the order in which the inputs hold it.
    fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (source, tensor) in self.model.tensors.iter().enumerate() {
            if self.steps(source).next().is_none() || tensor.bytes() == 0 {
                continue;
            }
            // Decoded rows are four bytes a weight and more; copied ones are read by their size in the file.
            let recoded = self.steps(source).any(|(.., s)| matches!(s.act, Act::Recode { .. }));
            let most = if recoded {
                CHUNK_WEIGHTS / tensor.row_len().max(1)
            } else {
                CHUNK_BYTES / tensor.row_bytes().max(1)
            };
            let group = self
                .steps(source)
                .map(|(.., s)| s.quant.row_group())
                .fold(tensor.quant.row_group(), usize::max);
            // Rows that are coded in fours or eights stay together, on either side.
            // Sums are made of N rows at a time.
            let sums = tensor.sum.as_ref().filter(|_| group == 1);
            let group = sums.map_or(group, |_| high(self.isa)) as u64;
            let step = (most / group * group).max(group);
            // What can only be read forward is one chunk, cut up while it is read.
            let step = if self.model.only_forward(tensor) { tensor.rows() } else { step };
            let firsts = (0..tensor.rows()).step_by(usize::try_from(step).unwrap_or(usize::MAX));
            chunks.extend(firsts.map(|first| Chunk {
                source,
                first,
                rows: step.min(tensor.rows() - first),
            }));
        }
        // By place, not by the order of tensors: files are read from front to back.
        let place = |c: &Chunk| {
            let piece = self.model.tensors.get(c.source).and_then(|t| t.pieces.first());
            piece.map(|p| (p.file, p.at))
        };
        chunks.sort_by_key(|c| (place(c), c.first));
        chunks
    }

    /// Does a chunk. A tensor that can only be read forward is one chunk, read and written in pieces.
    fn run(&self, chunk: &Chunk, buffers: &mut Buffers) -> Result<Parts> {
        let Some(tensor) = self.model.tensors.get(chunk.source) else { return Ok(Vec::new()) };
        if !self.model.only_forward(tensor) {
            return self.run_rows(tensor, chunk.source, chunk.first, chunk.rows, buffers);
        }
        // Whatever is read of it, all before it is unpacked.
        let step = (CHUNK_WEIGHTS / tensor.row_len().max(1)).max(1);
        let mut parts = Parts::new();
        for first in (0..tensor.rows()).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let rows = step.min(tensor.rows() - first);
            parts.extend(self.run_rows(tensor, chunk.source, first, rows, buffers)?);
        }
        Ok(parts)
    }

    /// Reads some rows once and hands them to every step that wants them.
    ///
    /// ```text
    /// Copy        written from the buffer that they were read to, in place of its page (`Paged`)
    /// Transform   bytes to bytes
    /// Recode      decoded, checked for NaN and infinity, encoded, and measured where that is asked for
    /// ```
    fn run_rows(
        &self,
        tensor: &Tensor,
        source: usize,
        first: u64,
        rows: u64,
        buffers: &mut Buffers,
    ) -> Result<Parts> {
        check_interrupt()?;
        let mut parts = Parts::new();
        // Rows that were coded together may be coded one by one now.
        let split = |step: &Step| tensor.row_len() / step.row_len().max(1);
        let at = |plan: &Plan, s: usize, step: &Step| {
            let data = plan.layout.data.get(s).copied().unwrap_or(0);
            data + first * split(step) * step.row_bytes()
        };
        // Rows that are only copied are written from where they are read to.
        let copied = |(_, s, plan, step): (usize, usize, &Plan, &Step)| {
            matches!(step.act, Act::Copy).then(|| at(plan, s, step))
        };
        // Where in its page the buffer begins is where the rows will be in the page of the file.
        let place = self.steps(source).find_map(copied).unwrap_or(0);
        let sum = tensor.sum.as_deref().filter(|_| tensor.orders.is_empty());
        let sums = sum.map(|sum| sum.rows(self.model, first..first + rows, &mut buffers.sums));
        let sums = sums.transpose()?;
        // A sum that one step encodes is made a piece at a time, on the way.
        let mut steps = self.steps(source);
        let once = steps.next().is_some_and(|(.., s)| matches!(s.act, Act::Recode { .. }));
        let passing = sums.as_ref().filter(|_| once && steps.next().is_none() && tensor.is_f32());
        // What is read, unless it is made on the way.
        let held = if passing.is_some() { 0 } else { rows * tensor.row_bytes() };
        let raw = buffers.raw.place(place, in_memory(held)?);
        match (&sums, passing) {
            (_, Some(_)) => {}
            (Some(sums), None) => sums.write(tensor.quant, raw)?,
            (None, None) => self.model.read_rows(tensor, first, rows, raw)?,
        }
        let row_len = usize::try_from(tensor.row_len()).unwrap_or(usize::MAX);
        let mut copy = None;
        for (p, s, plan, step) in self.steps(source) {
            let Some(out) = self.outputs.get(p) else { continue };
            let (split, at) = (split(step), at(plan, s, step));
            let size = rows * split * step.row_bytes();
            self.progress.advance(size);
            let mut part = StepOutcome::default();
            let swap = plan.target.big_endian();
            if matches!(step.act, Act::Copy) {
                part.kept_odd = check_made(plan, tensor, step, first, raw, &[])?;
                // Aligned as the file wants it: such a buffer goes to the disk without being copied first.
                // It is written last: until then other steps read from this buffer.
                if !swap && at == place && copy.is_none() {
                    copy = Some(out);
                    parts.push((p, s, part));
                    continue;
                }
            }
            let (raw, made) = (&*raw, buffers.made.place(at, in_memory(size)?));
            // From here on it computes.
            let turn = self.turns.take();
            match &step.act {
                Act::Copy => made.copy_from_slice(raw),
                Act::Transform(transform) => {
                    part.scales = transform.run(self.isa, row_len, raw, made);
                    check_scales(plan, tensor, step.quant, &part.scales)?;
                    part.kept_odd = check_made(plan, tensor, step, first, made, &[])?;
                }
                Act::Recode { encode, weights, times } => {
                    let from = passing.map_or(Origin::Stored(raw), Origin::Sums);
                    let recode = Recode {
                        tensor,
                        plan,
                        step,
                        encode: *encode,
                        importance: weights.as_deref(),
                        times: *times,
                        isa: self.isa,
                    };
                    (part.distance, part.kept_odd) =
                        recode.run(first, from, made, &mut buffers.weights)?;
                }
            }
            if swap {
                step.quant.swap_bytes(made);
            }
            // And waits for the disk again.
            drop(turn);
            out.write(&mut buffers.made)?;
            parts.push((p, s, part));
        }
        copy.map_or(Ok(()), |out| out.write(&mut buffers.raw))?;
        Ok(parts)
    }
}

/// A size in memory, which on a machine of 32 bits may be too large.
fn in_memory(size: u64) -> Result<usize> {
    usize::try_from(size)
        .map_err(|_| Error::unsupported("a row is larger than memory", "use a 64-bit machine"))
}

/// A float32 scale beyond 65504, or so small that f16 makes it 0 or next to it, is not rounded but lost: an error.
fn check_scales(plan: &Plan, tensor: &Tensor, to: QuantType, scales: &ScaleLoss) -> Result<()> {
    if plan.clamp_scales || (scales.underflow == 0 && scales.overflow == 0) {
        return Ok(());
    }
    let what = format!(
        "{}: {} scales are too small and {} too large for the f16 scale of today's {to}",
        tensor.name, scales.underflow, scales.overflow,
    );
    Err(Error::refused(
        what,
        Setting::Exact
            .to("keep such tensors as F32")
            .or(Setting::ClampScales.to("take the nearest f16")),
    ))
}

/// Opens the finished file and compares it with the plan before it gets its name.
fn check_written(plan: &Plan, out: &Replace, files: usize, limits: Limits) -> Result<Model> {
    let wrong = |what: String| {
        let what =
            format!("{}: the file would not be what was asked for: {what}", plan.output.display());
        Error::unsupported(what, "it was not kept")
    };
    // Whoever was trusted with the source reads what became of it by the same bounds.
    let bounded = OpenOptions { limits, ..OpenOptions::default() };
    let options = OpenOptions {
        format: Some(plan.target.id().to_owned()),
        read_as: plan.steps.iter().map(|step| step.quant).collect(),
        ..bounded.clone()
    };
    // This file alone: as a shard it would ask for the others, which have no names yet.
    let written = Input::look(out.temp_path())?;
    let found = container::open_alone(&written, &options)?;
    // Whoever opens it next is not told what it is.
    let untold = container::detect(&written, &bounded)?;
    // Without tensors nothing tells the families of an older container apart.
    let is_either = matches!(untold.verdict, Verdict::Either(..)) && found.tensors.is_empty();
    if is_either || matches!(untold.verdict, Verdict::Unknown(_)) {
        let why = untold.sure(&written).err().map_or(String::new(), |why| format!(": {why}"));
        return Err(wrong(format!("nothing would read it{why}")));
    }
    // A file that asks for more shards than are written could never be opened.
    let shards = found.metadata.u64("split.count").unwrap_or(1);
    if usize::try_from(shards).map_or(true, |shards| shards > files.max(1)) {
        return Err(wrong(format!("split.count says {shards} shards, {files} are written")));
    }
    if found.tensors.len() != plan.steps.len() {
        return Err(wrong(format!("{} tensors", found.tensors.len())));
    }
    for ((tensor, step), at) in found.tensors.iter().zip(&plan.steps).zip(&plan.layout.data) {
        let same = tensor.name == step.name
            && tensor.shape == step.shape
            && tensor.quant == step.quant
            // Rows that are read in another order are pieces.
            && tensor.pieces.iter().map(|piece| piece.at).min() == Some(*at);
        if !same {
            return Err(wrong(format!("tensor {}", step.name)));
        }
    }
    Ok(found)
}
