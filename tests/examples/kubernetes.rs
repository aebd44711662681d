//! The example of a server in a pod: not ready, drained, and gone.

#[path = "../../examples/kubernetes.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use std::{net::SocketAddr, time::Duration};

use testkit::{
    client::connect,
    server::{VERSIONS, Version, listen, next_data, receive, request},
    wait::within,
};
use tokio::sync::oneshot;

use super::open;

#[tokio::test]
async fn pod_is_not_ready_before_its_streams_end_and_is_gone_after_its_grace() {
    let (listener, address) = listen().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let (noticed, notice) = oneshot::channel::<()>();
    let server = tokio::spawn(async {
        let signal = async { stopped.await.expect("a signal") };
        let notice = async { notice.await.expect("a notice") };
        example::serve(listener, signal, notice, Duration::from_secs(2)).await
    });
    let silent = connect(address).await;
    let mut streams = Vec::new();
    for version in VERSIONS {
        streams.push(open(address, version, "GET", "/events").await.1);
    }
    assert_eq!(ready(address).await, 200);

    stop.send(()).expect("the server runs");
    while ready(address).await != 503 {}
    for stream in &mut streams {
        // The streams go on, and so do new ones.
        next_data(stream).await;
    }
    streams.push(open(address, Version::Http1, "GET", "/events").await.1);
    let (_, answer) = open(address, Version::Http1, "POST", "/answer").await;

    noticed.send(()).expect("the server runs");
    for stream in streams {
        let text = receive(stream).await.text();
        let end = text.rsplit_once("event: close\ndata:\nretry: ");
        assert!(end.is_some(), "{text:?}");
    }
    // The answer takes longer than its grace.
    let text = receive(answer).await.text();
    assert!(text.contains("data: word"), "{text:?}");
    assert!(text.contains("event: close\ndata:\nretry: "), "{text:?}");
    let drained = within(server).await.expect("no panic").expect("no error");
    assert_eq!((drained.ended(), drained.still_open()), (4, 0));
    drop(silent);
}

/// Returns the status of `/ready`.
async fn ready(address: SocketAddr) -> u16 {
    let response = request(address, Version::Http1, "GET", "/ready").await;
    response.status().as_u16()
}
