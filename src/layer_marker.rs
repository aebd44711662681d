//! The state that a layer shares with the layers around it, in an extension of the response.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    report::{ending::Ending, recorder::Recorder},
    shutdown::{Shutdown, StreamGuard},
};

/// Marks a response that a layer has wrapped, and links the stream of that layer with the layer around it.
///
/// A stream that an outer layer wraps hands over its count and its report when it ends. Therefore the report is made with the
/// last frame that the client receives, and states the ending that the client saw.
#[derive(Debug, Clone)]
pub(crate) struct LayerMarker(Arc<Link>);

#[derive(Debug)]
struct Link {
    /// The shutdowns that the layer watches: its own, and those that were attached to the response.
    shutdowns: Arc<[Shutdown]>,
    attached: Vec<Shutdown>,
    /// The marker of the layer inside of that one.
    inner: Option<LayerMarker>,
    close_event_sent: AtomicBool,
    /// Another layer has wrapped the stream.
    is_wrapped: AtomicBool,
    takeover: Mutex<Takeover>,
}

/// The ending that the client saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientEnding {
    pub(crate) ending: Ending,
    pub(crate) close_event_sent: bool,
}

#[derive(Debug, Default)]
enum Takeover {
    /// Neither stream has ended.
    #[default]
    None,
    /// The outer stream has ended, and drops the inner body.
    Stopped(ClientEnding),
    /// The inner stream has ended.
    HandedOver(Remains),
    /// The outer stream has ended. An inner stream that a body between the layers keeps completes when it is dropped.
    Late(Option<ClientEnding>),
}

/// The recorder and the guards that an inner stream hands over. Dropping them completes that stream.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) recorder: Option<Box<Recorder>>,
    pub(crate) guards: Vec<StreamGuard>,
}

impl LayerMarker {
    pub(crate) fn new(
        shutdowns: Arc<[Shutdown]>,
        attached: Vec<Shutdown>,
        inner: Option<LayerMarker>,
    ) -> Self {
        Self(Arc::new(Link {
            shutdowns,
            attached,
            inner,
            close_event_sent: AtomicBool::new(false),
            is_wrapped: AtomicBool::new(false),
            takeover: Mutex::default(),
        }))
    }

    /// Returns `true` if the layer, or one inside of it, watches this shutdown and counts the stream.
    pub(crate) fn watches(&self, shutdown: &Shutdown) -> bool {
        let mut shutdowns = self.0.shutdowns.iter().chain(&self.0.attached);
        shutdowns.any(|watched| watched.is(shutdown))
            || self
                .0
                .inner
                .as_ref()
                .is_some_and(|inner| inner.watches(shutdown))
    }

    /// Returns `true` if the layer, or one inside of it, has written its close event.
    pub(crate) fn has_sent_close_event(&self) -> bool {
        let inner = self.0.inner.as_ref();
        self.0.close_event_sent.load(Ordering::SeqCst)
            || inner.is_some_and(Self::has_sent_close_event)
    }

    /// Called by the inner stream with its close event.
    pub(crate) fn close_event_sent(&self) {
        self.0.close_event_sent.store(true, Ordering::SeqCst);
    }

    /// Called by the outer stream when it starts.
    pub(crate) fn wrap(&self) {
        self.0.is_wrapped.store(true, Ordering::SeqCst);
    }

    /// Returns `true` if an outer stream takes the remains.
    pub(crate) fn is_wrapped(&self) -> bool {
        self.0.is_wrapped.load(Ordering::SeqCst)
    }

    /// Called by the outer stream when it ends, before it drops the inner body.
    pub(crate) fn stop(&self, ending: ClientEnding) {
        let mut takeover = self.takeover();
        if let Takeover::None = *takeover {
            *takeover = Takeover::Stopped(ending);
        }
    }

    /// Called by the inner stream when it is dropped. Returns how an outer layer has ended it.
    pub(crate) fn stopped(&self) -> Option<ClientEnding> {
        match *self.takeover() {
            Takeover::Stopped(ending) => Some(ending),
            Takeover::Late(ending) => ending,
            Takeover::None | Takeover::HandedOver(_) => None,
        }
    }

    /// Called by the inner stream when it ends. If the outer stream has ended before, the remains are dropped, and so complete
    /// the stream.
    pub(crate) fn hand_over(&self, remains: Remains) {
        let mut takeover = self.takeover();
        if let Takeover::None | Takeover::Stopped(_) = *takeover {
            *takeover = Takeover::HandedOver(remains);
        } else {
            drop(takeover);
            drop(remains);
        }
    }

    /// Returns `true` once the inner stream has ended, until the remains are taken.
    pub(crate) fn has_handed_over(&self) -> bool {
        matches!(*self.takeover(), Takeover::HandedOver(_))
    }

    /// Called by the outer stream when it has ended.
    pub(crate) fn take_remains(&self) -> Remains {
        let mut takeover = self.takeover();
        match mem::replace(&mut *takeover, Takeover::Late(None)) {
            Takeover::HandedOver(remains) => remains,
            Takeover::Stopped(ending) => {
                *takeover = Takeover::Late(Some(ending));
                Remains::default()
            }
            Takeover::Late(ending) => {
                *takeover = Takeover::Late(ending);
                Remains::default()
            }
            Takeover::None => Remains::default(),
        }
    }

    fn takeover(&self) -> MutexGuard<'_, Takeover> {
        // No code that can panic runs while the lock is held.
        let takeover = self.0.takeover.lock();
        takeover.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.guards.iter_mut().for_each(StreamGuard::count_out);
        if let Some(recorder) = self.recorder.take() {
            recorder.finish();
        }
    }
}
