//! The hyper and warp examples: the servers close their streams, and then return.

#[path = "../../examples/hyper.rs"]
#[allow(dead_code, reason = "main is not called")]
mod hyper_example;
#[path = "../../examples/warp.rs"]
#[allow(dead_code, reason = "main is not called")]
mod warp_example;

use std::net::SocketAddr;

use testkit::{
    server::{VERSIONS, Version, listen, receive, request},
    wait::within,
};
use tokio::net::TcpListener;
use tower_sse_completion::Shutdown;

use super::{assert_closed, open, receive_text};

/// Opens a stream over each version of HTTP, closes the shutdown, and waits for the streams and the server to end.
async fn assert_closes_its_streams_and_returns<F>(
    serve: impl FnOnce(TcpListener, Shutdown) -> F,
    first_event: &str,
    other_response: impl AsyncFn(SocketAddr, Version),
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    let shutdown = Shutdown::new();
    let server = tokio::spawn(serve(listener, shutdown.clone()));
    let mut streams = Vec::new();
    for version in VERSIONS {
        let (first, body) = open(address, version, "GET", "/events").await;
        assert_eq!(first, first_event);
        streams.push(body);
        other_response(address, version).await;
    }
    shutdown.close();
    for body in streams {
        assert_closed(body).await;
    }
    within(server).await.expect("no panic");
}

#[tokio::test]
async fn hyper_closes_its_streams_and_returns() {
    assert_closes_its_streams_and_returns(
        async |listener, shutdown| hyper_example::serve(listener, &shutdown).await,
        "data: 1\n\n",
        async |address, version| {
            let other = request(address, version, "GET", "/").await;
            assert_eq!(other.status(), 404);
            assert_eq!(receive(other.into_body()).await.text(), "try /events\n");
        },
    )
    .await;
}

#[tokio::test]
async fn warp_closes_its_streams_and_returns() {
    assert_closes_its_streams_and_returns(
        async |listener, shutdown| warp_example::serve(listener, &shutdown).await,
        "data:1\n\n",
        async |address, version| {
            let other = request(address, version, "GET", "/hello").await;
            assert_eq!(other.headers()["content-length"], "6");
            let text = receive_text(address, version, "GET", "/hello").await;
            assert_eq!(text, "hello\n");
        },
    )
    .await;
}
