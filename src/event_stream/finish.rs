//! The end of a stream: how it ends, whether a close event is due, and the order in which it ends.

use std::{
    future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{EventStream, Phase, PollFrame, Tail, Upstream, UpstreamReplaced};
use crate::{
    config::{CloseEventSource, ClosePolicy},
    coop,
    report::{Ending, Stop, StreamReport},
    wire::close_event::CloseEvent,
};

/// State of the upstream when the stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpstreamEnd {
    /// The upstream has not ended. Only a stream that is stopped ends like this.
    Open,
    Eof,
    Trailers,
    Error,
}

/// State of a stream that decides its outcome, besides the stop and the end of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    /// An event has been delivered.
    delivered: bool,
    /// The upstream has sent the start of an event without its end.
    has_unfinished_event: bool,
    /// The client is inside an event that exceeds the buffer limit.
    is_inside_event: bool,
    /// The stream has a close event.
    has_close_event: bool,
    /// The stream has end marks, and is complete only with one of them.
    expects_end_mark: bool,
    /// The last event is an end mark, although it lacks its blank line.
    ends_with_end_mark: bool,
}

/// The ending of a stream, and the frames that it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    ending: Ending,
    /// The close event is sent, in place of held bytes and of an error.
    closes: bool,
    /// The bytes that are held and an error of the upstream are forwarded.
    keeps_rest: bool,
}

const LF: &[u8] = b"\n";

impl Outcome {
    /// A cancellation takes precedence over the upstream. A deadline does not: a stream that ends on its own is not reported
    /// as expired or idle.
    ///
    /// | stop | upstream | ending | close event |
    /// |---|---|---|---|
    /// | any | end after an end mark without its blank line | completed | none |
    /// | cancelled | any | cancelled | at a boundary |
    /// | deadline | open | expired, idle | at a boundary |
    /// | deadline or none | end, trailers | completed, empty, truncated | by policy, at a boundary |
    /// | deadline or none | error | failed | by policy, at a boundary |
    fn decide(
        stop: Option<Stop>,
        upstream: UpstreamEnd,
        facts: Facts,
        policy: &ClosePolicy,
    ) -> Self {
        let ending = match (stop, upstream) {
            _ if facts.ends_with_end_mark => Ending::Completed,
            (Some(Stop::Cancelled), _) => Ending::Cancelled,
            (Some(Stop::Expired), UpstreamEnd::Open) => Ending::Expired,
            (Some(Stop::Idle), UpstreamEnd::Open) => Ending::Idle,
            (_, UpstreamEnd::Error) => Ending::Failed,
            _ if facts.has_unfinished_event => Ending::Truncated,
            _ if facts.delivered && facts.expects_end_mark => Ending::Truncated,
            _ if facts.delivered => Ending::Completed,
            _ => Ending::Empty,
        };
        let is_stopped = matches!(ending, Ending::Cancelled | Ending::Expired | Ending::Idle);
        let is_due = match ending {
            _ if facts.ends_with_end_mark => false,
            Ending::Empty => policy.on_empty.unwrap_or(true),
            Ending::Completed => policy.on_completed.unwrap_or(false),
            Ending::Truncated => policy.on_truncated.unwrap_or(false),
            Ending::Failed => policy.on_failed.unwrap_or(false),
            _ => is_stopped,
        };
        let may_close = !facts.is_inside_event;
        let closes = is_due && may_close && facts.has_close_event;
        // Without a close event, a stopped stream still ends at its last boundary.
        let discards_rest = closes || is_stopped && may_close;
        Self {
            ending,
            closes,
            keeps_rest: !discards_rest,
        }
    }
}

