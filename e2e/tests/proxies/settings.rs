//! The effects of the settings that the guide recommends: each test removes one.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use e2e::{
    event_source::Version,
    proxy::{Config, Kind},
};
use tokio::time;
use tower_sse_completion::Ending;

use crate::{
    CLOSE_EVENT,
    client::{Client, End, in_time},
    site::Site,
};

/// The time to wait for an event that must not occur. A slow machine cannot make these tests fail.
const A_WHILE: Duration = Duration::from_millis(500);

/// The timeout of a proxy for the next bytes of a stream, long enough for a heartbeat on a slow machine.
const TIMEOUT_SECONDS: u32 = 3;

#[tokio::test]
async fn nginx_with_default_settings_buffers_a_stream_until_its_end() {
    let site = Site::start(nginx_with_default_settings()).await;
    let address = site.address(Version::Http1);
    let mut opening = tokio::spawn(Client::open(address, Version::Http1, "/events"));
    let opened = time::timeout(A_WHILE, &mut opening).await;
    assert!(opened.is_err(), "nginx sends the head of the response");

    site.a.shut_down();
    site.b.shut_down();
    let client = in_time("the response arrives", opening)
        .await
        .expect("no panic");
    let all = format!("data: hello\n\n{CLOSE_EVENT}");
    assert_eq!(client.end().await, (all, End::Clean));
}

#[tokio::test]
async fn nginx_with_default_settings_does_not_buffer_if_a_response_disables_buffering() {
    let mut site = Site::start(nginx_with_default_settings()).await;
    let mut client = site.open(Version::Http1, "/unbuffered").await;
    client.until("data: hello\n\n").await;
    let instance = site.responder(&client);
    instance.send("again");
    client.until("data: again\n\n").await;
    instance.shut_down();
    assert_eq!(client.end().await, (CLOSE_EVENT.to_owned(), End::Clean));
}

#[tokio::test]
async fn nginx_with_http_1_0_to_the_instances_turns_a_cut_into_a_clean_end() {
    let mut site =
        Site::start(Config::new(Kind::Nginx).remove_line("proxy_http_version 1.1;")).await;
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;
    site.responder(&client).fail();
    assert_eq!(client.end().await, (String::new(), End::Clean));
}

#[tokio::test]
async fn nginx_that_counts_failures_responds_502_after_both_instances_have_restarted() {
    // The default is ten seconds, which is too short for a slow machine.
    let config = Config::new(Kind::Nginx).replace("max_fails=0", "fail_timeout=1h");
    let mut site = Site::start(config).await;
    let (on_a, on_b) = site.open_both(Version::Http1).await;
    site.a.shut_down();
    on_a.end().await;
    site.a.ended().await;
    // The other instance has a stream, so nginx tries the stopped instance first.
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;

    site.a.restart().await;
    site.b.shut_down();
    on_b.end().await;
    client.end().await;
    site.b.ended().await;
    assert_eq!(
        site.open(Version::Http1, "/events").await.status.as_u16(),
        502
    );
}

#[tokio::test]
async fn haproxy_without_http_no_delay_delays_every_event() {
    let config = Config::new(Kind::Haproxy);
    let with = fastest_event(config.clone()).await;
    let without = fastest_event(config.remove_line("option http-no-delay")).await;
    // Linux delays a partial segment for 200 ms if more data are announced. A slow machine takes longer.
    assert!(without > Duration::from_millis(100), "{without:?}");
    assert!(with < without, "{with:?}, without it {without:?}");
}

#[tokio::test]
async fn haproxy_without_abortonclose_does_not_close_the_stream_of_a_client_that_left() {
    let mut site = Site::start(Config::new(Kind::Haproxy).remove_line("option abortonclose")).await;
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;
    let instance = site.responder(&client);
    client.leave();
    let ended = time::timeout(A_WHILE, instance.next_ending()).await;
    assert!(ended.is_err(), "the stream has ended: {ended:?}");

    // The server detects that the client has left when a write fails.
    let ended = async {
        loop {
            instance.send("again");
            if let Ok(ending) = time::timeout(A_WHILE / 10, instance.next_ending()).await {
                break ending;
            }
        }
    };
    assert_eq!(in_time("the stream ends", ended).await, Ending::Dropped);
}

#[tokio::test]
async fn haproxy_without_redispatch_responds_503_for_a_stopped_instance() {
    let config = Config::new(Kind::Haproxy).remove_line("option redispatch 1");
    assert_eq!(status_after_an_instance_stopped(config).await, 503);
}

#[tokio::test]
async fn caddy_without_a_second_try_responds_502_for_a_stopped_instance() {
    let config = Config::new(Kind::Caddy).remove_line("lb_try_duration 5s");
    assert_eq!(status_after_an_instance_stopped(config).await, 502);
}

#[tokio::test]
async fn caddy_that_forgets_failures_responds_502_for_a_stopped_instance() {
    // Caddy repeatedly tries the instance with the least connections.
    let config = Config::new(Kind::Caddy).remove_line("fail_duration 1s");
    assert_eq!(status_after_an_instance_stopped(config).await, 502);
}

#[tokio::test]
async fn a_heartbeat_prevents_nginx_from_cutting_a_silent_stream() {
    assert_heartbeat_prevents_a_cut(Kind::Nginx).await;
}

#[tokio::test]
async fn a_heartbeat_prevents_haproxy_from_cutting_a_silent_stream() {
    assert_heartbeat_prevents_a_cut(Kind::Haproxy).await;
}

async fn assert_heartbeat_prevents_a_cut(kind: Kind) {
    let site = Site::start(Config::new(kind).timeout(TIMEOUT_SECONDS)).await;
    let mut heartbeat = site.open(Version::Http1, "/heartbeat").await;
    let silent = site.open(Version::Http1, "/silent").await;
    let mut cut = pin!(silent.end());
    let end = loop {
        tokio::select! {
            end = &mut cut => break end,
            () = heartbeat.until(":\n\n") => {}
        }
    };
    assert_eq!(end, (String::new(), End::Cut), "the proxy has no timeout");
    heartbeat.until(":\n\n:\n\n:\n\n").await;
}

/// Returns the minimum time from the handler to the client, of ten events.
async fn fastest_event(config: Config) -> Duration {
    let mut site = Site::start(config).await;
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let sent = Instant::now();
        site.responder(&client).send("again");
        client.until("data: again\n\n").await;
        fastest = fastest.min(sent.elapsed());
    }
    fastest
}

/// Returns the configuration without both settings. With either of the two, nginx 1.22 forwards small chunks.
fn nginx_with_default_settings() -> Config {
    Config::new(Kind::Nginx)
        .remove_line("proxy_buffering off;")
        .remove_line("proxy_http_version 1.1;")
}

/// Returns the status for the next client after one of two instances has stopped. An `EventSource` does not reconnect after
/// a status other than 200.
async fn status_after_an_instance_stopped(config: Config) -> u16 {
    let mut site = Site::start(config).await;
    let (on_a, _on_b) = site.open_both(Version::Http1).await;
    site.a.shut_down();
    on_a.end().await;
    site.a.ended().await;
    site.open(Version::Http1, "/events").await.status.as_u16()
}
