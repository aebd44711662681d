//! Layers around layers: one close event, one report, and one count for each stream.

use std::{
    any::Any,
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyStream, StreamBody};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{
        CLOSE, cancellation_layer, drive, event_stream_response, send_response, shutdown_layer,
    },
    reports::Reports,
    script::{AfterScript, Script, Step, data},
};
use tokio_util::sync::CancellationToken;
use tower::{layer::util::Stack, util::MapResponseLayer};
use tower_sse_completion::{Ending, ResponseBody, Shutdown, SseCompletionLayer};

const EVENT: &str = "data: 1\n\n";

fn observed_layer(reports: &Reports) -> SseCompletionLayer {
    SseCompletionLayer::new().on_end(reports.observer())
}

/// A stream without an event that is pending, with this extension.
fn silent(extension: Option<&Shutdown>) -> Response<Script> {
    let mut response = event_stream_response(Script::silent());
    if let Some(shutdown) = extension {
        shutdown.attach(response.extensions_mut());
    }
    response
}

fn wrap<B>(layer: &SseCompletionLayer, response: Response<B>) -> Response<ResponseBody<B>>
where
    B: http_body::Body<Data = Bytes>,
{
    send_response(layer, Request::new(()), response)
}

#[track_caller]
fn assert_one_close_event(text: &str, case: impl std::fmt::Debug) {
    assert_eq!(
        text.matches("event: close").count(),
        1,
        "{case:?}: {text:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn c22_report_counts_the_comments_of_an_outer_layer_if_either_layer_ends_the_stream() {
    let second = std::time::Duration::from_secs(1);
    for ends_inside in [false, true] {
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        let reports = Reports::default();
        let inner = observed_layer(&reports).shutdown(&shutdowns[0]);
        let outer = shutdown_layer(&shutdowns[1]).keep_alive(second);
        let mut body = Driver::new(wrap(&outer, wrap(&inner, silent(None))).into_body());
        body.assert_pending();
        let comments = body.advance(3).await;
        assert_eq!(comments.len(), 3);
        shutdowns[usize::from(!ends_inside)].close();
        let sent = 3 * comments[0].1.len() + body.rest().bytes().len();
        let report = reports.only();
        assert_eq!(report.bytes_sent(), sent as u64, "{ends_inside}");
        assert_eq!(report.bytes_received(), 0, "{ends_inside}");
    }
}

#[tokio::test(start_paused = true)]
async fn c22_outer_layer_ends_on_drain_a_stream_that_an_inner_layer_counts() {
    let shutdown = Shutdown::new();
    let reports = Reports::default();
    let inner = observed_layer(&reports).shutdown(&shutdown);
    let outer = shutdown_layer(&shutdown).end_on_drain(|_| true);
    let mut body = Driver::new(wrap(&outer, wrap(&inner, silent(None))).into_body());
    body.assert_pending();
    assert_eq!(shutdown.open_streams(), 1, "counted once");
    let grace = std::time::Duration::from_secs(10);
    let (drained, bytes) = tokio::join!(shutdown.drain(grace), async { body.rest().bytes() });
    assert_eq!(bytes, CLOSE);
    assert_eq!((drained.ended(), drained.still_open()), (1, 0));
    let report = reports.only();
    let facts = (report.ending(), report.close_event_sent());
    assert_eq!(facts, (Ending::Cancelled, true));
    assert_eq!(report.bytes_sent(), CLOSE.len() as u64);
}

#[test]
fn c22_stacked_layers_write_one_close_event_at_a_natural_end() {
    for steps in [vec![], vec![data(EVENT)], vec![Step::Error]] {
        let (inner, outer) = (Reports::default(), Reports::default());
        let [inner_layer, outer_layer] = [&inner, &outer].map(|reports| {
            observed_layer(reports)
                .close_on_completed(true)
                .close_on_failed(true)
        });
        let both = Stack::new(inner_layer, outer_layer);
        let text = drive(&both, Script::new(steps.clone())).rest().text();
        assert_one_close_event(&text, steps);
        assert!(inner.only().close_event_sent());
        assert_eq!(outer.count(), 0);
    }
}

#[test]
fn c22_inner_layer_decides_that_there_is_no_close_event() {
    let inner = SseCompletionLayer::new().close_on_empty(false);
    let both = Stack::new(inner, SseCompletionLayer::new());
    let output = drive(&both, Script::frames(["data: unfinished"])).rest();
    assert_eq!(output.text(), "data: unfinished");
}

#[test]
fn c22_stacked_layers_write_one_close_event_when_both_are_cancelled() {
    for frames in [0, 1, 31, 32, 33, 100] {
        let reports = Reports::default();
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        let inner = observed_layer(&reports).shutdown(&shutdowns[0]);
        let both = Stack::new(inner, shutdown_layer(&shutdowns[1]));
        let upstream = Script::frames(vec![EVENT; frames]).then(AfterScript::Pending);
        let mut body = drive(&both, upstream);
        shutdowns.iter().for_each(Shutdown::close);
        let text = body.rest().text();
        assert_one_close_event(&text, frames);
        assert!(text.as_bytes().ends_with(CLOSE));
        assert_eq!(reports.count(), 1);
    }
}

#[test]
fn c22_stacked_layers_write_one_close_event_before_trailers() {
    for frames in (0..=100).step_by(MIRI_STRIDE) {
        // The two layers check the cancellation in different polls.
        for polls in [0, 1, 20, 31, 32, 33, 64] {
            let token = CancellationToken::new();
            let reports = Reports::default();
            let inner = cancellation_layer(&token).on_end(reports.observer());
            let both = Stack::new(inner, cancellation_layer(&token));
            let steps = (0..frames).map(|_| data(EVENT));
            let mut body = drive(&both, Script::new(steps.chain([Step::Trailers])));
            for _ in 0..polls.min(frames) {
                body.data();
            }
            token.cancel();
            let output = body.rest();
            let case = (frames, polls);
            assert_one_close_event(&output.text(), case);
            assert!(frames >= 32 || output.trailers.is_some(), "{case:?}");
            let report = reports.only();
            assert_eq!(report.ending(), Ending::Cancelled, "{case:?}");
            assert!(report.close_event_sent(), "{case:?}");
        }
    }
}

#[test]
fn c19_stream_of_two_layers_ends_with_the_trailers_after_its_close_event() {
    let (reports, shutdowns) = (Reports::default(), [Shutdown::new(), Shutdown::new()]);
    let inner = observed_layer(&reports).shutdown(&shutdowns[0]);
    let both = Stack::new(inner, shutdown_layer(&shutdowns[1]));
    let mut body = drive(&both, Script::new([data(EVENT), Step::Trailers]));
    let counts = || shutdowns.each_ref().map(Shutdown::open_streams);
    body.data();
    shutdowns[0].close();
    assert_eq!(body.data(), CLOSE);
    assert_eq!((counts(), reports.count()), ([1, 1], 0));
    assert!(body.rest().trailers.is_some());
    assert_eq!((counts(), reports.count()), ([0, 0], 1));
}

#[test]
fn c22_inner_layer_that_ends_within_a_large_event_decides_the_report() {
    let (reports, shutdown) = (Reports::default(), Shutdown::new());
    let inner = observed_layer(&reports).shutdown(&shutdown).buffer_limit(8);
    let both = Stack::new(inner, SseCompletionLayer::new());
    let upstream = Script::frames(["data: more than fits"]).then(AfterScript::Pending);
    let mut body = drive(&both, upstream);
    body.assert_pending();
    shutdown.close();
    assert_eq!(body.rest().text(), "data: more than fits", "C7");
    assert_eq!(reports.only().ending(), Ending::Cancelled);
}

#[test]
fn c22_outer_layer_adds_its_cancellation() {
    let (reports, shutdown) = (Reports::default(), Shutdown::new());
    let both = Stack::new(observed_layer(&reports), shutdown_layer(&shutdown));
    let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
    let mut body = drive(&both, upstream);
    body.data();
    assert!(body.poll().is_pending());
    shutdown.close();
    assert_eq!(body.rest().bytes(), CLOSE);
    let report = reports.only();
    assert_eq!(report.ending(), Ending::Cancelled);
    assert!(report.close_event_sent());
}

#[test]
fn c22_stream_that_the_inner_layer_forwards_does_not_outrun_the_outer_layer() {
    let token = CancellationToken::new();
    token.cancel();
    let both = Stack::new(SseCompletionLayer::new(), cancellation_layer(&token));
    let upstream = Script::new([]).then(AfterScript::Repeat(EVENT.into()));
    let frames = drive(&both, upstream).rest().frames;
    assert_eq!(frames.len(), 33);
    assert_eq!(frames[32], CLOSE);
}

#[test]
fn c22_shutdown_that_is_attached_several_times_counts_and_closes_a_stream_once() {
    for places in 0..3_usize.pow(3) * 2 {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let layers = [
            SseCompletionLayer::new(),
            shutdown_layer(&shutdown),
            shutdown_layer(&shutdown).shutdown(&shutdown),
        ];
        let extension = (places % 2 == 1).then_some(&shutdown);
        let [inner, middle, outer] = [2, 6, 18].map(|divisor| &layers[places / divisor % 3]);

        let inner = inner.clone().on_end(reports.observer());
        let response = wrap(outer, wrap(middle, wrap(&inner, silent(extension))));
        let attached = usize::from(places > 0);
        assert_eq!(shutdown.open_streams(), attached, "{places}");
        let mut body = Driver::new(response.into_body());
        assert!(body.poll().is_pending());
        shutdown.close();
        if attached == 1 {
            assert_eq!(body.rest().bytes(), CLOSE, "{places}");
            assert_eq!(reports.count(), 1, "{places}");
        } else {
            assert!(body.poll().is_pending());
        }
        assert_eq!(shutdown.open_streams(), 0, "{places}");
    }
}

#[test]
fn c22_shutdown_in_the_response_of_an_inner_layer_ends_the_stream() {
    let (all, session) = (Shutdown::new(), Shutdown::new());
    let plain = SseCompletionLayer::new;
    for (outer, inserted) in [
        (plain(), &session),
        (shutdown_layer(&all), &session),
        (shutdown_layer(&all), &all),
    ] {
        // The handler may have added another shutdown to the response.
        for previous in [None, Some(Shutdown::new())] {
            let mut inner = wrap(&plain(), silent(previous.as_ref()));
            inserted.attach(inner.extensions_mut());
            let _body = wrap(&outer, inner).into_body();
            assert_eq!(inserted.open_streams(), 1);
            assert!(previous.is_none_or(|previous| previous.open_streams() == 1));
        }
    }
    session.close();
    let mut inner = wrap(&plain(), silent(None));
    session.attach(inner.extensions_mut());
    let body = wrap(&plain(), inner).into_body();
    assert_eq!(Driver::new(body).rest().bytes(), CLOSE);
}

/// A reason for which an outer layer stops its streams.
#[derive(Debug, Clone, Copy)]
enum Trigger {
    Shutdown,
    MaxAge,
    IdleTimeout,
}

const TRIGGERS: [Trigger; 3] = [Trigger::Shutdown, Trigger::MaxAge, Trigger::IdleTimeout];

impl Trigger {
    fn layer(self, shutdown: &Shutdown) -> SseCompletionLayer {
        let layer = SseCompletionLayer::new();
        match self {
            Self::Shutdown => layer.shutdown(shutdown),
            Self::MaxAge => layer.max_age(SECOND * 5),
            Self::IdleTimeout => layer.idle_timeout(SECOND * 5),
        }
    }

    async fn fire(self, shutdown: &Shutdown) {
        match self {
            Self::Shutdown => shutdown.close(),
            Self::MaxAge | Self::IdleTimeout => tokio::time::advance(SECOND * 10).await,
        }
    }

    fn ending(self) -> Ending {
        match self {
            Self::Shutdown => Ending::Cancelled,
            Self::MaxAge => Ending::Expired,
            Self::IdleTimeout => Ending::Idle,
        }
    }
}

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// Asserts that these layers, one of which is stopped, end the stream with one close event and one report.
async fn assert_reported_with_close_event<L, T>(
    layers: &L,
    trigger: Trigger,
    shutdown: &Shutdown,
    reports: &Reports,
) where
    L: tower::Layer<testkit::exchange::OneResponse<Script>>,
    L::Service:
        tower::Service<Request<()>, Response = Response<T>, Error = std::convert::Infallible>,
    T: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
    let log = upstream.log();
    let mut body = drive(layers, upstream);
    body.data();
    body.assert_pending();
    trigger.fire(shutdown).await;
    assert_eq!(body.data(), CLOSE, "{trigger:?}");
    assert!(
        log.dropped(),
        "{trigger:?}: the upstream is dropped before the close event"
    );
    assert_eq!(shutdown.open_streams(), 0, "{trigger:?}");
    let report = reports.only();
    assert_eq!(report.ending(), trigger.ending(), "{trigger:?}");
    assert!(
        report.close_event_sent() && report.delivered(),
        "{trigger:?}"
    );
    let sent = (
        report.data_frames(),
        report.bytes_received(),
        report.bytes_sent(),
    );
    let bytes = EVENT.len() as u64;
    assert_eq!(sent, (1, bytes, bytes + CLOSE.len() as u64), "{trigger:?}");
    assert_eq!(body.collect().bytes(), b"", "{trigger:?}");
    drop(body);
    assert_eq!(reports.count(), 1, "{trigger:?}: once");
}

