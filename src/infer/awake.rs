//! Threads that do not go to sleep between the many short pieces of work of one token.

use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rayon::Yield;

/// How long a thread looks for work before it goes to sleep.
const PATIENCE: Duration = Duration::from_micros(500);
/// Looks between two of the clock.
const LOOKS: u32 = 64;

/// Does `work` on a thread of the pool, while the others look out for parts of it.
///
/// A token meets some ten matrices a layer, each a few ten microseconds of work, which is what the system takes to wake
/// a thread; and a thread outside the pool would be put to sleep and woken for each of them too. A thread that finds
/// nothing for [`PATIENCE`] goes to sleep as ever, so that nothing waits for it without end.
pub fn awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = &AtomicBool::new(false);
    rayon::scope(|scope| {
        let worker = rayon::current_thread_index();
        scope.spawn_broadcast(move |_, context| {
            if worker != Some(context.index()) {
                look_out(done);
            }
        });
        // Also where `work` panics: the scope ends when all of its threads do.
        let _done = Done(done);
        work()
    })
}

/// Says that the work is done when it goes out of scope, also by a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does what there is to do until `done`, or until there was nothing for too long.
fn look_out(done: &AtomicBool) {
    let mut since = Instant::now();
    let mut looks = 0u32;
    while !done.load(Ordering::Relaxed) {
        if rayon::yield_now() == Some(Yield::Executed) {
            looks = 0;
            continue;
        }
        spin_loop();
        if looks == 0 {
            since = Instant::now();
        } else if looks.is_multiple_of(LOOKS) && since.elapsed() > PATIENCE {
            return;
        }
        looks += 1;
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn work_within_work_and_beside_it_ends() {
        let sum = |n: u64| awake(|| (0..n).into_par_iter().map(|i| i * i).sum::<u64>());
        let expected = |n: u64| (0..n).map(|i| i * i).sum::<u64>();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        pool.install(|| {
            let sums: Vec<u64> = (0..200u64).into_par_iter().map(|n| awake(|| sum(n))).collect();
            assert!((0..).zip(sums).all(|(n, sum)| sum == expected(n)));
        });
        assert_eq!(sum(1000), expected(1000));
    }

    #[test]
    fn a_panic_ends_it() {
        let caught = std::panic::catch_unwind(|| awake(|| panic!("on purpose")));
        assert!(caught.is_err());
    }
}
