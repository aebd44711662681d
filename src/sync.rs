//! The shared pointers, locks and atomics that the models of `shutdown/models.rs` replace with those of loom.

#[cfg(all(test, loom))]
mod modelled;

#[cfg(all(test, loom))]
pub(crate) use self::modelled::{Arc, Mutex, MutexGuard, OnceLock, atomic};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, atomic};
