//! The examples, over loopback sockets.

#![allow(
    clippy::duplicate_mod,
    reason = "several examples use examples/support"
)]

mod before_after;
mod grpc;
mod kubernetes;
mod llm_proxy;
mod mcp;
mod prometheus;
mod servers;
mod sessions;

use std::net::SocketAddr;

use bytes::Bytes;
use hyper::body::Incoming;
use testkit::server::{Version, next_data, receive, request};

/// Opens an event stream, and returns its first frame and the rest of its body.
async fn open(
    address: SocketAddr,
    version: Version,
    method: &str,
    path: &str,
) -> (Bytes, Incoming) {
    let response = request(address, version, method, path).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    (next_data(&mut body).await, body)
}

/// Returns the text of the body of a response to this request.
async fn receive_text(address: SocketAddr, version: Version, method: &str, path: &str) -> String {
    let response = request(address, version, method, path).await;
    receive(response.into_body()).await.text()
}

/// Receives the rest of a stream, and asserts that the stream ends with the default close event.
async fn assert_closed(body: Incoming) {
    let text = receive(body).await.text();
    assert!(text.ends_with("event: close\ndata:\n\n"), "{text:?}");
}