fn boxed<B>(
    response: Response<B>,
) -> Response<http_body_util::combinators::UnsyncBoxBody<Bytes, B::Error>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
{
    response.map(http_body_util::BodyExt::boxed_unsync)
}

#[tokio::test(start_paused = true)]
async fn c22_stream_that_an_outer_layer_stops_is_reported_with_the_ending_of_the_client() {
    let plain = SseCompletionLayer::new;
    for trigger in TRIGGERS {
        for is_shared in [false, true] {
            let new = || {
                let (shutdown, reports) = (Shutdown::new(), Reports::default());
                let inner = observed_layer(&reports);
                // An inner layer that has the shutdown too ends the stream itself.
                let inner = if is_shared {
                    inner.shutdown(&shutdown)
                } else {
                    inner
                };
                (inner, trigger.layer(&shutdown), shutdown, reports)
            };
            let (inner, outer, shutdown, reports) = new();
            let layers = Stack::new(inner, outer);
            assert_reported_with_close_event(&layers, trigger, &shutdown, &reports).await;

            let (inner, outer, shutdown, reports) = new();
            let layers = Stack::new(Stack::new(inner, plain()), outer);
            assert_reported_with_close_event(&layers, trigger, &shutdown, &reports).await;

            let (inner, middle, shutdown, reports) = new();
            let layers = Stack::new(Stack::new(inner, middle), plain());
            assert_reported_with_close_event(&layers, trigger, &shutdown, &reports).await;

            let (inner, outer, shutdown, reports) = new();
            let layers = Stack::new(Stack::new(inner, outer.clone()), outer);
            assert_reported_with_close_event(&layers, trigger, &shutdown, &reports).await;

            let (inner, outer, shutdown, reports) = new();
            let between = Stack::new(inner, MapResponseLayer::new(boxed));
            let layers = Stack::new(Stack::new(between, MapResponseLayer::new(boxed)), outer);
            assert_reported_with_close_event(&layers, trigger, &shutdown, &reports).await;
        }
    }
}

