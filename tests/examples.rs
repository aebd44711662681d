//! The examples, over real sockets.

#[path = "../examples/before_after.rs"]
#[allow(dead_code, reason = "main is not called")]
mod before_after;
#[path = "../examples/graceful_shutdown.rs"]
#[allow(dead_code, reason = "main is not called")]
mod graceful_shutdown;
#[path = "../examples/hyper.rs"]
#[allow(dead_code, reason = "main is not called")]
mod hyper_example;
#[path = "../examples/sessions.rs"]
#[allow(dead_code, reason = "main is not called")]
mod sessions;
#[path = "../examples/warp.rs"]
#[allow(dead_code, reason = "main is not called")]
mod warp_example;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use testkit::server::{VERSIONS, Version, receive, request, serve};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tower_sse_completion::Shutdown;

const CLOSE: &str = "event: close\ndata:\n\n";
const LONG: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("it takes too long")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// A stream whose first event has come.
async fn open(
    address: SocketAddr,
    version: Version,
    method: &str,
    path: &str,
) -> (Bytes, Incoming) {
    let response = within(request(address, version, method, path)).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    (next(&mut body).await, body)
}

async fn next(body: &mut Incoming) -> Bytes {
    let frame = within(body.frame()).await.expect("a frame");
    let frame = frame.expect("no error");
    frame.into_data().expect("data")
}

async fn rest(body: Incoming) -> String {
    within(receive(body)).await.text()
}

#[tokio::test]
async fn hyper_closes_its_streams_and_returns() {
    let (listener, address) = listen().await;
    let shutdown = Shutdown::new();
    let server = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { hyper_example::serve(listener, &shutdown).await }
    });
    let mut streams = Vec::new();
    for version in VERSIONS {
        let (first, body) = open(address, version, "GET", "/events").await;
        assert_eq!(first, "data: 1\n\n");
        streams.push(body);
        let other = within(request(address, version, "GET", "/")).await;
        assert_eq!(other.status(), 404);
        assert_eq!(rest(other.into_body()).await, "try /events\n");
    }
    shutdown.close();
    for body in streams {
        assert!(rest(body).await.ends_with(CLOSE));
    }
    within(server).await.expect("no panic");
}

#[tokio::test]
async fn warp_closes_its_streams_and_returns() {
    let (listener, address) = listen().await;
    let shutdown = Shutdown::new();
    let server = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { warp_example::serve(listener, &shutdown).await }
    });
    let mut streams = Vec::new();
    for version in VERSIONS {
        let (first, body) = open(address, version, "GET", "/events").await;
        assert_eq!(first, "data:1\n\n");
        streams.push(body);
        let other = within(request(address, version, "GET", "/hello")).await;
        assert_eq!(other.headers()["content-length"], "6");
        assert_eq!(rest(other.into_body()).await, "hello\n");
    }
    shutdown.close();
    for body in streams {
        assert!(rest(body).await.ends_with(CLOSE));
    }
    within(server).await.expect("no panic");
}

#[tokio::test]
async fn logout_ends_the_streams_of_one_user() {
    let shutdown = Shutdown::new();
    let address = serve(sessions::app(&shutdown)).await;
    for version in VERSIONS {
        let (first, ada) = open(address, version, "GET", "/events/ada").await;
        assert_eq!(first, "data: event 1 for ada\n\n");
        let (_, mut bob) = open(address, version, "GET", "/events/bob").await;

        let answer = request(address, version, "POST", "/logout/ada").await;
        assert_eq!(rest(answer.into_body()).await, "logged out\n");
        let end = rest(ada).await;
        assert!(end.ends_with("event: logged-out\ndata:\n\n"), "{end:?}");

        assert_eq!(next(&mut bob).await, "data: event 2 for bob\n\n");
        let answer = request(address, version, "POST", "/logout/ada").await;
        assert_eq!(rest(answer.into_body()).await, "nobody of that name");
    }
}

#[tokio::test]
async fn shutdown_ends_subscriptions_at_once_and_gives_answers_their_grace() {
    let (listener, address) = listen().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let signal = async { stopped.await.map_err(std::io::Error::other) };
    let client = async {
        let (_, mut answer) = open(address, Version::Http1, "POST", "/answer").await;
        let (_, subscription) = open(address, Version::Http1, "GET", "/subscribe").await;
        stop.send(()).expect("a server");

        let end = rest(subscription).await;
        let (_, retry) = end
            .rsplit_once("event: close\ndata:\nretry: ")
            .expect("a close event with a time to come back after");
        let retry: u64 = retry.trim_end().parse().expect("a number");
        assert!((1000..=5000).contains(&retry), "{retry}");

        for _ in 0..2 {
            let word = next(&mut answer).await;
            assert!(word.ends_with(b"data: word\n\n"), "{word:?}");
        }
        // The client leaves, and nothing is left to wait for.
        drop(answer);
    };
    let (served, ()) = within(futures_util::future::join(
        graceful_shutdown::serve(listener, signal),
        client,
    ))
    .await;
    served.expect("a clean end");
}

#[tokio::test]
async fn before_and_after_are_what_they_are_said_to_be() {
    let short = Duration::from_secs(3);
    let [idle, empty, torn] = &before_after::CASES;
    let first = r"13\r\nid: 1\ndata: hello\n\n\r\n";
    let close = r"14\r\nevent: close\ndata:\n\n\r\n";
    let last = r"0\r\n\r\n";
    let open = "(a second later: still open)";
    let gone = "(end of the connection)";
    let cases: [(_, &[_], &[_]); 3] = [
        (idle, &[first, open], &[first, close, last, gone]),
        (empty, &[last, gone], &[close, last, gone]),
        (
            torn,
            &[first, r#"14\r\nid: 2\ndata: {"half":\r\n"#, open],
            &[first, close, last, gone],
        ),
    ];
    futures_util::future::join_all(cases.map(async |(case, without, with)| {
        let received = before_after::received(case, false, short).await;
        assert_eq!(received.expect("an answer"), without, "without the layer");
        let received = before_after::received(case, true, LONG).await;
        assert_eq!(received.expect("an answer"), with, "with the layer");
    }))
    .await;
}
