//! One wrapped event stream: its state, and the loop that polls its upstream.
//!
//! | phase | upstream | cancellations, shutdowns | deadlines | next phase |
//! |---|---|---|---|---|
//! | streaming | polled | when the upstream is pending, before the first and every 32nd ready frame, when the upstream ends | as the cancellations, except at the end | stopping, finished, ending |
//! | stopping | polled for up to 32 ready frames | at the end, after a deadline | – | ending |
//! | finished | polled if the server polls | – | – | done, when the upstream ends |
//! | ending | dropped | – | – | done |
//! | done | dropped, at the latest in the next poll | – | – | |
//!
//! After a panic of the user's code, the stream is done.
//!
//! `finish.rs` decides how a stream ends, and in which order. `signals.rs` has everything that can stop a stream besides its
//! upstream.

mod finish;
pub(crate) mod signals;

use std::{
    mem,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, request::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use self::{finish::UpstreamEnd, signals::Signals};
#[cfg(feature = "tokio")]
use crate::deadlines::Due;
use crate::{
    config::{Cancellation, Config, Settings},
    coop,
    report::{Ending, ObserveOnce, Recorder, RequestSpan, Stop},
    shutdown::phase::{Attached, Shared},
    sync,
    wire::{
        buffer::{EventBuffer, Forward, ends_in_lf_blank_line},
        close_event::CloseEvent,
        event_match::EventReader,
    },
};

/// State of one wrapped stream, besides its upstream.
pub(crate) struct EventStream {
    progress: Progress,
    events: EventBuffer,
    /// Parser of the events. `None` if the stream has neither end marks nor ignored events.
    reader: Option<Box<EventReader>>,
    signals: Signals,
    settings: Arc<Settings>,
    /// Close event of the response, or of the shutdown that has fired.
    close_event: Option<CloseEvent>,
}

/// The state that a panic of the user's code changes.
struct Progress {
    phase: Phase,
    /// Number of ready frames before the next check of the cancellations and the deadlines: at least one when the upstream of a
    /// stream that is streaming is polled. Zero in every other phase.
    frames_until_check: u8,
    /// `None` if no report is needed, or after the report has been made.
    recorder: Option<Box<Recorder>>,
}

/// Ends a stream when it is dropped, while code of the user panics.
struct PanicGuard<'a> {
    progress: &'a mut Progress,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The upstream is forwarded.
    Streaming,
    /// The stream has been stopped. Frames that the upstream has ready are still forwarded.
    Stopping {
        stop: Stop,
        frames_left: u8,
        /// The upstream has been polled once more after the cooperative budget was exhausted.
        was_repolled: bool,
    },
    /// `is_end_stream` returned `true` with the last frame, so the stream has been reported. If the server polls anyway, the
    /// upstream passes through until it ends.
    Finished,
    /// The upstream has been dropped. Its tail is returned, then `None`.
    Ending {
        /// The next poll wakes the task and returns `Pending`, so that the server can flush before it receives the error.
        yields: bool,
    },
    Done,
}

pin_project! {
    /// The upstream of a body.
    #[project = UpstreamProjection]
    #[project_replace = UpstreamReplaced]
    pub(crate) enum Upstream<B>
    where
        B: Body,
    {
        Open {
            #[pin]
            body: B,
        },
        /// The upstream has been dropped. Its tail is returned next.
        Tail { tail: Box<Tail<B::Error>> },
        Ended,
    }
}

/// Trailers or error that ended the upstream.
type Tail<E> = Result<Frame<Bytes>, E>;

/// Data of one request that its event stream needs.
pub(crate) struct RequestContext {
    pub(crate) config: Arc<Config>,
    cancellation: Option<Cancellation>,
    ends_on_drain: bool,
    observer: Option<Box<ObserveOnce>>,
    span: RequestSpan,
}

/// Return type of [`Body::poll_frame`].
pub(crate) type PollFrame<D, E> = Poll<Option<Result<Frame<D>, E>>>;

/// `Break` returns a result to the server. `Continue` takes the next step of the loop.
type Step<E> = ControlFlow<PollFrame<Bytes, E>>;

/// Maximum number of upstream frames processed in one poll before yielding.
const FRAMES_PER_POLL: usize = 64;

