//! What ends a stream besides its upstream and the cancellation of the layer: shutdowns and deadlines.

use std::task::{Context, Poll};

use http::Extensions;

#[cfg(feature = "tokio")]
use crate::{
    clock::Clock,
    shutdown::{Shutdown, StreamWatch},
};
use crate::{close_event::CloseEvent, config::Config, ending::Ending};

/// Empty without the feature `tokio`, and for layers that have neither.
#[derive(Debug)]
pub(crate) struct Stop {
    #[cfg(feature = "tokio")]
    shutdowns: Box<[StreamWatch]>,
    #[cfg(feature = "tokio")]
    clock: Option<Box<Clock>>,
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
    pub(crate) fn start(config: &Config, response: &Extensions) -> Self {
        let shutdowns = config.shutdowns.iter().chain(response.get::<Shutdown>());
        Self {
            shutdowns: shutdowns.map(StreamWatch::new).collect(),
            clock: config.deadlines.start(),
        }
    }

    /// Whether a drain has begun: a stream that starts then ends at once.
    pub(crate) fn is_draining(&self) -> bool {
        self.shutdowns.iter().any(StreamWatch::is_draining)
    }

    /// Whether every event has to be noticed, and no frame may go the short way.
    pub(crate) fn needs_every_event(&self) -> bool {
        self.clock
            .as_ref()
            .is_some_and(|clock| clock.needs_every_event())
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Tick> {
        for shutdown in &mut self.shutdowns {
            if shutdown.poll(cx).is_ready() {
                return Poll::Ready(Tick::End(Ending::Cancelled));
            }
        }
        match &mut self.clock {
            Some(clock) => clock.poll(cx),
            None => Poll::Pending,
        }
    }

    /// Notes that something went out, and whether it ended an event.
    pub(crate) fn sent(&mut self, delivered: bool) {
        if let Some(clock) = &mut self.clock {
            clock.sent(delivered);
        }
    }

    /// The event that a shutdown was closed with.
    pub(crate) fn close_event(&self) -> Option<CloseEvent> {
        self.shutdowns.iter().find_map(StreamWatch::close_event)
    }

    /// The stream is over: no shutdown counts it any more, and no timer wakes it.
    pub(crate) fn end(&mut self) {
        self.shutdowns = Box::default();
        self.clock = None;
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

    pub(crate) fn needs_every_event(&self) -> bool {
        false
    }

    pub(crate) fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<Tick> {
        Poll::Pending
    }

    pub(crate) fn sent(&mut self, _delivered: bool) {}

    pub(crate) fn close_event(&self) -> Option<CloseEvent> {
        None
    }

    pub(crate) fn end(&mut self) {}
}