impl EventStream {
    /// Ends the stream, and returns the first of its last frames.
    ///
    /// 1. The cancellations are checked for the last time.
    /// 2. The outcome is decided.
    /// 3. The close event is made.
    /// 4. The upstream and the cancellations are dropped.
    /// 5. Held bytes are discarded for the close event, or forwarded.
    /// 6. With the last frame, the stream is [completed](Self::complete).
    pub(super) fn finish<B: Body>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        end: UpstreamEnd,
        tail: Option<Tail<B::Error>>,
    ) -> PollFrame<Bytes, B::Error> {
        let stop = self.poll_last_stop(cx);
        // If code of the user panics below, the stream has ended.
        self.progress.set_phase(Phase::Done);
        let mut facts = self.facts();
        if matches!(end, UpstreamEnd::Eof | UpstreamEnd::Trailers) {
            facts.ends_with_end_mark = self.read_last_event();
        }
        let outcome = Outcome::decide(stop, end, facts, &self.settings.close_policy);
        self.progress.set_ending(outcome.ending, None);
        let close_event = outcome
            .closes
            .then(|| self.make_close_event(outcome.ending));
        self.drop_upstream(upstream.as_mut());

        let first = match close_event {
            Some(event) => {
                let encoded = event.encode(self.events.ends_in_cr());
                self.events.record_added(&encoded);
                self.progress.set_ending(outcome.ending, Some(event));
                Some(encoded)
            }
            None if facts.ends_with_end_mark => {
                if let Some(recorder) = &mut self.progress.recorder {
                    recorder.record_delivery();
                }
                Some(self.events.forward_completed())
            }
            None if outcome.keeps_rest => self.events.forward_held(),
            None => None,
        };
        self.events.discard_held();
        let tail = tail.filter(|tail| outcome.keeps_rest || tail.is_ok());
        self.return_last(upstream, cx, first, tail)
    }

    /// Returns the reason for which the stream has been stopped. The cancellations are polled for the last time, regardless of the
    /// cooperative budget.
    fn poll_last_stop(&mut self, cx: &mut Context<'_>) -> Option<Stop> {
        let stop = match self.progress.phase {
            Phase::Stopping { stop, .. } => Some(stop),
            _ => None,
        };
        if stop == Some(Stop::Cancelled) {
            return stop;
        }
        let cancelled = future::poll_fn(|cx| self.poll_cancellations(cx));
        match coop::poll_unconstrained(cancelled, cx) {
            Poll::Ready(()) => Some(Stop::Cancelled),
            Poll::Pending => stop,
        }
    }

    /// Returns the first of the last frames: the close event or held bytes, the trailers or the error, or `None`.
    fn return_last<B: Body>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        first: Option<Bytes>,
        tail: Option<Tail<B::Error>>,
    ) -> PollFrame<Bytes, B::Error> {
        let is_error = matches!(tail, Some(Err(_)));
        match tail {
            Some(tail) => upstream.set(Upstream::Tail {
                tail: Box::new(tail),
            }),
            None => self.complete(),
        }
        if let Some(data) = first {
            // `is_end_stream` is `false` until `None` is returned, because outer middleware detects the end by that poll.
            self.progress.set_phase(Phase::Ending { yields: is_error });
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let yields = is_error && self.events.has_sent();
        self.poll_tail(upstream, cx, yields)
    }

    /// Returns what follows the first of the last frames: the trailers or the error, then `None`.
    pub(super) fn poll_tail<B: Body>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        yields: bool,
    ) -> PollFrame<Bytes, B::Error> {
        if yields {
            self.progress.set_phase(Phase::Ending { yields: false });
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.progress.set_phase(Phase::Done);
        match upstream.project_replace(Upstream::Ended) {
            UpstreamReplaced::Tail { tail } => {
                self.complete();
                Poll::Ready(Some(*tail))
            }
            UpstreamReplaced::Open { .. } | UpstreamReplaced::Ended => Poll::Ready(None),
        }
    }

    /// Returns `None`. After a panic, also drops the upstream and completes the stream.
    pub(super) fn poll_done<B: Body>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
    ) -> PollFrame<Bytes, B::Error> {
        self.drop_upstream(upstream);
        self.complete();
        Poll::Ready(None)
    }

    /// Ends the stream with the frame that is being forwarded, unless something follows it: held bytes, an end mark without its
    /// blank line, or a close event. The upstream's `is_end_stream` is `true`, so a server may not poll again.
    pub(super) fn finish_if_last(&mut self, cx: &mut Context<'_>) {
        let facts = self.facts();
        let may_end_with_end_mark = facts.expects_end_mark && facts.has_unfinished_event;
        if self.events.is_holding() || may_end_with_end_mark {
            return;
        }
        let policy = &self.settings.close_policy;
        let outcome = Outcome::decide(None, UpstreamEnd::Eof, facts, policy);
        if outcome.closes || self.poll_last_stop(cx).is_some() {
            return;
        }
        self.progress.set_ending(outcome.ending, None);
        self.drop_cancellation();
        self.progress.set_phase(Phase::Finished);
        self.complete();
    }

    /// Ends the stream with its end mark, and returns the frame of the end mark.
    pub(super) fn finish_with_end_mark<B: Body>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        mut data: Bytes,
    ) -> PollFrame<Bytes, B::Error> {
        self.progress.set_ending(Ending::Completed, None);
        self.progress.set_phase(Phase::Ending { yields: false });
        self.drop_upstream(upstream);
        if self.events.ends_in_cr() {
            // Clients that do not know a lone CR need the LF. Conforming clients read CR LF as one line end.
            data = [&data, LF].concat().into();
            self.events.record_added(LF);
        }
        self.complete();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// Reads an event that lacks its blank line at the end of the upstream. Returns `true` if the event is an end mark.
    fn read_last_event(&mut self) -> bool {
        let is_in_line = self.events.has_unfinished_line();
        match &mut self.reader {
            Some(reader) => {
                let guard = self.progress.guard();
                let is_end_mark = reader.read_last_event(is_in_line);
                guard.disarm();
                is_end_mark
            }
            None => false,
        }
    }

    /// Drops the upstream and the cancellations. The stream has failed if one of them panics.
    pub(crate) fn drop_upstream<B: Body>(&mut self, mut upstream: Pin<&mut Upstream<B>>) {
        let guard = self.progress.guard();
        upstream.set(Upstream::Ended);
        guard.disarm();
        self.drop_cancellation();
    }

    fn drop_cancellation(&mut self) {
        let guard = self.progress.guard();
        self.signals.drop_cancellation();
        guard.disarm();
    }

    /// Completes the stream: counts it out of its shutdowns, makes the report, and then releases the drains that wait for the
    /// stream.
    fn complete(&mut self) {
        self.signals.count_out();
        if let Some(recorder) = self.progress.recorder.take() {
            recorder.finish(self.events.totals());
        }
        self.signals.clear();
    }

    fn make_close_event(&mut self, ending: Ending) -> CloseEvent {
        if let Some(event) = self.close_event.take() {
            return event;
        }
        match &self.settings.close_event {
            None | Some(CloseEventSource::None) => CloseEvent::new(),
            Some(CloseEventSource::Same(event)) => event.clone(),
            Some(CloseEventSource::PerStream(make)) => {
                let totals = self.events.totals();
                make(&match &self.progress.recorder {
                    Some(recorder) => recorder.report(ending, totals),
                    None => StreamReport::with_totals(ending, totals),
                })
            }
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            delivered: self.events.totals().delivered,
            has_unfinished_event: self.events.has_unfinished_event(),
            is_inside_event: self.events.is_inside_event(),
            has_close_event: self.close_event.is_some() || self.settings.has_close_event(),
            expects_end_mark: self
                .reader
                .as_ref()
                .is_some_and(|reader| reader.expects_end_mark()),
            ends_with_end_mark: false,
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.complete();
    }
}

#[cfg(test)]
mod tests;
