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
//! exec regguf batch quantize /shared/models --types q4_k_m,q8_0 --out /shared/quantized \
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
//!           args: ['exec regguf batch upgrade /models --shard "$JOB_COMPLETION_INDEX/8" --events']
//!           volumeMounts: [{ name: models, mountPath: /models }]
//!       volumes: [{ name: models, persistentVolumeClaim: { claimName: models } }]
//! ```
//!
//! GNU parallel over the hosts of a file (`{#}` counts from 1, so 1 is subtracted):
//!
//! ```sh
//! parallel --sshloginfile hosts --retries 3 \
//!   'regguf batch verify /shared/models --deep --shard $(({#} - 1))/4' ::: 1 2 3 4
//! ```
//!
//! Every machine must see its outputs through a file system with working locks (NFS 4, Lustre with
//! `flock`, local disks); otherwise give each machine its own shard and do not start one twice at once.

pub mod events;
pub mod find;
pub mod join;
mod leftovers;
pub mod lock;
pub mod plan;
pub mod receipt;
pub mod run;
pub mod shard;
pub mod task;
