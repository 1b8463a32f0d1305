//! The threads of this process.

use std::{num::NonZero, sync::Mutex, thread};

use super::common::Globals;

impl Globals {
    /// How many threads work: as many as were asked for, but no more than there are processors, which
    /// would only cost memory.
    pub fn threads(&self) -> usize {
        within_processors(self.threads.map(usize::from))
    }
}

/// N threads as asked, or as many as there are processors where these are fewer.
pub fn within_processors(asked: Option<usize>) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    asked.map_or(processors, |n| n.clamp(1, processors))
}

/// Starts the threads that work over rows and files; fewer where the system gives no more, and none but
/// this one where it gives none. A pool that cannot start would end the program later.
pub fn start_threads(wanted: usize) {
    let gate = Mutex::new(());
    let had = thread::scope(|scope| {
        let closed = gate.lock();
        let wait = || drop(gate.lock());
        let spawn = |_: &usize| thread::Builder::new().spawn_scoped(scope, wait).is_ok();
        let had = (0..wanted).take_while(spawn).count();
        drop(closed);
        had
    });
    let pool = rayon::ThreadPoolBuilder::new().num_threads(had.max(1));
    // This process has no other pool, so only threads could be missing.
    let _ = if had == 0 { pool.use_current_thread() } else { pool }.build_global();
}
