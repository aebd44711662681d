//! The sessions of the users who have streams on this instance.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tower_sse_completion::{CloseEvent, Shutdown};

/// A shutdown for each user. The streams of a user keep the shutdown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<String, Weak<Shutdown>>>>);

impl Sessions {
    /// Returns the shutdown of this user.
    pub(crate) fn shutdown(&self, user: &str) -> Arc<Shutdown> {
        let mut sessions = self.lock();
        let known = sessions.get(user).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            sessions.retain(|_, session| session.strong_count() > 0);
            let session = Arc::<Shutdown>::default();
            sessions.insert(user.to_owned(), Arc::downgrade(&session));
            session
        })
    }

    /// Ends the streams of this user on this instance.
    pub(crate) fn log_out(&self, user: &str) {
        let session = self.lock().remove(user);
        if let Some(session) = session.and_then(|session| session.upgrade()) {
            session.close_with(CloseEvent::from_static("logged-out"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Shutdown>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
