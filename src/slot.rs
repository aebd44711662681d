//! The state of a stream on its way to the outermost layer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event_stream::EventStream;

/// Holds the state of a stream, from the response until its body is first polled.
///
/// A layer leaves a slot in the extensions of the response and in the body. An outer layer takes the state, adds its signals,
/// and stores the state in a new slot. Therefore layers around one stream act as one, in the place of the outermost layer. The
/// body of an inner layer finds its slot empty and passes its upstream through.
///
/// Middleware between two layers that polls the body first, or that discards the extensions, leaves the state with the inner
/// layer. The layers are then independent.
#[derive(Clone)]
pub(crate) struct Slot(Arc<Mutex<Option<Box<EventStream>>>>);

impl Slot {
    pub(crate) fn new(stream: Box<EventStream>) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }

    /// Takes the state, unless an outer layer or the body has taken the state before.
    pub(crate) fn take(&self) -> Option<Box<EventStream>> {
        self.lock().take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    /// Changes the state in place, unless the slot is empty.
    pub(crate) fn update(&self, change: impl FnOnce(&mut EventStream)) {
        if let Some(stream) = &mut *self.lock() {
            change(stream);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<EventStream>>> {
        // No code that can panic runs while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
