//! `Shutdown::drain`, on tokio's paused clock.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use http::{Method, Request};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{
        CLOSE, drive, event_stream_response, extended, idle, send_response, shutdown_layer,
    },
    script::{AfterScript, Script},
    wait::within,
};
use tokio::time::{Instant, sleep};
use tower_sse_completion::{CloseEvent, Drained, Shutdown};

const GRACE: Duration = Duration::from_secs(10);

fn counts(drained: Drained) -> (usize, usize) {
    (drained.ended(), drained.still_open())
}

#[tokio::test(start_paused = true)]
async fn c18_drain_does_not_count_streams_that_ended_earlier() {
    let shutdown = Shutdown::new();
    drop(idle(&shutdown_layer(&shutdown)));
    assert_eq!(counts(shutdown.drain(GRACE).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_returns_as_soon_as_no_stream_is_open() {
    let shutdown = Shutdown::new();
    let start = Instant::now();
    assert_eq!(counts(shutdown.drain(GRACE).await), (0, 0));
    assert_eq!(start.elapsed(), Duration::ZERO);

    let shutdown = Shutdown::new();
    let body = idle(&shutdown_layer(&shutdown));
    tokio::spawn(async move {
        sleep(Duration::from_secs(3)).await;
        drop(body);
    });
    assert_eq!(counts(shutdown.drain(GRACE).await), (1, 0));
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn c24_drain_returns_as_soon_as_the_last_connection_is_dropped() {
    let (shutdown, start) = (Shutdown::new(), Instant::now());
    let connections = [1, 2].map(|_| shutdown.connection(()));
    tokio::spawn(async move {
        for connection in connections {
            sleep(Duration::from_secs(3)).await;
            drop(connection);
        }
    });
    let drained = shutdown.drain(GRACE).await;
    assert_eq!(drained.connections_cut(), 0);
    assert_eq!(start.elapsed(), Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_closes_streams_when_the_grace_is_over() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown));
    let draining = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.drain(GRACE).await }
    });
    sleep(GRACE - Duration::from_millis(1)).await;
    assert!(body.poll().is_pending());
    sleep(Duration::from_millis(2)).await;
    assert_eq!(body.rest().bytes(), CLOSE);
    assert_eq!(counts(draining.await.expect("no panic")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_is_bounded_when_a_client_has_stopped_reading() {
    let shutdown = Shutdown::new();
    let _never_polled = idle(&shutdown_layer(&shutdown));
    let start = Instant::now();
    let drained = shutdown.drain(GRACE).await;
    assert_eq!(start.elapsed(), GRACE + Duration::from_secs(1));
    assert_eq!(counts(drained), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn c18_grace_of_zero_ends_streams_at_once_and_an_endless_grace_never() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown));
    let drained = tokio::join!(shutdown.drain(Duration::ZERO), async {
        tokio::task::yield_now().await;
        body.rest().bytes()
    });
    assert_eq!((counts(drained.0), &drained.1[..]), ((1, 0), CLOSE));

    let shutdown = Shutdown::new();
    let body = idle(&shutdown_layer(&shutdown));
    let (drained, ()) = tokio::join!(shutdown.drain(Duration::MAX), async {
        sleep(Duration::from_secs(1_000_000)).await;
        drop(body);
    });
    assert_eq!(counts(drained), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_stream_that_starts_during_a_drain_has_what_is_left_of_the_grace() {
    let shutdown = Shutdown::new();
    let old = idle(&shutdown_layer(&shutdown));
    let watching = shutdown_layer(&shutdown).end_on_drain(|_| true);
    assert!(!shutdown.is_draining());
    let mut draining = Box::pin(shutdown.drain(GRACE));
    assert!((&mut draining).now_or_never().is_none());
    assert!(shutdown.is_draining() && !shutdown.is_closed());
    assert!(format!("{shutdown:?}").contains("Draining"));

    let mut subscription = drive(&watching, Script::silent());
    assert_eq!(
        subscription.rest().bytes(),
        CLOSE,
        "the subscription ends on drain"
    );
    assert!(!shutdown.is_closed());

    let mut new = drive(&shutdown_layer(&shutdown), Script::silent());
    sleep(GRACE / 2).await;
    assert!(new.poll().is_pending(), "the grace is not over");
    drop(old);
    let (drained, new) = tokio::join!(draining, async {
        sleep(GRACE / 2 + Duration::from_millis(1)).await;
        new.rest().bytes()
    });
    assert_eq!((counts(drained), &new[..]), ((3, 0), CLOSE));
    assert!(shutdown.is_closed());
    let mut late = drive(&shutdown_layer(&shutdown), Script::silent());
    assert_eq!(late.rest().bytes(), CLOSE, "after the close");
}

#[tokio::test(start_paused = true)]
async fn c18_drain_that_is_dropped_leaves_streams_open_until_close() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown));
    let _ = tokio::time::timeout(Duration::from_secs(1), shutdown.drain(GRACE)).await;
    sleep(GRACE * 2).await;
    assert!(body.poll().is_pending());
    shutdown.close();
    assert_eq!(body.rest().bytes(), CLOSE);
}

#[tokio::test(start_paused = true)]
async fn c18_streams_that_end_on_drain_end_at_the_start_of_a_drain() {
    let shutdown = Shutdown::new();
    let layer = shutdown_layer(&shutdown).end_on_drain(|request| request.method == Method::GET);
    let start = |method| {
        let mut request = Request::new(());
        *request.method_mut() = method;
        let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
        let response = send_response(&layer, request, event_stream_response(upstream));
        let mut body = Driver::new(response.into_body());
        body.data();
        assert!(body.poll().is_pending());
        body
    };
    let (mut subscription, mut response) = (start(Method::GET), start(Method::POST));
    let mut draining = Box::pin(shutdown.drain(GRACE));
    assert!((&mut draining).now_or_never().is_none());
    assert_eq!(subscription.wakes(), 1);
    assert_eq!(subscription.rest().bytes(), CLOSE);
    assert_eq!(response.wakes(), 0, "the response has the grace");
    assert!(response.poll().is_pending());
    let (drained, ()) = tokio::join!(draining, async {
        sleep(GRACE + Duration::from_millis(1)).await;
        assert_eq!(response.rest().bytes(), CLOSE);
    });
    assert_eq!(counts(drained), (2, 0));
}

#[test]
fn c18_stream_that_ends_on_drain_ends_at_a_close_without_a_drain() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown).end_on_drain(|_| true));
    shutdown.close();
    assert_eq!(body.wakes(), 1);
    assert_eq!(body.rest().bytes(), CLOSE);
    assert_eq!(shutdown.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn c18_stream_ends_on_drain_of_an_attached_shutdown() {
    let (room, process) = (Shutdown::new(), Shutdown::new());
    let layer = shutdown_layer(&process).end_on_drain(|_| true);
    let mut response = event_stream_response(Script::silent());
    room.attach(response.extensions_mut());
    let mut body = Driver::new(send_response(&layer, Request::new(()), response).into_body());
    body.assert_pending();
    let (drained, bytes) = tokio::join!(room.drain(GRACE), async { body.rest().bytes() });
    assert_eq!((counts(drained), &bytes[..]), ((1, 0), CLOSE));
    assert_eq!(process.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn c15_drain_with_an_event_ends_its_streams_with_that_event() {
    let shutdown = Shutdown::new();
    let event = CloseEvent::from_static("restart");
    let mut subscription = idle(&shutdown_layer(&shutdown).end_on_drain(|_| true));
    let mut response = idle(&shutdown_layer(&shutdown));
    let mut own = extended(&shutdown_layer(&shutdown), CloseEvent::from_static("own"));
    own.assert_pending();
    let mut draining = Box::pin(shutdown.drain(GRACE).close_event(event));
    assert!(!shutdown.is_draining(), "not before the first poll");
    assert!((&mut draining).now_or_never().is_none());
    assert_eq!(subscription.rest().text(), "event: restart\ndata:\n\n");
    response.assert_pending();
    let (drained, ()) = tokio::join!(draining, async {
        sleep(GRACE + Duration::from_millis(1)).await;
        assert_eq!(response.rest().text(), "event: restart\ndata:\n\n");
        assert_eq!(own.rest().text(), "event: own\ndata:\n\n");
    });
    assert_eq!(counts(drained), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_after_a_signal_waits_for_the_signal_and_then_drains() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown));
    let (signal, signalled) = tokio::sync::oneshot::channel::<()>();
    // The future is `Send` and `'static`.
    let drain = tokio::spawn(shutdown.drain(GRACE).after(signalled));
    sleep(GRACE * 2).await;
    assert!(!shutdown.is_draining());
    signal.send(()).expect("the drain waits for the signal");
    sleep(GRACE / 2).await;
    assert!(shutdown.is_draining());
    body.assert_pending();
    sleep(GRACE / 2 + Duration::from_millis(1)).await;
    assert_eq!(body.rest().bytes(), CLOSE);
    assert_eq!(counts(drain.await.expect("no panic")), (1, 0));
}

#[tokio::test]
async fn c18_last_stream_that_ends_as_a_drain_begins_is_never_missed() {
    for _ in (0..2_000).step_by(MIRI_STRIDE) {
        let shutdown = Shutdown::new();
        let body = idle(&shutdown_layer(&shutdown));
        let start = Arc::new(Barrier::new(2));
        let ender = thread::spawn({
            let start = Arc::clone(&start);
            move || {
                start.wait();
                drop(body);
            }
        });
        start.wait();
        // Without an end of the grace, nothing but the stream wakes the drain.
        within(shutdown.drain(Duration::MAX)).await;
        ender.join().expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn c18_client_that_reconnects_during_a_drain_reconnects_once() {
    let shutdown = Shutdown::new();
    let with_grace = shutdown_layer(&shutdown);
    let first = idle(&with_grace);
    let drain = tokio::spawn(shutdown.drain(GRACE));
    sleep(GRACE / 10).await;
    drop(first);
    // The client reconnects as soon as its stream ends, while the server still accepts.
    let mut streams = 1;
    while !drain.is_finished() && streams < 100 {
        streams += 1;
        let mut body = idle(&with_grace);
        while body.poll().is_pending() {
            sleep(GRACE / 50).await;
        }
        assert!(shutdown.is_closed(), "the stream has all of the grace");
        body.drop_body();
        tokio::task::yield_now().await;
    }
    // The drain ends as soon as no stream is open, so the client may reconnect before the end or not at all.
    assert!(streams <= 2, "{streams} streams of one client");
    drain.await.expect("no panic");
}
