//! Makes the outputs of one job, joins their parts, or checks the files of a model.
//!
//! ```text
//! make     inputs digested  planned anew  space set aside  receipts "started"
//!          written, read back (seal), renamed one by one   receipts "finished"
//! join     parts agree by their receipts  laid end to end  read back, renamed  parts removed
//! verify   as the single command does it; the first failure ends the job
//! ```
//!
//! Whoever calls holds the locks of all outputs. A receipt is written before the output that it speaks of, so that what
//! a killed run leaves under a name is known as a batch's own, and is made again.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Done, Run, relative};
use crate::batch::events::{Event, Made};
use crate::batch::job::{Job, Output};
use crate::batch::join;
use crate::batch::lock::Lock;
use crate::batch::receipt::{FileState, Receipt, path_of};
use crate::bytes::replace::{
    Commit, Existing, check_interrupt, check_target, folder_of, free_space,
};
use crate::change::{self, Plan, Progress, Writing};
use crate::check::Severity;
use crate::check::files::{self, verify};
use crate::error::{Error, Result};
use crate::remedy::{Remedy, Setting};
use crate::size;

/// Progress is told whenever N more bytes are read or written.
const PROGRESS_BYTES: u64 = 16 << 20;

impl Run<'_> {
    /// Makes the outputs that are due from one reading of the model; their locks are held.
    ///
    /// # Errors
    /// Where an input cannot be read or changes, the disk has no room, or an output cannot be written. Then no output
    /// of this call has its name, and receipts say "started".
    pub(super) fn make(
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
    ///
    /// A join may have been killed at any step: with the whole in its place and parts still there, the parts go; with
    /// the receipt written and no output, it is laid once more.
    pub(super) fn join(&self, i: usize, job: &Job, wait: bool) -> Result<Done> {
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
    pub(super) fn verify(&self, i: usize, job: &Job) -> Result<Done> {
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

/// Free space set aside, given back when dropped.
/// The system counts space as free until it is written, and several jobs would count on the same.
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
/// Told every 16 MB: an observer that prints would else be asked thousands of times a second.
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
