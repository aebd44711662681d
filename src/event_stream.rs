//! One wrapped event stream: its state, and the loop that polls its upstream.
//!
//! | phase | upstream | cancellations, shutdowns | deadlines | next phase |
//! |---|---|---|---|---|
//! | streaming | polled | when the upstream is pending, before the first and every 32nd ready frame, when the upstream ends | as the cancellations, except at the end | stopping, finished, ending |
//! | stopping | polled for up to 32 ready frames | at the end, after a deadline | – | ending |
//! | finished | polled if the server polls | – | – | done |
//! | ending | dropped | – | – | done |
//! | done | dropped | – | – | |
//!
//! `finish.rs` decides how a stream ends, and in which order. `signals.rs` has everything that can stop a stream besides its
//! upstream.

mod finish;
pub(crate) mod signals;

use std::{
    future, mem,
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
use crate::deadlines::Signal;
use crate::{
    config::{Cancellation, Config, Settings},
    coop,
    report::{ObserveOnce, Recorder, RequestSpan, Stop},
    shutdown::phase::{Attached, Shared},
    sync,
    wire::{
        buffer::{EventBuffer, Forward},
        close_event::CloseEvent,
        event_match::EventReader,
        scanner::ends_in_lf_blank_line,
    },
};

/// State of one wrapped stream, besides its upstream.
pub(crate) struct EventStream {
    phase: Phase,
    /// Ready frames until the cancellations and the deadlines are checked. Zero unless the stream is streaming.
    frames_until_check: u8,
    events: EventBuffer,
    /// Reads the events, if the stream has end marks, or an idle timeout that leaves events out of account.
    reader: Option<Box<EventReader>>,
    signals: Signals,
    settings: Arc<Settings>,
    /// Close event of the response, or of the shutdown that has fired.
    close_event: Option<CloseEvent>,
    /// `None` if nobody receives the report, and once the report is made.
    recorder: Option<Box<Recorder>>,
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
        repolled: bool,
    },
    /// `is_end_stream` returned `true` with the last frame, so the stream has been reported. If the server polls anyway, frames
    /// pass through.
    Finished,
    /// The upstream has been dropped. Its tail is returned, then `None`.
    Ending {
        /// An error of the upstream waits for the next poll of the task, so that the server can flush the frames that it has.
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
        /// The upstream has been dropped. The tail is returned next.
        Tail { tail: Box<Tail<B::Error>> },
        Ended,
    }
}

/// Trailers or error that ended the upstream.
#[derive(Debug)]
pub(crate) enum Tail<E> {
    Trailers(Frame<Bytes>),
    Error(E),
}

/// Data of a request that a layer keeps for the stream of the response.
pub(crate) struct RequestContext {
    pub(crate) config: Arc<Config>,
    cancellation: Option<Cancellation>,
    ends_on_drain: bool,
    observer: Option<Box<ObserveOnce>>,
    span: RequestSpan,
}

/// Return type of [`Body::poll_frame`].
pub(crate) type PollFrame<D, E> = Poll<Option<Result<Frame<D>, E>>>;

/// Breaks with the result for the server, or continues with the next frame.
type Step<E> = ControlFlow<PollFrame<Bytes, E>>;

/// Maximum number of upstream frames processed in one poll before yielding.
const FRAMES_PER_POLL: usize = 64;

/// The cancellations and the deadlines are checked before every frame of this number that is ready.
const FRAMES_PER_CHECK: u8 = 32;

/// Maximum number of frames that are forwarded after the stream has been stopped.
const FRAMES_AFTER_STOP: u8 = 32;

impl EventStream {
    /// Starts a stream with the configuration of the innermost layer. `response` holds the extensions of its response.
    pub(crate) fn start(request: RequestContext, response: &Extensions) -> Box<Self> {
        let mut stream = Box::new(Self {
            phase: Phase::Streaming,
            frames_until_check: 0,
            events: EventBuffer::new(),
            reader: None,
            signals: Signals::default(),
            settings: Arc::clone(&request.config.settings),
            close_event: None,
            recorder: None,
        });
        stream.add(request, response);
        stream
    }

    /// Joins an outer layer, before the first poll: adds its signals and its observer. Settings of the layers inside take
    /// precedence.
    pub(crate) fn join(&mut self, request: RequestContext, response: &Extensions) {
        self.settings = Arc::new(self.settings.inside(&request.config.settings));
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
            reader.set_buffer_limit(self.settings.buffer_limit());
        }
        self.close_event = response.get().cloned();

        let observer = config.observer.for_stream(observer);
        if observer.is_some() || RequestSpan::IS_ON || self.settings.close_event_needs_report() {
            let recorder = self.recorder.get_or_insert_with(|| Recorder::new(span));
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
        matches!(self.phase, Phase::Finished | Phase::Done)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.phase {
            // A close event makes the stream longer, a cancellation makes it shorter.
            Phase::Streaming | Phase::Stopping { .. } | Phase::Finished => SizeHint::default(),
            // Trailers and errors are no data.
            Phase::Ending { .. } | Phase::Done => SizeHint::with_exact(0),
        }
    }

