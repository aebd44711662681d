//! Places of the layer in an axum app, and the streams that each of them covers.

use std::{convert::Infallible, future::IntoFuture};

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
use tower::{Service, ServiceBuilder, ServiceExt as _};
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
