//! The state machine of one event stream; [`ResponseBody`](crate::ResponseBody) has its table.

use std::{
    future::Future,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    body::{Polled, into_bytes, into_bytes_frame, poll_untouched},
    close_event::CloseEvent,
    config::Config,
    ending::Ending,
    hold::HoldBack,
};

/// One poll takes so many upstream frames, and then lets the other tasks run.
const FRAMES_PER_POLL: usize = 64;

/// The cancellation is looked at after so many frames that were ready.
const FRAMES_PER_CHECK: u8 = 32;

/// So many frames that the upstream has ready are still forwarded once the cancellation was seen.
const FRAMES_AFTER_CANCELLATION: u8 = 32;

pin_project! {
    pub(crate) struct EventStream<B, C>
    where
        B: Body,
    {
        #[pin]
        state: State<B, C>,
        frames_until_check: u8,
        hold: HoldBack,
        config: Arc<Config>,
        // The one that the response brought.
        close_event: Option<CloseEvent>,
    }
}

pin_project! {
    // The bound is there for the error, which may have to wait for what was held.
    #[project = StateProjection]
    enum State<B, C>
    where
        B: Body,
    {
        // Streaming, cancelled or finished. The upstream is pinned, and cannot move from one variant to another.
        Open {
            #[pin]
            upstream: B,
            #[pin]
            cancellation: C,
            mode: Mode,
        },
        Ending {
            last: Option<Box<Last<B::Error>>>,
        },
        Done,
    }
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Streaming,
    Cancelled { frames_left: u8, asked_again: bool },
    Finished,
}

/// How an upstream ended that did not just end: with trailers or an error.
type Last<E> = Result<Frame<Bytes>, E>;

