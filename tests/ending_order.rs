//! The order in which a stream ends: its last frame, its count, its report and a drain that waits for it; also if code of the
//! user panics in between.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use http_body_util::Empty;
use hyper::body::Incoming;
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{CLOSE, drive, event_stream, event_stream_response, through},
    reports::Reports,
    script::{AfterScript, EndStream, Script, ScriptError, Step, data},
    server::{self, VERSIONS},
    wait::{until, within},
};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceExt, layer::util::Stack, service_fn};
use tower_http::trace::TraceLayer;
use tower_sse_completion::{
    CloseEvent, Drained, Ending, ResponseBody, Shutdown, SseCompletionLayer, StreamReport,
};
use tracing::Span;

const EVENT: &str = "data: 1\n\n";
const UNFINISHED: &str = "data: 1\n\ndata: 2";
const SECOND: Duration = Duration::from_secs(1);

/// A kind of end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndKind {
    Completed,
    Empty,
    EndStream,
    Truncated,
    TruncatedWithTrailers,
    TruncatedAndClosed,
    Failed,
    FailedAfterBufferedBytes,
    FailedAndClosed,
    Trailers,
    EmptyWithTrailers,
    ShutdownWhilePending,
    ShutdownWithTrailers,
    ShutdownInsideLargeEvent,
    ShutdownAfterItsEvent,
    Token,
    Expired,
    Idle,
    Dropped,
    PollPanics,
    DropPanics,
}

const END_KINDS: [EndKind; 21] = [
    EndKind::Completed,
    EndKind::Empty,
    EndKind::EndStream,
    EndKind::Truncated,
    EndKind::TruncatedWithTrailers,
    EndKind::TruncatedAndClosed,
    EndKind::Failed,
    EndKind::FailedAfterBufferedBytes,
    EndKind::FailedAndClosed,
    EndKind::Trailers,
    EndKind::EmptyWithTrailers,
    EndKind::ShutdownWhilePending,
    EndKind::ShutdownWithTrailers,
    EndKind::ShutdownInsideLargeEvent,
    EndKind::ShutdownAfterItsEvent,
    EndKind::Token,
    EndKind::Expired,
    EndKind::Idle,
    EndKind::Dropped,
    EndKind::PollPanics,
    EndKind::DropPanics,
];

/// A script whose destructor panics if it is armed.
struct Upstream {
    script: Pin<Box<Script>>,
    drop_panics: bool,
}

impl EndKind {
    fn upstream(self) -> Upstream {
        let pending = |steps: Vec<Step>| Script::new(steps).then(AfterScript::Pending);
        let script = match self {
            Self::Completed => Script::frames([EVENT]),
            Self::Empty => Script::frames([""; 0]),
            Self::EndStream => Script::frames([EVENT]).end_stream(EndStream::Known),
            Self::Truncated | Self::TruncatedAndClosed => Script::frames([UNFINISHED]),
            Self::TruncatedWithTrailers => Script::new([data(UNFINISHED), Step::Trailers]),
            Self::Failed | Self::FailedAndClosed => Script::new([data(EVENT), Step::Error]),
            Self::FailedAfterBufferedBytes => Script::new([data(UNFINISHED), Step::Error]),
            Self::Trailers => Script::new([data(EVENT), Step::Trailers]),
            Self::EmptyWithTrailers => Script::new([Step::Trailers]),
            Self::ShutdownWithTrailers => Script::new([data(EVENT), Step::Pending, Step::Trailers]),
            Self::ShutdownInsideLargeEvent => pending(vec![data("data: more than fits")]),
            Self::ShutdownAfterItsEvent => pending(vec![data(EVENT), Step::Pending, data(CLOSE)]),
            Self::PollPanics => Script::new([data(EVENT), Step::Pending, Step::Panic]),
            _ => pending(vec![data(EVENT)]),
        };
        Upstream {
            script: Box::pin(script),
            drop_panics: self == Self::DropPanics,
        }
    }

