//! The layer that holds the head of an event stream until its first event.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Full, combinators::UnsyncBoxBody};
use proptest::prelude::*;
use testkit::{
    MIRI_STRIDE,
    decoder::{Decoder, decode},
    driver::Driver,
    exchange::{CLOSE, OneResponse, event_stream_response, shutdown_layer, spend_budget},
    feed::feed,
    reports::Reports,
    script::{AfterScript, EndStream, Script, ScriptError, Step, data},
    server::{self, VERSIONS, next_data, receive, serve_responses},
    vectors,
    wait::within,
};
use tokio::{
    runtime::Runtime,
    time::{Instant, advance},
};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxService};
use tower_sse_completion::{
    CloseEvent, Ending, Shutdown, SkipCompletion, SseCompletionLayer,
    first_event::{Decision, FirstEventBody, FirstEventFuture, FirstEventLayer, HeldStream, State},
};

const CEILING: Duration = Duration::from_secs(30);
const EVENT: &str = "data: 1\n\n";
const GONE: &str = r#"{"error":{"message":"the upstream is gone"}}"#;

/// The calls of a function, in order.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    /// Returns a layer that records each call of this function.
    fn layer(
        &self,
        decide: impl Fn(&HeldStream<'_>) -> Decision + Send + Sync + 'static,
    ) -> FirstEventLayer {
        let calls = self.clone();
        FirstEventLayer::new(CEILING, move |held| {
            let call = describe(held.state());
            calls.0.lock().expect("no panic").push(call);
            decide(held)
        })
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

fn describe(state: State<'_>) -> String {
    match state {
        State::Event(event) => format!("event {}: {}", event.event_type(), event.data()),
        State::Failed(error) => format!("failed: {error}"),
        state => format!("{state:?}"),
    }
}

fn gone() -> Decision {
    let mut response = Response::new(Bytes::from_static(GONE.as_bytes()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    Decision::Respond(response)
}

/// Forwards every event, and replaces every stream without one.
fn status_or_events(held: &HeldStream<'_>) -> Decision {
    match held.state() {
        State::Event(_) => Decision::Forward,
        _ => gone(),
    }
}

fn forward(_: &HeldStream<'_>) -> Decision {
    Decision::Forward
}

/// Sends a response through a layer.
fn send<L, B, S, T>(layer: &L, response: Response<B>) -> S::Future
where
    L: Layer<OneResponse<B>, Service = S>,
    S: Service<Request<()>, Response = Response<T>, Error = Infallible>,
{
    layer
        .layer(OneResponse::new(response))
        .call(Request::new(()))
}

/// Polls a response future, whose upstream is never pending without having woken the task, until it is ready.
#[track_caller]
fn ready_head<T>(future: impl Future<Output = Result<Response<T>, Infallible>>) -> Response<T> {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        if let Some(response) = future.as_mut().now_or_never() {
            return response.unwrap_or_else(|never| match never {});
        }
    }
    panic!("the head is held");
}

/// Sends an event stream through a layer, and returns its head as [`ready_head`] does.
#[track_caller]
fn at_once<L, B, S, T>(layer: &L, upstream: B) -> Response<T>
where
    L: Layer<OneResponse<B>, Service = S>,
    S: Service<Request<()>, Response = Response<T>, Error = Infallible>,
{
    ready_head(send(layer, event_stream_response(upstream)))
}

/// Returns what `poll_frame` has returned, until the body is pending, ends or fails.
fn drain<B>(body: &mut Driver<B>) -> (Vec<Bytes>, String)
where
    B: Body<Data = Bytes, Error = ScriptError>,
{
    let mut frames = Vec::new();
    loop {
        match body.poll_while_woken() {
            Poll::Pending => return (frames, "pending".to_owned()),
            Poll::Ready(None) => return (frames, "end".to_owned()),
            Poll::Ready(Some(Err(error))) => return (frames, error.to_string()),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => frames.push(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().expect("data or trailers");
                    frames.push(format!("{trailers:?}").into());
                }
            },
        }
    }
}

// Every prefix, every way to go on.

const PREFIXES: &[&[&str]] = &[
    &[],
    &["", ""],
    &[": comment\n\n"],
    &[":", "\r\n"],
    &["\u{feff}"],
    &["retry: 5\n\n"],
    &["event: ping\n\n", "id: 1\r\r"],
    &["da"],
    &["data: half"],
    &["data: hal", "f\n"],
    &["retry: 5\n\ndata: 1\r\n"],
    &["{\"error\":{\"message\":\"no such model\"}}\n"],
    &[EVENT],
    &["data: 1\n", "\n"],
    &["event: error\r\ndata: {\r\ndata: }\r\n\r\n"],
    &[": comment\n\ndata: 1\n\ndata: 2\n\ndata: half"],
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Continuation {
    Event,
    End,
    Trailers,
    Truncated,
    Error,
    Silence,
    Closed,
}

const CONTINUATIONS: [Continuation; 7] = [
    Continuation::Event,
    Continuation::End,
    Continuation::Trailers,
    Continuation::Truncated,
    Continuation::Error,
    Continuation::Silence,
    Continuation::Closed,
];

/// Decisions about a stream whose first event has arrived, and about one that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Status,
    Forward,
    /// Replaces a stream because of its first event.
    StatusForEvent,
}

#[derive(Debug)]
struct Case {
    prefix: &'static [&'static str],
    continuation: Continuation,
    policy: Policy,
    with_completion: bool,
}

impl Case {
    fn script(&self) -> Script {
        let prefix = self.prefix.iter().map(data);
        let (next, after) = match self.continuation {
            Continuation::Event => (Some(data("event: e\ndata: x\n\n")), AfterScript::Pending),
            Continuation::End => (None, AfterScript::End),
            // The trailers end the stream, although the upstream does not.
            Continuation::Trailers => (Some(Step::Trailers), AfterScript::Pending),
            Continuation::Truncated => (Some(data("data: trunc")), AfterScript::End),
            Continuation::Error => (Some(Step::Error), AfterScript::End),
            Continuation::Silence | Continuation::Closed => (None, AfterScript::Pending),
        };
        let script = Script::new(prefix.chain(next)).then(after);
        script.end_stream(EndStream::Known)
    }

    /// Returns the only call of the function, by the decoder of the test kit.
    fn call(&self) -> String {
        let mut decoder = Decoder::new();
        let next = match self.continuation {
            Continuation::Event => "event: e\ndata: x\n\n",
            Continuation::Truncated => "data: trunc",
            _ => "",
        };
        for frame in self.prefix.iter().chain([&next]) {
            if let Some(event) = decoder.feed(frame.as_bytes()).first() {
                return format!("event {}: {}", event.event_type, event.data);
            }
        }
        match self.continuation {
            Continuation::Error => format!("failed: {ScriptError}"),
            Continuation::Closed => "Cancelled".to_owned(),
            // What would be an event is a part of the prefix's unfinished line.
            Continuation::Event | Continuation::Silence => "TimedOut".to_owned(),
            _ if decoder.is_in_event() => "Truncated".to_owned(),
            _ => "Ended".to_owned(),
        }
    }

    /// Sends the stream through the layers. Without the gate, returns what a client receives from the completion layer alone.
    async fn run(&self, gate: Option<FirstEventLayer>, shutdown: &Shutdown) -> Answer {
        let reports = Reports::default();
        let script = self.script();
        let upstream = script.log();
        if self.continuation == Continuation::Closed {
            shutdown.close();
        }
        let mut response = event_stream_response(script);
        response
            .headers_mut()
            .insert("x-upstream", "1".parse().expect("a value"));
        response.extensions_mut().insert(7_u8);
        type Any = UnsyncBoxBody<Bytes, ScriptError>;
        let mut service = BoxService::new(OneResponse::new(response.map(Any::new)));
        if let Some(gate) = gate {
            let gated = gate.layer(service);
            service = BoxService::new(gated.map_response(|response| response.map(Any::new)));
        }
        if self.with_completion {
            let completion = SseCompletionLayer::new().shutdown(shutdown);
            let completed = completion.on_end(reports.observer()).layer(service);
            service = BoxService::new(completed.map_response(|response| response.map(Any::new)));
        }
        let start = Instant::now();
        let response = within(service.oneshot(Request::new(()))).await;
        let response = response.expect("no error");
        let waited = start.elapsed();
        let dropped_before_body = upstream.dropped();
        let open_streams = shutdown.open_streams();
        let (head, body) = response.into_parts();
        let mut body = Driver::new(body);
        let hints = (body.is_end_stream(), body.size_hint().exact());
        let received = drain(&mut body);
        let hints = [hints, (body.is_end_stream(), body.size_hint().exact())];
        drop(body);
        let reports = reports.all();
        Answer {
            status: head.status,
            upstream_header: head.headers.contains_key("x-upstream"),
            extension: head.extensions.get::<u8>().copied(),
            waited,
            dropped_before_body,
            open_streams,
            received,
            hints,
            reports: reports
                .iter()
                .map(|report| {
                    (
                        report.ending(),
                        report.close_event_sent(),
                        report.bytes_sent(),
                    )
                })
                .collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    upstream_header: bool,
    extension: Option<u8>,
    waited: Duration,
    dropped_before_body: bool,
    open_streams: usize,
    received: (Vec<Bytes>, String),
    hints: [(bool, Option<u64>); 2],
    reports: Vec<(Ending, bool, u64)>,
}

#[tokio::test(start_paused = true)]
async fn c27_every_prefix_and_every_continuation() {
    for prefix in PREFIXES.iter().step_by(MIRI_STRIDE) {
        for continuation in CONTINUATIONS {
            for policy in [Policy::Status, Policy::Forward, Policy::StatusForEvent] {
                for with_completion in [false, true] {
                    let case = Case {
                        prefix,
                        continuation,
                        policy,
                        with_completion,
                    };
                    assert_case(&case).await;
                }
            }
        }
    }
}

async fn assert_case(case: &Case) {
    let (calls, shutdown) = (Calls::default(), Shutdown::new());
    let policy = case.policy;
    let gate = calls.layer(move |held| match (policy, held.state()) {
        (Policy::Forward, _) | (Policy::Status, State::Event(_)) => Decision::Forward,
        _ => gone(),
    });
    let answer = case.run(Some(gate.shutdown(&shutdown)), &shutdown).await;
    let call = case.call();
    assert_eq!(calls.take(), [&*call], "{case:?}");

    let mut expected = case.run(None, &Shutdown::new()).await;
    expected.waited = if call == "TimedOut" {
        CEILING
    } else {
        Duration::ZERO
    };
    let is_forwarded = match case.policy {
        Policy::Status => call.starts_with("event"),
        Policy::Forward => true,
        Policy::StatusForEvent => false,
    };
    if !is_forwarded {
        let length = GONE.len() as u64;
        expected = Answer {
            status: StatusCode::BAD_GATEWAY,
            upstream_header: false,
            extension: None,
            waited: expected.waited,
            dropped_before_body: true,
            open_streams: 0,
            received: (vec![GONE.into()], "end".to_owned()),
            hints: [(false, Some(length)), (true, Some(0))],
            reports: Vec::new(),
        };
    }
    assert_eq!(answer, expected, "{case:?}");
}

#[tokio::test(start_paused = true)]
async fn c27_client_that_leaves_drops_the_upstream() {
    for prefix in PREFIXES {
        let calls = Calls::default();
        let upstream = Script::frames(*prefix).then(AfterScript::Pending);
        let log = upstream.log();
        let layer = calls.layer(|_| Decision::Wait);
        let mut future = Box::pin(send(&layer, event_stream_response(upstream)));
        assert!(future.as_mut().now_or_never().is_none(), "{prefix:?}");
        assert!(!log.dropped(), "{prefix:?}");
        let calls_before = calls.take();
        drop(future);
        assert!(log.dropped(), "{prefix:?}");
        advance(CEILING * 2).await;
        assert!(
            calls.take().is_empty(),
            "{prefix:?}: {calls_before:?} and no more"
        );
    }
}

// Events.

#[tokio::test(start_paused = true)]
async fn c27_events_are_decoded_as_by_a_client() {
    for case in vectors::cases().into_iter().step_by(MIRI_STRIDE) {
        let stream = &case.stream;
        let expected = decode(stream).events;
        let expected: Vec<_> = expected
            .iter()
            .map(|event| format!("event {}: {}", event.event_type, event.data))
            .collect();
        for size in [1, 2, 3, 7, stream.len().max(1)] {
            let calls = Calls::default();
            let layer = calls.layer(|_| Decision::Wait).buffer_limit(usize::MAX);
            let body = at_once(&layer, Script::frames(stream.chunks(size))).into_body();
            let mut events = calls.take();
            events.pop().expect("a call for the end");
            assert_eq!(events, expected, "{case:?} in frames of {size}");
            assert_eq!(Driver::new(body).collect().bytes(), *stream, "{case:?}");
        }
    }
}

#[test]
fn c27_function_decides_about_each_event_of_a_frame() {
    let calls = Calls::default();
    let layer = calls.layer(|held| match held.state() {
        State::Event(event) if event.event_type() == "ping" => Decision::Wait,
        State::Event(event) if event.event_type() == "error" => gone(),
        _ => Decision::Forward,
    });
    let ping = "event: ping\ndata: {}\n\n";
    let error = "event: error\ndata: overloaded\n\n";

    let failed = at_once(&layer, Script::frames([[ping, error, EVENT].concat()]));
    assert_eq!(failed.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(calls.take(), ["event ping: {}", "event error: overloaded"]);

    let started = at_once(
        &layer,
        Script::frames([ping, ping, &[EVENT, error].concat()]),
    );
    assert_eq!(started.status(), StatusCode::OK);
    assert_eq!(
        calls.take(),
        ["event ping: {}", "event ping: {}", "event message: 1"]
    );
    let frames = Driver::new(started.into_body()).collect().frames;
    assert_eq!(frames, [ping, ping, &[EVENT, error].concat()]);
}

#[tokio::test(start_paused = true)]
async fn c27_function_sees_the_head_and_the_held_bytes() {
    // Without framing, an error is an unfinished event, or several lines of unknown fields.
    let errors = [
        r#"{"error":{"message":"no such model"}}"#,
        "{\"error\":{\"message\":\"no such model\"}}\n",
        "{\r\n  \"error\": {\"message\": \"no such model\"}\r\n}\r\n\r\n",
    ];
    for error in errors {
        for size in [1, 5, 1000] {
            let layer = FirstEventLayer::new(CEILING, |held| {
                assert_eq!(held.head().headers["x-request-id"], "r1");
                let mut response = Response::new(held.bytes());
                *response.status_mut() = match held.state() {
                    State::Ended | State::Truncated => StatusCode::BAD_GATEWAY,
                    state => panic!("{state:?}"),
                };
                Decision::Respond(response)
            });
            let mut response = event_stream_response(Script::frames(error.as_bytes().chunks(size)));
            let id = "r1".parse().expect("a value");
            response.headers_mut().insert("x-request-id", id);
            let response = ready_head(send(&layer, response));
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            assert!(!response.headers().contains_key("x-request-id"));
            assert_eq!(Driver::new(response.into_body()).rest().text(), error);
        }
    }
}

#[test]
fn c27_held_bytes_of_one_frame_are_not_copied() {
    let frame = Bytes::from(EVENT.repeat(3));
    let pointer = frame.as_ptr().addr();
    let layer = FirstEventLayer::new(CEILING, move |held| {
        assert_eq!(held.bytes().as_ptr().addr(), pointer);
        Decision::Forward
    });
    let upstream = Script::new([data(""), Step::Data(frame)]);
    let frames = Driver::new(at_once(&layer, upstream).into_body())
        .collect()
        .frames;
    assert_eq!(frames[1].as_ptr().addr(), pointer);
}

#[test]
fn c27_wait_is_forward_without_an_event() {
    let calls = Calls::default();
    let layer = calls.layer(|_| Decision::Wait);
    for (steps, call) in [
        (vec![data(": c\n\n")], "Ended"),
        (vec![data("data: half")], "Truncated"),
        (
            vec![data(": c\n\n"), Step::Error],
            "failed: the database password is 1234",
        ),
        (vec![data(": c\n\n"), Step::Trailers], "Ended"),
    ] {
        let expected = drain(&mut Driver::new(Script::new(steps.clone())));
        let response = at_once(&layer, Script::new(steps));
        assert_eq!(calls.take(), [call]);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(drain(&mut Driver::new(response.into_body())), expected);
    }
}

// Time.

#[tokio::test(start_paused = true)]
async fn c27_event_before_the_ceiling_opens_the_gate() {
    let calls = Calls::default();
    let layer = calls.layer(status_or_events);
    let (events, upstream) = feed();
    let start = Instant::now();
    let future = tokio::spawn(send(&layer, event_stream_response(upstream)));
    for piece in [": c\n\n", "data: ", "1\n", "\n"] {
        assert!(calls.take().is_empty());
        tokio::time::sleep(CEILING / 5).await;
        events.send(piece);
    }
    let response = within(future).await.expect("no panic");
    let response = response.expect("a response");
    assert_eq!(start.elapsed(), CEILING / 5 * 4);
    assert_eq!(calls.take(), ["event message: 1"]);
    let mut body = Driver::new(response.into_body());
    assert_eq!(body.ready_data(), [": c\n\n", "data: ", "1\n", "\n"]);
    advance(CEILING * 2).await;
    body.assert_pending();
    events.send("data: 2\n\n");
    assert_eq!(body.data(), "data: 2\n\n");
    assert!(
        calls.take().is_empty(),
        "the ceiling ends with the decision"
    );
}

#[tokio::test(start_paused = true)]
async fn c27_events_that_wait_do_not_move_the_ceiling() {
    let calls = Calls::default();
    let layer = calls.layer(|held| match held.state() {
        State::Event(_) => Decision::Wait,
        _ => gone(),
    });
    let (events, upstream) = feed();
    let start = Instant::now();
    let future = tokio::spawn(send(&layer, event_stream_response(upstream)));
    tokio::time::sleep(CEILING / 2).await;
    events.send(EVENT);
    let response = within(future).await.expect("no panic");
    let response = response.expect("a response");
    assert_eq!(start.elapsed(), CEILING);
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(calls.take(), ["event message: 1", "TimedOut"]);
}

/// Returns the greatest duration that the clock can add to the present.
fn greatest_timeout() -> Duration {
    let seconds = (0..64).rev().map(|bit| Duration::from_secs(1 << bit));
    let nanoseconds = (0..30).rev().map(|bit| Duration::from_nanos(1 << bit));
    let now = Instant::now();
    seconds
        .chain(nanoseconds)
        .fold(Duration::ZERO, |sum, unit| {
            let longer = sum.saturating_add(unit);
            now.checked_add(longer).map_or(sum, |_| longer)
        })
}

#[tokio::test(start_paused = true)]
async fn c27_ceiling_of_any_length() {
    for (ceiling, upstream, call) in [
        (greatest_timeout(), Script::silent(), None),
        (Duration::ZERO, Script::silent(), Some("TimedOut")),
        (
            Duration::ZERO,
            Script::frames([EVENT]),
            Some("event message: 1"),
        ),
        (Duration::MAX, Script::silent(), None),
    ] {
        let calls = Calls::default();
        let seen = calls.clone();
        let layer = FirstEventLayer::new(ceiling, move |held| {
            seen.0
                .lock()
                .expect("no panic")
                .push(describe(held.state()));
            Decision::Forward
        });
        let future = send(&layer, event_stream_response(upstream));
        let response = tokio::time::timeout(CEILING * 1000, future).await;
        assert_eq!(response.is_ok(), call.is_some());
        assert_eq!(calls.take(), Vec::from_iter(call));
    }
}

#[tokio::test(start_paused = true)]
async fn c27_ceiling_ends_although_the_budget_is_spent() {
    let calls = Calls::default();
    let layer = calls.layer(forward);
    let mut future = pin!(send(&layer, event_stream_response(Script::silent())));
    assert!(future.as_mut().now_or_never().is_none());
    advance(CEILING).await;
    spend_budget();
    assert!(future.as_mut().now_or_never().is_some());
    assert_eq!(calls.take(), ["TimedOut"]);
}

#[tokio::test(start_paused = true)]
async fn c27_upstream_that_is_never_pending_yields() {
    for closed in [false, true] {
        let (calls, shutdown) = (Calls::default(), Shutdown::new());
        let upstream = Script::new([]).then(AfterScript::Repeat(Bytes::from_static(b":\n")));
        let log = upstream.log();
        let layer = calls
            .layer(forward)
            .buffer_limit(usize::MAX)
            .shutdown(&shutdown);
        let mut future = pin!(send(&layer, event_stream_response(upstream)));
        assert!(future.as_mut().now_or_never().is_none());
        assert_eq!(log.polls(), 32);
        match closed {
            true => shutdown.close(),
            false => advance(CEILING).await,
        }
        assert!(future.as_mut().now_or_never().is_some());
        assert_eq!(
            calls.take(),
            [if closed { "Cancelled" } else { "TimedOut" }]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn c27_upstream_with_many_frames_is_polled_on() {
    let frames = [":\n"; 100].into_iter().chain([EVENT]);
    let start = Instant::now();
    let layer = FirstEventLayer::new(CEILING, status_or_events);
    let response = within(send(&layer, event_stream_response(Script::frames(frames)))).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(response.expect("a response").status(), StatusCode::OK);
}

#[test]
fn c27_response_without_data_is_empty() {
    let layer = FirstEventLayer::new(CEILING, |_| Decision::Respond(Response::default()));
    let mut body = Driver::new(at_once(&layer, Script::frames([EVENT])).into_body());
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.rest().frames.is_empty());
}

// Limits.

#[tokio::test(start_paused = true)]
async fn c27_held_frames_are_bounded() {
    for (size, limit) in [
        (0, 10 * size_of::<Frame<Bytes>>()),
        (1, 64 * 1024),
        (100, 64 * 1024),
        (4096, 64 * 1024),
        (9, 0),
    ] {
        let calls = Calls::default();
        let frame = Bytes::from([b": ", "x".repeat(size).as_bytes()].concat()).slice(..size);
        let upstream = Script::new([]).then(AfterScript::Repeat(frame));
        let log = upstream.log();
        let layer = calls.layer(forward).buffer_limit(limit);
        let mut future = Box::pin(send(&layer, event_stream_response(upstream)));
        let mut ready = false;
        let measured = allocation_counter::measure(|| {
            ready = (0..10_000).any(|_| future.as_mut().now_or_never().is_some());
        });
        assert!(ready, "frames of {size} bytes");
        assert_eq!(calls.take(), ["Full"]);
        let counted = size + size_of::<Frame<Bytes>>();
        assert_eq!(
            log.polls(),
            limit.div_ceil(counted).max(1),
            "frames of {size}"
        );
        // A deque doubles its memory, and copies its frames when it does.
        let deque = log.polls().next_power_of_two().max(4) * size_of::<Frame<Bytes>>() * 3 / 2;
        assert!(
            measured.bytes_max <= deque as u64 + 1024,
            "{} bytes for {} frames of {size}",
            measured.bytes_max,
            log.polls()
        );
    }
}

#[test]
fn c27_event_that_reaches_the_limit_is_an_event() {
    let long = format!("data: {}\n\n", "x".repeat(10_000));
    for (frames, call) in [
        (vec![&*long], "event"),
        (vec![": c\n\n", &*long], "event"),
        (vec![&long[..9_999], &long[9_999..]], "Full"),
    ] {
        let calls = Calls::default();
        let layer = calls.layer(forward).buffer_limit(8 * 1024);
        let body = at_once(&layer, Script::frames(&frames)).into_body();
        let seen = calls.take();
        assert!(seen.len() == 1 && seen[0].starts_with(call), "{call}");
        assert_eq!(Driver::new(body).collect().frames, frames);
    }
}

#[tokio::test(start_paused = true)]
async fn c27_memory_of_the_held_frames_is_released() {
    let frames = vec![":\n"; 500];
    let upstream = Script::frames(&frames).then(AfterScript::Repeat(EVENT.into()));
    let layer = FirstEventLayer::new(CEILING, forward);
    let mut cx = Context::from_waker(Waker::noop());
    let mut body = pin!(at_once(&layer, upstream).into_body());
    let released = allocation_counter::measure(|| {
        for _ in 0..frames.len() + 1 {
            assert!(body.as_mut().poll_frame(&mut cx).is_ready());
        }
    });
    let frame = size_of::<Frame<Bytes>>() as i64;
    assert!(released.bytes_current <= -500 * frame, "{released:?}");
    let steady = allocation_counter::measure(|| {
        for _ in 0..500 {
            assert!(body.as_mut().poll_frame(&mut cx).is_ready());
        }
    });
    assert_eq!(
        steady.count_total, 0,
        "a frame after the gate takes no allocation"
    );
}

// Bytes.

/// What streams are made of. Every third piece, on average, ends a line.
const PIECES: [&str; 18] = [
    "data: ", "data:", "data", "event: e", "event", "id: 1", "retry: 5", ": c", "x", "\u{feff}",
    "é", "\0", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "\n\n",
];

/// Generates a stream in frames of a few pieces, some of which follow a pending poll, with every end.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let frames = prop::collection::vec((prop::collection::vec(0..PIECES.len(), 0..6), 0..8), 0..60);
    let end =
        prop_oneof![3 => Just(None), 1 => Just(Some(Step::Trailers)), 2 => Just(Some(Step::Error))];
    (frames, end).prop_map(|(frames, end)| {
        let mut steps = Vec::new();
        for (pieces, pending) in frames {
            if pending == 0 {
                steps.push(Step::Yield);
            }
            let pieces = pieces.into_iter().map(|index| PIECES[index]);
            steps.push(data(pieces.collect::<String>()));
        }
        steps.extend(end);
        steps
    })
}

/// For the timers of property tests, which run outside of a runtime.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048 / (MIRI_STRIDE as u32).pow(2), failure_persistence: None, ..ProptestConfig::default() })]

    /// Byte for byte and frame for frame, with the same end.
    #[test]
    fn c27_stream_that_goes_on_is_the_stream_without_the_layer(
        steps in steps(),
        waits in 0..4_usize,
        limit in prop_oneof![3 => Just(64 * 1024), 1 => 0..2000_usize],
    ) {
        let calls = Calls::default();
        let seen = calls.clone();
        let layer = calls.layer(move |held| {
            let count = seen.0.lock().expect("no panic").len();
            match held.state() {
                State::Event(_) if count <= waits => Decision::Wait,
                _ => Decision::Forward,
            }
        }).buffer_limit(limit);
        let script = || Script::new(steps.clone());
        let _guard = RUNTIME.enter();
        let response = at_once(&layer, script());
        let gated = drain(&mut Driver::new(response.into_body()));
        prop_assert_eq!(&gated, &drain(&mut Driver::new(script())));

        let bytes: Vec<u8> = steps.iter().flat_map(|step| match step {
            Step::Data(data) => data.to_vec(),
            _ => Vec::new(),
        }).collect();
        let events: Vec<_> = decode(&bytes).events.iter()
            .map(|event| format!("event {}: {}", event.event_type, event.data))
            .collect();
        let mut calls = calls.take();
        if calls.last().is_some_and(|call| !call.starts_with("event")) {
            calls.pop();
        }
        prop_assert!(calls.len() <= waits + 1);
        prop_assert!(events.starts_with(&calls), "{:?} of {:?}", calls, events);
    }
}

/// A body that knows the rest of its size, and its end.
#[derive(Debug, Clone)]
struct Sized {
    frames: VecDeque<Bytes>,
    /// Maximum number of bytes that the body does not know of.
    unknown: Option<u64>,
}

impl Body for Sized {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.frames.pop_front().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let known = self.frames.iter().map(|data| data.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(known);
        if let Some(upper) = self.unknown.and_then(|unknown| known.checked_add(unknown)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[test]
fn c27_hints_are_those_without_the_layer() {
    let layer = FirstEventLayer::new(CEILING, forward);
    for frames in [
        &[": c\n\n", "data: 1\n", "\n", "data: 2\n\n"][..],
        &[": c\n"],
        &[EVENT],
        &[],
    ] {
        for unknown in [Some(0), Some(100), Some(u64::MAX), None] {
            let frames = frames.iter().map(|frame| Bytes::from(*frame)).collect();
            let upstream = Sized { frames, unknown };
            let mut plain = Driver::new(upstream.clone());
            let mut gated = Driver::new(at_once(&layer, upstream).into_body());
            loop {
                assert_eq!(gated.is_end_stream(), plain.is_end_stream());
                let (gated_hint, plain_hint) = (gated.size_hint(), plain.size_hint());
                assert_eq!(gated_hint.lower(), plain_hint.lower());
                assert_eq!(gated_hint.upper(), plain_hint.upper());
                let (polled, expected) = (gated.poll(), plain.poll());
                assert_eq!(format!("{polled:?}"), format!("{expected:?}"));
                if matches!(polled, Poll::Ready(None)) {
                    break;
                }
            }
        }
    }
}

#[test]
fn c27_error_follows_the_held_frames_after_a_yield() {
    let layer = FirstEventLayer::new(CEILING, forward);
    let upstream = Script::new([data(": c\n\n"), Step::Error]).end_stream(EndStream::Known);
    let mut body = Driver::new(at_once(&layer, upstream).into_body());
    assert_eq!(body.data(), ": c\n\n");
    assert!(!body.is_end_stream());
    assert!(body.poll().is_pending());
    assert_eq!(body.wakes(), 1);
    assert!(matches!(body.poll(), Poll::Ready(Some(Err(ScriptError)))));
    for _ in 0..3 {
        assert!(matches!(body.poll(), Poll::Ready(None)));
    }
}

// Responses that are not held.

#[test]
fn c27_other_responses_pass_through() {
    let layer = FirstEventLayer::new(CEILING, |_| panic!("not an event stream"));
    let html = Response::builder().header("content-type", "text/html");
    let failed = Response::builder()
        .status(500)
        .header("content-type", "text/event-stream");
    let skipped = Response::builder()
        .header("content-type", "text/event-stream")
        .extension(SkipCompletion);
    let compressed = Response::builder()
        .header("content-type", "text/event-stream")
        .header("content-encoding", "gzip");
    for response in [html, failed, skipped, compressed] {
        let upstream = Script::silent();
        let response = response.body(upstream).expect("a response");
        let headers = response.headers().clone();
        let response = ready_head(send(&layer, response));
        assert_eq!(*response.headers(), headers);
        Driver::new(response.into_body()).assert_pending();
    }
    for method in [Method::HEAD, Method::CONNECT] {
        let mut service = layer.layer(OneResponse::new(event_stream_response(Script::silent())));
        let request = Request::builder()
            .method(method)
            .body(())
            .expect("a request");
        let response = service.call(request).now_or_never().expect("a head");
        Driver::new(response.unwrap_or_else(|never| match never {}).into_body()).assert_pending();
    }
}

#[tokio::test]
async fn c27_errors_of_the_service_pass_through() {
    let failing =
        service_fn(async |_: Request<()>| Err::<Response<Full<Bytes>>, _>("out of order"));
    let layer = FirstEventLayer::new(CEILING, forward);
    let response = layer.layer(failing).oneshot(Request::new(())).await;
    assert_eq!(response.expect_err("an error"), "out of order");
}

// Panics.

#[test]
fn c27_panic_of_the_function_drops_the_stream() {
    for steps in [vec![], vec![data(EVENT)], vec![Step::Error]] {
        let layer = FirstEventLayer::new(CEILING, |_| panic!("an intended panic"));
        let upstream = Script::new(steps);
        let log = upstream.log();
        let mut future = Box::pin(send(&layer, event_stream_response(upstream)));
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().now_or_never()));
        assert!(polled.is_err());
        assert!(log.dropped());
    }
}

// Inside of the completion layer.

#[tokio::test(start_paused = true)]
async fn c27_stream_counts_and_ages_from_its_head() {
    let (shutdown, reports) = (Shutdown::new(), Reports::default());
    let completion = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .max_age(CEILING)
        .close_event_with(|report| CloseEvent::new().data(report.ending().as_str()))
        .on_end(reports.observer());
    let gate = FirstEventLayer::new(CEILING, status_or_events).shutdown(&shutdown);
    let (events, upstream) = feed();
    let service = completion.layer(gate.layer(OneResponse::new(event_stream_response(upstream))));
    let response = tokio::spawn(service.oneshot(Request::new(())));
    tokio::time::sleep(CEILING / 2).await;
    assert_eq!(shutdown.open_streams(), 0);
    events.send(EVENT);
    let response = within(response).await.expect("no panic");
    let response = response.expect("a response");
    assert_eq!(shutdown.open_streams(), 1);
    let mut body = Driver::new(response.into_body());
    assert_eq!(body.data(), EVENT);
    body.assert_pending();
    assert_eq!(body.advance(29).await, []);
    let closed = "event: close\ndata: expired\n\n".into();
    assert_eq!(body.advance(1).await, [(1, closed)]);
    body.rest();
    assert_eq!(shutdown.open_streams(), 0);
    assert_eq!(reports.only().ending(), Ending::Expired);
}

#[tokio::test(start_paused = true)]
async fn c27_drain_waits_for_a_held_response() {
    for has_event in [true, false] {
        let (calls, shutdown) = (Calls::default(), Shutdown::new());
        let gate = calls.layer(status_or_events).shutdown(&Shutdown::new());
        let gate = gate.shutdown(&shutdown);
        let completion = shutdown_layer(&shutdown);
        let (events, upstream) = feed();
        let response = event_stream_response(upstream);
        let service = completion.layer(gate.layer(OneResponse::new(response)));
        let response = tokio::spawn(service.oneshot(Request::new(())));
        tokio::task::yield_now().await;

        let start = Instant::now();
        let drain = tokio::spawn(shutdown.drain(CEILING / 2));
        tokio::time::sleep(CEILING / 4).await;
        assert!(calls.take().is_empty(), "the drain has not closed");
        if has_event {
            events.send(EVENT);
        }
        let response = within(response).await.expect("no panic");
        let response = response.expect("a response");
        if has_event {
            assert_eq!(start.elapsed(), CEILING / 4);
            assert_eq!(calls.take(), ["event message: 1"]);
            drop(events);
            assert_eq!(Driver::new(response.into_body()).rest().text(), EVENT);
            let drained = within(drain).await.expect("no panic");
            assert_eq!(start.elapsed(), CEILING / 4);
            assert_eq!(drained.ended(), 1);
        } else {
            assert_eq!(start.elapsed(), CEILING / 2);
            assert_eq!(calls.take(), ["Cancelled"]);
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            let drained = within(drain).await.expect("no panic");
            assert_eq!(start.elapsed(), CEILING / 2);
            assert_eq!((drained.ended(), drained.unanswered_requests()), (0, 0));
        }
    }
}

// Types.

#[test]
fn c27_types_are_as_their_parts() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    fn is_unpin<T: Unpin>() {}
    fn is_clone<T: Clone + 'static>() {}
    is_send::<FirstEventLayer>();
    is_sync::<FirstEventLayer>();
    is_clone::<FirstEventLayer>();
    is_send::<FirstEventBody<Script>>();
    is_sync::<FirstEventBody<Script>>();
    is_send::<FirstEventBody<AxumBody>>();
    is_unpin::<FirstEventBody<AxumBody>>();
    is_send::<FirstEventFuture<std::future::Ready<()>, Script>>();
    is_sync::<FirstEventFuture<std::future::Ready<()>, Script>>();
    is_unpin::<FirstEventFuture<std::future::Ready<()>, Script>>();
    let body = FirstEventBody::<Full<Bytes>>::default();
    assert!(body.is_end_stream());
}

#[test]
fn c27_debug_output_has_no_data() {
    let layer = FirstEventLayer::new(CEILING, |held| {
        assert_eq!(format!("{held:?}"), "HeldStream { .. }");
        Decision::Forward
    });
    let service = format!("{:?}", layer.layer(()));
    assert!(
        service.contains("ceiling: 30s, buffer_limit: 65536"),
        "{service}"
    );
    let future = send(
        &layer,
        event_stream_response(Script::frames(["data: secret\n\n"])),
    );
    assert_eq!(format!("{future:?}"), "FirstEventFuture { .. }");
    let body = future
        .now_or_never()
        .expect("a head")
        .expect("a response")
        .into_body();
    assert_eq!(format!("{body:?}"), "FirstEventBody { .. }");
}

// Over loopback sockets.

/// Serves these responses through a layer that responds to streams without an event with a status, and a completion layer around.
async fn serve_gated(
    shutdown: &Shutdown,
    reports: &Reports,
    upstream: impl Fn() -> Script + Clone + Send + 'static,
) -> SocketAddr {
    let layer = tower::ServiceBuilder::new()
        .layer(shutdown_layer(shutdown).on_end(reports.observer()))
        .layer(FirstEventLayer::new(CEILING, status_or_events));
    serve_responses(layer, move || {
        let mut response = event_stream_response(AxumBody::new(upstream()));
        response.headers_mut().insert("x-upstream", 1.into());
        response
    })
    .await
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c27_dead_upstream_is_a_status_over_http() {
    for version in VERSIONS {
        for steps in [
            vec![],
            vec![data(": c\n\n")],
            vec![data("data: half"), Step::Error],
        ] {
            let (shutdown, reports) = (Shutdown::new(), Reports::default());
            let upstream = move || Script::new(steps.clone());
            let address = serve_gated(&shutdown, &reports, upstream).await;
            let response = server::request(address, version, "POST", "/").await;
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(response.headers()["content-length"], GONE.len().to_string());
            assert!(!response.headers().contains_key("content-type"));
            assert!(!response.headers().contains_key("x-upstream"));
            assert_eq!(receive(response.into_body()).await.text(), GONE);
            assert_eq!((reports.count(), shutdown.open_streams()), (0, 0));
        }
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c27_live_upstream_is_forwarded_over_http() {
    for version in VERSIONS {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let upstream = || {
            let frames = [": c\n\n", "data: ", "1\n\n", "data: 2\n\n"].map(data);
            Script::new(frames.into_iter().chain([Step::Yield, Step::Trailers]))
        };
        let address = serve_gated(&shutdown, &reports, upstream).await;
        let response = server::request(address, version, "POST", "/").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-upstream"], "1");
        let received = receive(response.into_body()).await;
        assert_eq!(received.bytes, b": c\n\ndata: 1\n\ndata: 2\n\n");
        assert_eq!(reports.only().ending(), Ending::Completed);

        // The server never polls the body of such a response.
        let response = server::request(address, version, "HEAD", "/").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(reports.count(), 1);
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c27_event_opens_the_gate_at_once_over_http() {
    for version in VERSIONS {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let upstream = || Script::frames([EVENT]).then(AfterScript::Pending);
        let address = serve_gated(&shutdown, &reports, upstream).await;
        let response = server::request(address, version, "POST", "/").await;
        let mut body = response.into_body();
        assert_eq!(next_data(&mut body).await, EVENT);
        shutdown.close();
        assert_eq!(receive(body).await.bytes, CLOSE);
        assert_eq!(reports.only().ending(), Ending::Cancelled);
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c27_error_after_held_frames_reaches_the_client_over_http() {
    for version in VERSIONS {
        let layer = FirstEventLayer::new(CEILING, forward);
        let upstream = || Script::new([data(": c\n\n"), Step::Error]);
        let address = server::serve_scripts(layer, upstream).await;
        let response = server::request(address, version, "POST", "/").await;
        let received = receive(response.into_body()).await;
        assert_eq!(received.bytes, b": c\n\n");
        assert!(received.error.is_some());
    }
}
