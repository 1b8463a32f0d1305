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

mod outputs;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use super::events::{Event, Made, Observer};
use super::job::{Job, Output};
use super::lock::Lock;
use super::plan::BatchPlan;
use super::receipt::{Standing, Work, part_of, standing};
use super::shard::Shard;
use super::task::{Settings, Task};
use crate::bytes::replace::{Commit, Existing, check_interrupt, folder_of, make_folder};
use crate::error::{Error, Result};
use crate::model::Stated;
use crate::remedy::{Note, Remedy, Setting};

/// Memory that one job needs besides the buffers that all jobs share: headers and vocabularies.
const JOB_MEMORY: u64 = 128 << 20;

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
    ///
    /// The first round goes on past a lock, so that two batches over one tree share the work between them; the second
    /// waits, for by then there is nothing else to do.
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
    ///
    /// ```text
    /// join                  its own way: parts are its inputs
    /// a problem of the plan the error
    /// nothing to do         skipped
    /// verify                checked
    /// else                  locks, receipts, and what is due is made
    /// ```
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
    ///
    /// A receipt holds them: what differs in them is another output, though the name be the same.
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
}

/// A path relative to a folder, with `/`.
fn relative(path: &Path, folder: &Path) -> String {
    let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy();
    name.replace(std::path::MAIN_SEPARATOR, "/")
}