    /// Brings the stream to its end, with a closure that checks the state before each poll that may return the last frame.
    async fn end<B>(self, mut body: Driver<B>, triggers: &Triggers, check: impl Fn(bool))
    where
        B: Body<Data = Bytes, Error = ScriptError>,
    {
        check(body.is_end_stream());
        while let Poll::Ready(Some(frame)) = body.poll_while_woken() {
            check(body.is_end_stream());
            if frame.is_err() {
                return;
            }
            if body.is_end_stream() {
                break;
            }
        }
        match self {
            Self::Token => triggers.token.cancel(),
            Self::Expired | Self::Idle => advance(SECOND * 10).await,
            Self::Dropped => return,
            _ => triggers.shutdown.close(),
        }
        let polled = catch_unwind(AssertUnwindSafe(|| {
            loop {
                check(body.is_end_stream());
                if let Poll::Ready(None | Some(Err(_))) = body.poll() {
                    break;
                }
            }
        }));
        let panics = matches!(self, Self::PollPanics | Self::DropPanics);
        assert_eq!(polled.is_err(), panics, "{self:?}");
    }

    fn ending(self) -> Ending {
        match self {
            Self::Completed | Self::EndStream | Self::Trailers => Ending::Completed,
            Self::Empty | Self::EmptyWithTrailers => Ending::Empty,
            Self::Truncated | Self::TruncatedWithTrailers | Self::TruncatedAndClosed => {
                Ending::Truncated
            }
            Self::Failed
            | Self::FailedAfterBufferedBytes
            | Self::FailedAndClosed
            | Self::PollPanics
            | Self::DropPanics => Ending::Failed,
            Self::Expired => Ending::Expired,
            Self::Idle => Ending::Idle,
            Self::Dropped => Ending::Dropped,
            _ => Ending::Cancelled,
        }
    }
}

impl Body for Upstream {
    type Data = Bytes;
    type Error = ScriptError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ScriptError>>> {
        self.script.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.script.is_end_stream()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        assert!(!self.drop_panics, "an intended panic");
    }
}

/// What ends the streams of a test.
#[derive(Default)]
struct Triggers {
    shutdown: Shutdown,
    token: CancellationToken,
}

