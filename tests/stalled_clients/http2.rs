//! One HTTP/2 connection whose client reads some streams and not others.

use std::time::Duration;

use testkit::{
    client::Client,
    server::{Version, next_data, receive},
    wait::{until, within},
};

use crate::site::{CLOSE, Site, listen};

#[tokio::test]
async fn c24_stream_that_is_not_read_is_cut_with_its_connection_after_other_streams_have_ended() {
    let site = Site::default();
    let (listener, address) = listen();
    let server = tokio::spawn(site.clone().serve(listener));
    // The window of the second stream is full before the socket is.
    let mut client = Client::with_window(address, Version::Http2, 64 * 1024).await;
    let mut events = client.get("/events").await.into_body();
    assert!(next_data(&mut events).await.ends_with(b"hello\n\n"));
    let stalled = client.get("/flood").await.into_body();
    site.until_blocked().await;

    site.shutdown.close();
    assert_eq!(receive(events).await.text(), CLOSE);
    assert!(!server.is_finished(), "the other stream is not read");
    let drained = within(site.shutdown.drain(Duration::ZERO)).await;
    assert_eq!((drained.still_open(), drained.connections_cut()), (1, 1));
    within(server).await.expect("no panic");
    until(|| site.ended("dropped") == 1).await;
    assert!(
        receive(stalled).await.error.is_some(),
        "the connection has been cut"
    );
}
