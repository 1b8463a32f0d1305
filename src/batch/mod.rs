//! Whole folders of models: found, planned, worked through, resumed, split over machines.
//!
//! A batch can be killed at any moment and run again: an output appears whole under its name or not
//! at all, and a receipt beside it (`<output>.receipt.json`) proves what it was made from: a rerun
//! skips only outputs whose bytes still have the digest in their receipt, made by this version with
//! the same options from inputs that have not changed. Nothing is decided by a service or a database;
//! the tree and the receipts are all there is.
//!
//! # Many machines
//!
//! `--shard i/n` gives every machine its own models: by size, the same split wherever the same tree is
//! seen. The outputs are the same bytes for any `n`, and a machine that is killed or started twice does
//! no harm: what is done is skipped, and two that meet at one output wait for each other.
//!
//! A Slurm array of eight tasks, each requeued when its node is taken away:
//!
//! ```sh
//! #!/bin/sh
//! #SBATCH --array=0-7 --requeue --time=12:00:00 --mem=4G --cpus-per-task=8
//! exec regguf batch quantize /shared/models --type q4_k_m,q8_0 -o /shared/quantized \
//!   --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --memory 3G --keep-going
//! ```
//!
//! A Kubernetes Indexed Job; a pod that fails is replaced by one with the same index:
//!
//! ```yaml
//! apiVersion: batch/v1
//! kind: Job
//! metadata: { name: upgrade-models }
//! spec:
//!   completionMode: Indexed
//!   completions: 8
//!   parallelism: 8
//!   backoffLimit: 100
//!   template:
//!     spec:
//!       restartPolicy: Never
//!       containers:
//!         - name: regguf
//!           image: regguf
//!           command: [sh, -c]
//!           args: ['exec regguf batch upgrade /shared/models --shard "$JOB_COMPLETION_INDEX/8" --events']
//!           volumeMounts: [{ name: models, mountPath: /shared/models }]
//!       volumes: [{ name: models, persistentVolumeClaim: { claimName: models } }]
//! ```
//!
//! GNU parallel over the hosts of a file:
//!
//! ```sh
//! parallel --sshloginfile hosts --retries 3 \
//!   regguf batch verify /shared/models --deep --shard {}/4 ::: 0 1 2 3
//! ```
//!
//! Every machine must see its outputs through a file system with working locks (NFS 4, Lustre with
//! `flock`, local disks); otherwise give each machine its own shard and do not start one twice at once.
//!
//! # One model, many machines
//!
//! A model that is too large for one machine in one night is split by its tensors: with `--tensors`,
//! shard `i/n` writes part `i` of every output, and `batch join` puts the parts together: those that
//! have the digests of their receipts and were made in the same way. Where an output is cut follows
//! from its plan, so machines with copies of their own do as well as machines with one shared disk:
//! collect the parts with their receipts in one folder before joining. As a Slurm array and the job
//! that follows it:
//!
//! ```sh
//! #!/bin/sh
//! #SBATCH --job-name=quantize --array=0-7 --requeue --time=12:00:00 --mem=4G --cpus-per-task=8
//! exec regguf batch quantize /shared/models --type q4_k_m,q8_0 -o /shared/quantized \
//!   --tensors --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --keep-going
//! ```
//!
//! ```sh
//! #!/bin/sh
//! #SBATCH --job-name=quantize --dependency=singleton
//! exec regguf batch join /shared/quantized
//! ```
//!
//! Every worker digests the whole input, for only so can the parts prove that they are of one model. A
//! worker that was killed is run again, as is one whose part turns out damaged: until all parts are there
//! and sound, `join` writes nothing, names the shard that is missing and ends with a non-zero exit.
//! Parts and output need room for twice the output while they are joined.

pub(crate) mod events;
pub(crate) mod find;
pub(crate) mod job;
pub(crate) mod join;
pub(crate) mod lock;
mod matrices;
pub(crate) mod plan;
pub(crate) mod receipt;
pub(crate) mod run;
pub(crate) mod shard;
pub(crate) mod task;

pub use events::{Event, Made, Observer};
pub use find::{Found, Kind};
pub use job::{Job, Output};
pub use plan::BatchPlan;
pub use run::{Limits, Summary, run};
pub use shard::Shard;
pub use task::{Settings, Task};