impl Triggers {
    fn layer(&self, kind: EndKind) -> SseCompletionLayer {
        let layer = SseCompletionLayer::new()
            .buffer_limit(16)
            .close_on_truncated(kind == EndKind::TruncatedAndClosed)
            .close_on_failed(kind == EndKind::FailedAndClosed);
        match kind {
            EndKind::Expired => layer.max_age(SECOND * 5),
            EndKind::Idle => layer.idle_timeout(SECOND * 5),
            _ => layer,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c19_stream_is_not_counted_in_its_own_report() {
    for kind in END_KINDS {
        for is_attached in [false, true] {
            let (triggers, reports) = (Triggers::default(), Reports::default());
            let counted = Arc::new(AtomicUsize::new(usize::MAX));
            let layer = triggers.layer(kind).on_end({
                let (shutdown, counted) = (triggers.shutdown.clone(), Arc::clone(&counted));
                let observe = reports.observer();
                move |report: &StreamReport| {
                    counted.store(shutdown.open_streams(), Ordering::SeqCst);
                    observe(report);
                }
            });
            let mut response = event_stream_response(kind.upstream());
            let layer = if is_attached {
                triggers.shutdown.attach(response.extensions_mut());
                layer
            } else {
                layer.shutdown(&triggers.shutdown)
            };
            let token = triggers.token.clone();
            let layer = layer.cancel_when(move |_| token.clone().cancelled_owned());
            let response = through(&layer, Request::new(()), response);
            let body = Driver::new(response.into_body());
            let case = format!("{kind:?}, attached: {is_attached}");
            kind.end(body, &triggers, |is_end_stream| {
                // C13 and C19: the count, the report and the hint change together, unless `None` is still to come.
                let is_reported = reports.count() == 1;
                assert!(
                    is_reported || !is_end_stream,
                    "{case}: no report before the end"
                );
                let open = triggers.shutdown.open_streams();
                assert_eq!(open, usize::from(!is_reported), "{case}: open streams");
            })
            .await;
            assert_eq!(reports.only().ending(), kind.ending(), "{case}");
            assert_eq!(
                counted.load(Ordering::SeqCst),
                0,
                "{case}: inside of `on_end`"
            );
            assert_eq!(triggers.shutdown.open_streams(), 0, "{case}: at the end");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c19_stream_of_an_inner_layer_is_not_counted_in_its_report() {
    for kind in END_KINDS {
        let (triggers, reports) = (Triggers::default(), Reports::default());
        let counted = Arc::new(AtomicUsize::new(usize::MAX));
        let inner = triggers.layer(kind).on_end({
            let (shutdown, counted) = (triggers.shutdown.clone(), Arc::clone(&counted));
            let observe = reports.observer();
            move |report: &StreamReport| {
                counted.store(shutdown.open_streams(), Ordering::SeqCst);
                observe(report);
            }
        });
        let token = triggers.token.clone();
        let outer = SseCompletionLayer::new()
            .shutdown(&triggers.shutdown)
            .cancel_when(move |_| token.clone().cancelled_owned());
        let both = Stack::new(inner, outer);
        let body = Driver::new(event_stream(&both, kind.upstream()));
        kind.end(body, &triggers, |_| {}).await;
        assert_eq!(reports.count(), 1, "{kind:?}: one report");
        assert_eq!(reports.only().ending(), kind.ending(), "{kind:?}");
        assert_eq!(
            counted.load(Ordering::SeqCst),
            0,
            "{kind:?}: inside of `on_end`"
        );
        assert_eq!(triggers.shutdown.open_streams(), 0, "{kind:?}: at the end");
    }
}

#[tokio::test(start_paused = true)]
async fn c19_stream_is_counted_until_its_last_frame_is_returned() {
    let closing = || {
        SseCompletionLayer::new()
            .close_on_completed(true)
            .close_on_truncated(true)
    };
    for (steps, layer) in [
        (
            vec![data(UNFINISHED), Step::Trailers],
            SseCompletionLayer::new(),
        ),
        (
            vec![data(UNFINISHED), Step::Error],
            SseCompletionLayer::new(),
        ),
        (
            vec![data("data: 1"), Step::Trailers],
            SseCompletionLayer::new(),
        ),
        (vec![Step::Trailers], SseCompletionLayer::new()),
        (vec![data(EVENT), Step::Trailers], closing()),
        (vec![data(UNFINISHED), Step::Trailers], closing()),
    ] {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let layer = layer.shutdown(&shutdown).on_end(reports.observer());
        let case = format!("{steps:?}");
        let mut body = drive(&layer, Script::new(steps));
        let mut drain = Box::pin(shutdown.drain(Duration::MAX));
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            assert!(
                drain.as_mut().poll(&mut cx).is_pending(),
                "{case}: the drain waits"
            );
            assert_eq!(shutdown.open_streams(), 1, "{case}: still counted");
            assert_eq!(reports.count(), 0, "{case}: not reported yet");
            assert!(!body.is_end_stream(), "{case}: the last frame is to come");
            match body.poll_while_woken() {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {}
                Poll::Ready(Some(_)) => break,
                other => panic!("{case}: expected a frame, got {other:?}"),
            }
        }
        assert_eq!(shutdown.open_streams(), 0, "{case}: no longer counted");
        assert_eq!(reports.count(), 1, "{case}: reported");
        assert!(body.is_end_stream(), "{case}: the last frame");
        assert!(
            drain.as_mut().poll(&mut cx).is_ready(),
            "{case}: the drain returns"
        );
    }
}

/// A body that notes each close event that has been returned to it.
struct Noting<B> {
    inner: Pin<Box<B>>,
    returned: Arc<AtomicUsize>,
}

impl<B: Body<Data = Bytes>> Body for Noting<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = self.inner.as_mut().poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let is_close = frame.data_ref().is_some_and(|data| data == CLOSE);
            self.returned
                .fetch_add(usize::from(is_close), Ordering::SeqCst);
        }
        polled
    }
}

/// Spawns a task that reads a stream to its end.
fn read<B>(mut body: Noting<B>) -> tokio::task::JoinHandle<()>
where
    B: Body<Data = Bytes, Error = ScriptError> + Send + 'static,
{
    tokio::spawn(async move {
        let mut body = Pin::new(&mut body);
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            frame.expect("no error");
        }
    })
}

/// Drains streams that other threads read, and checks what has happened by the time that the drain returns.
async fn drain_rounds(rounds: usize, streams: usize, slow: Duration) {
    for round in 0..rounds {
        let shutdown = Shutdown::new();
        let [made, reported, returned] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .close_event_with({
                let made = Arc::clone(&made);
                move |_| {
                    thread::sleep(slow);
                    made.fetch_add(1, Ordering::SeqCst);
                    CloseEvent::new()
                }
            })
            .on_end({
                let reported = Arc::clone(&reported);
                move |_| {
                    thread::sleep(slow);
                    reported.fetch_add(1, Ordering::SeqCst);
                }
            });
        let readers: Vec<_> = (0..streams)
            .map(|_| {
                let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
                let body: ResponseBody<_> = event_stream(&layer, upstream);
                read(Noting {
                    inner: Box::pin(body),
                    returned: Arc::clone(&returned),
                })
            })
            .collect();
        // The streams are idle when they are drained.
        tokio::task::yield_now().await;
        let drained: Drained = within(shutdown.drain(Duration::ZERO)).await;
        let done = [&made, &reported].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(done, [streams; 2], "round {round}: made and reported");
        assert_eq!(
            (drained.ended(), drained.still_open()),
            (streams, 0),
            "round {round}"
        );
        for reader in readers {
            within(reader).await.expect("no panic");
        }
        // A reader may be suspended between the last line of `poll_frame` and its own next line.
        let returned = returned.load(Ordering::SeqCst);
        assert_eq!(returned, streams, "round {round}: returned");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_drain_returns_after_reports_and_close_events() {
    tokio::spawn(drain_rounds(5_000 / MIRI_STRIDE, 1, Duration::ZERO))
        .await
        .expect("no panic");
    tokio::spawn(drain_rounds(200 / MIRI_STRIDE, 20, Duration::ZERO))
        .await
        .expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_drain_waits_for_a_slow_observer_and_a_slow_close_event() {
    let slow = Duration::from_millis(30);
    tokio::spawn(drain_rounds(5, 1, slow))
        .await
        .expect("no panic");
    tokio::spawn(drain_rounds(2, 4, slow))
        .await
        .expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn c13_middleware_learns_of_the_end_once() {
    for kind in END_KINDS {
        let is_clean = !matches!(kind.ending(), Ending::Dropped | Ending::Failed)
            || kind == EndKind::FailedAndClosed;
        let (triggers, ends) = (Triggers::default(), Arc::new(AtomicUsize::new(0)));
        let token = triggers.token.clone();
        let layer = triggers
            .layer(kind)
            .shutdown(&triggers.shutdown)
            .cancel_when(move |_| token.clone().cancelled_owned());
        let trace = TraceLayer::new_for_http().on_eos({
            let ends = Arc::clone(&ends);
            move |_: Option<&http::HeaderMap>, _: Duration, _: &Span| {
                ends.fetch_add(1, Ordering::SeqCst);
            }
        });
        let service = trace.layer(layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, Infallible>(event_stream_response(kind.upstream()))
        })));
        let response = service
            .oneshot(Request::default())
            .await
            .expect("a response");
        kind.end(Driver::new(response.into_body()), &triggers, |_| {})
            .await;
        assert_eq!(
            ends.load(Ordering::SeqCst),
            usize::from(is_clean),
            "{kind:?}"
        );
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c13_middleware_in_a_server_learns_of_the_end_once() {
    for version in VERSIONS {
        let (shutdown, ends) = (Shutdown::new(), Arc::new(AtomicUsize::new(0)));
        let trace = TraceLayer::new_for_http().on_eos({
            let ends = Arc::clone(&ends);
            move |_: Option<&http::HeaderMap>, _: Duration, _: &Span| {
                ends.fetch_add(1, Ordering::SeqCst);
            }
        });
        let service = service_fn(async |_: Request<Incoming>| {
            let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
            Ok::<_, Infallible>(event_stream_response(upstream))
        });
        let layer = SseCompletionLayer::new().shutdown(&shutdown);
        let address = server::serve(trace.layer(layer.layer(service))).await;
        let mut body = server::request(address, version, "GET", "/")
            .await
            .into_body();
        assert_eq!(server::next_data(&mut body).await, EVENT);
        shutdown.close();
        assert_eq!(server::receive(body).await.text().as_bytes(), CLOSE);
        until(|| ends.load(Ordering::SeqCst) == 1).await;
    }
}

/// A cancellation with user code in its poll and in its destructor.
struct Cancellation {
    polls_before_panic: usize,
    is_ready: bool,
    drop_panics: bool,
}

impl Future for Cancellation {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        assert!(self.polls_before_panic > 0, "an intended panic");
        self.polls_before_panic -= 1;
        if self.is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        assert!(!self.drop_panics, "an intended panic");
    }
}

/// Polls the body until it ends or panics, and then drops it, as a server does.
fn run<B: Body<Data = Bytes>>(body: Driver<B>, polls: usize) -> bool {
    let mut body = Some(body);
    let polled = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..polls {
            if let Poll::Ready(None | Some(Err(_))) = body.as_mut().expect("a body").poll() {
                break;
            }
        }
    }));
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(body.take())));
    polled.is_err() || dropped.is_err()
}

