//! Works through a plan: jobs side by side, each output locked, written whole, and given a receipt.
//!
//! ```text
//! locks of all outputs of a job    another process holds one: busy, and looked at again in a second round
//! receipt of each against work     proved: nothing to do · due: missing, or ours and outdated · foreign: refused
//! inputs digested, planned anew    weights are read when they are written: the plan of the batch is an estimate
//! free space set aside             less than that and what is to stay free: refused
//! receipt, state "started"         so that what a killed run leaves is known as a batch's own
//! output beside its name           read back, its digest put into the receipt, then renamed
//! receipt, state "finished"
//! ```
//!
//! Nothing is kept in memory between jobs, so the second run of a killed batch does what the first would have done.

use crate::bytes::replace::{Commit, Existing};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use super::events::{Event, Made, Observer};
use super::job::{Job, Output};
use super::join;
use super::lock::Lock;
use super::plan::BatchPlan;
use super::receipt::{FileState, Receipt, Standing, Work, part_of, path_of, standing};
use super::shard::Shard;
use super::task::{Settings, Task};
use crate::bytes::replace::{check_interrupt, check_target, folder_of, free_space, make_folder};
use crate::change::{self, Plan, Progress, Writing};
use crate::check::Severity;
use crate::check::files::{self, verify};
use crate::error::{Error, Result};
use crate::model::Stated;
use crate::remedy::{Note, Remedy, Setting};
use crate::size;

/// Memory that one job needs besides the buffers that all jobs share: headers and vocabularies.
const JOB_MEMORY: u64 = 128 << 20;
/// Progress is told whenever N more bytes are read or written.
const PROGRESS_BYTES: u64 = 16 << 20;

/// How a plan is worked through: nothing here changes a byte of the outputs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs side by side.
    pub jobs: usize,
    /// Memory that the batch may use, in bytes; decides how many jobs really run side by side.
    pub memory: u64,
    /// Bytes that stay free on the disk of the outputs.
    pub min_free: u64,
    /// Go on after a failure.
    pub keep_going: bool,
    /// How outputs take their places, and what becomes of those that no receipt claims.
    pub commit: Commit,
    /// Threads for reading files to digest them.
    pub threads: usize,
}

impl Default for Limits {
    /// One job at a time in 2 GB, which stops at the first failure and replaces nothing.
    fn default() -> Self {
        Limits {
            jobs: 1,
            memory: 2_000_000_000,
            min_free: 0,
            keep_going: false,
            commit: Commit::default(),
            threads: 1,
        }
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Jobs done.
    pub finished: usize,
    /// Jobs that needed nothing.
    pub skipped: usize,
    /// Jobs that failed: their names and reasons.
    pub failures: Vec<(String, Note)>,
    /// Jobs not begun.
    pub left: usize,
    /// How long it took.
    pub seconds: f64,
    /// Whether the person stopped it.
    pub interrupted: bool,
}

/// What became of one job.
enum Done {
    /// Outputs were made; none by a check.
    Finished(Vec<Made>),
    /// There was nothing to do, and why.
    Skipped(Note),
    /// Another process has the lock of this output.
    Busy(PathBuf),
}

/// A batch while it is worked through; shared by its workers.
struct Run<'a> {
    plan: &'a BatchPlan,
    /// Of every output only this part of its tensors.
    part: Option<Shard>,
    limits: Limits,
    observer: &'a dyn Observer,
    /// What decides the bytes of all outputs alike.
    options: Value,
    /// No worker begins another job: one failed, or the person pressed Ctrl-C.
    stop: AtomicBool,
    /// Bytes that running jobs have yet to write, so that two do not count on the same free space.
    reserved: Mutex<u64>,
    summary: Mutex<Summary>,
}

/// What decides the bytes of every output; what a person states only where there is something, so that
/// receipts from before count.
fn options(settings: &Settings) -> Value {
    let mut options = json!({ "to": settings.to, "allow_requantize": settings.allow_requantize });
    if let (true, Some(options)) = (settings.stated != Stated::default(), options.as_object_mut()) {
        options.insert("stated".to_owned(), json!(settings.stated));
    }
    options
}

