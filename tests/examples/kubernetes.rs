//! The Kubernetes example: the pod becomes unready, drains its streams, and ends within its grace period.

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
async fn pod_is_unready_before_its_streams_end_and_ends_after_its_grace() {
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
        // Open streams continue, and new streams start.
        next_data(stream).await;
    }
    streams.push(open(address, Version::Http1, "GET", "/events").await.1);
    let (_, words) = open(address, Version::Http1, "POST", "/words").await;

    noticed.send(()).expect("the server runs");
    for stream in streams {
        let text = receive(stream).await.text();
        let end = text.rsplit_once("event: close\ndata:\nretry: ");
        assert!(end.is_some(), "{text:?}");
    }
    // The response takes longer than the grace.
    let text = receive(words).await.text();
    assert!(text.contains("data: word"), "{text:?}");
    assert!(text.contains("event: close\ndata:\nretry: "), "{text:?}");
    let drained = within(server).await.expect("no panic").expect("no error");
    assert_eq!((drained.ended(), drained.still_open()), (4, 0));
    drop(silent);
}

#[test]
fn manifest_of_the_guide_leaves_time_for_the_notice_the_grace_and_a_margin() {
    let page = include_str!("../../docs/shutdown.md");
    let (_, period) = page
        .split_once("terminationGracePeriodSeconds: ")
        .expect("a manifest");
    let period: u64 = period
        .lines()
        .next()
        .and_then(|line| line.parse().ok())
        .expect("a number");
    let (clients_that_do_not_read, margin) = (2, 3);
    let needed = example::NOTICE.as_secs() + example::GRACE.as_secs();
    assert_eq!(period, needed + clients_that_do_not_read + margin);
}

/// Returns the status of `/ready`.
async fn ready(address: SocketAddr) -> u16 {
    let response = request(address, Version::Http1, "GET", "/ready").await;
    response.status().as_u16()
}
