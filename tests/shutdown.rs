//! `Shutdown`: closing, draining and counting.

use std::{
    future,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use http::{Method, Request, Response};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{CLOSE, drive, event_stream, event_stream_response, through},
    script::{AfterScript, Script},
    wait::within,
};
use tokio::time::{Instant, sleep};
use tower_sse_completion::{
    CloseEvent, Drained, InvalidCloseEvent, ResponseBody, Shutdown, SseCompletionLayer,
};

const GRACE: Duration = Duration::from_secs(10);

fn layer(shutdown: &Shutdown) -> SseCompletionLayer {
    SseCompletionLayer::new().shutdown(shutdown)
}

/// A stream that has delivered an event, and is pending.
fn idle(layer: &SseCompletionLayer) -> Driver<ResponseBody<Script>> {
    let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
    let mut body = drive(layer, upstream);
    body.data();
    assert!(body.poll().is_pending());
    body
}

/// A stream without an event that is pending, with this extension in its response.
fn extended<E: Clone + Send + Sync + 'static>(
    layer: &SseCompletionLayer,
    extension: E,
) -> Driver<ResponseBody<Script>> {
    let mut response = event_stream_response(Script::silent());
    response.extensions_mut().insert(extension);
    Driver::new(through(layer, Request::new(()), response).into_body())
}

#[test]
fn c10_close_wakes_and_ends_every_stream() {
    let shutdown = Shutdown::new();
    let mut bodies: Vec<_> = (0..20).map(|_| idle(&layer(&shutdown))).collect();
    assert_eq!(shutdown.open_streams(), 20);
    shutdown.close();
    for body in &mut bodies {
        assert_eq!(body.wakes(), 1);
        assert_eq!(body.rest().bytes(), CLOSE);
    }
    assert_eq!(shutdown.open_streams(), 0, "ended, but not dropped");
}

#[test]
fn c15_close_before_the_stream_starts_ends_it_at_once() {
    let shutdown = Shutdown::new();
    shutdown.close();
    shutdown.close();
    let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
    let output = drive(&layer(&shutdown), upstream).rest();
    assert_eq!(output.text(), "data: x\n\nevent: close\ndata:\n\n");
}

#[test]
fn c15_shutdown_that_is_dropped_means_never() {
    let shutdown = Shutdown::new();
    let mut body = {
        let layer = layer(&shutdown);
        idle(&layer)
    };
    drop(shutdown);
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(body.wakes(), 0);
}

#[test]
fn c18_clones_are_the_same_shutdown_for_many_layers() {
    let shutdown = Shutdown::new();
    let mut first = idle(&layer(&shutdown));
    let mut second = idle(&layer(&shutdown.clone()));
    shutdown.clone().close();
    assert_eq!(first.rest().bytes(), CLOSE);
    assert_eq!(second.rest().bytes(), CLOSE);
}

#[test]
fn c18_close_with_sends_its_event_unless_the_response_brought_one() {
    let shutdown = Shutdown::new();
    let layer = layer(&shutdown).close_event(CloseEvent::new().data("the layer's"));
    let mut with_its_own = extended(&layer, CloseEvent::new().data("the handler's"));
    let mut without = idle(&layer);
    shutdown.close_with(CloseEvent::new().data("the shutdown's"));
    shutdown.close_with(CloseEvent::new().data("too late"));
    assert_eq!(
        with_its_own.rest().text(),
        "event: close\ndata: the handler's\n\n"
    );
    assert_eq!(
        without.rest().text(),
        "event: close\ndata: the shutdown's\n\n"
    );
}

#[test]
fn c18_shutdown_in_the_response_ends_that_stream_alone() {
    let (all, session) = (Shutdown::new(), Shutdown::new());
    let layer = layer(&all);
    let mut response = event_stream_response(Script::silent());
    session.attach(response.extensions_mut());
    let response = through(&layer, Request::new(()), response);
    let mut of_the_session = Driver::new(response.into_body());
    let mut other = idle(&layer);
    assert!(of_the_session.poll().is_pending());
    assert_eq!((all.open_streams(), session.open_streams()), (2, 1));
    session.close_with(CloseEvent::named("logged-out").expect("a good name"));
    assert_eq!(of_the_session.rest().text(), "event: logged-out\ndata:\n\n");
    assert!(other.poll().is_pending());
    assert_eq!((all.open_streams(), session.open_streams()), (1, 0));
}