/// Works through the jobs of `plan` that `takes` says; of every output only one part, where `part`
/// says so.
///
/// `takes` has one item a job; jobs beyond its end are taken. What fails is in the summary, not an error: a batch that
/// began always ends with one. `observer` is called from all workers.
pub fn run(
    plan: &BatchPlan,
    takes: &[bool],
    part: Option<Shard>,
    limits: Limits,
    observer: &dyn Observer,
) -> Summary {
    let began = Instant::now();
    // Jobs are known by their place in the plan, in events too.
    let mine: Vec<usize> =
        (0..plan.jobs.len()).filter(|i| takes.get(*i).copied().unwrap_or(true)).collect();
    let bytes = mine.iter().filter_map(|i| plan.jobs.get(*i)).map(|job| job.model.bytes).sum();
    observer.hear(&Event::Planned { jobs: mine.len(), bytes });
    let settings = &plan.settings;
    let run = Run {
        plan,
        part,
        limits,
        observer,
        // Where outputs go does not change them.
        options: options(settings),
        stop: AtomicBool::new(false),
        reserved: Mutex::new(0),
        summary: Mutex::new(Summary::default()),
    };
    let by_memory = usize::try_from(limits.memory / JOB_MEMORY).unwrap_or(usize::MAX).max(1);
    let workers = limits.jobs.clamp(1, mine.len().max(1)).min(by_memory);
    let busy = run.round(&mine, workers, false);
    // What another batch was writing is looked at once more when it is done with it.
    run.round(&busy, 1, true);
    let mut summary = run.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.left = mine.len() - summary.finished - summary.skipped - summary.failures.len();
    summary.seconds = began.elapsed().as_secs_f64();
    observer.hear(&Event::Ended {
        finished: summary.finished,
        skipped: summary.skipped,
        failed: summary.failures.len(),
        left: summary.left,
        seconds: summary.seconds,
    });
    summary
}