fn panicking_upstream(steps: impl IntoIterator<Item = Step>, after: AfterScript) -> Upstream {
    Upstream {
        script: Box::pin(Script::new(steps).then(after)),
        drop_panics: true,
    }
}

#[test]
fn c21_panic_in_the_destructor_of_the_upstream_is_failed() {
    for (steps, after, closes_at_once, polls) in [
        (vec![data(EVENT)], AfterScript::End, false, 10),
        (vec![], AfterScript::End, false, 10),
        (vec![data(UNFINISHED)], AfterScript::End, false, 10),
        (
            vec![data(EVENT), Step::Trailers],
            AfterScript::End,
            false,
            10,
        ),
        (vec![data(EVENT), Step::Error], AfterScript::End, false, 10),
        (vec![data(EVENT)], AfterScript::Pending, true, 10),
        // The body is dropped in mid-stream.
        (vec![data(EVENT)], AfterScript::Pending, false, 2),
    ] {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .on_end(reports.observer());
        let case = format!("{steps:?}, {after:?}, closed: {closes_at_once}");
        let body = drive(&layer, panicking_upstream(steps, after));
        if closes_at_once {
            shutdown.close();
        }
        assert!(run(body, polls), "{case}: the server observes the panic");
        let report = reports.only();
        assert_eq!(report.ending(), Ending::Failed, "{case}");
        assert!(!report.close_event_sent(), "{case}");
        assert_eq!(shutdown.open_streams(), 0, "{case}");
    }
}

