//! The few lines that nearly every poll takes: a frame of whole events after whole events, and the silence in between.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{EventStream, fail_on_panic, poll::FRAMES_PER_CHECK};
use crate::{
    frame::{PollFrame, into_bytes},
    report::Stop,
    wire::buffer::EventBuffer,
};

impl<B, C> EventStream<B, C>
where
    B: Body<Data: Into<Bytes>>,
    C: Future<Output = ()>,
{
    #[inline(always)]
    pub(crate) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error> {
        let this = self.as_mut().project();
        if *this.frames_until_check == 0 || !this.events.is_aligned() || this.signals.has_fired() {
            return self.poll_slow(cx, None);
        }
        let Some(sources) = this.sources.as_pin_mut() else {
            return self.poll_slow(cx, None);
        };
        let mut sources = sources.project();
        let upstream = sources.upstream.as_mut();
        let frame = match fail_on_panic(this.recorder, || upstream.poll_frame(cx)) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Pending if this.signals.is_waiting(cx) => {
                let cancellation = sources.cancellation;
                if fail_on_panic(this.recorder, || cancellation.poll(cx)).is_pending() {
                    *this.frames_until_check = FRAMES_PER_CHECK;
                    return Poll::Pending;
                }
                self.as_mut().stop(Stop::Cancelled);
                return self.poll_slow(cx, None);
            }
            polled => return self.poll_slow(cx, Some(polled.map_ok(into_bytes))),
        };
        *this.frames_until_check -= 1;
        let data: Bytes = match frame.into_data() {
            Ok(data) => data.into(),
            Err(frame) => {
                return self.poll_slow(cx, Some(Poll::Ready(Some(Ok(into_bytes(frame))))));
            }
        };
        if !EventBuffer::stays_aligned(&data)
            || sources.upstream.is_end_stream()
            || (this.signals.has_timer() && !this.signals.forwards_whole_events(&data))
        {
            return self.poll_slow(cx, Some(Poll::Ready(Some(Ok(Frame::data(data))))));
        }
        this.events.forward_aligned(&data);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}
