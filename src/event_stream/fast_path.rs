//! The short way, which nearly every poll goes: whole events behind whole events, and silence in between.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};

use super::{EventStream, FRAMES_PER_CHECK, Mode, State, StateProjection, fail_on_panic};
use crate::{
    body::{Polled, into_bytes},
    report::ending::Ending,
    wire::event_buffer::HoldBack,
};

impl<B: Body, C> EventStream<B, C> {
    /// What is left of the frames until the next check may go the short way, where the stream is ready for it.
    pub(super) fn enter_short_way(self: Pin<&mut Self>) {
        let this = self.project();
        if let StateProjection::Open {
            mode: Mode::Streaming,
            frames_until_check,
            short_frames,
            ..
        } = this.state.project()
        {
            if this.hold.is_aligned() {
                *short_frames = mem::take(frames_until_check);
            }
        }
    }

    pub(super) fn leave_short_way(self: Pin<&mut Self>) {
        let this = self.project();
        if let StateProjection::Open {
            frames_until_check,
            short_frames,
            ..
        } = this.state.project()
        {
            *frames_until_check += mem::take(short_frames);
        }
    }
}

impl<B, C> EventStream<B, C>
where
    B: Body,
    C: Future<Output = ()>,
{
    /// Polls for a frame, the short way if it can.
    #[inline(always)]
    pub(crate) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Polled<Bytes, B::Error> {
        let this = self.as_mut().project();
        let StateProjection::Open {
            mut upstream,
            cancellation,
            short_frames,
            ..
        } = this.state.project()
        else {
            return self.poll_on(cx, None);
        };
        if *short_frames == 0 || this.stop.is_closed() {
            return self.check_then_poll_frame(cx);
        }
        let data = match fail_on_panic(this.account, || upstream.as_mut().poll_frame(cx)) {
            Poll::Ready(Some(Ok(frame))) => {
                // Whichever way it goes on from here, or the cancellation would never be looked at.
                *short_frames -= 1;
                match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return self.poll_on(cx, Some(Poll::Ready(Some(Ok(frame))))),
                }
            }
            Poll::Pending if this.stop.is_waiting(cx) => {
                if cancellation.poll(cx).is_pending() {
                    *short_frames = FRAMES_PER_CHECK;
                    return Poll::Pending;
                }
                self.as_mut().stop_with(Ending::Cancelled);
                return self.poll_on(cx, None);
            }
            polled => return self.poll_on(cx, Some(polled)),
        };
        if !HoldBack::passes_aligned(&data) || upstream.is_end_stream() {
            return self.poll_on(cx, Some(Poll::Ready(Some(Ok(Frame::data(data))))));
        }
        if this.stop.has_clock() {
            return self.pass_on_the_clock(cx, data);
        }
        this.hold.passed(data.remaining());
        Poll::Ready(Some(Ok(Frame::data(into_bytes(data)))))
    }

    /// For a stream whose deadlines or keep-alive depend on what goes out.
    #[inline(never)]
    fn pass_on_the_clock(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: B::Data,
    ) -> Polled<Bytes, B::Error> {
        let this = self.as_mut().project();
        if !this.stop.lets_pass(data.chunk()) {
            return self.poll_on(cx, Some(Poll::Ready(Some(Ok(Frame::data(data))))));
        }
        this.hold.passed(data.remaining());
        Poll::Ready(Some(Ok(Frame::data(into_bytes(data)))))
    }

    /// Where the short way is at its end, or not open. The first poll of every stream comes here.
    #[cold]
    fn check_then_poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Polled<Bytes, B::Error> {
        if let Some(account) = self.as_mut().project().account {
            account.polled();
        }
        self.as_mut().leave_short_way();
        if self.is_check_due() && !self.as_mut().check(cx) {
            self.as_mut().enter_short_way();
            self.poll_frame(cx)
        } else {
            self.poll_on(cx, None)
        }
    }

    fn is_check_due(&self) -> bool {
        matches!(
            self.state,
            State::Open {
                mode: Mode::Streaming,
                frames_until_check: 0,
                ..
            }
        )
    }
}
