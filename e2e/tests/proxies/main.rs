//! The ends of event streams behind nginx, HAProxy and Caddy, with the configurations that the guide recommends.

mod client;
mod guide;
mod settings;
mod site;

use e2e::{
    event_source::Version,
    proxy::{Config, Kind},
};
use tower_sse_completion::Ending;

use self::{
    client::{End, in_time},
    site::{INSTANCE, Site},
};

const CLOSE_EVENT: &str = "event: close\ndata:\n\n";

/// Runs each test of this file behind one proxy, with clients of one HTTP version.
macro_rules! proxy_tests {
    ($($name:ident: $kind:ident, $version:ident;)*) => {$(
        mod $name {
            use super::{Kind::$kind, Version::$version};

            proxy_tests! { $kind $version:
                an_event_arrives_before_the_next_event_is_sent
                c9_an_empty_stream_arrives_as_a_close_event_and_a_clean_end
                c10_shutdown_of_an_instance_ends_its_streams_and_no_others
                c12_a_stream_that_failed_arrives_without_a_close_event
                c21_a_client_that_leaves_is_reported_as_dropped
                c17_a_comment_arrives_on_a_silent_stream
                reconnects_reach_an_instance_while_the_other_restarts
            }
        }
    )*};
    ($kind:ident $version:ident: $($test:ident)*) => {$(
        #[tokio::test]
        async fn $test() {
            super::$test($kind, $version).await;
        }
    )*};
}

proxy_tests! {
    nginx_http1: Nginx, Http1;
    nginx_http2: Nginx, Http2;
    haproxy_http1: Haproxy, Http1;
    haproxy_http2: Haproxy, Http2;
    caddy_http1: Caddy, Http1;
    caddy_http2: Caddy, Http2;
}

async fn an_event_arrives_before_the_next_event_is_sent(kind: Kind, version: Version) {
    let mut site = Site::start(Config::new(kind)).await;
    let mut client = site.open(version, "/events").await;
    client.until("data: hello\n\n").await;
    site.responder(&client).send("again");
    client.until("data: again\n\n").await;
}

async fn c9_an_empty_stream_arrives_as_a_close_event_and_a_clean_end(kind: Kind, version: Version) {
    let site = Site::start(Config::new(kind)).await;
    let client = site.open(version, "/empty").await;
    assert_eq!(client.end().await, (CLOSE_EVENT.to_owned(), End::Clean));
}

async fn c10_shutdown_of_an_instance_ends_its_streams_and_no_others(kind: Kind, version: Version) {
    let mut site = Site::start(Config::new(kind)).await;
    let (mut on_a, mut on_b) = site.open_both(version).await;
    on_a.until("data: hello\n\n").await;
    on_b.until("data: hello\n\n").await;

    site.a.shut_down();
    assert_eq!(on_a.end().await, (CLOSE_EVENT.to_owned(), End::Clean));
    site.a.ended().await;

    site.b.send("still here");
    on_b.until("data: still here\n\n").await;
    site.b.shut_down();
    assert_eq!(on_b.end().await, (CLOSE_EVENT.to_owned(), End::Clean));
    site.b.ended().await;
}

async fn c12_a_stream_that_failed_arrives_without_a_close_event(kind: Kind, version: Version) {
    let mut site = Site::start(Config::new(kind)).await;
    let mut client = site.open(version, "/events").await;
    client.until("data: hello\n\n").await;
    site.responder(&client).fail();
    let (rest, end) = client.end().await;
    assert_eq!(rest, "");
    // HAProxy 2.6 turns a cut into a clean end for clients of HTTP/2, and Caddy 2.6 for all clients.
    let forwards_cuts = match kind {
        Kind::Nginx => true,
        Kind::Haproxy => version == Version::Http1,
        Kind::Caddy => false,
    };
    if forwards_cuts {
        assert_eq!(end, End::Cut);
    }
}

async fn c21_a_client_that_leaves_is_reported_as_dropped(kind: Kind, version: Version) {
    let mut site = Site::start(Config::new(kind)).await;
    let mut client = site.open(version, "/events").await;
    client.until("data: hello\n\n").await;
    let instance = site.responder(&client);
    let _connection = client.leave();
    let ending = in_time("the stream ends", instance.next_ending()).await;
    assert_eq!(ending, Ending::Dropped);
}

async fn c17_a_comment_arrives_on_a_silent_stream(kind: Kind, version: Version) {
    let site = Site::start(Config::new(kind)).await;
    let mut client = site.open(version, "/heartbeat").await;
    for _ in 0..3 {
        client.until(":\n").await;
    }
}

async fn reconnects_reach_an_instance_while_the_other_restarts(kind: Kind, version: Version) {
    let mut site = Site::start(Config::new(kind)).await;
    let (on_a, on_b) = site.open_both(version).await;
    site.a.shut_down();
    on_a.end().await;
    site.a.ended().await;
    // The other instance has a stream, so the stopped instance has the least connections.
    assert_reaches(&site, version, "b").await;

    site.a.restart().await;
    site.b.shut_down();
    on_b.end().await;
    site.b.ended().await;
    assert_reaches(&site, version, "a").await;
}

async fn assert_reaches(site: &Site, version: Version, instance: &str) {
    for _ in 0..4 {
        let mut client = site.open(version, "/events").await;
        let response = (client.status.as_u16(), client.header(&INSTANCE));
        assert_eq!(response, (200, instance));
        client.until("data: hello\n\n").await;
    }
}