/// A body between two layers that moves the inner body elsewhere when it is dropped.
struct KeepsInner<B: 'static> {
    inner: Option<Pin<Box<B>>>,
    kept: Kept,
}

type Kept = Rc<RefCell<Vec<Box<dyn Any>>>>;

impl<B: http_body::Body> http_body::Body for KeepsInner<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        self.inner
            .as_mut()
            .expect("the body")
            .as_mut()
            .poll_frame(cx)
    }
}

impl<B: 'static> Drop for KeepsInner<B> {
    fn drop(&mut self) {
        self.kept.borrow_mut().push(Box::new(self.inner.take()));
    }
}

#[tokio::test(start_paused = true)]
async fn c22_inner_body_that_is_dropped_late_is_reported_with_the_ending_of_the_client() {
    for trigger in TRIGGERS {
        for ends_on_its_own in [false, true] {
            let (shutdown, other) = (Shutdown::new(), Shutdown::new());
            let (kept, reports) = (Kept::default(), Reports::default());
            let inner = observed_layer(&reports).shutdown(&other);
            let keep = MapResponseLayer::new({
                let kept = Rc::clone(&kept);
                move |response: Response<_>| {
                    response.map(|body| KeepsInner {
                        inner: Some(Box::pin(body)),
                        kept: Rc::clone(&kept),
                    })
                }
            });
            let layers = Stack::new(Stack::new(inner, keep), trigger.layer(&shutdown));
            let steps = [data(EVENT), Step::Pending];
            let after = if ends_on_its_own {
                AfterScript::End
            } else {
                AfterScript::Pending
            };
            let mut body = drive(&layers, Script::new(steps).then(after));
            body.data();
            body.assert_pending();
            let case = format!("{trigger:?}, ends on its own: {ends_on_its_own}");
            if ends_on_its_own {
                assert_eq!(body.rest().text(), "", "{case}");
            } else {
                trigger.fire(&shutdown).await;
                assert_eq!(body.rest().bytes(), CLOSE, "{case}");
                assert_eq!(
                    reports.count(),
                    0,
                    "{case}: the inner stream is not dropped"
                );
                assert_eq!(other.open_streams(), 1, "{case}");
            }
            drop(body);
            drop(kept.take());
            let expected = match ends_on_its_own {
                true => (Ending::Completed, false),
                false => (trigger.ending(), true),
            };
            let report = reports.only();
            assert_eq!(
                (report.ending(), report.close_event_sent()),
                expected,
                "{case}"
            );
            assert_eq!(other.open_streams(), 0, "{case}");
        }
    }
}