/// Number of ready frames between two checks of the cancellations and the deadlines.
const FRAMES_PER_CHECK: u8 = 32;

/// Maximum number of frames that are forwarded after the stream has been stopped.
const FRAMES_AFTER_STOP: u8 = 32;

impl EventStream {
    /// Starts a stream with the configuration of the innermost layer. `response` holds the extensions of its response.
    pub(crate) fn start(request: RequestContext, response: &Extensions) -> Box<Self> {
        let mut stream = Box::new(Self {
            progress: Progress {
                phase: Phase::Streaming,
                frames_until_check: 0,
                recorder: None,
            },
            events: EventBuffer::new(),
            reader: None,
            signals: Signals::default(),
            settings: Arc::clone(&request.config.settings),
            close_event: None,
        });
        stream.add(request, response);
        stream
    }

    /// Adds the signals and the observer of an outer layer, before the first poll. Settings of inner layers take precedence.
    pub(crate) fn join(&mut self, request: RequestContext, response: &Extensions) {
        self.settings = Arc::new(self.settings.merge_outer(&request.config.settings));
        self.add(request, response);
    }

    fn add(&mut self, request: RequestContext, response: &Extensions) {
        let RequestContext {
            config,
            cancellation,
            ends_on_drain,
            observer,
            span,
        } = request;
        if ends_on_drain {
            self.signals.end_on_drain();
        }
        let attached = response.get::<Attached>();
        let attached = attached.map_or(&[][..], |attached| &attached.0);
        for shutdown in config.shutdowns.iter().chain(attached) {
            self.signals.add_shutdown(shutdown);
        }
        if let Some(cancellation) = cancellation {
            self.signals.add_cancellation(cancellation);
        }
        if !config.end_marks.is_empty() {
            self.reader().add_end_marks(&config.end_marks);
        }
        #[cfg(feature = "tokio")]
        if let Some(ignored) = self.signals.add_deadlines(&config.deadlines) {
            if self.reader.is_some() || !ignored.is_empty() {
                self.reader().set_ignored(ignored);
            }
        }
        if let Some(reader) = &mut self.reader {
            reader.prepare(self.settings.buffer_limit());
        }
        self.close_event = response.get().cloned();

        let observer = config.observer.for_stream(observer);
        if observer.is_some() || RequestSpan::IS_ON || self.settings.close_event_needs_report() {
            let recorder = &mut self.progress.recorder;
            let recorder = recorder.get_or_insert_with(|| Recorder::new(span));
            if let Some(observer) = observer {
                recorder.add_observer(observer);
            }
        }
    }

    fn reader(&mut self) -> &mut EventReader {
        self.reader.get_or_insert_default()
    }

    /// Attaches a shutdown, before the first poll.
    pub(crate) fn attach(&mut self, shutdown: &sync::Arc<Shared>) {
        self.signals.add_shutdown(shutdown);
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        matches!(self.progress.phase, Phase::Finished | Phase::Done)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.progress.phase {
            // A close event makes the stream longer, a cancellation makes it shorter.
            Phase::Streaming | Phase::Stopping { .. } | Phase::Finished => SizeHint::default(),
            // Trailers and errors are no data.
            Phase::Ending { .. } | Phase::Done => SizeHint::with_exact(0),
        }
    }

