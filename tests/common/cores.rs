//! Independent jobs on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `job` of each number below `jobs`; the next free core takes the next one.
pub(crate) fn on_all_cores(jobs: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < jobs) {
                    job(i);
                }
            });
        }
    });
}
