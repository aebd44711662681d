//! The snippets of `docs/migrate.md`: each program ends its streams as the program that it replaces.

use std::convert::Infallible;

use axum::{Router, body::Body, response::sse::Event};
use futures_util::{Stream, StreamExt, stream};
use http::Request;
use testkit::driver::Driver;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

const GUIDE: &str = include_str!("../../docs/migrate.md");

type Source<S> = fn() -> S;

mod take_until_before {
    include!("snippets/take_until_before.rs");

    pub(crate) fn make<S>(events: super::Source<S>, stop: CancellationToken) -> Router
    where
        S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
    {
        app(events, stop)
    }
}

mod take_until_after {
    include!("snippets/take_until_after.rs");

    pub(crate) fn make<S>(events: super::Source<S>, shutdown: &Shutdown) -> Router
    where
        S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
    {
        app(events, shutdown).expect("a valid close event")
    }
}

mod select_before {
    include!("snippets/select_before.rs");

    pub(crate) fn make(events: Sender<String>, stop: CancellationToken) -> Router {
        app(events, stop)
    }
}

mod select_after {
    include!("snippets/select_after.rs");

    pub(crate) fn make(events: Sender<String>, shutdown: &Shutdown) -> Router {
        app(events, shutdown)
    }
}

async fn open(app: Router) -> Driver<Body> {
    let request = Request::get("/events").body(Body::empty());
    let response = app.oneshot(request.expect("a valid request")).await;
    Driver::new(response.expect("a response").into_body())
}

fn finite() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter([Ok(Event::default().data("1"))])
}

fn endless() -> impl Stream<Item = Result<Event, Infallible>> {
    finite().chain(stream::pending())
}

fn count(text: &str, event: &str) -> usize {
    text.matches(event).count()
}

/// Asserts that the body sends an event, and then this close event once the stream is stopped.
#[track_caller]
fn assert_closed(mut body: Driver<Body>, stop: impl FnOnce(), close: &str) {
    assert_eq!(body.data(), "data: 1\n\n");
    body.assert_pending();
    stop();
    assert_eq!(body.collect().text(), close);
}

#[tokio::test]
async fn take_until_and_the_layer_send_the_same_bytes() {
    assert!(GUIDE.contains(include_str!("snippets/take_until_before.rs")));
    assert!(GUIDE.contains(include_str!("snippets/take_until_after.rs")));
    let (stop, shutdown) = (CancellationToken::new(), Shutdown::new());
    let close = "event: bye\ndata: restart\n\n";
    let before = open(take_until_before::make(endless, stop.clone())).await;
    assert_closed(before, || stop.cancel(), close);
    let after = open(take_until_after::make(endless, &shutdown)).await;
    assert_closed(after, || shutdown.close(), close);
}

#[tokio::test]
async fn c9_finite_stream_has_a_close_event_with_chain_and_with_close_on_completed() {
    let (stop, shutdown) = (CancellationToken::new(), Shutdown::new());
    for mut body in [
        open(take_until_before::make(finite, stop)).await,
        open(take_until_after::make(finite, &shutdown)).await,
    ] {
        let text = body.collect().text();
        assert_eq!(text, "data: 1\n\nevent: bye\ndata: restart\n\n");
    }
}

#[tokio::test]
async fn hand_written_close_event_inside_of_the_layer_is_the_first_of_two() {
    let (stop, shutdown) = (CancellationToken::new(), Shutdown::new());
    let completion = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .close_event(CloseEvent::named("bye").expect("a valid name"));
    let app = take_until_before::make(endless, stop.clone()).layer(completion);
    let mut body = open(app).await;
    assert_eq!(body.data(), "data: 1\n\n");
    stop.cancel();
    shutdown.close();
    assert_eq!(count(&body.collect().text(), "event: bye\n"), 2);
}

#[tokio::test]
async fn select_and_the_layer_send_one_close_event_at_a_shutdown_and_none_after_a_finite_stream() {
    assert!(GUIDE.contains(include_str!("snippets/select_before.rs")));
    assert!(GUIDE.contains(include_str!("snippets/select_after.rs")));
    let (stop, shutdown) = (CancellationToken::new(), Shutdown::new());
    let events = || {
        let (events, _) = broadcast::channel(4);
        (events.clone(), events)
    };
    let send = |events: &broadcast::Sender<String>| events.send("1".to_owned());

    let (app, source) = events();
    let before = open(select_before::make(app, stop.clone())).await;
    send(&source).expect("a receiver");
    let close = "event: close\ndata: restart\n\n";
    assert_closed(before, || stop.cancel(), close);
    let (app, source) = events();
    let after = open(select_after::make(app, &shutdown)).await;
    send(&source).expect("a receiver");
    assert_closed(after, || shutdown.close(), close);

    // The streams end with their sources.
    let (app, source) = events();
    let before = open(select_before::make(app, CancellationToken::new())).await;
    send(&source).expect("a receiver");
    assert_closed(before, || drop(source), "");
    let (app, source) = events();
    let after = open(select_after::make(app, &Shutdown::new())).await;
    send(&source).expect("a receiver");
    assert_closed(after, || drop(source), "");
}
