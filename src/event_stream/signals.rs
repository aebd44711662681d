//! The signals that can stop a stream besides its upstream: shutdowns, cancellations of the user, deadlines, and the keep-alive.

use std::task::{Context, Poll};

use crate::{
    config::Cancellation,
    report::Stop,
    shutdown::phase::{Shared, StreamGuard},
    sync::Arc,
    wire::close_event::CloseEvent,
};
#[cfg(feature = "tokio")]
use crate::{
    deadlines::{DeadlineTimer, Deadlines, Due},
    wire::{event_match::EventMatch, scanner::surely_delivers},
};

#[derive(Default)]
pub(crate) struct Signals {
    /// First shutdown, stored inline because its position is read with every frame.
    first: Option<StreamGuard>,
    /// The stream ends as soon as one of its shutdowns begins to drain.
    ends_on_drain: bool,
    /// All other signals. `None` if there are none, so that a frame checks one pointer.
    others: Option<Box<OtherSignals>>,
}

/// The signals of a stream besides its first shutdown.
#[derive(Default)]
struct OtherSignals {
    shutdowns: Vec<StreamGuard>,
    cancellation: Option<Cancellation>,
    #[cfg(feature = "tokio")]
    timer: Option<DeadlineTimer>,
}

impl Signals {
    /// Adds a shutdown, unless the stream has it already, and counts the stream.
    pub(crate) fn add_shutdown(&mut self, shutdown: &Arc<Shared>) {
        if self.shutdowns().any(|known| known.watches(shutdown)) {
            return;
        }
        let guard = StreamGuard::new(shutdown, self.ends_on_drain);
        match self.first {
            None => self.first = Some(guard),
            Some(_) => self.others().shutdowns.push(guard),
        }
    }

    /// Ends the stream as soon as one of its shutdowns begins to drain.
    pub(crate) fn end_on_drain(&mut self) {
        self.ends_on_drain = true;
        self.shutdowns().for_each(StreamGuard::end_on_drain);
    }

    /// Adds a cancellation of the user.
    pub(crate) fn add_cancellation(&mut self, added: Cancellation) {
        let cancellation = &mut self.others().cancellation;
        *cancellation = Some(match cancellation.take() {
            None => added,
            Some(known) => known.or(added),
        });
    }

    /// Returns `true` if the first shutdown has fired. Costs an atomic load.
    #[inline(always)]
    pub(crate) fn has_fired(&self) -> bool {
        self.first.as_ref().is_some_and(StreamGuard::has_fired)
    }

    /// Returns `true` if no shutdown, deadline or keep-alive is due, and each of them will wake this task. The caller has checked
    /// [`has_fired`](Self::has_fired).
    #[inline(always)]
    pub(crate) fn is_waiting(&self, cx: &Context<'_>) -> bool {
        let first = self.first.as_ref();
        first.is_none_or(|first| first.is_registered(cx))
            && self
                .others
                .as_ref()
                .is_none_or(|others| others.is_waiting(cx))
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

    /// Completes when a cancellation of the user has completed. Must not be polled again after that.
    #[inline(always)]
    pub(crate) fn poll_cancellation(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.others {
            None => Poll::Pending,
            Some(others) => match &mut others.cancellation {
                None => Poll::Pending,
                Some(cancellation) => cancellation.poll(cx),
            },
        }
    }

    /// Drops the cancellations of the user.
    pub(crate) fn drop_cancellation(&mut self) {
        if let Some(others) = &mut self.others {
            others.cancellation = None;
        }
    }

    /// Counts the stream out of its shutdowns.
    pub(crate) fn count_out(&mut self) {
        self.shutdowns().for_each(StreamGuard::count_out);
    }

    /// Drops all signals. A drain that waits for the stream may return afterwards.
    pub(crate) fn clear(&mut self) {
        self.first = None;
        self.others = None;
    }

    fn shutdowns(&mut self) -> impl Iterator<Item = &mut StreamGuard> {
        let others = self.others.iter_mut();
        let others = others.flat_map(|others| &mut others.shutdowns);
        self.first.iter_mut().chain(others)
    }

    fn others(&mut self) -> &mut OtherSignals {
        self.others.get_or_insert_default()
    }
}

impl OtherSignals {
    #[inline(always)]
    fn is_waiting(&self, cx: &Context<'_>) -> bool {
        #[cfg(feature = "tokio")]
        if !self.timer.as_ref().is_none_or(|timer| timer.is_waiting(cx)) {
            return false;
        }
        let is_waiting =
            |shutdown: &StreamGuard| !shutdown.has_fired() && shutdown.is_registered(cx);
        match &*self.shutdowns {
            // A loop costs more.
            [second] => is_waiting(second),
            shutdowns => shutdowns.iter().all(is_waiting),
        }
    }
}

#[cfg(feature = "tokio")]
impl Signals {
    /// Adds the deadlines and the keep-alive of a layer. Returns the matches of the layer's idle timeout, if that is the shortest.
    pub(crate) fn add_deadlines<'a>(
        &mut self,
        deadlines: &'a Deadlines,
    ) -> Option<&'a [EventMatch]> {
        if deadlines.is_empty() {
            return None;
        }
        DeadlineTimer::add(&mut self.others().timer, deadlines)
    }

    /// Returns `true` if data of whole events must be scanned, because the idle timeout depends on the delivered events.
    #[inline(always)]
    pub(crate) fn needs_scan(&self, whole_events: &[u8]) -> bool {
        let timer = self.timer();
        timer.is_some_and(|timer| timer.counts_events() && !surely_delivers(whole_events))
    }

    /// Returns `true` if the idle timeout needs the delivery of each event.
    pub(crate) fn counts_events(&self) -> bool {
        let timer = self.timer();
        timer.is_some_and(DeadlineTimer::counts_events)
    }

    /// Records that data is forwarded, and whether the data delivers an event.
    #[inline(always)]
    pub(crate) fn record_forwarded(&mut self, delivered: bool) {
        if let Some(timer) = self.timer_mut() {
            timer.record_forwarded(delivered);
        }
    }

    /// Returns the stop of a deadline that has passed.
    pub(crate) fn passed_deadline(&self) -> Option<Stop> {
        self.timer()?.passed()
    }

    pub(crate) fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        match self.timer_mut() {
            Some(timer) => timer.poll(cx),
            None => Poll::Pending,
        }
    }

    #[inline(always)]
    fn timer(&self) -> Option<&DeadlineTimer> {
        self.others.as_ref()?.timer.as_ref()
    }

    #[inline(always)]
    fn timer_mut(&mut self) -> Option<&mut DeadlineTimer> {
        self.others.as_mut()?.timer.as_mut()
    }
}

/// Without the feature `tokio` there are no timers.
#[cfg(not(feature = "tokio"))]
impl Signals {
    pub(crate) fn needs_scan(&self, _whole_events: &[u8]) -> bool {
        false
    }

    pub(crate) fn counts_events(&self) -> bool {
        false
    }

    pub(crate) fn record_forwarded(&mut self, _delivered: bool) {}

    pub(crate) fn passed_deadline(&self) -> Option<Stop> {
        None
    }
}
