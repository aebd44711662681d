//! The checks of the fuzz targets, one module for each, with the steps of an upstream and the seeds.

pub mod body;
pub mod close_event;
pub mod connection;
pub mod heads;
pub mod seeds;
pub mod steps;

use std::time::Duration;

use cpu_time::ProcessTime;
use tokio::runtime::{Builder, Runtime};

/// Limit of the processor time of one input. Inputs take milliseconds. On a busy machine, the clock can say seconds for them.
const LIMIT: Duration = Duration::from_secs(2);

thread_local! {
    /// A runtime whose clock is paused until every task waits.
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
}

/// Runs the check of one input, and panics if it exceeds the limit of its processor time.
pub fn limited(check: impl FnOnce()) {
    let start = ProcessTime::now();
    check();
    let taken = start.elapsed();
    assert!(taken <= LIMIT, "the input took {taken:?} of processor time");
}