impl<B: Body, C> EventStream<B, C> {
    pub(crate) fn new(
        upstream: B,
        cancellation: C,
        config: Arc<Config>,
        close_event: Option<CloseEvent>,
    ) -> Self {
        Self {
            state: State::Open {
                upstream,
                cancellation,
                mode: Mode::Streaming,
            },
            frames_until_check: 0,
            hold: HoldBack::new(),
            config,
            close_event,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self.state {
            State::Open { mode, .. } => matches!(mode, Mode::Finished),
            State::Ending { .. } => false,
            State::Done => true,
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.state {
            // A close event makes the stream longer, a cancellation makes it shorter.
            State::Open { .. } | State::Ending { .. } => SizeHint::default(),
            State::Done => SizeHint::with_exact(0),
        }
    }
}

impl<B, C> EventStream<B, C>
where
    B: Body,
    C: Future<Output = ()>,
{
    /// The short way, which nearly every frame goes: whole events behind whole events.
    #[inline]
    pub(crate) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Polled<Bytes, B::Error> {
        let this = self.as_mut().project();
        let StateProjection::Open {
            mut upstream,
            mode: Mode::Streaming,
            ..
        } = this.state.project()
        else {
            return self.poll_on(cx, None);
        };
        if *this.frames_until_check == 0 || !this.hold.is_aligned() {
            return self.poll_on(cx, None);
        }
        let frame = match upstream.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            polled => return self.poll_on(cx, Some(polled)),
        };
        if !frame.data_ref().is_some_and(HoldBack::passes_aligned) || upstream.is_end_stream() {
            return self.poll_on(cx, Some(Poll::Ready(Some(Ok(frame)))));
        }
        *this.frames_until_check -= 1;
        Poll::Ready(Some(Ok(into_bytes_frame(frame))))
    }

    /// The long way: every state, and every frame. The upstream may have been polled already.
    #[inline(never)]
    fn poll_on(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut polled: Option<Polled<B::Data, B::Error>>,
    ) -> Polled<Bytes, B::Error> {
        for _ in 0..FRAMES_PER_POLL {
            let step = match polled.take() {
                Some(polled) => self.as_mut().take(cx, polled),
                None => self.as_mut().step(cx),
            };
            if let ControlFlow::Break(result) = step {
                return result;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One row of the table: breaks with what the server gets, or goes on.
    fn step(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> ControlFlow<Polled<Bytes, B::Error>> {
        let mut this = self.as_mut().project();
        if let Some(data) = this.hold.next_queued() {
            return ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(data)))));
        }
        let (upstream, cancellation, mode) = match this.state.as_mut().project() {
            StateProjection::Open {
                upstream,
                cancellation,
                mode,
            } => (upstream, cancellation, mode),
            StateProjection::Ending { last } => {
                let last = last.take();
                this.state.set(State::Done);
                return ControlFlow::Break(Poll::Ready(last.map(|last| *last)));
            }
            StateProjection::Done => return ControlFlow::Break(Poll::Ready(None)),
        };
        let polled = match mode {
            Mode::Streaming => {
                if *this.frames_until_check == 0 {
                    if cancellation.poll(cx).is_ready() {
                        *mode = Mode::CANCELLED;
                        return ControlFlow::Continue(());
                    }
                    *this.frames_until_check = FRAMES_PER_CHECK;
                }
                upstream.poll_frame(cx)
            }
            Mode::Cancelled { frames_left: 0, .. } => Poll::Ready(None),
            Mode::Cancelled {
                frames_left,
                asked_again,
            } => match upstream.poll_frame(cx) {
                Poll::Ready(polled) => {
                    *frames_left -= 1;
                    Poll::Ready(polled)
                }
                // Where tokio's cooperative budget is spent, a channel that holds a message is pending. It is not
                // when the executor comes back.
                Poll::Pending if !*asked_again => {
                    *asked_again = true;
                    cx.waker().wake_by_ref();
                    return ControlFlow::Break(Poll::Pending);
                }
                Poll::Pending => Poll::Ready(None),
            },
            Mode::Finished => {
                let polled = poll_untouched(upstream, cx);
                if let Poll::Ready(None) = polled {
                    this.state.set(State::Done);
                }
                return ControlFlow::Break(polled);
            }
        };
        self.take(cx, polled)
    }

    /// Takes what the upstream gave: breaks with what the server gets, or goes on.
    fn take(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        polled: Polled<B::Data, B::Error>,
    ) -> ControlFlow<Polled<Bytes, B::Error>> {
        let this = self.as_mut().project();
        let last = match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    *this.frames_until_check = this.frames_until_check.saturating_sub(1);
                    let limit = this.config.hold_limit;
                    let Some(data) = this.hold.push(into_bytes(data), limit) else {
                        return ControlFlow::Continue(());
                    };
                    self.finish_with_upstream(cx);
                    return ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(data)))));
                }
                Err(trailers) => Some(Ok(into_bytes_frame(trailers))),
            },
            Poll::Ready(Some(Err(error))) => Some(Err(error)),
            Poll::Ready(None) => None,
            Poll::Pending => {
                return match self.poll_cancellation(cx) {
                    Poll::Ready(()) => ControlFlow::Continue(()),
                    Poll::Pending => ControlFlow::Break(Poll::Pending),
                };
            }
        };
        ControlFlow::Break(Poll::Ready(self.end(cx, last)))
    }

    /// Finishes the stream, if the upstream says that what it just gave was its last frame: then the server
    /// may never poll again.
    fn finish_with_upstream(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let finished = match &self.state {
            State::Open { upstream, mode, .. } => {
                matches!(mode, Mode::Streaming) && upstream.is_end_stream()
            }
            State::Ending { .. } | State::Done => false,
        };
        if !finished || self.hold.is_waiting() || self.closes_on(self.natural_ending()) {
            return;
        }
        if self.as_mut().poll_cancellation(cx).is_pending() {
            if let StateProjection::Open { mode, .. } = self.project().state.project() {
                *mode = Mode::Finished;
            }
        }
    }

    /// The upstream has ended, or is not polled any more. Returns the first of what still goes out.
    fn end(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        last: Option<Last<B::Error>>,
    ) -> Option<Last<B::Error>> {
        let ending = match &last {
            _ if self.as_mut().poll_cancellation(cx).is_ready() => Ending::Cancelled,
            Some(Err(_)) => Ending::Failed,
            _ => self.natural_ending(),
        };
        let close = self.closes_on(ending);
        let mut this = self.project();
        // The upstream goes before the close event, so that its channels and permits are free by then.
        this.state.set(State::Done);

        let held = this.hold.take_held();
        let first = if close {
            let event = this.close_event.take();
            let event = event.unwrap_or_else(|| this.config.close_event.close_event(ending));
            Some(event.encode(this.hold.ends_in_cr()))
        } else {
            held
        };
        let last = last.filter(|last| last.is_ok() || !(close || ending == Ending::Cancelled));
        let Some(first) = first else {
            return last;
        };
        if let Some(last) = last {
            let last = Some(Box::new(last));
            this.state.set(State::Ending { last });
        }
        Some(Ok(Frame::data(first)))
    }

    /// Whether the stream is cancelled. The cancellation is not polled again once it has fired.
    fn poll_cancellation(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if let StateProjection::Open {
            cancellation, mode, ..
        } = this.state.project()
        {
            if !matches!(mode, Mode::Cancelled { .. }) {
                *this.frames_until_check = FRAMES_PER_CHECK;
                ready!(cancellation.poll(cx));
                *mode = Mode::CANCELLED;
            }
        }
        Poll::Ready(())
    }

    fn natural_ending(&self) -> Ending {
        if self.hold.delivered() {
            Ending::Completed
        } else {
            Ending::Empty
        }
    }

    fn closes_on(&self, ending: Ending) -> bool {
        self.config.closes_on(ending) && self.hold.may_close()
    }
}

impl Mode {
    const CANCELLED: Self = Self::Cancelled {
        frames_left: FRAMES_AFTER_CANCELLATION,
        asked_again: false,
    };
}
