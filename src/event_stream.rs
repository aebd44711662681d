//! The state machine of one event stream; [`ResponseBody`](crate::ResponseBody) has its table.

mod fast_path;
mod finish;
pub(crate) mod signals;

use std::{
    future::Future,
    mem,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Extensions;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    body::{Polled, into_bytes, into_bytes_frame, poll_untouched},
    config::Config,
    eligibility::Completed,
    event_stream::signals::{Stop, Tick},
    future::StreamParts,
    report::ending::Ending,
    report::stream_report::Account,
    report::telemetry::Telemetry,
    wire::close_event::CloseEvent,
    wire::event_buffer::HoldBack,
};

/// One poll takes so many upstream frames, and then lets the other tasks run.
const FRAMES_PER_POLL: usize = 64;

/// The cancellation is looked at after so many frames that were ready.
const FRAMES_PER_CHECK: u8 = 32;

/// So many frames that the upstream has ready are still forwarded once the cancellation was seen.
const FRAMES_AFTER_CANCELLATION: u8 = 32;

/// One line, because a blank line behind it is an empty message to some clients.
const KEEP_ALIVE: &[u8] = b":\n";

pin_project! {
    pub(crate) struct EventStream<B, C>
    where
        B: Body,
    {
        #[pin]
        state: State<B, C>,
        hold: HoldBack,
        stop: Stop,
        config: Arc<Config>,
        // The one that the response brought.
        close_event: Option<Box<CloseEvent>>,
        account: Option<Box<Account>>,
    }

    impl<B, C> PinnedDrop for EventStream<B, C>
    where
        B: Body,
    {
        fn drop(this: Pin<&mut Self>) {
            this.report();
        }
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
            frames_until_check: u8,
            // So many of these frames may go the short way. Zero unless the stream is streaming and aligned.
            short_frames: u8,
            // Another layer inside of this one has completed the stream.
            is_outer: bool,
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
    Cancelled {
        ending: Ending,
        frames_left: u8,
        asked_again: bool,
    },
    Finished,
}

/// How an upstream ended that did not just end: with trailers or an error.
type Last<E> = Result<Frame<Bytes>, E>;

impl<B: Body, C> EventStream<B, C> {
    pub(crate) fn new(upstream: B, parts: StreamParts<C>, response: &Extensions) -> Self {
        let StreamParts {
            cancellation,
            config,
            telemetry,
        } = parts;
        let is_outer = response.get::<Completed>().is_some();
        let is_observed = !is_outer && (config.on_end.0.is_some() || Telemetry::IS_ON);
        let stop = Stop::start(&config, response);
        let mode = if stop.is_draining() {
            Mode::stopped(Ending::Cancelled)
        } else {
            Mode::Streaming
        };
        Self {
            state: State::Open {
                upstream,
                cancellation,
                mode,
                frames_until_check: 0,
                short_frames: 0,
                is_outer,
            },
            hold: HoldBack::new(stop.needs_every_event()),
            stop,
            config,
            close_event: response.get().cloned().map(Box::new),
            account: is_observed.then(|| Box::new(Account::open(telemetry))),
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
            State::Open { .. } => SizeHint::default(),
            // Trailers and errors are no data.
            State::Ending { .. } | State::Done => SizeHint::with_exact(0),
        }
    }
}

impl<B, C> EventStream<B, C>
where
    B: Body,
    C: Future<Output = ()>,
{
    /// The long way: every state, and every frame. The upstream may have been polled already.
    #[inline(never)]
    fn poll_on(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut polled: Option<Polled<B::Data, B::Error>>,
    ) -> Polled<Bytes, B::Error> {
        self.as_mut().leave_short_way();
        for _ in 0..FRAMES_PER_POLL {
            let step = match polled.take() {
                Some(polled) => self.as_mut().take(cx, polled),
                None => self.as_mut().step(cx),
            };
            if let ControlFlow::Break(result) = step {
                self.enter_short_way();
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
            self.as_mut().note_sent();
            self.finish_with_upstream(cx);
            return ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(data)))));
        }
        let (upstream, mode, frames_until_check, is_outer) = match this.state.as_mut().project() {
            StateProjection::Open {
                upstream,
                mode,
                frames_until_check,
                is_outer,
                ..
            } => (upstream, mode, frames_until_check, is_outer),
            StateProjection::Ending { last } => {
                let last = last.take();
                this.state.set(State::Done);
                self.report();
                return ControlFlow::Break(Poll::Ready(last.map(|last| *last)));
            }
            StateProjection::Done => return ControlFlow::Break(Poll::Ready(None)),
        };
        let polled = match mode {
            Mode::Streaming if *frames_until_check == 0 || this.stop.is_closed() => {
                // Sets the count anew, unless the stream is stopped.
                self.as_mut().check(cx);
                return ControlFlow::Continue(());
            }
            Mode::Streaming => {
                *frames_until_check -= 1;
                fail_on_panic(this.account, || upstream.poll_frame(cx))
            }
            // What is left behind the close event of an inner layer has no data, and is not a frame too many.
            Mode::Cancelled { frames_left: 0, .. }
                if !*is_outer || upstream.size_hint().exact() != Some(0) =>
            {
                let ended = upstream.is_end_stream();
                return ControlFlow::Break(Poll::Ready(self.end(cx, None, ended)));
            }
            Mode::Cancelled {
                frames_left,
                asked_again,
                ..
            } => {
                let poll = |cx: &mut Context<'_>| upstream.poll_frame(cx);
                match fail_on_panic(this.account, || this.config.last_look.poll(cx, poll)) {
                    (Poll::Ready(polled), _) => {
                        *frames_left = frames_left.saturating_sub(1);
                        Poll::Ready(polled)
                    }
                    (Poll::Pending, true) if !*asked_again => {
                        *asked_again = true;
                        cx.waker().wake_by_ref();
                        return ControlFlow::Break(Poll::Pending);
                    }
                    (Poll::Pending, _) => {
                        return ControlFlow::Break(Poll::Ready(self.end(cx, None, false)));
                    }
                }
            }
            Mode::Finished => {
                let polled = poll_untouched(upstream, cx);
                if let Poll::Ready(None | Some(Err(_))) = polled {
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
                    let limit = this.config.hold_limit;
                    let Some(data) = this.hold.push(into_bytes(data), limit) else {
                        return ControlFlow::Continue(());
                    };
                    self.as_mut().note_sent();
                    self.finish_with_upstream(cx);
                    return ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(data)))));
                }
                Err(trailers) => Some(Ok(into_bytes_frame(trailers))),
            },
            Poll::Ready(Some(Err(error))) => Some(Err(error)),
            Poll::Ready(None) => None,
            Poll::Pending => return self.wait(cx),
        };
        ControlFlow::Break(Poll::Ready(self.end(cx, last, true)))
    }

    /// The upstream is pending: breaks with `Pending` or a keep-alive, or goes on because the stream is stopped.
    fn wait(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> ControlFlow<Polled<Bytes, B::Error>> {
        if self.as_mut().poll_cancelled(cx).is_ready() {
            return ControlFlow::Continue(());
        }
        loop {
            let this = self.as_mut().project();
            match this.stop.poll_clock(cx) {
                Poll::Ready(Tick::End(ending)) => {
                    self.stop_with(ending);
                    return ControlFlow::Continue(());
                }
                Poll::Ready(Tick::KeepAlive) if this.hold.may_comment() => {
                    this.hold.comment_goes_out();
                    let comment = Frame::data(Bytes::from_static(KEEP_ALIVE));
                    return ControlFlow::Break(Poll::Ready(Some(Ok(comment))));
                }
                // In the middle of an event there is no place for it.
                Poll::Ready(Tick::KeepAlive) => {}
                Poll::Pending => return ControlFlow::Break(Poll::Pending),
            }
        }
    }

    /// Something went out that was not the short way's.
    fn note_sent(self: Pin<&mut Self>) {
        let this = self.project();
        this.stop.sent(this.hold.just_delivered());
        if let Some(account) = this.account.as_mut().filter(|_| this.hold.delivered()) {
            account.delivered();
        }
    }

    /// Whether the stream has to stop, asked between frames that are ready.
    fn check(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        if self.as_mut().poll_cancelled(cx).is_ready() {
            return true;
        }
        let passed = self.stop.deadline_passed();
        if let Some(ending) = passed {
            self.stop_with(ending);
        }
        passed.is_some()
    }

    /// How the stream was stopped. The cancellation is not polled again once it has fired.
    fn poll_cancelled(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ending> {
        let this = self.project();
        let StateProjection::Open {
            cancellation,
            mode,
            frames_until_check,
            ..
        } = this.state.project()
        else {
            return Poll::Pending;
        };
        if let Mode::Cancelled { ending, .. } = mode {
            return Poll::Ready(*ending);
        }
        *frames_until_check = FRAMES_PER_CHECK;
        if cancellation.poll(cx).is_pending() {
            ready!(this.stop.poll_shutdowns(cx));
        }
        *mode = Mode::stopped(Ending::Cancelled);
        Poll::Ready(Ending::Cancelled)
    }

    fn stop_with(self: Pin<&mut Self>, ending: Ending) {
        if let StateProjection::Open { mode, .. } = self.project().state.project() {
            *mode = Mode::stopped(ending);
        }
    }
}

impl Mode {
    fn stopped(ending: Ending) -> Self {
        Self::Cancelled {
            ending,
            frames_left: FRAMES_AFTER_CANCELLATION,
            asked_again: false,
        }
    }
}

/// Notes a panic of the upstream in the account, for the report that follows when the body is dropped.
#[inline]
fn fail_on_panic<T>(account: &mut Option<Box<Account>>, poll: impl FnOnce() -> T) -> T {
    struct Guard<'a>(&'a mut Option<Box<Account>>);

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if let Some(account) = self.0 {
                account.decided(Ending::Failed, false);
            }
        }
    }

    let guard = Guard(account);
    let polled = poll();
    mem::forget(guard);
    polled
}
