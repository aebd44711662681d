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
};
use tokio::time::{Instant, sleep};
use tower_sse_completion::{CloseEvent, Drained, ResponseBody, Shutdown, SseCompletionLayer};

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
fn clones_are_the_same_shutdown_for_many_layers() {
    let shutdown = Shutdown::new();
    let mut first = idle(&layer(&shutdown));
    let mut second = idle(&layer(&shutdown.clone()));
    shutdown.clone().close();
    assert_eq!(first.rest().bytes(), CLOSE);
    assert_eq!(second.rest().bytes(), CLOSE);
}

#[test]
fn close_with_sends_its_event_unless_the_response_brought_one() {
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
fn shutdown_in_the_response_ends_that_stream_alone() {
    let (all, session) = (Shutdown::new(), Shutdown::new());
    let layer = layer(&all);
    let mut of_the_session = extended(&layer, session.clone());
    let mut other = idle(&layer);
    assert!(of_the_session.poll().is_pending());
    assert_eq!((all.open_streams(), session.open_streams()), (2, 1));
    session.close_with(CloseEvent::named("logged-out").expect("a good name"));
    assert_eq!(of_the_session.rest().text(), "event: logged-out\ndata:\n\n");
    assert!(other.poll().is_pending());
    assert_eq!((all.open_streams(), session.open_streams()), (1, 0));
}

#[test]
fn open_streams_counts_event_streams_until_they_end_or_are_dropped() {
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
    assert_eq!(format!("{shutdown:?}"), "Shutdown { open_streams: 1, .. }");
    drop(dropped);
    assert_eq!(shutdown.open_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn drain_does_not_count_streams_that_ended_before_it() {
    let shutdown = Shutdown::new();
    drop(idle(&layer(&shutdown)));
    assert_eq!(counts(shutdown.drain(GRACE).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn drain_returns_as_soon_as_no_stream_is_open() {
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
async fn drain_closes_streams_when_the_grace_is_over() {
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
async fn drain_is_bounded_when_a_client_has_stopped_reading() {
    let shutdown = Shutdown::new();
    let _never_polled = idle(&layer(&shutdown));
    let start = Instant::now();
    let drained = shutdown.drain(GRACE).await;
    assert_eq!(start.elapsed(), GRACE + Duration::from_secs(1));
    assert_eq!(counts(drained), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn drain_without_a_grace_or_with_an_endless_one_is_defined() {
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
async fn stream_that_starts_during_a_drain_is_ended_at_once() {
    let shutdown = Shutdown::new();
    let old = idle(&layer(&shutdown));
    let mut draining = Box::pin(shutdown.drain(GRACE));
    assert!((&mut draining).now_or_never().is_none());
    let mut new = drive(&layer(&shutdown), Script::silent());
    assert_eq!(new.rest().bytes(), CLOSE);
    drop(old);
    assert_eq!(counts(draining.await), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn drain_that_is_dropped_leaves_streams_open_until_close() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown));
    let _ = tokio::time::timeout(Duration::from_secs(1), shutdown.drain(GRACE)).await;
    sleep(GRACE * 2).await;
    assert!(body.poll().is_pending());
    shutdown.close();
    assert_eq!(body.rest().bytes(), CLOSE);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_subscriptions_at_the_start_of_a_drain() {
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new().shutdown(&shutdown).cancel_when({
        let shutdown = shutdown.clone();
        move |request| {
            let subscribes = request.method == Method::GET;
            let draining = shutdown.draining();
            async move {
                match subscribes {
                    true => draining.await,
                    false => future::pending().await,
                }
            }
        }
    });
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

#[tokio::test]
async fn draining_is_ready_after_close_too() {
    let shutdown = Shutdown::new();
    assert_eq!(shutdown.draining().now_or_never(), None);
    let waiting = tokio::spawn(shutdown.draining());
    tokio::task::yield_now().await;
    shutdown.close();
    waiting.await.expect("no panic");
    assert_eq!(shutdown.draining().now_or_never(), Some(()));
}

#[test]
fn after_waits_for_the_signal_and_then_closes() {
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
fn close_wakes_the_task_to_which_a_stream_has_moved() {
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
fn c17_quiet_poll_does_not_touch_the_registered_waker() {
    let shutdown = Shutdown::new();
    let mut body = idle(&layer(&shutdown));
    let references = body.waker_references();
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(body.waker_references(), references);
}

#[test]
fn stream_that_ended_leaves_no_waker_behind() {
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
fn streams_that_start_and_end_on_many_threads_are_counted_once() {
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

fn counts(drained: Drained) -> (usize, usize) {
    (drained.ended(), drained.still_open())
}
