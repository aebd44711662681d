//! The example of a graceful shutdown: subscriptions end at once, answers have their grace.

#[path = "../../examples/graceful_shutdown.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use testkit::{
    server::{Version, listen, next_data, receive},
    wait::within,
};
use tokio::sync::oneshot;

use super::open;

#[tokio::test]
async fn shutdown_ends_subscriptions_at_once_and_gives_answers_their_grace() {
    let (listener, address) = listen().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let client = async {
        let (_, mut answer) = open(address, Version::Http1, "POST", "/answer").await;
        let (_, subscription) = open(address, Version::Http1, "GET", "/subscribe").await;
        stop.send(()).expect("a server");

        let end = receive(subscription).await.text();
        let (_, retry) = end
            .rsplit_once("event: close\ndata:\nretry: ")
            .expect("a close event with a reconnection time");
        let retry: u64 = retry.trim_end().parse().expect("a number");
        assert!((1000..=5000).contains(&retry), "{retry}");

        for _ in 0..2 {
            let word = next_data(&mut answer).await;
            assert!(word.ends_with(b"data: word\n\n"), "{word:?}");
        }
        // The client leaves, so that no stream is open.
        drop(answer);
    };
    let server = example::serve(listener, stopped);
    let (served, ()) = within(futures_util::future::join(server, client)).await;
    let drained = served.expect("a valid close event");
    assert_eq!(
        (
            drained.ended(),
            drained.still_open(),
            drained.connections_cut()
        ),
        (2, 0, 0)
    );
}