    /// Polls the stream.
    ///
    /// The body of this function is the fast path: it forwards a frame that ends in a blank line, or returns `Pending`, without
    /// entering the state machine.
    #[inline(always)]
    pub(crate) fn poll_frame<B>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        if !self.events.skips_scan() || self.signals.has_fired() {
            return self.poll_slow(upstream, cx, None);
        }
        let is_check_due = self.progress.frames_until_check == 0;
        if is_check_due && (!self.is_streaming() || self.poll_signals(cx).is_ready()) {
            return self.poll_slow(upstream, cx, None);
        }
        let Some(mut body) = upstream.as_mut().open() else {
            return self.poll_slow(upstream, cx, None);
        };
        let guard = self.progress.guard();
        let polled = body.as_mut().poll_frame(cx);
        guard.disarm();
        let frame = match polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => frame,
            Poll::Pending if self.signals.is_waiting(cx) => {
                if self.poll_user_cancellation(cx).is_pending() {
                    self.progress.frames_until_check = FRAMES_PER_CHECK;
                    return Poll::Pending;
                }
                self.stop(Stop::Cancelled);
                return self.poll_slow(upstream, cx, None);
            }
            polled => {
                if polled.is_ready() {
                    self.progress.frames_until_check -= 1;
                }
                return self.poll_slow(upstream, cx, Some(polled.map_ok(into_bytes)));
            }
        };
        self.progress.frames_until_check -= 1;
        let Ok(data) = frame.into_data() else {
            return self.poll_slow(upstream, cx, None);
        };
        let guard = self.progress.guard();
        let data: Bytes = data.into();
        let is_last = body.is_end_stream();
        guard.disarm();
        let needs_scan = is_last
            || !ends_in_lf_blank_line(&data)
            || matches!(&self.reader, Some(reader) if reader.may_match(&data))
            || self.signals.needs_scan(&data);
        if needs_scan {
            return self.poll_slow(upstream, cx, Some(Poll::Ready(Some(Ok(Frame::data(data))))));
        }
        self.signals.record_forwarded(true);
        self.events.record_forwarded(&data);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_streaming(&self) -> bool {
        matches!(self.progress.phase, Phase::Streaming)
    }

    /// Polls the stream in any phase. `polled` is a result of the upstream that has not been handled.
    #[inline(never)]
    pub(crate) fn poll_slow<B>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        mut polled: Option<PollFrame<Bytes, B::Error>>,
    ) -> PollFrame<Bytes, B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        if let Some(recorder) = &mut self.progress.recorder {
            recorder.record_poll();
        }
        for _ in 0..FRAMES_PER_POLL {
            let step = match polled.take() {
                Some(polled) => self.on_polled(upstream.as_mut(), cx, polled),
                None => self.poll_phase(upstream.as_mut(), cx),
            };
            if let ControlFlow::Break(result) = step {
                return result;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_phase<B>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
    ) -> Step<B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        if let Some(forward) = self.events.next_queued() {
            return self.forward(upstream, cx, forward);
        }
        match self.progress.phase {
            Phase::Streaming => self.poll_streaming(upstream, cx),
            Phase::Stopping {
                stop,
                frames_left,
                was_repolled,
            } => self.poll_stopping(upstream, cx, stop, frames_left, was_repolled),
            Phase::Finished => ControlFlow::Break(self.poll_finished(upstream, cx)),
            Phase::Ending { yields } => ControlFlow::Break(self.poll_tail(upstream, cx, yields)),
            Phase::Done => ControlFlow::Break(self.poll_done(upstream)),
        }
    }

    fn poll_streaming<B>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
    ) -> Step<B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        let is_check_due = self.progress.frames_until_check == 0 || self.signals.has_fired();
        if is_check_due && self.poll_signals(cx).is_ready() {
            return ControlFlow::Continue(());
        }
        let guard = self.progress.guard();
        let polled = upstream.as_mut().poll_frame(cx);
        guard.disarm();
        if polled.is_ready() {
            self.progress.frames_until_check -= 1;
        }
        self.on_polled(upstream, cx, polled)
    }

    /// Polls a stopped stream: forwards the frames that the upstream has ready. The stream does not wait for the upstream any
    /// more.
    fn poll_stopping<B>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        stop: Stop,
        frames_left: u8,
        was_repolled: bool,
    ) -> Step<B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        if frames_left == 0 {
            let end = match self.is_at_end(&upstream) {
                true => UpstreamEnd::Eof,
                false => UpstreamEnd::Open,
            };
            return ControlFlow::Break(self.finish(upstream, cx, end, None));
        }
        let guard = self.progress.guard();
        let polled = upstream.as_mut().poll_frame(cx);
        guard.disarm();
        let is_ready = polled.is_ready();
        if !is_ready && (was_repolled || coop::has_budget_remaining()) {
            return ControlFlow::Break(self.finish(upstream, cx, UpstreamEnd::Open, None));
        }
        self.progress.phase = Phase::Stopping {
            stop,
            frames_left: frames_left - u8::from(is_ready),
            was_repolled: was_repolled || !is_ready,
        };
        if is_ready {
            return self.on_polled(upstream, cx, polled);
        }
        // With the budget exhausted, the upstream may have a message although it is pending. The second poll stays within the
        // budget: for an upstream such as a filter over a channel, the budget may be the only bound of a poll.
        cx.waker().wake_by_ref();
        ControlFlow::Break(Poll::Pending)
    }

    /// Polls an upstream whose `is_end_stream` has returned `true`.
    fn poll_finished<B>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        let polled = upstream.poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.progress.phase = Phase::Done;
        }
        polled
    }

    fn on_polled<B>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        polled: PollFrame<Bytes, B::Error>,
    ) -> Step<B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        let result = match polled {
            Poll::Ready(Some(Ok(frame))) => return self.on_frame(upstream, cx, frame),
            Poll::Pending => return self.on_pending(cx),
            Poll::Ready(Some(Err(error))) => {
                self.finish(upstream, cx, UpstreamEnd::Error, Some(Err(error)))
            }
            Poll::Ready(None) => self.finish(upstream, cx, UpstreamEnd::Eof, None),
        };
        ControlFlow::Break(result)
    }

    fn on_frame<B>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        frame: Frame<Bytes>,
    ) -> Step<B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        let frame = match frame.into_data() {
            Ok(data) => return self.on_data(upstream, cx, data),
            Err(frame) => frame,
        };
        ControlFlow::Break(match frame.is_trailers() {
            true => self.finish(upstream, cx, UpstreamEnd::Trailers, Some(Ok(frame))),
            // Frames of unknown kinds pass through.
            false => Poll::Ready(Some(Ok(frame))),
        })
    }

    fn on_data<B: Body>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        data: Bytes,
    ) -> Step<B::Error> {
        let limit = self.settings.buffer_limit();
        let detects_delivery = self.signals.counts_events();
        let reader = self.reader.as_deref_mut();
        // A match of the reader may be a function of the user.
        let guard = self.progress.guard();
        let forward = self.events.push(data, limit, detects_delivery, reader);
        guard.disarm();
        match forward {
            Some(forward) => self.forward(upstream, cx, forward),
            None => ControlFlow::Continue(()),
        }
    }

    fn forward<B: Body>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        forward: Forward,
    ) -> Step<B::Error> {
        let Forward {
            data,
            delivered,
            is_end_mark,
        } = forward;
        let is_traffic = match &mut self.reader {
            Some(reader) => delivered && reader.take_traffic(),
            None => delivered,
        };
        self.signals.record_forwarded(is_traffic);
        if delivered {
            if let Some(recorder) = &mut self.progress.recorder {
                recorder.record_delivery();
            }
        }
        if is_end_mark {
            return ControlFlow::Break(self.finish_with_end_mark(upstream, data));
        }
        if self.is_streaming() && self.is_at_end(&upstream) {
            self.finish_if_last(cx);
        }
        ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(data)))))
    }

    fn is_at_end<B: Body>(&mut self, upstream: &Upstream<B>) -> bool {
        let guard = self.progress.guard();
        let is_at_end = upstream.is_end_stream();
        guard.disarm();
        is_at_end
    }

    /// Polls the signals of a stream whose upstream is pending, and returns a keep-alive comment that is due.
    fn on_pending<E>(&mut self, cx: &mut Context<'_>) -> Step<E> {
        if self.poll_cancellations(cx).is_ready() {
            return ControlFlow::Continue(());
        }
        self.progress.frames_until_check = FRAMES_PER_CHECK;
        #[cfg(feature = "tokio")]
        loop {
            match self.signals.poll_timer(cx) {
                Poll::Ready(Due::Stop(stop)) => {
                    self.stop(stop);
                    return ControlFlow::Continue(());
                }
                Poll::Ready(Due::KeepAlive(comment)) if self.events.may_comment() => {
                    self.events.record_comment(&comment);
                    return ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(comment)))));
                }
                // No comment is sent inside an event.
                Poll::Ready(Due::KeepAlive(_)) => {}
                Poll::Pending => break,
            }
        }
        ControlFlow::Break(Poll::Pending)
    }

    /// Polls the cancellations, and checks the deadlines. Ready if the stream has been stopped.
    #[cold]
    fn poll_signals(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_cancellations(cx).is_ready() {
            return Poll::Ready(());
        }
        self.progress.frames_until_check = FRAMES_PER_CHECK;
        match self.signals.passed_deadline() {
            Some(stop) => {
                self.stop(stop);
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }

    /// Polls the shutdowns and the cancellations of the user, and stops the stream if one has fired.
    fn poll_cancellations(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.signals.poll_shutdowns(cx) {
            Poll::Ready(event) if self.settings.has_close_event() => {
                self.close_event = self.close_event.take().or(event);
            }
            Poll::Ready(_) => {}
            Poll::Pending if self.poll_user_cancellation(cx).is_pending() => return Poll::Pending,
            Poll::Pending => {}
        }
        self.stop(Stop::Cancelled);
        Poll::Ready(())
    }

    #[inline(always)]
    fn poll_user_cancellation(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let guard = self.progress.guard();
        let polled = self.signals.poll_cancellation(cx);
        guard.disarm();
        polled
    }

    fn stop(&mut self, stop: Stop) {
        self.progress.set_phase(Phase::Stopping {
            stop,
            frames_left: FRAMES_AFTER_STOP,
            was_repolled: false,
        });
    }
}

impl Progress {
    /// Guards a call of the user's code, until the guard is [disarmed](PanicGuard::disarm).
    #[inline(always)]
    fn guard(&mut self) -> PanicGuard<'_> {
        PanicGuard { progress: self }
    }

    /// Ends the stream, which is reported as failed.
    #[inline(always)]
    fn fail(&mut self) {
        self.set_phase(Phase::Done);
        if let Some(recorder) = &mut self.recorder {
            recorder.record_panic();
        }
    }

    /// Sets another phase than `Streaming`.
    fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.frames_until_check = 0;
    }

    fn set_ending(&mut self, ending: Ending, close_event: Option<CloseEvent>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.set_ending(ending, close_event);
        }
    }
}

