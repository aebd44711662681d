//! The checks of the fuzz targets, one module for each, with the steps of an upstream and the seeds.

pub mod body;
pub mod close_event;
pub mod connection;
pub mod heads;
pub mod seeds;
pub mod steps;

use tokio::runtime::{Builder, Runtime};

thread_local! {
    /// A runtime whose clock is paused until every task waits.
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
}
