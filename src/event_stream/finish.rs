//! The one sequence in which a stream ends.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{
    EventStream, Phase, Tail,
    outcome::{Facts, Outcome, UpstreamEnd},
};
use crate::{
    config::CloseEventSource,
    frame::{PollFrame, poll_bytes},
    layer_marker::ClientEnding,
    report::StreamReport,
    wire::close_event::CloseEvent,
};

impl<B, C> EventStream<B, C>
where
    B: Body<Data: Into<Bytes>>,
    C: Future<Output = ()>,
{
    /// Ends the stream, and returns the first of its last frames.
    ///
    /// 1. The cancellation is checked for the last time.
    /// 2. The outcome is decided.
    /// 3. The close event is made.
    /// 4. The upstream and the cancellation are dropped.
    /// 5. Buffered bytes are discarded for the close event, or forwarded.
    /// 6. With the last frame, the stream is [completed](Self::complete).
    pub(super) fn finish(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        upstream: UpstreamEnd,
        tail: Option<Tail<B::Error>>,
    ) -> PollFrame<Bytes, B::Error> {
        let stop = self.as_mut().stop_at_end(cx);
        let facts = self.facts();
        let outcome = Outcome::decide(stop, upstream, facts, &self.config.close_policy);
        let close_event = match outcome.closes {
            true => self.as_mut().make_close_event(&outcome),
            false => None,
        };
        let client_ending = ClientEnding {
            ending: outcome.ending,
            close_event_sent: close_event.is_some(),
        };
        self.as_mut().drop_stopped_sources(client_ending);
        self.as_mut().take_over();

        let this = self.as_mut().project();
        let first = match close_event {
            Some(event) => {
                let event = event.encode(this.events.ends_in_cr());
                this.marker.close_event_sent();
                this.events.close_event_sent(&event);
                Some(event)
            }
            None if outcome.forwards_error => this.events.take_held(),
            None => None,
        };
        this.events.discard_held();
        if let Some(recorder) = this.recorder {
            // An end of the upstream on its own is the innermost layer's to judge, and so is its own close event.
            let is_judged_by_inner = facts.wraps_another_layer
                && (facts.inner_close_event || !outcome.ending.is_stopped());
            if !is_judged_by_inner || !recorder.has_ended() {
                recorder.ended(client_ending.ending, client_ending.close_event_sent);
            }
        }
        let tail = tail.filter(|tail| outcome.forwards_error || matches!(tail, Tail::Trailers(_)));
        self.return_last(cx, first, tail)
    }

    fn return_last(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        first: Option<Bytes>,
        tail: Option<Tail<B::Error>>,
    ) -> PollFrame<Bytes, B::Error> {
        if tail.is_none() {
            self.as_mut().complete();
        }
        let must_yield = self.events.has_sent();
        let (phase, result) = match (first, tail) {
            (Some(data), tail) => {
                // `None` follows, although the end is known already: outer middleware detects the end by that poll.
                let tail = tail.map(Box::new);
                let data = Poll::Ready(Some(Ok(Frame::data(data))));
                (Phase::Ending { tail, yields: true }, data)
            }
            (None, Some(error @ Tail::Error(_))) if must_yield => {
                cx.waker().wake_by_ref();
                let tail = Some(Box::new(error));
                (
                    Phase::Ending {
                        tail,
                        yields: false,
                    },
                    Poll::Pending,
                )
            }
            (None, Some(tail)) => {
                self.as_mut().complete();
                (Phase::Done, Poll::Ready(Some(tail.into_result())))
            }
            (None, None) => (Phase::Done, Poll::Ready(None)),
        };
        *self.project().phase = phase;
        result
    }

    /// Ends the stream with the frame that is being forwarded, if `is_end_stream` of the upstream is `true`: a server may not
    /// poll again.
    pub(super) fn finish_with_upstream(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let sources = self.sources.as_ref();
        let is_last = sources.is_some_and(|sources| sources.upstream.is_end_stream());
        if !is_last || !matches!(self.phase, Phase::Streaming) || self.events.is_holding() {
            return;
        }
        let policy = &self.config.close_policy;
        let outcome = Outcome::decide(None, UpstreamEnd::Eof, self.facts(), policy);
        if outcome.closes || self.as_mut().stop_at_end(cx).is_some() {
            return;
        }
        let this = self.as_mut().project();
        *this.phase = Phase::Finished;
        *this.frames_until_check = 0;
        if let Some(inner) = this.inner {
            inner.stop(ClientEnding {
                ending: outcome.ending,
                close_event_sent: false,
            });
        }
        if let Some(recorder) = this.recorder {
            recorder.ended(outcome.ending, false);
        }
        self.complete();
    }

    /// Returns the close event, unless the last event has its type.
    fn make_close_event(mut self: Pin<&mut Self>, outcome: &Outcome) -> Option<CloseEvent> {
        let this = self.as_mut().project();
        if let Some(recorder) = this.recorder {
            // The user's function may panic.
            recorder.ended(outcome.ending, false);
        }
        let event = match (this.close_event.take(), &this.config.close_event) {
            (Some(event), _) => *event,
            (None, CloseEventSource::Same(event)) => event.clone(),
            (None, CloseEventSource::PerStream(make)) => {
                let (ending, counts) = (outcome.ending, this.events.counts());
                make(&match this.recorder {
                    Some(recorder) => recorder.report(ending, counts),
                    None => StreamReport::of(ending, counts),
                })
            }
        };
        (!this.events.ends_with_event(event.event_type())).then_some(event)
    }

    /// Polls an upstream that has said that it has ended.
    pub(super) fn poll_finished(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error> {
        let this = self.as_mut().project();
        let Some(sources) = this.sources.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let polled = poll_bytes(sources.project().upstream, cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            *this.phase = Phase::Done;
            self.drop_sources();
        }
        polled
    }

    /// Returns what follows the first of the last frames.
    pub(super) fn poll_tail(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error> {
        let this = self.as_mut().project();
        let phase = mem::replace(this.phase, Phase::Done);
        match phase {
            Phase::Ending {
                tail: Some(tail),
                yields: true,
            } if matches!(*tail, Tail::Error(_)) => {
                *this.phase = Phase::Ending {
                    tail: Some(tail),
                    yields: false,
                };
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Phase::Ending {
                tail: Some(tail), ..
            } => {
                self.complete();
                Poll::Ready(Some(tail.into_result()))
            }
            _ => Poll::Ready(None),
        }
    }

    fn facts(&self) -> Facts {
        let inner = self.inner.as_ref();
        Facts {
            delivered: self.events.counts().delivered,
            unfinished: self.events.has_unfinished_event(),
            mid_event: self.events.is_mid_event(),
            wraps_another_layer: inner.is_some(),
            inner_close_event: inner.is_some_and(|inner| inner.has_sent_close_event()),
        }
    }
}

impl<E> Tail<E> {
    fn into_result(self) -> Result<Frame<Bytes>, E> {
        match self {
            Self::Trailers(frame) => Ok(frame),
            Self::Error(error) => Err(error),
        }
    }
}
