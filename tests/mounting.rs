//! Places of the layer in an axum app, and the streams that each of them covers. The order of layers, as `docs/servers.md` has it.

use std::{
    convert::Infallible,
    future::IntoFuture,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{
    Router, ServiceExt,
    body::Body,
    extract::Request,
    handler::HandlerWithoutStateExt,
    response::{IntoResponse, Response},
    routing::get,
};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, event_stream_response},
    script::{AfterScript, Script},
    server::{VERSIONS, listen, next_data, receive, request},
    wait::within,
};
use tower::{Service, ServiceBuilder, ServiceExt as _, limit::ConcurrencyLimitLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, predicate::SizeAbove},
    cors::CorsLayer,
    timeout::{ResponseBodyTimeoutLayer, TimeoutLayer},
    trace::TraceLayer,
    validate_request::ValidateRequestHeaderLayer,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

const EVENT: &str = "data: 1\n\n";

async fn events() -> Response {
    let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
    event_stream_response(Body::new(upstream))
}

/// A router with an event stream at `/events`.
fn routes() -> Router {
    Router::new().route("/events", get(events))
}

/// Opens the stream at this path of an app, and closes the shutdown of its layer. Returns whether the layer covers the
/// stream, which is then counted while it is open, and closed with the shutdown.
async fn covers(path: &str, mount: impl FnOnce(SseCompletionLayer) -> Router) -> bool {
    let shutdown = Shutdown::new();
    let app = mount(SseCompletionLayer::new().shutdown(&shutdown));
    let request = Request::get(path).body(Body::empty());
    let response = app.oneshot(request.expect("a valid request")).await;
    let response = response.expect("a response");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = Driver::new(response.into_body());
    assert_eq!(body.data(), EVENT);
    body.assert_pending();

    let open_streams = shutdown.open_streams();
    shutdown.close();
    match open_streams {
        0 => body.assert_pending(),
        _ => assert_eq!(body.collect().bytes(), CLOSE),
    }
    open_streams == 1
}

/// Asserts that a layer covers the stream at this path if the route of the stream is added before the layer, and only then.
async fn assert_covered_if_before(path: &str, add: impl Fn(Router) -> Router) {
    assert!(covers(path, |layer| add(Router::new()).layer(layer)).await);
    assert!(!covers(path, |layer| add(Router::new().layer(layer))).await);
}

#[tokio::test]
async fn layer_covers_the_routes_that_were_added_before_it() {
    assert_covered_if_before("/events", |app| app.route("/events", get(events))).await;
    assert_covered_if_before("/events", |app| app.merge(routes())).await;
    assert!(covers("/events", |layer| routes().route_layer(layer)).await);
    let method = |layer| Router::new().route("/events", get(events).layer(layer));
    assert!(covers("/events", method).await);
}

#[tokio::test]
async fn layer_of_a_merged_or_nested_router_covers_its_own_routes() {
    let other = || Router::new().route("/other", get(events));
    let merged = |layer| routes().layer(layer).merge(other());
    let nested = |layer| other().nest("/api", routes().layer(layer));
    assert!(covers("/events", merged).await);
    assert!(!covers("/other", merged).await);
    assert!(covers("/api/events", nested).await);
    assert!(!covers("/other", nested).await);
}

#[tokio::test]
async fn layer_covers_nested_routers_and_services() {
    assert_covered_if_before("/api/events", |app| app.nest("/api", routes())).await;
    let service = || events.into_service();
    assert_covered_if_before("/api/events", |app| app.nest_service("/api", service())).await;
}

#[tokio::test]
async fn layer_covers_the_fallback_that_was_set_before_it() {
    assert_covered_if_before("/", |app| app.fallback(events)).await;
    assert!(!covers("/", |layer| routes().fallback(events).route_layer(layer)).await);
    let nested = || Router::new().nest("/api", routes().fallback(events));
    assert_covered_if_before("/api/other", |app| app.merge(nested())).await;
    let whole = |layer| Router::new().fallback_service(routes()).layer(layer);
    assert!(covers("/events", whole).await);
}