impl Run<'_> {
    /// Does the jobs with some workers; returns those that another process has locked, in order. With `wait` none is:
    /// then a worker sleeps until the lock is free.
    fn round(&self, jobs: &[usize], workers: usize, wait: bool) -> Vec<usize> {
        let (next, busy) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            // Whoever is free takes the next: models differ in size by a hundred times.
            while let Some(&i) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Some(job) = self.plan.jobs.get(i) else { continue };
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let began = Instant::now();
                match self.job(i, job, wait) {
                    Ok(Done::Busy(output)) => {
                        let output = output.display().to_string();
                        self.observer.hear(&Event::Waiting { job: i, output: &output });
                        busy.lock().unwrap_or_else(PoisonError::into_inner).push(i);
                    }
                    Ok(Done::Skipped(why)) => {
                        self.note(|summary| summary.skipped += 1);
                        self.observer.hear(&Event::Skipped { job: i, why: &why });
                    }
                    Ok(Done::Finished(outputs)) => {
                        let seconds = began.elapsed().as_secs_f64();
                        self.note(|summary| summary.finished += 1);
                        self.observer.hear(&Event::Finished { job: i, outputs, seconds });
                    }
                    Err(Error::Interrupted) => {
                        self.stop.store(true, Ordering::Relaxed);
                        self.note(|summary| summary.interrupted = true);
                    }
                    Err(error) => self.failed(i, job, &error),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                // What the system gives no thread for, this one does.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let mut busy = busy.into_inner().unwrap_or_else(PoisonError::into_inner);
        busy.sort_unstable();
        busy
    }

    /// Notes something in the summary.
    fn note(&self, what: impl FnOnce(&mut Summary)) {
        what(&mut self.summary.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes and tells a failure; without `keep_going` it is the last job that begins.
    fn failed(&self, i: usize, job: &Job, error: &Error) {
        let error = Note::from(error);
        self.note(|summary| summary.failures.push((job.model.name.clone(), error.clone())));
        if !self.limits.keep_going {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.observer.hear(&Event::Failed { job: i, error });
    }

    /// Does one job: what the plan knows of it, then what its receipts say, then the work.
    ///
    /// # Errors
    /// Where the job cannot be done, or a file is in the place of an output that no batch made.
    fn job(&self, i: usize, job: &Job, wait: bool) -> Result<Done> {
        check_interrupt()?;
        if self.plan.task == Task::Join {
            return self.join(i, job, wait);
        }
        if let Some(problem) = &job.problem {
            return Err(Error::unsupported(problem.text.as_str(), problem.remedy.clone()));
        }
        if let Some(why) = &job.skip {
            return Ok(Done::Skipped(why.clone()));
        }
        if self.plan.task == Task::Verify {
            return self.verify(i, job);
        }
        let inputs: Vec<(String, PathBuf)> = job
            .model
            .files
            .iter()
            .map(|file| (relative(file, &job.model.root), file.clone()))
            .collect();
        let mut outputs = job.outputs.clone();
        if let Some(part) = self.part {
            // Once the whole is there its parts are gone, and a part alone would be made again.
            let joined = |output: &Output| {
                let work = self.work(job, output, None, &inputs);
                Ok(standing(&output.path, &work)? == Standing::Proved)
            };
            if outputs.iter().map(joined).collect::<Result<Vec<bool>>>()?.into_iter().all(|yes| yes)
            {
                return Ok(Done::Skipped("joined already: the output matches its receipt".into()));
            }
            outputs.iter_mut().for_each(|output| output.path = part_of(&output.path, part));
        }
        for output in &outputs {
            // Another process of the batch may be about to write there.
            make_folder(folder_of(&output.path))?.keep();
        }
        // In one order everywhere, so that two batches cannot wait for each other.
        let mut paths: Vec<&Path> = outputs.iter().map(|output| output.path.as_path()).collect();
        paths.sort_unstable();
        let mut locks = Vec::new();
        for path in paths {
            match if wait { Some(Lock::wait(path)?) } else { Lock::try_take(path)? } {
                Some(lock) => locks.push(lock),
                None => return Ok(Done::Busy(path.to_owned())),
            }
        }
        // Which outputs are to be made, by their places, each with what it may replace; why, for the last of them.
        let mut due = Vec::new();
        let mut why = String::new();
        for (n, output) in outputs.iter().enumerate() {
            match standing(&output.path, &self.work(job, output, self.part, &inputs))? {
                Standing::Proved => {}
                Standing::Foreign(what) if self.limits.commit.existing == Existing::Keep => {
                    let what = format!("{}: {what}", output.path.display());
                    let next = Remedy::from("move it away").or(Setting::Force.to("replace it"));
                    return Err(Error::refused(what, next));
                }
                Standing::Foreign(_) => {
                    due.push((n, None));
                    "replaces what was there".clone_into(&mut why);
                }
                Standing::Due(reason, replaces) => {
                    due.push((n, replaces));
                    why = reason;
                }
            }
        }
        if due.is_empty() {
            return Ok(Done::Skipped("made already: inputs and outputs match the receipt".into()));
        }
        let (input, bytes) = (job.model.name.as_str(), job.model.bytes);
        self.observer.hear(&Event::Started { job: i, input, bytes, why: &why });
        self.make(i, job, &outputs, &due, &inputs).map(Done::Finished)
    }

    /// What is to be done for an output, or for a part of it.
    fn work<'b>(
        &'b self,
        job: &Job,
        output: &Output,
        part: Option<Shard>,
        inputs: &'b [(String, PathBuf)],
    ) -> Work<'b> {
        let path = &job.model.path;
        let source = path.canonicalize().unwrap_or_else(|_| path.clone());
        Work {
            task: self.plan.task.name(),
            options: self.options_of(output, part),
            source: source.display().to_string(),
            inputs,
            threads: self.limits.threads,
        }
    }

    /// Everything that decides the bytes of an output, or of a part of it, besides its inputs.
    #[expect(clippy::indexing_slicing, reason = "options are an object, which gets the key")]
    fn options_of(&self, output: &Output, part: Option<Shard>) -> Value {
        let mut options = self.options.clone();
        if self.plan.settings.keep_nan {
            options["keep_nan"] = json!(true);
        }
        options["type"] = json!(output.kind);
        if let Some(part) = part {
            options["part"] = json!(part.to_string());
        }
        options
    }

    /// Makes the outputs that are due from one reading of the model; their locks are held.
    ///
    /// # Errors
    /// Where an input cannot be read or changes, the disk has no room, or an output cannot be written. Then no output
    /// of this call has its name, and receipts say "started".
    fn make(
        &self,
        i: usize,
        job: &Job,
        outputs: &[Output],
        due: &[(usize, Option<FileState>)],
        inputs: &[(String, PathBuf)],
    ) -> Result<Vec<Made>> {
        let threads = self.limits.threads;
        let written: u64 = due.iter().filter_map(|(n, _)| outputs.get(*n)).map(|o| o.bytes).sum();
        let written = self.part.map_or(written, |part| written / part.count() as u64);
        // Inputs are read to digest them, outputs written and read back. The reading for the work itself is not counted:
        // it goes as far as the writing.
        let telling = self.telling(i, job.model.bytes + 2 * written);
        let read =
            |(name, path): &(String, PathBuf)| FileState::read(path, name, threads, &telling);
        let states = inputs.iter().map(read).collect::<Result<Vec<FileState>>>()?;
        let planned = self.plan.task.plans(&self.plan.settings, &job.model)?;
        let Some((model, plans)) = planned else { return Ok(Vec::new()) };
        if plans.len() != outputs.len() {
            let what = format!("{}: planned for other outputs", job.model.name);
            return Err(Error::unsupported(what, "plan the batch again"));
        }
        let plans: Vec<Plan> = due
            .iter()
            .filter_map(|(n, _)| {
                let plan = Plan { output: outputs.get(*n)?.path.clone(), ..plans.get(*n)?.clone() };
                Some(self.part.map_or(plan.clone(), |part| plan.part(part.index(), part.count())))
            })
            .collect();
        let total = plans.iter().map(|plan| plan.layout.total).sum();
        let _reserved = self.reserve(plans.first().map(|plan| plan.output.as_path()), total)?;
        let mut receipts = Vec::new();
        for (n, replaces) in due {
            let Some(output) = outputs.get(*n) else { continue };
            let work = self.work(job, output, self.part, inputs);
            let receipt = Receipt::start(&work, states.clone(), replaces.clone());
            receipt.write(&output.path)?;
            receipts.push((output, receipt));
        }
        let receipts = RefCell::new(receipts);
        // Called when an output is whole and has no name yet; before the first, inputs are looked at once more.
        let sealed = |i: usize, place: &Path| {
            for (state, (_, path)) in states.iter().zip(inputs).filter(|_| i == 0) {
                if !state.is_unmoved(path) {
                    let how = "it was written to between reading and digesting it".to_owned();
                    return Err(Error::Changed { path: path.clone(), how });
                }
            }
            let mut receipts = receipts.borrow_mut();
            let Some((output, receipt)) = receipts.get_mut(i) else { return Ok(()) };
            self.seal(job, receipt, place, &output.path, &telling)
        };
        // What appeared meanwhile is nobody's to replace.
        let ours = due.iter().any(|(_, replaces)| replaces.is_some());
        let commit = self.commit(ours);
        let how = Writing { commit, progress: &telling, proof: &|_, _| Ok(None), sealed: &sealed };
        let outcomes = change::carry_with(&model, &plans, &how)?;
        let receipts = receipts.into_inner().into_iter().zip(outcomes);
        let made = receipts.map(|((output, receipt), outcome)| {
            Ok(Made { notes: outcome.refused, ..made(receipt, &output.path)? })
        });
        made.collect()
    }

    /// Reads an output back that is to get its name, and says so in its receipt.
    fn seal(
        &self,
        job: &Job,
        receipt: &mut Receipt,
        place: &Path,
        output: &Path,
        telling: &Telling,
    ) -> Result<()> {
        let name = relative(output, self.plan.settings.out.as_ref().unwrap_or(&job.model.root));
        receipt.seal(place, output, &name, self.limits.threads, telling)
    }

    /// How outputs take their places: those that a receipt claims may be replaced.
    fn commit(&self, ours: bool) -> Commit {
        let commit = self.limits.commit;
        if ours { Commit { existing: Existing::Replace, ..commit } } else { commit }
    }

    /// What hears of the bytes of a job, `total` of them.
    fn telling(&self, job: usize, total: u64) -> Telling<'_> {
        Telling { run: self, job, total, done: AtomicU64::new(0) }
    }

    /// Puts the parts of one output together; see [`join`].
    ///
    /// # Errors
    /// Where parts are missing or were not made of the same model in the same way, or an output is there that no batch
    /// made.
    fn join(&self, i: usize, job: &Job, wait: bool) -> Result<Done> {
        let output = job.model.path.as_path();
        let lock = if wait { Some(Lock::wait(output)?) } else { Lock::try_take(output)? };
        let Some(lock) = lock else { return Ok(Done::Busy(output.to_owned())) };
        let (parts, threads) = (&job.model.files, self.limits.threads);
        let agreed = join::agreed(parts);
        let there = Receipt::of(output);
        if there.is_none() {
            check_target(&path_of(output), self.limits.commit.existing, &[])?;
        }
        let replaces =
            there.as_ref().and_then(|r| r.owned(output, threads)).map(|(o, _)| o.clone());
        if let (Ok((whole, _)), Some(receipt)) = (&agreed, there)
            && receipt.makes_the_same(whole)
            && receipt.output.is_some()
            && replaces == receipt.output
        {
            receipt.finish(output)?;
            drop(lock);
            join::remove_parts(output, threads);
            return Ok(Done::Skipped("joined already; its parts are removed".into()));
        }
        if let Some(problem) = &job.problem {
            return Err(Error::unsupported(format!("{}: {problem}", output.display()), ""));
        }
        let (mut receipt, states) = agreed?;
        let commit = self.commit(replaces.is_some());
        check_target(output, commit.existing, &[])?;
        let (input, bytes) = (job.model.name.as_str(), job.model.bytes);
        self.observer.hear(&Event::Started { job: i, input, bytes, why: "all parts are there" });
        let _reserved = self.reserve(Some(output), bytes)?;
        receipt.replaces = replaces;
        receipt.write(output)?;
        let telling = self.telling(i, 2 * bytes);
        let out = join::lay(output, parts, &states, &receipt.options, commit, &telling)?;
        self.seal(job, &mut receipt, out.temp_path(), output, &telling)?;
        out.commit()?;
        let made = made(receipt, output)?;
        // The parts go after the lock: where one is left, the next run finds the job and tidies up.
        drop(lock);
        join::remove_parts(output, threads);
        Ok(Done::Finished(vec![made]))
    }

    /// Sets bytes to be written beside `output` aside from the free space of its disk, until what is returned goes.
    ///
    /// # Errors
    /// Where less is free than these bytes, those of other jobs, and what is to stay free.
    fn reserve(&self, output: Option<&Path>, total: u64) -> Result<Reserved<'_>> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let free = output.map(folder_of).and_then(free_space);
        let wanted = total.saturating_add(*reserved).saturating_add(self.limits.min_free);
        if let Some(free) = free.filter(|free| *free < wanted) {
            let what = format!(
                "{} are to be written and {} kept free, the disk has {} free",
                size::text(total.saturating_add(*reserved)),
                size::text(self.limits.min_free),
                size::text(free)
            );
            let next =
                Remedy::from("free some space").or(Setting::Output.to("name another output"));
            return Err(Error::refused(what, next));
        }
        *reserved += total;
        Ok(Reserved { all: &self.reserved, bytes: total })
    }

    /// Checks the files of a model; the first failure among its findings is the error.
    fn verify(&self, i: usize, job: &Job) -> Result<Done> {
        let (input, bytes) = (job.model.name.as_str(), job.model.bytes);
        self.observer.hear(&Event::Started { job: i, input, bytes, why: "" });
        let threads = self.limits.threads;
        let options =
            files::Options { deep: self.plan.settings.deep, threads, ..Default::default() };
        let telling = self.telling(i, bytes);
        let result = verify(&job.model.files, &options, &telling);
        check_interrupt()?;
        let bad = result.files.iter().find_map(|file| {
            let graver = file.findings.iter().find(|f| f.severity == Severity::Failure)?;
            Some(format!("{}: {graver}", file.name))
        });
        match bad {
            Some(what) => Err(Error::unsupported(what, "")),
            None => Ok(Done::Finished(Vec::new())),
        }
    }
}

/// Completes the receipt of an output that has its name.
fn made(receipt: Receipt, output: &Path) -> Result<Made> {
    let state = receipt.finish(output)?;
    let path = output.display().to_string();
    Ok(Made { path, bytes: state.size, sha256: state.sha256, notes: Vec::new() })
}

/// A path relative to a folder, with `/`.
fn relative(path: &Path, folder: &Path) -> String {
    let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy();
    name.replace(std::path::MAIN_SEPARATOR, "/")
}

/// Free space set aside, given back when dropped.
struct Reserved<'a> {
    all: &'a Mutex<u64>,
    bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.saturating_sub(self.bytes);
    }
}

/// Tells the observer of bytes read and written.
struct Telling<'a> {
    run: &'a Run<'a>,
    job: usize,
    total: u64,
    done: AtomicU64,
}

impl Progress for Telling<'_> {
    fn advance(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let done = before.saturating_add(bytes).min(self.total);
        if before / PROGRESS_BYTES != done / PROGRESS_BYTES {
            let (job, total) = (self.job, self.total);
            self.run.observer.hear(&Event::Progress { job, done, total });
        }
    }
}
