//! What a batch tells while it runs, for people and for machines alike.

use crate::remedy::Note;
use serde::Serialize;

/// One thing that happened; as JSON, one object a line, told apart by `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// The batch begins.
    Planned {
        /// Jobs of this machine.
        jobs: usize,
        /// Bytes that will be read.
        bytes: u64,
    },
    /// A job begins.
    Started {
        /// Its number in the plan.
        job: usize,
        /// What is read.
        input: &'a str,
        /// Bytes that will be read.
        bytes: u64,
        /// Why it is due.
        why: &'a str,
    },
    /// A job goes on.
    Progress {
        /// Its number in the plan.
        job: usize,
        /// Bytes read and written so far: inputs are digested, outputs written and read back.
        done: u64,
        /// Bytes that will be.
        total: u64,
    },
    /// A job is done.
    Finished {
        /// Its number in the plan.
        job: usize,
        /// What was written.
        outputs: Vec<Made>,
        /// How long it took.
        seconds: f64,
    },
    /// Nothing had to be done, or another batch did it.
    Skipped {
        /// The job's number in the plan.
        job: usize,
        /// Why.
        why: &'a Note,
    },
    /// Another batch writes this output; it is looked at again at the end.
    Waiting {
        /// The job's number in the plan.
        job: usize,
        /// The output concerned.
        output: &'a str,
    },
    /// A job could not be done.
    Failed {
        /// Its number in the plan.
        job: usize,
        /// The reason, one line.
        error: Note,
    },
    /// The batch is over.
    Ended {
        /// Jobs done.
        finished: usize,
        /// Jobs that needed nothing.
        skipped: usize,
        /// Jobs that failed.
        failed: usize,
        /// Jobs not begun, after a failure without `--keep-going`.
        left: usize,
        /// How long all took.
        seconds: f64,
    },
}

/// One output, made.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Made {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// Why today's llama.cpp does not load it, where that is so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Somebody who hears of events.
pub trait Observer: Sync {
    /// Something happened.
    fn hear(&self, event: &Event);
}