#[test]
fn c21_panic_of_the_cancellation_is_failed() {
    // In the first poll, while the upstream is pending, and when the upstream ends; and in the destructor.
    for (polls_before_panic, is_ready, drop_panics) in [
        (0, false, false),
        (1, false, false),
        (9, false, true),
        (9, true, true),
    ] {
        for after in [AfterScript::End, AfterScript::Pending] {
            for frames in [0, 1, 40] {
                let (shutdown, reports) = (Shutdown::new(), Reports::default());
                let layer = SseCompletionLayer::new()
                    .shutdown(&shutdown)
                    .on_end(reports.observer())
                    .cancel_when(move |_| Cancellation {
                        polls_before_panic,
                        is_ready,
                        drop_panics,
                    });
                let upstream = Script::frames(vec![EVENT; frames]).then(after.clone());
                let body = drive(&layer, upstream);
                let case = format!(
                    "{polls_before_panic} polls, ready: {is_ready}, {frames} frames, {after:?}"
                );
                assert!(run(body, 100), "{case}: the server observes the panic");
                assert_eq!(reports.only().ending(), Ending::Failed, "{case}");
                assert_eq!(shutdown.open_streams(), 0, "{case}");
            }
        }
    }
}

#[test]
fn c21_panic_in_a_destructor_under_two_layers_is_failed() {
    for is_shared in [false, true] {
        for drops in [false, true] {
            let (shutdown, reports) = (Shutdown::new(), Reports::default());
            let inner = SseCompletionLayer::new().on_end(reports.observer());
            let inner = if is_shared {
                inner.shutdown(&shutdown)
            } else {
                inner
            };
            let both = Stack::new(inner, SseCompletionLayer::new().shutdown(&shutdown));
            let upstream = panicking_upstream([data(EVENT)], AfterScript::Pending);
            let body = drive(&both, upstream);
            let polls = if drops { 2 } else { 10 };
            if !drops {
                shutdown.close();
            }
            assert!(run(body, polls), "the server observes the panic");
            let case = format!("shared: {is_shared}, dropped: {drops}");
            let report = reports.only();
            assert_eq!(report.ending(), Ending::Failed, "{case}");
            assert!(!report.close_event_sent(), "{case}");
            assert_eq!(shutdown.open_streams(), 0, "{case}");
        }
    }
}