impl PanicGuard<'_> {
    #[inline(always)]
    fn disarm(self) {
        mem::forget(self);
    }
}

impl Drop for PanicGuard<'_> {
    // Inlined, so that the guard is not stored in memory.
    #[inline(always)]
    fn drop(&mut self) {
        self.progress.fail();
    }
}

impl<B: Body> Upstream<B> {
    #[inline(always)]
    fn open(self: Pin<&mut Self>) -> Option<Pin<&mut B>> {
        match self.project() {
            UpstreamProjection::Open { body } => Some(body),
            UpstreamProjection::Tail { .. } | UpstreamProjection::Ended => None,
        }
    }

    #[inline(always)]
    pub(crate) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        match self.open() {
            Some(body) => body.poll_frame(cx).map_ok(into_bytes),
            None => Poll::Ready(None),
        }
    }

    #[inline(always)]
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Open { body } => body.is_end_stream(),
            Self::Tail { .. } | Self::Ended => true,
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Open { body } => body.size_hint(),
            Self::Tail { .. } | Self::Ended => SizeHint::with_exact(0),
        }
    }
}

impl RequestContext {
    /// Context for a layer whose closures do not read the request.
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        Self {
            config: Arc::clone(config),
            cancellation: None,
            ends_on_drain: false,
            observer: None,
            span: RequestSpan::current(),
        }
    }

    /// Context with the results of the layer's closures, which are called with the head.
    pub(crate) fn of_request(config: &Arc<Config>, head: &Parts) -> Self {
        let ends_on_drain = config.ends_on_drain.as_ref();
        let cancellations = config.cancellations.iter().map(|make| make(head));
        Self {
            cancellation: cancellations.reduce(Cancellation::or),
            ends_on_drain: ends_on_drain.is_some_and(|ends_on_drain| ends_on_drain(head)),
            observer: config.observer.for_request(head),
            ..Self::new(config)
        }
    }
}

/// Converts the data of a frame. Trailers and frames of unknown kinds stay as they are.
#[inline]
fn into_bytes(frame: Frame<impl Into<Bytes>>) -> Frame<Bytes> {
    frame.map_data(Into::into)
}