    /// Polls the stream.
    ///
    /// These lines are the fast path: they forward a frame that ends in a blank line, or return `Pending`, without entering the
    /// state machine.
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
        if self.frames_until_check == 0 && (!self.is_streaming() || self.poll_stop(cx).is_ready()) {
            return self.poll_slow(upstream, cx, None);
        }
        let Some(mut body) = upstream.as_mut().open() else {
            return self.poll_slow(upstream, cx, None);
        };
        let frame = match fail_on_panic(&mut self.recorder, || body.as_mut().poll_frame(cx)) {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => frame,
            Poll::Pending if self.signals.is_waiting(cx) => {
                if self.poll_cancellation(cx).is_pending() {
                    self.frames_until_check = FRAMES_PER_CHECK;
                    return Poll::Pending;
                }
                self.stop(Stop::Cancelled);
                return self.poll_slow(upstream, cx, None);
            }
            polled => {
                if polled.is_ready() {
                    self.frames_until_check -= 1;
                }
                return self.poll_slow(upstream, cx, Some(polled.map_ok(into_bytes)));
            }
        };
        self.frames_until_check -= 1;
        let Ok(data) = frame.into_data() else {
            return self.poll_slow(upstream, cx, None);
        };
        let data: Bytes = data.into();
        if !ends_in_lf_blank_line(&data) || body.is_end_stream() {
            return self.poll_slow(upstream, cx, Some(Poll::Ready(Some(Ok(Frame::data(data))))));
        }
        if let Some(reader) = &self.reader {
            if reader.may_match(&data) {
                return self.read_whole_events(upstream, cx, data);
            }
        }
        if self.signals.needs_scan(&data) {
            return self.poll_slow(upstream, cx, Some(Poll::Ready(Some(Ok(Frame::data(data))))));
        }
        self.signals.record_forwarded(true);
        self.events.record_forwarded(&data);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Streaming)
    }

    /// Reads a frame of whole events.
    #[inline(never)]
    fn read_whole_events<B>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        data: Bytes,
    ) -> PollFrame<Bytes, B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        match self.on_data(upstream.as_mut(), cx, data) {
            ControlFlow::Break(result) => result,
            ControlFlow::Continue(()) => self.poll_slow(upstream, cx, None),
        }
    }

    /// Polls the stream in any phase. `polled` is the last result of the upstream if it has not been handled yet.
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
        if let Some(recorder) = &mut self.recorder {
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
        match self.phase {
            Phase::Streaming => self.poll_streaming(upstream, cx),
            Phase::Stopping {
                frames_left,
                repolled,
                ..
            } => self.poll_stopping(upstream, cx, frames_left, repolled),
            Phase::Finished => ControlFlow::Break(self.poll_finished(upstream, cx)),
            Phase::Ending { yields } => ControlFlow::Break(self.poll_tail(upstream, cx, yields)),
            Phase::Done => ControlFlow::Break(self.end(upstream)),
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
        let is_check_due = self.frames_until_check == 0 || self.signals.has_fired();
        if is_check_due && self.poll_stop(cx).is_ready() {
            return ControlFlow::Continue(());
        }
        let polled = fail_on_panic(&mut self.recorder, || upstream.as_mut().poll_frame(cx));
        if polled.is_ready() {
            self.frames_until_check -= 1;
        }
        self.on_polled(upstream, cx, polled)
    }

    /// Polls a stopped stream: forwards the frames that the upstream has ready. The stream does not wait for the upstream any
    /// more.
    fn poll_stopping<B>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
        frames_left: u8,
        was_repolled: bool,
    ) -> Step<B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        if frames_left == 0 {
            let end = match upstream.is_end_stream() {
                true => UpstreamEnd::Eof,
                false => UpstreamEnd::Open,
            };
            return ControlFlow::Break(self.finish(upstream, cx, end, None));
        }
        let polled = fail_on_panic(&mut self.recorder, || upstream.as_mut().poll_frame(cx));
        let Phase::Stopping {
            frames_left,
            repolled,
            ..
        } = &mut self.phase
        else {
            return ControlFlow::Continue(());
        };
        if polled.is_ready() {
            *frames_left -= 1;
            return self.on_polled(upstream, cx, polled);
        }
        // With the budget exhausted, the upstream may have a message although it is pending. It is polled within the budget,
        // because the budget may be all that bounds that poll: of a filter over a channel, for example.
        if !was_repolled && !coop::has_budget_remaining() {
            *repolled = true;
            cx.waker().wake_by_ref();
            return ControlFlow::Break(Poll::Pending);
        }
        ControlFlow::Break(self.finish(upstream, cx, UpstreamEnd::Open, None))
    }

    /// Polls an upstream whose `is_end_stream` has returned `true`.
    fn poll_finished<B>(
        &mut self,
        mut upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        let polled = upstream.as_mut().poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.phase = Phase::Done;
            upstream.set(Upstream::Ended);
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
                self.finish(upstream, cx, UpstreamEnd::Error, Some(Tail::Error(error)))
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
            true => {
                let tail = Some(Tail::Trailers(frame));
                self.finish(upstream, cx, UpstreamEnd::Trailers, tail)
            }
            // A kind of frame that this version does not handle.
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
        // The matches of the reader may be code of the user. A panic loses the frame, so the stream has ended then.
        let phase = mem::replace(&mut self.phase, Phase::Done);
        let forward = fail_on_panic(&mut self.recorder, || {
            let reader = self.reader.as_deref_mut();
            self.events.push(data, limit, detects_delivery, reader)
        });
        self.phase = phase;
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
            if let Some(recorder) = &mut self.recorder {
                recorder.record_delivery();
            }
        }
        if is_end_mark {
            return ControlFlow::Break(self.finish_with_end_mark(upstream, data));
        }
        if self.is_streaming() && upstream.is_end_stream() {
            self.finish_with_upstream(cx);
        }
        ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(data)))))
    }

    /// The upstream is pending, so the stream waits for its signals.
    fn on_pending<E>(&mut self, cx: &mut Context<'_>) -> Step<E> {
        if self.poll_cancelled(cx).is_ready() {
            return ControlFlow::Continue(());
        }
        self.frames_until_check = FRAMES_PER_CHECK;
        #[cfg(feature = "tokio")]
        loop {
            match self.signals.poll_timer(cx) {
                Poll::Ready(Signal::Stop(stop)) => {
                    self.stop(stop);
                    return ControlFlow::Continue(());
                }
                Poll::Ready(Signal::KeepAlive(comment)) if self.events.may_comment() => {
                    self.events.record_comment(&comment);
                    return ControlFlow::Break(Poll::Ready(Some(Ok(Frame::data(comment)))));
                }
                // Inside an event there is no place for a comment.
                Poll::Ready(Signal::KeepAlive(_)) => {}
                Poll::Pending => break,
            }
        }
        ControlFlow::Break(Poll::Pending)
    }

    /// Checks the signals before a frame of an upstream that may be ready. Completes if one of them stops the stream.
    #[cold]
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_cancelled(cx).is_ready() {
            return Poll::Ready(());
        }
        self.frames_until_check = FRAMES_PER_CHECK;
        match self.signals.passed_deadline() {
            Some(stop) => {
                self.stop(stop);
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }

    /// Polls the shutdowns and the cancellations of the user, and stops the stream if one has fired.
    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.signals.poll_shutdowns(cx) {
            Poll::Ready(event) if self.settings.has_close_event() => {
                self.close_event = self.close_event.take().or(event);
            }
            Poll::Ready(_) => {}
            Poll::Pending if self.poll_cancellation(cx).is_pending() => return Poll::Pending,
            Poll::Pending => {}
        }
        self.stop(Stop::Cancelled);
        Poll::Ready(())
    }

    #[inline(always)]
    fn poll_cancellation(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        fail_on_panic(&mut self.recorder, || self.signals.poll_cancellation(cx))
    }

    /// Returns the reason for which the stream has been stopped. The cancellations are polled regardless of the cooperative
    /// budget, because there is no further poll.
    fn stop_at_end(&mut self, cx: &mut Context<'_>) -> Option<Stop> {
        let stop = match self.phase {
            Phase::Stopping { stop, .. } => Some(stop),
            _ => None,
        };
        if stop == Some(Stop::Cancelled) {
            return stop;
        }
        // If a cancellation panics, the stream has ended: the upstream must not be polled again.
        let phase = mem::replace(&mut self.phase, Phase::Done);
        self.frames_until_check = 0;
        let cancelled = future::poll_fn(|cx| self.poll_cancelled(cx));
        match coop::poll_unconstrained(cancelled, cx) {
            Poll::Ready(()) => Some(Stop::Cancelled),
            Poll::Pending => {
                self.phase = phase;
                stop
            }
        }
    }

    fn stop(&mut self, stop: Stop) {
        self.phase = Phase::Stopping {
            stop,
            frames_left: FRAMES_AFTER_STOP,
            repolled: false,
        };
        self.frames_until_check = 0;
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
    /// Keeps nothing of the request itself.
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        Self {
            config: Arc::clone(config),
            cancellation: None,
            ends_on_drain: false,
            observer: None,
            span: RequestSpan::current(),
        }
    }

    /// Calls the closures of the layer that read the head of the request.
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

/// Runs code of the user. If it panics, the stream is reported as failed.
#[inline(always)]
fn fail_on_panic<T>(recorder: &mut Option<Box<Recorder>>, run: impl FnOnce() -> T) -> T {
    struct Guard<'a>(&'a mut Option<Box<Recorder>>);

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if let Some(recorder) = self.0 {
                recorder.record_panic();
            }
        }
    }

    let guard = Guard(recorder);
    let output = run();
    mem::forget(guard);
    output
}
