//! Stops a stream: what is checked when, and what is still forwarded.

use std::{
    future::{self, Future},
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body;

use super::{
    EventStream, Phase, fail_on_panic,
    outcome::UpstreamEnd,
    poll::{FRAMES_PER_CHECK, Step},
};
use crate::{coop::poll_unconstrained, frame::poll_bytes, report::Stop};

/// Frames that are still forwarded after the stream has been stopped.
const FRAMES_AFTER_STOP: u8 = 32;

impl<B, C> EventStream<B, C>
where
    B: Body<Data: Into<Bytes>>,
    C: Future<Output = ()>,
{
    /// Checks between two ready frames whether the stream is stopped.
    pub(super) fn poll_stop(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.as_mut().poll_cancelled(cx).is_ready() {
            return Poll::Ready(());
        }
        let this = self.as_mut().project();
        *this.frames_until_check = FRAMES_PER_CHECK;
        match this.signals.passed_deadline() {
            Some(stop) => {
                self.stop(stop);
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }

    /// Polls the shutdowns and the user's cancellation. The cancellation is not polled again after it has completed.
    pub(super) fn poll_cancelled(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.as_mut().project();
        let Some(sources) = this.sources.as_pin_mut() else {
            return Poll::Pending;
        };
        match this.signals.poll_shutdowns(cx) {
            Poll::Ready(event) => {
                if this.close_event.is_none() {
                    *this.close_event = event.map(Box::new);
                }
            }
            Poll::Pending => {
                let cancellation = sources.project().cancellation;
                if fail_on_panic(this.recorder, || cancellation.poll(cx)).is_pending() {
                    return Poll::Pending;
                }
            }
        }
        self.stop(Stop::Cancelled);
        Poll::Ready(())
    }

    /// Returns what has stopped the stream. The cancellation is polled regardless of the budget, because there is no further
    /// poll.
    pub(super) fn stop_at_end(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<Stop> {
        let stop = match self.phase {
            Phase::Stopping { stop, .. } => Some(stop),
            _ => None,
        };
        if stop == Some(Stop::Cancelled) {
            return stop;
        }
        let cancelled = future::poll_fn(|cx| self.as_mut().poll_cancelled(cx));
        match poll_unconstrained(cancelled, cx) {
            Poll::Ready(()) => Some(Stop::Cancelled),
            Poll::Pending => stop,
        }
    }

    /// Forwards what the upstream has ready. Its waker is not registered: the stream does not wait for it any more.
    pub(super) fn poll_stopping(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step<B::Error> {
        let this = self.as_mut().project();
        let (
            Some(sources),
            Phase::Stopping {
                frames_left,
                repolled,
                ..
            },
        ) = (this.sources.as_pin_mut(), this.phase)
        else {
            return ControlFlow::Break(Poll::Ready(None));
        };
        let upstream = sources.project().upstream;
        // After the close event of an inner layer only trailers follow, which are not one frame too many.
        let inner_has_ended = || {
            this.inner
                .as_ref()
                .is_some_and(|inner| inner.has_sent_close_event())
        };
        if *frames_left == 0 && !inner_has_ended() {
            let end = match upstream.is_end_stream() {
                true => UpstreamEnd::Eof,
                false => UpstreamEnd::Open,
            };
            return ControlFlow::Break(self.finish(cx, end, None));
        }
        let final_poll = &this.config.final_poll;
        let poll = || final_poll.poll(cx, |cx| poll_bytes(upstream, cx));
        match fail_on_panic(this.recorder, poll) {
            (Poll::Ready(frame), _) => {
                *frames_left = frames_left.saturating_sub(1);
                self.on_polled(cx, Poll::Ready(frame))
            }
            (Poll::Pending, true) if !*repolled => {
                *repolled = true;
                cx.waker().wake_by_ref();
                ControlFlow::Break(Poll::Pending)
            }
            (Poll::Pending, _) => ControlFlow::Break(self.finish(cx, UpstreamEnd::Open, None)),
        }
    }
}

impl<B: Body, C> EventStream<B, C> {
    pub(super) fn stop(self: Pin<&mut Self>, stop: Stop) {
        let this = self.project();
        *this.phase = Phase::Stopping {
            stop,
            frames_left: FRAMES_AFTER_STOP,
            repolled: false,
        };
        *this.frames_until_check = 0;
        this.events.track_types();
    }
}