#[test]
fn c22_stream_that_a_body_between_two_layers_ends_is_reported_with_the_ending_of_the_client() {
    let reports = Reports::default();
    // The body between the layers drops the inner body, which has more events.
    let first = MapResponseLayer::new(|response: Response<_>| {
        response.map(|body| {
            let first = BodyStream::new(body).take(1);
            StreamBody::new(first.chain(stream::empty()))
        })
    });
    let layers = Stack::new(
        Stack::new(observed_layer(&reports), first),
        SseCompletionLayer::new(),
    );
    let upstream = Script::frames([EVENT, EVENT]);
    assert_eq!(drive(&layers, upstream).rest().text(), EVENT);
    let report = reports.only();
    assert_eq!(report.ending(), Ending::Completed);
    assert_eq!(report.data_frames(), 1);
}

#[test]
fn c22_outer_layer_closes_a_stream_whose_handler_watches_the_same_signal() {
    for is_token in [false, true] {
        for layers_between in [0, 1] {
            for (last, written, rest, expected) in [
                (vec![], "", CLOSE, (Ending::Cancelled, true)),
                (vec![Step::Trailers], "", CLOSE, (Ending::Cancelled, true)),
                (vec![data(EVENT)], EVENT, CLOSE, (Ending::Cancelled, true)),
                // The handler writes the event itself.
                (
                    vec![data(CLOSE)],
                    "event: close\ndata:\n\n",
                    b"",
                    (Ending::Cancelled, false),
                ),
                // The close event replaces the error, as after the cancellation of the layer itself.
                (vec![Step::Error], "", CLOSE, (Ending::Cancelled, true)),
            ] {
                let (shutdown, token, reports) = (
                    Shutdown::new(),
                    CancellationToken::new(),
                    Reports::default(),
                );
                let cancelled = cancellation_layer(&token).shutdown(&shutdown);
                let steps = [vec![data(EVENT), Step::Pending], last.clone()].concat();
                let upstream = Script::new(steps);
                let case = (is_token, layers_between, &last);
                let inner = observed_layer(&reports);
                let fire = || {
                    if is_token {
                        token.cancel();
                    } else {
                        shutdown.close();
                    }
                };
                let text = if layers_between == 0 {
                    run(&Stack::new(inner, cancelled), upstream, fire)
                } else {
                    let middle = Stack::new(inner, SseCompletionLayer::new());
                    run(&Stack::new(middle, cancelled), upstream, fire)
                };
                assert_eq!(
                    text.as_bytes(),
                    [written.as_bytes(), rest].concat(),
                    "{case:?}"
                );
                let report = reports.only();
                assert_eq!(
                    (report.ending(), report.close_event_sent()),
                    expected,
                    "{case:?}"
                );
                assert_eq!(shutdown.open_streams(), 0, "{case:?}");
            }
        }
    }
}

/// Calls `fire` while the upstream is pending, and returns the bytes that the client receives after the first event.
fn run<L, T>(layers: &L, upstream: Script, fire: impl Fn()) -> String
where
    L: tower::Layer<testkit::exchange::OneResponse<Script>>,
    L::Service:
        tower::Service<Request<()>, Response = Response<T>, Error = std::convert::Infallible>,
    T: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut body = drive(layers, upstream);
    body.data();
    body.assert_pending();
    fire();
    let output = body.rest();
    assert!(output.error.is_none(), "{:?}", output.error);
    output.text()
}

#[test]
fn c22_close_event_of_an_inner_layer_that_ends_empty_is_the_only_close_event() {
    let (shutdown, reports) = (Shutdown::new(), Reports::default());
    let both = Stack::new(observed_layer(&reports), shutdown_layer(&shutdown));
    let mut body = drive(&both, Script::new([Step::Pending]));
    body.assert_pending();
    shutdown.close();
    assert_eq!(body.rest().bytes(), CLOSE);
    let report = reports.only();
    assert!(report.close_event_sent(), "{:?}", report.ending());
}
