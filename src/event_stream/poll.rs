//! Polls a stream in every state. [`fast_path`](super::fast_path) covers most polls.
//!
//! | phase | upstream | cancellation, shutdowns | deadlines | next phase |
//! |---|---|---|---|---|
//! | streaming | polled | when the upstream is pending, before every 32nd ready frame, when the upstream ends | as the cancellation, but not at the end | stopping, finished, ending |
//! | stopping | polled for up to 32 ready frames | at the end, after a deadline | – | ending |
//! | finished | polled if the server polls | – | – | done |
//! | ending | dropped | – | – | done |
//! | done | dropped | – | – | |

use std::{
    future::Future,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{EventStream, Phase, Tail, fail_on_panic, outcome::UpstreamEnd};
#[cfg(feature = "tokio")]
use crate::deadlines::Signal;
use crate::{
    frame::{PollFrame, poll_bytes},
    wire::buffer::Forward,
};

/// Maximum number of upstream frames processed in one poll before yielding.
const FRAMES_PER_POLL: usize = 64;

/// The cancellation and the deadlines are checked before every frame of this number that is ready.
pub(super) const FRAMES_PER_CHECK: u8 = 32;

/// Breaks with the result for the server, or continues with the next frame.
pub(super) type Step<E> = ControlFlow<PollFrame<Bytes, E>>;

impl<B, C> EventStream<B, C>
where
    B: Body<Data: Into<Bytes>>,
    C: Future<Output = ()>,
{
    /// Polls the stream in any state. `polled` is what the upstream has just returned, if it has been polled already.
    #[inline(never)]
    pub(super) fn poll_slow(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut polled: Option<PollFrame<Bytes, B::Error>>,
    ) -> PollFrame<Bytes, B::Error> {
        if let Some(recorder) = self.as_mut().project().recorder {
            recorder.first_poll();
        }
        for _ in 0..FRAMES_PER_POLL {
            let step = match polled.take() {
                Some(polled) => self.as_mut().on_polled(cx, polled),
                None => self.as_mut().poll_phase(cx),
            };
            if let ControlFlow::Break(result) = step {
                return result;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_phase(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step<B::Error> {
        if let Some(forward) = self.as_mut().project().events.next_queued() {
            return self.forward(cx, forward);
        }
        match self.phase {
            Phase::Streaming => self.poll_streaming(cx),
            Phase::Stopping { .. } => self.poll_stopping(cx),
            Phase::Finished => ControlFlow::Break(self.poll_finished(cx)),
            Phase::Ending { .. } => ControlFlow::Break(self.poll_tail(cx)),
            Phase::Done => ControlFlow::Break(Poll::Ready(None)),
        }
    }

    fn poll_streaming(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step<B::Error> {
        let is_check_due = self.frames_until_check == 0 || self.signals.has_fired();
        if is_check_due && self.as_mut().poll_stop(cx).is_ready() {
            return ControlFlow::Continue(());
        }
        let this = self.as_mut().project();
        let Some(sources) = this.sources.as_pin_mut() else {
            return ControlFlow::Break(Poll::Ready(None));
        };
        let upstream = sources.project().upstream;
        let polled = fail_on_panic(this.recorder, || poll_bytes(upstream, cx));
        if polled.is_ready() {
            *this.frames_until_check -= 1;
        }
        self.on_polled(cx, polled)
    }

    pub(super) fn on_polled(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        polled: PollFrame<Bytes, B::Error>,
    ) -> Step<B::Error> {
        let result = match polled {
            Poll::Ready(Some(Ok(frame))) => return self.on_frame(cx, frame),
            Poll::Pending => return self.on_pending(cx),
            Poll::Ready(Some(Err(error))) => {
                self.finish(cx, UpstreamEnd::Error, Some(Tail::Error(error)))
            }
            Poll::Ready(None) => self.finish(cx, UpstreamEnd::Eof, None),
        };
        ControlFlow::Break(result)
    }

    fn on_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frame: Frame<Bytes>,
    ) -> Step<B::Error> {
        let frame = match frame.into_data() {
            Ok(data) => {
                let this = self.as_mut().project();
                let limit = this.config.buffer_limit;
                let counts_events = this.signals.counts_events();
                return match this.events.push(data, limit, counts_events) {
                    Some(forward) => self.forward(cx, forward),
                    None => ControlFlow::Continue(()),
                };
            }
            Err(frame) => frame,
        };
        ControlFlow::Break(match frame.is_trailers() {
            true => self.finish(cx, UpstreamEnd::Trailers, Some(Tail::Trailers(frame))),
            // A kind of frame that this version does not handle.
            false => Poll::Ready(Some(Ok(frame))),
        })
    }

    /// The upstream is pending, so the stream waits for its signals.
    fn on_pending(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step<B::Error> {
        if self.as_mut().poll_cancelled(cx).is_ready() {
            return ControlFlow::Continue(());
        }
        *self.as_mut().project().frames_until_check = FRAMES_PER_CHECK;
        #[cfg(feature = "tokio")]
        loop {
            let this = self.as_mut().project();
            match this.signals.poll_timer(cx) {
                Poll::Ready(Signal::Stop(stop)) => {
                    self.stop(stop);
                    return ControlFlow::Continue(());
                }
                Poll::Ready(Signal::KeepAlive(comment)) if this.events.may_comment() => {
                    this.events.comment_sent(&comment);
                    return ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(comment)))));
                }
                // Inside an event there is no place for a comment.
                Poll::Ready(Signal::KeepAlive(_)) => {}
                Poll::Pending => break,
            }
        }
        ControlFlow::Break(Poll::Pending)
    }

    fn forward(mut self: Pin<&mut Self>, cx: &mut Context<'_>, forward: Forward) -> Step<B::Error> {
        let this = self.as_mut().project();
        this.signals.forwarded(forward.delivered);
        if forward.delivered {
            if let Some(recorder) = this.recorder {
                recorder.first_event();
            }
        }
        self.as_mut().finish_with_upstream(cx);
        self.complete_with_inner();
        ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(forward.data)))))
    }
}
