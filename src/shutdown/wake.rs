//! Wakes many tasks.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::PoisonError,
    task::Waker,
};

use crate::sync::{Mutex, MutexGuard};

/// Wakes every task, and passes on the first panic of a waker after that. No lock may be held, because a waker may poll its task
/// at once.
pub(super) fn wake_all(wakers: impl Iterator<Item = Waker>) {
    let mut panic = None;
    for waker in wakers {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            panic.get_or_insert(payload);
        }
    }
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// Locks regardless of poisoning.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs while the lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
