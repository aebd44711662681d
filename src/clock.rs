//! The clock of the reports.

#[cfg(all(
    not(feature = "tokio"),
    not(all(target_family = "wasm", target_os = "unknown"))
))]
pub(crate) use std::time::Instant;
/// A clock that tests can pause.
#[cfg(all(
    feature = "tokio",
    not(all(target_family = "wasm", target_os = "unknown"))
))]
pub(crate) use tokio::time::Instant;
/// The clock of the JavaScript host. The clocks of std and tokio panic on this target.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(crate) use web_time::Instant;
