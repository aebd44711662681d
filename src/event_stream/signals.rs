//! What ends a stream besides its upstream and the cancellation of the layer: shutdowns and deadlines.

use std::task::{Context, Poll};

use http::Extensions;

use crate::{config::Config, report::ending::Ending, wire::close_event::CloseEvent};
#[cfg(feature = "tokio")]
use crate::{
    deadlines::Clock, eligibility::Completed, shutdown::Shutdown, shutdown::waiters::StreamWatch,
    wire::scanner::surely_delivers,
};

/// Empty without the feature `tokio`, and for layers that have neither.
#[derive(Debug)]
pub(crate) struct Stop {
    /// In place, because it is what most servers have, and is read when all streams end at once.
    #[cfg(feature = "tokio")]
    shutdown: Option<StreamWatch>,
    #[cfg(feature = "tokio")]
    more: Option<Box<More>>,
}

#[cfg(feature = "tokio")]
#[derive(Debug)]
struct More {
    shutdowns: Vec<StreamWatch>,
    clock: Option<Clock>,
}

/// What it is time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "tokio"),
    allow(dead_code, reason = "made by clocks alone")
)]
pub(crate) enum Tick {
    End(Ending),
    KeepAlive,
}

#[cfg(feature = "tokio")]
impl Stop {
    /// For a stream that starts now. Its response may have brought a shutdown of its own.
    ///
    /// Each shutdown watches and counts a stream once, so what an inner layer watches is left to that one.
    pub(crate) fn start(config: &Config, response: &Extensions) -> Self {
        let inner = response.get::<Completed>();
        let of_layer = config.shutdowns.iter();
        let of_response = response.get().filter(|one| !config.has_shutdown(one));
        let mut shutdowns = of_layer
            .chain(of_response)
            .filter(|one| inner.is_none_or(|inner| !inner.is_watched_by(one)))
            .map(Shutdown::watch_stream);
        let shutdown = shutdowns.next();
        let more = More {
            shutdowns: shutdowns.collect(),
            clock: config.deadlines.start(),
        };
        let is_needed = more.clock.is_some() || !more.shutdowns.is_empty();
        Self {
            shutdown,
            more: is_needed.then(|| Box::new(more)),
        }
    }

    /// Whether a drain has begun: a stream that starts then ends at once.
    pub(crate) fn is_draining(&self) -> bool {
        self.shutdowns().any(StreamWatch::is_draining)
    }

    /// Whether the shutdown has closed. Cheap enough to ask with every frame, which saves a poll of the upstream.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.shutdown.as_ref().is_some_and(StreamWatch::is_closed)
    }

    /// Whether it matters which frames deliver an event.
    pub(crate) fn needs_every_event(&self) -> bool {
        let clock = self.more.as_ref().and_then(|more| more.clock.as_ref());
        clock.is_some_and(Clock::needs_every_event)
    }

    #[inline]
    pub(crate) fn poll_shutdowns(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(shutdown) = &mut self.shutdown {
            if shutdown.poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        match &mut self.more {
            Some(more) => more.poll_shutdowns(cx),
            None => Poll::Pending,
        }
    }

    /// Whether nothing has happened, and this task will be woken when something does, without having to do anything for
    /// it. Whether the first shutdown has closed is for [`is_closed`](Self::is_closed) to say.
    #[inline]
    pub(crate) fn is_waiting(&self, cx: &Context<'_>) -> bool {
        let shutdown = self.shutdown.as_ref();
        let more = self.more.as_ref();
        shutdown.is_none_or(|shutdown| shutdown.is_waiting(cx))
            && more.is_none_or(|more| more.is_waiting(cx))
    }

    #[inline]
    pub(crate) fn has_clock(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.clock.is_some())
    }

    /// Whether these whole events may go out without a closer look. If so, it is noted that they do.
    pub(crate) fn lets_pass(&mut self, events: &[u8]) -> bool {
        let Some(clock) = self.clock() else {
            return true;
        };
        if clock.needs_every_event() && !surely_delivers(events) {
            return false;
        }
        clock.sent(true);
        true
    }

    pub(crate) fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Tick> {
        match self.clock() {
            Some(clock) => clock.poll(cx),
            None => Poll::Pending,
        }
    }

    /// The ending of a stream whose time is over.
    pub(crate) fn deadline_passed(&self) -> Option<Ending> {
        self.more.as_ref()?.clock.as_ref()?.deadline_passed()
    }

    /// Notes that something went out, and whether it ended an event.
    pub(crate) fn sent(&mut self, delivered: bool) {
        if let Some(clock) = self.clock() {
            clock.sent(delivered);
        }
    }

    /// The event that a shutdown was closed with.
    pub(crate) fn close_event(&self) -> Option<CloseEvent> {
        self.shutdowns().find_map(StreamWatch::close_event)
    }

    /// The stream is over: no shutdown counts it any more, and no timer wakes it.
    pub(crate) fn end(&mut self) {
        self.shutdown = None;
        self.more = None;
    }

    fn clock(&mut self) -> Option<&mut Clock> {
        self.more.as_mut()?.clock.as_mut()
    }

    fn shutdowns(&self) -> impl Iterator<Item = &StreamWatch> {
        let more = self.more.iter().flat_map(|more| &more.shutdowns);
        self.shutdown.iter().chain(more)
    }
}

#[cfg(feature = "tokio")]
impl More {
    fn is_waiting(&self, cx: &Context<'_>) -> bool {
        let mut shutdowns = self.shutdowns.iter();
        shutdowns.all(|shutdown| !shutdown.is_closed() && shutdown.is_waiting(cx))
            && self.clock.as_ref().is_none_or(|clock| clock.is_waiting(cx))
    }

    fn poll_shutdowns(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for shutdown in &mut self.shutdowns {
            if shutdown.poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

#[cfg(not(feature = "tokio"))]
impl Stop {
    pub(crate) fn start(_config: &Config, _response: &Extensions) -> Self {
        Self {}
    }

    pub(crate) fn is_draining(&self) -> bool {
        false
    }

    pub(crate) fn is_closed(&self) -> bool {
        false
    }

    pub(crate) fn needs_every_event(&self) -> bool {
        false
    }

    pub(crate) fn poll_shutdowns(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    pub(crate) fn is_waiting(&self, _cx: &Context<'_>) -> bool {
        true
    }

    pub(crate) fn has_clock(&self) -> bool {
        false
    }

    pub(crate) fn lets_pass(&mut self, _events: &[u8]) -> bool {
        true
    }

    pub(crate) fn poll_clock(&mut self, _cx: &mut Context<'_>) -> Poll<Tick> {
        Poll::Pending
    }

    pub(crate) fn deadline_passed(&self) -> Option<Ending> {
        None
    }

    pub(crate) fn sent(&mut self, _delivered: bool) {}

    pub(crate) fn close_event(&self) -> Option<CloseEvent> {
        None
    }

    pub(crate) fn end(&mut self) {}
}
