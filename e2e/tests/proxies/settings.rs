//! What happens without the settings that the README names.

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

/// For what never happens. A slow machine cannot make these tests fail.
const A_WHILE: Duration = Duration::from_millis(500);

/// Of a proxy that waits for the next bytes of a stream. Short, for the test; long enough for a heartbeat on a slow machine.
const TIMEOUT_SECONDS: u32 = 3;

#[tokio::test]
async fn nginx_as_it_comes_keeps_everything_back_until_the_stream_ends() {
    let site = Site::behind(nginx_as_it_comes()).await;
    let address = site.address(Version::Http1);
    let mut opening = tokio::spawn(Client::open(address, Version::Http1, "/events"));
    let opened = time::timeout(A_WHILE, &mut opening).await;
    assert!(opened.is_err(), "nginx sends the head of the answer");

    site.a.shut_down();
    site.b.shut_down();
    let client = in_time("all arrives", opening).await.expect("no panic");
    let all = format!("data: hello\n\n{CLOSE_EVENT}");
    assert_eq!(client.end().await, (all, End::Clean));
}

#[tokio::test]
async fn nginx_as_it_comes_lets_a_response_turn_buffering_off() {
    let mut site = Site::behind(nginx_as_it_comes()).await;
    let mut client = site.open(Version::Http1, "/unbuffered").await;
    client.until("data: hello\n\n").await;
    let instance = site.instance_of(&client);
    instance.say("again");
    client.until("data: again\n\n").await;
    instance.shut_down();
    assert_eq!(client.end().await, (CLOSE_EVENT.to_owned(), End::Clean));
}

#[tokio::test]
async fn nginx_with_http_1_0_to_the_instances_makes_a_clean_end_of_a_cut() {
    let mut site = Site::behind(Config::of(Kind::Nginx).without("proxy_http_version 1.1;")).await;
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;
    site.instance_of(&client).fail();
    assert_eq!(client.end().await, (String::new(), End::Clean));
}

#[tokio::test]
async fn nginx_that_counts_failures_answers_502_once_both_instances_have_restarted() {
    // For ten seconds where nothing is said; a slow machine may need more.
    let config = Config::of(Kind::Nginx).replace("max_fails=0", "fail_timeout=1h");
    let mut site = Site::behind(config).await;
    let (on_a, on_b) = site.open_both(Version::Http1).await;
    site.a.shut_down();
    on_a.end().await;
    site.a.gone().await;
    // With a stream on the other one, this one is tried first.
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;

    site.a.restart().await;
    site.b.shut_down();
    on_b.end().await;
    client.end().await;
    site.b.gone().await;
    assert_eq!(
        site.open(Version::Http1, "/events").await.status.as_u16(),
        502
    );
}

#[tokio::test]
async fn haproxy_without_http_no_delay_keeps_every_event_back_for_a_moment() {
    let config = Config::of(Kind::Haproxy);
    let with = fastest_event(config.clone()).await;
    let without = fastest_event(config.without("option http-no-delay")).await;
    // Linux keeps a segment that is not full for 200 ms where more is announced. A slow machine takes longer.
    assert!(without > Duration::from_millis(100), "{without:?}");
    assert!(with < without, "{with:?}, without it {without:?}");
}

#[tokio::test]
async fn haproxy_without_abortonclose_does_not_tell_that_a_client_has_left() {
    let mut site = Site::behind(Config::of(Kind::Haproxy).without("option abortonclose")).await;
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;
    let instance = site.instance_of(&client);
    client.leave();
    let known = time::timeout(A_WHILE, instance.next_ending()).await;
    assert!(known.is_err(), "HAProxy tells it: {known:?}");

    // It learns of it when it cannot write.
    let known = async {
        loop {
            instance.say("anybody there?");
            if let Ok(ending) = time::timeout(A_WHILE / 10, instance.next_ending()).await {
                break ending;
            }
        }
    };
    assert_eq!(in_time("the server knows", known).await, Ending::Dropped);
}

#[tokio::test]
async fn haproxy_without_redispatch_answers_503_for_an_instance_that_is_gone() {
    let config = Config::of(Kind::Haproxy).without("option redispatch 1");
    assert_eq!(answer_when_an_instance_is_gone(config).await, 503);
}

#[tokio::test]
async fn caddy_without_a_second_try_answers_502_for_an_instance_that_is_gone() {
    let config = Config::of(Kind::Caddy).without("lb_try_duration 5s");
    assert_eq!(answer_when_an_instance_is_gone(config).await, 502);
}

#[tokio::test]
async fn caddy_that_forgets_failures_answers_502_for_an_instance_that_is_gone() {
    // It tries the one with the least connections again and again.
    let config = Config::of(Kind::Caddy).without("fail_duration 1s");
    assert_eq!(answer_when_an_instance_is_gone(config).await, 502);
}

#[tokio::test]
async fn a_heartbeat_keeps_nginx_from_cutting_a_silent_stream() {
    a_heartbeat_keeps_from_cutting(Kind::Nginx).await;
}

#[tokio::test]
async fn a_heartbeat_keeps_haproxy_from_cutting_a_silent_stream() {
    a_heartbeat_keeps_from_cutting(Kind::Haproxy).await;
}

async fn a_heartbeat_keeps_from_cutting(kind: Kind) {
    let site = Site::behind(Config::of(kind).timeout(TIMEOUT_SECONDS)).await;
    let mut heartbeat = site.open(Version::Http1, "/heartbeat").await;
    let silent = site.open(Version::Http1, "/silent").await;
    let mut cut = pin!(silent.end());
    let end = loop {
        tokio::select! {
            end = &mut cut => break end,
            () = heartbeat.until(":\n") => {}
        }
    };
    assert_eq!(
        end,
        (String::new(), End::Cut),
        "the timeout is not in force"
    );
    heartbeat.until(":\n:\n:\n").await;
}

/// The least time of ten events, from the handler to the client.
async fn fastest_event(config: Config) -> Duration {
    let mut site = Site::behind(config).await;
    let mut client = site.open(Version::Http1, "/events").await;
    client.until("data: hello\n\n").await;
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let said = Instant::now();
        site.instance_of(&client).say("again");
        client.until("data: again\n\n").await;
        fastest = fastest.min(said.elapsed());
    }
    fastest
}

/// Without what the README names. With either of the two, nginx 1.22 passes small chunks on.
fn nginx_as_it_comes() -> Config {
    Config::of(Kind::Nginx)
        .without("proxy_buffering off;")
        .without("proxy_http_version 1.1;")
}

/// What the next client gets when one of two instances has gone. An `EventSource` gives up for good on these.
async fn answer_when_an_instance_is_gone(config: Config) -> u16 {
    let mut site = Site::behind(config).await;
    let (on_a, _on_b) = site.open_both(Version::Http1).await;
    site.a.shut_down();
    on_a.end().await;
    site.a.gone().await;
    site.open(Version::Http1, "/events").await.status.as_u16()
}