#[test]
fn c18_open_streams_counts_event_streams_until_they_end_or_are_dropped() {
    let shutdown = Shutdown::new();
    let layer = layer(&shutdown);
    let json = Response::new(Script::frames(["{}"]));
    let json = through(&layer, Request::new(()), json);
    assert_eq!(shutdown.open_streams(), 0, "other responses do not count");
    drop(json);

    let unpolled: ResponseBody<_> = event_stream(&layer, Script::new([]));
    assert_eq!(shutdown.open_streams(), 1, "from the response");
    drop(unpolled);
    assert_eq!(shutdown.open_streams(), 0);

    let mut ends = drive(&layer, Script::frames(["data: x\n\n"]));
    ends.rest();
    assert_eq!(shutdown.open_streams(), 0);

    let dropped = idle(&layer);
    assert_eq!(shutdown.open_streams(), 1);
    let debug = "Shutdown { phase: Open, open_streams: 1, .. }";
    assert_eq!(format!("{shutdown:?}"), debug);
    drop(dropped);
    assert_eq!(shutdown.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn c18_drain_does_not_count_streams_that_ended_before_it() {
    let shutdown = Shutdown::new();
    drop(idle(&layer(&shutdown)));
    assert_eq!(counts(shutdown.drain(GRACE).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_returns_as_soon_as_no_stream_is_open() {
    let shutdown = Shutdown::new();
    let start = Instant::now();
    assert_eq!(counts(shutdown.drain(GRACE).await), (0, 0));
    assert_eq!(start.elapsed(), Duration::ZERO);

    let shutdown = Shutdown::new();
    let body = idle(&layer(&shutdown));
    tokio::spawn(async move {
        sleep(Duration::from_secs(3)).await;
        drop(body);
    });
    assert_eq!(counts(shutdown.drain(GRACE).await), (1, 0));
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_closes_streams_when_the_grace_is_over() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown));
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
    let _never_polled = idle(&layer(&shutdown));
    let start = Instant::now();
    let drained = shutdown.drain(GRACE).await;
    assert_eq!(start.elapsed(), GRACE + Duration::from_secs(1));
    assert_eq!(counts(drained), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_without_a_grace_or_with_an_endless_one_is_defined() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown));
    let drained = tokio::join!(shutdown.drain(Duration::ZERO), async {
        tokio::task::yield_now().await;
        body.rest().bytes()
    });
    assert_eq!((counts(drained.0), &drained.1[..]), ((1, 0), CLOSE));

    let shutdown = Shutdown::new();
    let body = idle(&layer(&shutdown));
    let (drained, ()) = tokio::join!(shutdown.drain(Duration::MAX), async {
        sleep(Duration::from_secs(1_000_000)).await;
        drop(body);
    });
    assert_eq!(counts(drained), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_stream_that_starts_during_a_drain_has_what_is_left_of_the_grace() {
    let shutdown = Shutdown::new();
    let old = idle(&layer(&shutdown));
    let watching = layer(&shutdown).end_on_drain(|_| true);
    assert!(!shutdown.is_draining());
    let mut draining = Box::pin(shutdown.drain(GRACE));
    assert!((&mut draining).now_or_never().is_none());
    assert!(shutdown.is_draining() && !shutdown.is_closed());

    let mut subscription = drive(&watching, Script::silent());
    assert_eq!(subscription.rest().bytes(), CLOSE, "it ends on drain");
    assert!(!shutdown.is_closed());

    let mut new = drive(&layer(&shutdown), Script::silent());
    sleep(GRACE / 2).await;
    assert!(new.poll().is_pending(), "the grace is not over");
    drop(old);
    let (drained, new) = tokio::join!(draining, async {
        sleep(GRACE / 2 + Duration::from_millis(1)).await;
        new.rest().bytes()
    });
    assert_eq!((counts(drained), &new[..]), ((3, 0), CLOSE));
    assert!(shutdown.is_closed());
    let mut late = drive(&layer(&shutdown), Script::silent());
    assert_eq!(late.rest().bytes(), CLOSE, "after the close");
}

#[tokio::test(start_paused = true)]
async fn c18_drain_that_is_dropped_leaves_streams_open_until_close() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown));
    let _ = tokio::time::timeout(Duration::from_secs(1), shutdown.drain(GRACE)).await;
    sleep(GRACE * 2).await;
    assert!(body.poll().is_pending());
    shutdown.close();
    assert_eq!(body.rest().bytes(), CLOSE);
}

#[tokio::test(start_paused = true)]
async fn c18_streams_that_end_on_drain_end_at_the_start_of_a_drain() {
    let shutdown = Shutdown::new();
    let layer = layer(&shutdown).end_on_drain(|request| request.method == Method::GET);
    let start = |method| {
        let mut request = Request::new(());
        *request.method_mut() = method;
        let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
        let response = through(&layer, request, event_stream_response(upstream));
        let mut body = Driver::new(response.into_body());
        body.data();
        assert!(body.poll().is_pending());
        body
    };
    let (mut subscription, mut answer) = (start(Method::GET), start(Method::POST));
    let mut draining = Box::pin(shutdown.drain(GRACE));
    assert!((&mut draining).now_or_never().is_none());
    assert_eq!(subscription.wakes(), 1);
    assert_eq!(subscription.rest().bytes(), CLOSE);
    assert_eq!(answer.wakes(), 0, "the answer has the grace");
    assert!(answer.poll().is_pending());
    let (drained, ()) = tokio::join!(draining, async {
        sleep(GRACE + Duration::from_millis(1)).await;
        assert_eq!(answer.rest().bytes(), CLOSE);
    });
    assert_eq!(counts(drained), (2, 0));
}

#[test]
fn c18_stream_that_ends_on_drain_ends_with_the_close_too() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown).end_on_drain(|_| true));
    shutdown.close();
    assert_eq!(body.wakes(), 1);
    assert_eq!(body.rest().bytes(), CLOSE);
    assert_eq!(shutdown.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn c18_stream_ends_on_drain_of_an_attached_shutdown() {
    let (room, process) = (Shutdown::new(), Shutdown::new());
    let layer = layer(&process).end_on_drain(|_| true);
    let mut response = event_stream_response(Script::silent());
    room.attach(response.extensions_mut());
    let mut body = Driver::new(through(&layer, Request::new(()), response).into_body());
    body.assert_pending();
    let (drained, bytes) = tokio::join!(room.drain(GRACE), async { body.rest().bytes() });
    assert_eq!((counts(drained), &bytes[..]), ((1, 0), CLOSE));
    assert_eq!(process.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn c15_drain_with_an_event_ends_its_streams_with_that_event() {
    let shutdown = Shutdown::new();
    let event = CloseEvent::from_static("restart");
    let mut subscription = idle(&layer(&shutdown).end_on_drain(|_| true));
    let mut answer = idle(&layer(&shutdown));
    let mut own = extended(&layer(&shutdown), CloseEvent::from_static("own"));
    own.assert_pending();
    let mut draining = Box::pin(shutdown.drain_with(GRACE, event));
    assert!(!shutdown.is_draining(), "not before the first poll");
    assert!((&mut draining).now_or_never().is_none());
    assert_eq!(subscription.rest().text(), "event: restart\ndata:\n\n");
    answer.assert_pending();
    let (drained, ()) = tokio::join!(draining, async {
        sleep(GRACE + Duration::from_millis(1)).await;
        assert_eq!(answer.rest().text(), "event: restart\ndata:\n\n");
        assert_eq!(own.rest().text(), "event: own\ndata:\n\n");
    });
    assert_eq!(counts(drained), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_after_waits_for_the_signal_and_then_drains() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown));
    let (signal, signalled) = tokio::sync::oneshot::channel::<()>();
    // The future can be spawned.
    let drain = tokio::spawn(shutdown.drain_after(signalled, GRACE));
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
async fn c18_draining_and_closed_are_ready_after_close() {
    let shutdown = Shutdown::new();
    assert_eq!(shutdown.draining().now_or_never(), None);
    let waiting = tokio::spawn(shutdown.draining());
    tokio::task::yield_now().await;
    assert_eq!(shutdown.closed().now_or_never(), None);
    shutdown.close();
    waiting.await.expect("no panic");
    assert_eq!(shutdown.draining().now_or_never(), Some(()));
    assert_eq!(shutdown.closed().now_or_never(), Some(()));
}

#[test]
fn c18_after_waits_for_the_signal_and_then_closes() {
    fn is_static(_: &(impl Future<Output = ()> + 'static)) {}
    let shutdown = Shutdown::new();
    let after = shutdown.after(future::pending::<()>());
    is_static(&after);
    assert!(after.now_or_never().is_none());
    let mut body = idle(&layer(&shutdown));
    let failed = future::ready(Err::<(), _>("the output does not matter"));
    assert_eq!(shutdown.after(failed).now_or_never(), Some(()));
    assert_eq!(body.rest().bytes(), CLOSE);
}

#[test]
fn c18_close_wakes_the_task_to_which_a_stream_has_moved() {
    for (attached, closed) in [(1, 0), (2, 0), (2, 1)] {
        for has_delivered in [false, true] {
            let shutdowns = [Shutdown::new(), Shutdown::new()];
            let layer = SseCompletionLayer::new();
            let layer = shutdowns[..attached]
                .iter()
                .fold(layer, |layer, shutdown| layer.shutdown(shutdown));
            let mut first = match has_delivered {
                true => idle(&layer),
                false => drive(&layer, Script::silent()),
            };
            assert!(first.poll().is_pending());
            let mut second = first.in_another_task();
            assert!(second.poll().is_pending());
            shutdowns[closed].close();
            assert_eq!(second.wakes(), 1, "{closed} of {attached}");
            assert_eq!(second.rest().bytes(), CLOSE);
        }
    }
}

#[test]
fn c20_quiet_poll_does_not_touch_the_registered_waker() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown));
    let references = body.waker_references();
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(body.waker_references(), references);
}

#[test]
fn c18_stream_that_ended_leaves_no_waker_behind() {
    let shutdown = Shutdown::new();
    let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
    let mut body = drive(&layer(&shutdown), upstream);
    let before = body.waker_references();
    body.data();
    assert!(body.poll().is_pending());
    assert!(body.waker_references() > before);
    body.drop_body();
    assert_eq!(body.waker_references(), before);
}

#[test]
fn c15_close_from_another_thread_is_never_missed() {
    for _ in (0..2_000).step_by(MIRI_STRIDE) {
        let shutdown = Shutdown::new();
        let start = Arc::new(Barrier::new(2));
        let closer = thread::spawn({
            let (shutdown, start) = (shutdown.clone(), Arc::clone(&start));
            move || {
                start.wait();
                shutdown.close();
            }
        });
        start.wait();
        let mut body = drive(&layer(&shutdown), Script::silent());
        let polled = body.poll_while_woken();
        closer.join().expect("no panic");
        if polled.is_pending() {
            assert!(body.wakes() > 0, "pending without a wake-up to come");
            assert_eq!(body.rest().bytes(), CLOSE);
        }
        body.drop_body();
        assert_eq!(body.waker_references(), 2, "only the driver's own are left");
    }
}

#[test]
fn c18_streams_that_start_and_end_on_many_threads_are_counted_once() {
    let shutdown = Shutdown::new();
    let closed = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..500 / MIRI_STRIDE {
                    let mut body = idle(&layer(&shutdown));
                    if round % 2 == 0 {
                        body.drop_body();
                    } else if let Poll::Ready(Some(Ok(_))) = body.poll() {
                        closed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(shutdown.open_streams(), 0);
    assert_eq!(closed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn c18_last_stream_that_ends_as_a_drain_begins_is_never_missed() {
    for _ in (0..2_000).step_by(MIRI_STRIDE) {
        let shutdown = Shutdown::new();
        let body = idle(&layer(&shutdown));
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

fn counts(drained: Drained) -> (usize, usize) {
    (drained.ended(), drained.still_open())
}

/// A stream of this layer with these shutdowns attached, that has delivered an event and waits.
fn attached(layer: &SseCompletionLayer, shutdowns: &[&Shutdown]) -> Driver<ResponseBody<Script>> {
    let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
    let mut response = event_stream_response(upstream);
    for shutdown in shutdowns {
        shutdown.attach(response.extensions_mut());
    }
    let response = through(layer, Request::new(()), response);
    let mut body = Driver::new(response.into_body());
    body.data();
    assert!(body.poll().is_pending());
    body
}

#[test]
fn c15_close_event_is_that_of_the_shutdown_that_fired() -> Result<(), InvalidCloseEvent> {
    let named = CloseEvent::named;
    let of_layer = "event: layer\ndata:\n\n";
    for (process_event, session_event) in [
        (None, Some("session")),
        (Some("process"), None),
        (Some("process"), Some("session")),
        (None, None),
    ] {
        for fired in [0, 1] {
            for is_in_layer in [[true, false], [false, true], [true, true], [false, false]] {
                let shutdowns = [Shutdown::new(), Shutdown::new()];
                let mut layer = SseCompletionLayer::new().close_event(named("layer")?);
                let mut extensions = Vec::new();
                for (shutdown, is_in_layer) in shutdowns.iter().zip(is_in_layer) {
                    if is_in_layer {
                        layer = layer.shutdown(shutdown);
                    } else {
                        extensions.push(shutdown);
                    }
                }
                let mut body = attached(&layer, &extensions);
                let event = [process_event, session_event][fired];
                match event {
                    Some(event) => shutdowns[fired].close_with(named(event)?),
                    None => shutdowns[fired].close(),
                }
                let expected = event.map(|name| format!("event: {name}\ndata:\n\n"));
                let case = (fired, is_in_layer, event);
                assert_eq!(
                    body.data(),
                    expected.as_deref().unwrap_or(of_layer),
                    "{case:?}"
                );
                // The other shutdown closes too late.
                shutdowns[1 - fired].close_with(named("late")?);
                assert_eq!(body.rest().text(), "", "{case:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn c15_shutdowns_that_both_fired_send_the_event_of_one_of_them() -> Result<(), InvalidCloseEvent> {
    let (process, session) = (Shutdown::new(), Shutdown::new());
    let mut body = attached(&layer(&process), &[&session]);
    session.close_with(CloseEvent::named("logged-out")?);
    process.close();
    let text = body.rest().text();
    let expected = ["event: logged-out\ndata:\n\n", "event: close\ndata:\n\n"];
    assert!(expected.contains(&text.as_str()), "{text:?}");
    Ok(())
}

#[test]
fn c15_every_shutdown_that_is_attached_ends_the_stream() {
    for count in 1..=4 {
        for fired in 0..count {
            let process = Shutdown::new();
            let shutdowns: Vec<_> = (0..count).map(|_| Shutdown::new()).collect();
            let each: Vec<_> = shutdowns.iter().collect();
            // A shutdown that is attached again ends and counts the stream once.
            let twice = [&each[..], &each[..]].concat();
            let mut body = attached(&layer(&process), &twice);
            let open = |shutdown: &Shutdown| shutdown.open_streams() == 1;
            assert!(
                shutdowns.iter().all(open),
                "{count}: each counts the stream once"
            );
            shutdowns[fired].close();
            assert_eq!(body.wakes(), 1, "{fired} of {count}");
            assert_eq!(body.rest().bytes(), CLOSE, "{fired} of {count}");
            assert!(!shutdowns.iter().any(open), "{fired} of {count}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c18_client_that_reconnects_during_a_drain_comes_back_once() {
    let shutdown = Shutdown::new();
    let with_grace = layer(&shutdown);
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
            sleep(Duration::from_millis(1)).await;
        }
        assert!(shutdown.is_closed(), "the stream has all of the grace");
        body.drop_body();
        tokio::task::yield_now().await;
    }
    // The drain ends as soon as no stream is open, so the client comes back only if it does so before that.
    assert!(streams <= 2, "{streams} streams of one client");
    drain.await.expect("no panic");
}
