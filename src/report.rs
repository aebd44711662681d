//! The endings of event streams, and their reports.

pub(crate) mod ending;
pub(crate) mod observer;
pub(crate) mod recorder;
pub(crate) mod stream_report;
pub(crate) mod telemetry;