#[test]
fn c21_panic_of_the_observer_during_another_panic_does_not_abort() {
    for after in [AfterScript::End, AfterScript::Pending] {
        for polls in [1, 10] {
            let called = Arc::new(AtomicUsize::new(0));
            let layer = SseCompletionLayer::new().on_end({
                let called = Arc::clone(&called);
                move |_| {
                    called.fetch_add(1, Ordering::SeqCst);
                    panic!("an intended panic");
                }
            });
            let upstream = panicking_upstream([data(EVENT)], after.clone());
            assert!(
                run(drive(&layer, upstream), polls),
                "the panic of the upstream"
            );
            assert_eq!(called.load(Ordering::SeqCst), 1, "{after:?}, {polls} polls");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c19_drain_returns_although_a_destructor_panics() {
    let (shutdown, reports) = (Shutdown::new(), Reports::default());
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .on_end(reports.observer());
    let upstream = panicking_upstream([data(EVENT)], AfterScript::Pending);
    let mut body = drive(&layer, upstream);
    body.data();
    let (drained, ()) = tokio::join!(shutdown.drain(Duration::ZERO), async {
        tokio::task::yield_now().await;
        assert!(run(body, 10), "the server observes the panic");
    });
    assert_eq!((drained.ended(), drained.still_open()), (1, 0));
    assert_eq!(reports.only().ending(), Ending::Failed);
}

/// A waker that counts, and panics if it is armed.
struct CountingWaker {
    wakes: AtomicUsize,
    panics: AtomicBool,
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.load(Ordering::SeqCst), "an intended panic");
    }
}

#[test]
fn c10_waker_that_panics_in_close_keeps_no_other_from_waking() {
    const TASKS: usize = 5;
    for panicking in (1..1 << TASKS).step_by(MIRI_STRIDE) {
        for waits_for_drain in [false, true] {
            let shutdown = Shutdown::new();
            let layer = SseCompletionLayer::new().shutdown(&shutdown);
            let mut waiting: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
            let mut wakers = Vec::new();
            for task in 0..TASKS {
                let waker = Arc::new(CountingWaker {
                    wakes: AtomicUsize::new(0),
                    panics: AtomicBool::new(panicking >> task & 1 == 1),
                });
                let mut future: Pin<Box<dyn Future<Output = ()>>> = if waits_for_drain {
                    Box::pin(shutdown.draining())
                } else {
                    let upstream = Script::new([]).then(AfterScript::Pending);
                    let body: ResponseBody<_> = event_stream(&layer, upstream);
                    let mut body = Box::pin(body);
                    Box::pin(poll_fn(move |cx| body.as_mut().poll_frame(cx).map(drop)))
                };
                let polled = future
                    .as_mut()
                    .poll(&mut Context::from_waker(&Waker::from(Arc::clone(&waker))));
                assert!(polled.is_pending());
                waiting.push(future);
                wakers.push(waker);
            }
            let closed = catch_unwind(AssertUnwindSafe(|| shutdown.close()));
            assert!(closed.is_err(), "the panic is passed on");
            let woken = wakers
                .iter()
                .map(|waker| waker.wakes.load(Ordering::SeqCst));
            assert!(
                woken.eq([1; TASKS]),
                "{panicking:b}: every task is woken once"
            );
            assert!(shutdown.is_closed());
            shutdown.close();
            let mut cx = Context::from_waker(Waker::noop());
            for mut future in waiting {
                assert!(future.as_mut().poll(&mut cx).is_ready(), "{panicking:b}");
            }
        }
    }
}