/// Wraps a whole router, in the form that `axum::serve` takes: with the body type of axum.
fn around(
    router: Router,
    layer: SseCompletionLayer,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send {
    ServiceBuilder::new()
        .map_response(IntoResponse::into_response)
        .layer(layer)
        .service(router)
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c18_layer_around_a_whole_router_closes_every_stream_of_axum_serve() {
    let shutdown = Shutdown::new();
    let router = routes().fallback(events);
    let service = around(router, SseCompletionLayer::new().shutdown(&shutdown));
    let (listener, address) = listen().await;
    let server = axum::serve(listener, ServiceExt::<Request>::into_make_service(service))
        .with_graceful_shutdown(shutdown.closed());
    let server = tokio::spawn(server.into_future());

    let mut bodies = Vec::new();
    for version in VERSIONS {
        for path in ["/events", "/other"] {
            let mut body = request(address, version, "GET", path).await.into_body();
            assert_eq!(next_data(&mut body).await, EVENT);
            bodies.push(body);
        }
    }
    assert_eq!(shutdown.open_streams(), 4);
    shutdown.close();
    for body in bodies {
        assert_eq!(within(receive(body)).await.text().as_bytes(), CLOSE);
    }
    within(server).await.expect("no panic").expect("no error");
}

type Add = fn(Router) -> Router;

const OTHER_LAYERS: [(&str, Add); 8] = [
    ("trace", |app| app.layer(TraceLayer::new_for_http())),
    ("CORS", |app| app.layer(CorsLayer::permissive())),
    ("authorization", |app| app.layer(accept())),
    ("compression", |app| {
        app.layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
    }),
    ("request timeout", |app| {
        let status = http::StatusCode::GATEWAY_TIMEOUT;
        app.layer(TimeoutLayer::with_status_code(status, TIMEOUT))
    }),
    ("body timeout", |app| {
        app.layer(ResponseBodyTimeoutLayer::new(TIMEOUT))
    }),
    ("catch-panic", |app| app.layer(CatchPanicLayer::new())),
    ("limits", |app| app.layer(ConcurrencyLimitLayer::new(1))),
];

const TIMEOUT: Duration = Duration::from_secs(5);

fn accept<B: Default>() -> ValidateRequestHeaderLayer<tower_http::validate_request::AcceptHeader<B>>
{
    ValidateRequestHeaderLayer::accept("text/event-stream")
}

/// Adds another layer outside of the completion layer, or inside.
fn stack(is_outside: bool, add: Add, completion: SseCompletionLayer) -> Router {
    match is_outside {
        true => add(routes().layer(completion)),
        false => add(routes()).layer(completion),
    }
}

fn events_request(method: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri("/events")
}

async fn send(app: &Router, request: axum::http::request::Builder) -> Response {
    let request = request.body(Body::empty()).expect("a valid request");
    app.clone().oneshot(request).await.expect("a response")
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(bytes);
    decoder.read_to_end(&mut text).expect("valid gzip");
    text
}

#[tokio::test(start_paused = true)]
async fn c1_close_event_passes_every_layer_except_an_inner_compression() {
    for (name, add) in OTHER_LAYERS {
        for is_outside in [true, false] {
            let shutdown = Shutdown::new();
            let completion = SseCompletionLayer::new().shutdown(&shutdown);
            let app = stack(is_outside, add, completion);
            let request = events_request("GET").header("accept-encoding", "gzip");
            let response = send(&app, request).await;
            let is_zipped = response.headers().contains_key("content-encoding");
            let mut body = Driver::new(response.into_body());
            let mut bytes = body.ready_data().concat();
            let is_wrapped = shutdown.open_streams() == 1;
            shutdown.close();
            let case = format!("{name}, outside: {is_outside}");
            assert_eq!(is_zipped, name == "compression", "{case}");
            assert_eq!(is_wrapped, name != "compression" || is_outside, "{case}");
            if !is_wrapped {
                body.assert_pending();
                continue;
            }
            bytes.extend(body.collect().bytes());
            let text = if is_zipped { unzipped(&bytes) } else { bytes };
            assert_eq!(text, [EVENT.as_bytes(), CLOSE].concat(), "{case}");
        }
    }
}

#[tokio::test]
async fn outer_trace_layer_sees_the_close_event() {
    for (is_outside, chunks) in [(true, 2), (false, 1)] {
        let seen = Arc::<AtomicUsize>::default();
        let trace = TraceLayer::new_for_http().on_body_chunk({
            let seen = Arc::clone(&seen);
            move |_: &axum::body::Bytes, _: Duration, _: &tracing::Span| {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        let shutdown = Shutdown::new();
        let completion = SseCompletionLayer::new().shutdown(&shutdown);
        let app = match is_outside {
            true => routes().layer(completion).layer(trace),
            false => routes().layer(trace).layer(completion),
        };
        let response = send(&app, events_request("GET")).await;
        let mut body = Driver::new(response.into_body());
        assert_eq!(body.data(), EVENT);
        shutdown.close();
        assert_eq!(body.collect().bytes(), CLOSE);
        assert_eq!(seen.load(Ordering::Relaxed), chunks, "{is_outside}");
    }
}

#[tokio::test]
async fn requests_that_an_outer_layer_refuses_do_not_reach_the_layer() {
    let cases: [(Add, fn() -> axum::http::request::Builder); 2] = [
        (
            |app| app.layer(CorsLayer::permissive()),
            || {
                let request = events_request("OPTIONS").header("origin", "http://a");
                request.header("access-control-request-method", "GET")
            },
        ),
        (
            |app| app.layer(accept()),
            || events_request("GET").header("accept", "image/png"),
        ),
    ];
    for (add, request) in cases {
        for (is_outside, observers) in [(true, 0), (false, 1)] {
            let made = Arc::<AtomicUsize>::default();
            let count = Arc::clone(&made);
            let completion =
                SseCompletionLayer::new().on_end_with(move |_: &http::request::Parts| {
                    count.fetch_add(1, Ordering::Relaxed);
                    |_: &tower_sse_completion::StreamReport| ()
                });
            let app = stack(is_outside, add, completion);
            send(&app, request()).await;
            assert_eq!(made.load(Ordering::Relaxed), observers, "{is_outside}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c12_inner_body_timeout_becomes_a_close_event_and_an_outer_one_aborts() {
    for is_outside in [true, false] {
        let completion = SseCompletionLayer::new().close_on_failed(true);
        let add: Add = |app| app.layer(ResponseBodyTimeoutLayer::new(TIMEOUT));
        let app = stack(is_outside, add, completion);
        let response = send(&app, events_request("GET")).await;
        let mut body = Driver::new(response.into_body());
        assert_eq!(body.data(), EVENT);
        body.assert_pending();
        tokio::time::sleep(2 * TIMEOUT).await;
        match body.poll_while_woken() {
            Poll::Ready(Some(Err(_))) => assert!(is_outside),
            Poll::Ready(Some(Ok(frame))) => {
                assert!(!is_outside);
                assert_eq!(frame.into_data().expect("data"), CLOSE);
            }
            other => panic!("neither an error nor a close event: {other:?}"),
        }
    }
}

#[tokio::test]
async fn outer_catch_panic_layer_catches_a_panic_of_end_on_drain() {
    let completion = || {
        let panics = |_: &http::request::Parts| panic!("an intended panic");
        SseCompletionLayer::new()
            .shutdown(&Shutdown::new())
            .end_on_drain(panics)
    };
    let add: Add = |app| app.layer(CatchPanicLayer::new());
    let app = stack(true, add, completion());
    assert_eq!(send(&app, events_request("GET")).await.status(), 500);
    let app = stack(false, add, completion());
    let sent = tokio::spawn(async move { send(&app, events_request("GET")).await });
    assert!(sent.await.expect_err("a panic").is_panic());
}

#[tokio::test]
async fn concurrency_limit_does_not_count_streams() {
    let add: Add = |app| app.layer(ConcurrencyLimitLayer::new(1));
    let shutdown = Shutdown::new();
    let app = stack(true, add, SseCompletionLayer::new().shutdown(&shutdown));
    let mut open = Vec::new();
    for _ in 0..3 {
        let response = within(send(&app, events_request("GET"))).await;
        let mut body = Driver::new(response.into_body());
        assert_eq!(body.data(), EVENT);
        open.push(body);
    }
    assert_eq!(shutdown.open_streams(), 3);
}
