//! The signals that can stop a stream besides its upstream and the user's cancellation: shutdowns, deadlines, and the keep-alive.

use std::{
    mem,
    task::{Context, Poll},
};

use crate::{
    config::Config,
    layer_marker::LayerMarker,
    shutdown::{Shutdown, StreamGuard},
    stop::Stop,
    wire::close_event::CloseEvent,
};
#[cfg(feature = "tokio")]
use crate::{
    deadlines::timer::{DeadlineTimer, Signal},
    wire::scanner::surely_delivers,
};

#[derive(Debug)]
pub(crate) struct Signals {
    /// The first shutdown. In place, because most servers have just one, and its phase is read with every frame.
    shutdown: Option<StreamGuard>,
    extra: Option<Box<Extra>>,
}

#[derive(Debug, Default)]
struct Extra {
    shutdowns: Vec<StreamGuard>,
    #[cfg(feature = "tokio")]
    timer: Option<DeadlineTimer>,
}

impl Signals {
    /// Starts the signals of a stream: the shutdowns of the layer and those attached to the response, and the deadlines.
    ///
    /// A shutdown that an inner layer watches counts the stream there. Here that shutdown is watched only if the stream ends
    /// on drain, because the inner stream may not.
    pub(crate) fn start(
        config: &Config,
        attached: &[Shutdown],
        inner: Option<&LayerMarker>,
        ends_on_drain: bool,
    ) -> Self {
        let of_layer = config.shutdowns.iter();
        let of_response = attached
            .iter()
            .filter(|attached| !config.shutdowns.iter().any(|own| own.is(attached)));
        let guard = |shutdown: &Shutdown| match inner {
            Some(inner) if inner.watches(shutdown) => ends_on_drain.then(|| shutdown.watch_drain()),
            _ => Some(shutdown.count_stream(ends_on_drain)),
        };
        let mut shutdowns = of_layer.chain(of_response).filter_map(guard);
        let mut signals = Self {
            shutdown: shutdowns.next(),
            extra: None,
        };
        signals.adopt(shutdowns.collect());
        #[cfg(feature = "tokio")]
        if let Some(timer) = config.deadlines.start() {
            signals.extra.get_or_insert_default().timer = Some(timer);
        }
        signals
    }

    /// Returns `true` if the first shutdown has fired. Costs an atomic load.
    #[inline(always)]
    pub(crate) fn has_fired(&self) -> bool {
        self.shutdown.as_ref().is_some_and(StreamGuard::has_fired)
    }

    /// Returns `true` if nothing but the first shutdown may have a signal, and this task is registered for every signal.
    #[inline(always)]
    pub(crate) fn is_waiting(&self, cx: &Context<'_>) -> bool {
        let shutdown = self.shutdown.as_ref();
        shutdown.is_none_or(|shutdown| shutdown.is_registered(cx))
            && self.extra.as_ref().is_none_or(|extra| extra.is_waiting(cx))
    }

    /// Completes when a shutdown has fired, with the close event of that shutdown.
    pub(crate) fn poll_shutdowns(&mut self, cx: &mut Context<'_>) -> Poll<Option<CloseEvent>> {
        for shutdown in self.shutdowns() {
            if shutdown.poll_fired(cx).is_ready() {
                return Poll::Ready(shutdown.close_event());
            }
        }
        Poll::Pending
    }

    /// The stream leaves the counts of its shutdowns.
    pub(crate) fn leave(&mut self) {
        self.shutdowns().for_each(StreamGuard::count_out);
    }

    /// Drops all signals, after which a waiting drain may return.
    pub(crate) fn clear(&mut self) {
        self.shutdown = None;
        self.extra = None;
    }

    /// Takes the guards, for another stream that is to leave the counts in place of this one.
    pub(crate) fn take_guards(&mut self) -> Vec<StreamGuard> {
        let extra = self.extra.as_mut();
        let mut guards = extra.map_or_else(Vec::new, |extra| mem::take(&mut extra.shutdowns));
        guards.extend(self.shutdown.take());
        guards
    }

    /// Adds the guards of another stream.
    pub(crate) fn adopt(&mut self, guards: Vec<StreamGuard>) {
        if !guards.is_empty() {
            self.extra.get_or_insert_default().shutdowns.extend(guards);
        }
    }

    fn shutdowns(&mut self) -> impl Iterator<Item = &mut StreamGuard> {
        let extra = self.extra.iter_mut().flat_map(|extra| &mut extra.shutdowns);
        self.shutdown.iter_mut().chain(extra)
    }
}

impl Extra {
    #[inline(never)]
    fn is_waiting(&self, cx: &Context<'_>) -> bool {
        #[cfg(feature = "tokio")]
        if self
            .timer
            .as_ref()
            .is_some_and(|timer| !timer.is_waiting(cx))
        {
            return false;
        }
        let mut shutdowns = self.shutdowns.iter();
        shutdowns.all(|shutdown| !shutdown.has_fired() && shutdown.is_registered(cx))
    }
}

#[cfg(feature = "tokio")]
impl Signals {
    #[inline(always)]
    pub(crate) fn has_timer(&self) -> bool {
        self.extra
            .as_ref()
            .is_some_and(|extra| extra.timer.is_some())
    }

    /// Returns `true` if it must be known of each event whether it is delivered.
    pub(crate) fn counts_events(&self) -> bool {
        let timer = self.extra.as_ref().and_then(|extra| extra.timer.as_ref());
        timer.is_some_and(DeadlineTimer::counts_events)
    }

    /// Notes that these whole events are forwarded. Returns `false` if they must be scanned first.
    pub(crate) fn forwards_whole_events(&mut self, events: &[u8]) -> bool {
        if self.counts_events() && !surely_delivers(events) {
            return false;
        }
        self.forwarded(true);
        true
    }

    /// Notes that data is forwarded, and whether it delivers an event.
    pub(crate) fn forwarded(&mut self, delivered: bool) {
        if let Some(timer) = self.timer() {
            timer.forwarded(delivered);
        }
    }

    /// Returns the deadline that has passed.
    pub(crate) fn passed_deadline(&mut self) -> Option<Stop> {
        self.timer()?.passed()
    }

    pub(crate) fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        match self.timer() {
            Some(timer) => timer.poll(cx),
            None => Poll::Pending,
        }
    }

    fn timer(&mut self) -> Option<&mut DeadlineTimer> {
        self.extra.as_mut()?.timer.as_mut()
    }
}

/// Without the feature `tokio` there are no timers.
#[cfg(not(feature = "tokio"))]
impl Signals {
    pub(crate) fn has_timer(&self) -> bool {
        false
    }

    pub(crate) fn counts_events(&self) -> bool {
        false
    }

    pub(crate) fn forwards_whole_events(&mut self, _events: &[u8]) -> bool {
        true
    }

    pub(crate) fn forwarded(&mut self, _delivered: bool) {}

    pub(crate) fn passed_deadline(&mut self) -> Option<Stop> {
        None
    }
}
