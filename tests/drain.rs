//! `Shutdown::drain`, on tokio's paused clock.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Barrier},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use futures_util::{FutureExt, future::LocalBoxFuture};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use testkit::{
    MIRI_STRIDE,
    connection::Task,
    driver::Driver,
    exchange::{
        CLOSE, drive, event_stream, event_stream_response, extended, idle, send_response,
        shutdown_layer,
    },
    script::{AfterScript, Script},
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::oneshot,
    time::{Instant, advance, sleep},
};
use tower::{BoxError, Layer, Service, service_fn};
use tower_sse_completion::{
    CloseEvent, Drain, Drained, ResponseBody, Shutdown, SseCompletionLayer,
};

const GRACE: Duration = Duration::from_secs(10);

fn counts(drained: Drained) -> (usize, usize) {
    (drained.ended(), drained.still_open())
}

#[tokio::test(start_paused = true)]
async fn c18_drain_returns_as_soon_as_no_stream_is_open() {
    let shutdown = Shutdown::new();
    let start = Instant::now();
    // A stream that ended earlier does not count.
    drop(idle(&shutdown_layer(&shutdown)));
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
async fn c18_grace_of_zero_ends_streams_at_once() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown));
    let drained = tokio::join!(shutdown.drain(Duration::ZERO), async {
        tokio::task::yield_now().await;
        body.rest().bytes()
    });
    assert_eq!((counts(drained.0), &drained.1[..]), ((1, 0), CLOSE));
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
    let debug = "is_draining: true, is_closed: false";
    assert!(format!("{shutdown:?}").contains(debug));

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

/// Polls a drain once, and returns `true` if it waits.
fn waits(drain: &mut Drain) -> bool {
    drain.now_or_never().is_none()
}

/// A request whose handler has not responded yet. The task has polled it once.
struct Pending {
    response: LocalBoxFuture<'static, Result<Response<ResponseBody<Script>>, BoxError>>,
    handler: Option<oneshot::Sender<Response<Script>>>,
}

impl Pending {
    fn new(layer: &SseCompletionLayer, method: Method) -> Self {
        let (handler, response) = oneshot::channel();
        let mut response = Some(response);
        let mut service = layer.layer(service_fn(move |_: Request<()>| {
            let response = response.take().expect("one request");
            async { Ok::<_, BoxError>(response.await?) }
        }));
        let mut request = Request::new(());
        *request.method_mut() = method;
        let mut response = Box::pin(service.call(request));
        assert!((&mut response).now_or_never().is_none());
        let handler = Some(handler);
        Self { response, handler }
    }

    /// The handler responds.
    fn respond(&mut self, response: Response<Script>) -> Response<ResponseBody<Script>> {
        let handler = self.handler.take().expect("one response");
        handler.send(response).expect("the request is open");
        let response = (&mut self.response).now_or_never().expect("a response");
        response.expect("no error")
    }
}

fn json() -> Response<Script> {
    Response::new(Script::frames(["{}"]))
}

#[tokio::test(start_paused = true)]
async fn c18_every_shutdown_waits_for_a_request_until_the_handler_responds_without_a_stream() {
    for method in [Method::GET, Method::POST, Method::HEAD, Method::CONNECT] {
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        let layer = shutdown_layer(&shutdowns[0]).shutdown(&shutdowns[1]);
        let mut request = Pending::new(&layer, method.clone());
        let mut drains = shutdowns.each_ref().map(|shutdown| shutdown.drain(GRACE));
        assert!(drains.iter_mut().all(waits), "{method}");
        sleep(GRACE / 2).await;
        assert!(drains.iter_mut().all(waits), "{method}");
        for shutdown in &shutdowns {
            assert!(!shutdown.is_closed(), "{method}");
            assert_eq!(shutdown.open_streams(), 0, "{method}: there is no stream");
        }
        let _response = request.respond(json());
        // The completed future of the response is kept, and holds no drain.
        for drain in drains {
            assert_eq!(drain.now_or_never().map(counts), Some((0, 0)), "{method}");
        }
        drop(request);
        assert_eq!(shutdowns[0].open_streams(), 0, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn c18_drain_waits_for_a_request_until_the_handler_fails_or_the_request_is_dropped() {
    let shutdown = Shutdown::new();
    let layer = shutdown_layer(&shutdown);
    let mut failing = Pending::new(&layer, Method::GET);
    let dropped = Pending::new(&layer, Method::GET);
    let mut drain = shutdown.drain(GRACE);
    assert!(waits(&mut drain));
    drop(failing.handler.take());
    let response = (&mut failing.response).now_or_never().expect("ready");
    assert!(response.is_err());
    assert!(waits(&mut drain), "for the other request");
    drop(dropped);
    assert!(!waits(&mut drain));
}

#[tokio::test(start_paused = true)]
async fn c18_stream_of_a_request_from_before_the_drain_has_what_is_left_of_the_grace() {
    // The handler responds during the grace, and during the linger.
    for (responds_at, left) in [
        (GRACE / 2, GRACE / 2),
        (GRACE + Duration::from_millis(500), Duration::ZERO),
    ] {
        let shutdown = Shutdown::new();
        let mut request = Pending::new(&shutdown_layer(&shutdown), Method::GET);
        let drain = tokio::spawn(shutdown.drain(GRACE));
        sleep(responds_at).await;
        assert_eq!(shutdown.is_closed(), left.is_zero());
        let response = request.respond(event_stream_response(Script::silent()));
        let mut body = Driver::new(response.into_body());
        if !left.is_zero() {
            sleep(left - Duration::from_millis(1)).await;
            body.assert_pending();
            sleep(Duration::from_millis(2)).await;
        }
        assert!(!drain.is_finished());
        assert_eq!(body.rest().bytes(), CLOSE);
        let drained = drain.await.expect("no panic");
        assert_eq!(
            (counts(drained), drained.unanswered_requests()),
            ((1, 0), 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn c19_drain_that_waits_for_a_request_goes_on_waiting_for_its_stream() {
    let shutdown = Shutdown::new();
    let mut request = Pending::new(&shutdown_layer(&shutdown), Method::GET);
    let task = Task::new();
    let mut drain = shutdown.drain(Duration::MAX);
    let mut poll = || drain.poll_unpin(&mut Context::from_waker(&task.waker));
    assert!(poll().is_pending());
    let response = request.respond(event_stream_response(Script::silent()));
    assert!(poll().is_pending(), "the stream is open");
    assert_eq!(task.wakes(), 0, "the count has not been zero in between");
    drop(response);
    assert_eq!(task.wakes(), 1);
    assert_eq!(poll().map(counts), Poll::Ready((1, 0)));
}

#[tokio::test(start_paused = true)]
async fn c18_drain_is_bounded_when_a_client_has_stopped_reading_and_a_handler_never_responds() {
    let shutdown = Shutdown::new();
    let _never_polled = idle(&shutdown_layer(&shutdown));
    let mut request = Pending::new(&shutdown_layer(&shutdown), Method::GET);
    let start = Instant::now();
    let drained = shutdown.drain(GRACE).await;
    assert_eq!(start.elapsed(), GRACE + Duration::from_secs(1));
    assert_eq!(counts(drained), (0, 1));
    assert_eq!(drained.unanswered_requests(), 1);
    let response = request.respond(event_stream_response(Script::silent()));
    let mut late = Driver::new(response.into_body());
    assert_eq!(late.rest().bytes(), CLOSE, "after the drain");
}

#[tokio::test(start_paused = true)]
async fn c18_linger_is_the_time_from_the_close_to_the_end() {
    for linger in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_millis(7),
        Duration::from_millis(1234),
        GRACE * 3,
    ] {
        let shutdown = Shutdown::new();
        let _never_polled = idle(&shutdown_layer(&shutdown));
        let start = Instant::now();
        let drained = shutdown.drain(GRACE).linger(linger).await;
        // The timer rounds up to milliseconds.
        let elapsed = start.elapsed() - GRACE;
        assert!(elapsed >= linger, "{elapsed:?} of {linger:?}");
        assert!(
            elapsed < linger + Duration::from_millis(1),
            "{elapsed:?} of {linger:?}"
        );
        assert_eq!(counts(drained), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn c18_grace_that_the_clock_cannot_represent_has_no_end() {
    let now = Instant::now();
    let seconds = (0..64).rev().map(|bit| Duration::from_secs(1 << bit));
    let nanoseconds = (0..30).rev().map(|bit| Duration::from_nanos(1 << bit));
    let greatest = seconds
        .chain(nanoseconds)
        .fold(Duration::ZERO, |sum, more| {
            let more = sum.saturating_add(more);
            now.checked_add(more).map_or(sum, |_| more)
        });
    let before = |nanoseconds| greatest - Duration::from_nanos(nanoseconds);
    // The timer rounds up to milliseconds, and the clock cannot represent the result.
    let graces = [0, 1, 999_998, 999_999, 1_000_000, 2_000_000].map(before);
    for grace in graces.into_iter().chain([Duration::MAX]) {
        let shutdown = Shutdown::new();
        let mut body = idle(&shutdown_layer(&shutdown));
        let mut drain = shutdown.drain(grace);
        assert!(waits(&mut drain), "{grace:?}");
        body.assert_pending();
        body.drop_body();
        assert!(!waits(&mut drain), "{grace:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c18_drain_that_is_dropped_leaves_nothing_behind() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown));
    let task = Task::new();
    let before = task.references();
    for _ in 0..1000 / MIRI_STRIDE {
        let mut drain = shutdown.drain(GRACE);
        let polled = drain.poll_unpin(&mut Context::from_waker(&task.waker));
        assert!(polled.is_pending());
        assert!(task.references() > before);
        drop(drain);
        assert_eq!(task.references(), before);
    }
    // A drain that is left after others were dropped is woken, once.
    let mut drain = shutdown.drain(GRACE);
    assert!(
        drain
            .poll_unpin(&mut Context::from_waker(&task.waker))
            .is_pending()
    );
    assert!(waits(&mut shutdown.drain(GRACE)), "dropped at once");
    body.drop_body();
    assert_eq!(task.wakes(), 1);
}

#[tokio::test(start_paused = true)]
async fn c18_drain_that_moves_to_another_task_wakes_that_task() {
    let shutdown = Shutdown::new();
    let mut body = idle(&shutdown_layer(&shutdown));
    let (first, second) = (Task::new(), Task::new());
    let mut drain = shutdown.drain(GRACE);
    for task in [&first, &second] {
        let polled = drain.poll_unpin(&mut Context::from_waker(&task.waker));
        assert!(polled.is_pending());
    }
    body.drop_body();
    assert_eq!((first.wakes(), second.wakes()), (0, 1));
}

#[test]
fn c18_drain_in_a_runtime_without_a_timer_fails_before_it_begins() {
    let without_timer = tokio::runtime::Builder::new_current_thread().build();
    let without_timer = without_timer.expect("a runtime");
    let shutdown = Shutdown::new();
    let layer = shutdown_layer(&shutdown).end_on_drain(|_| true);
    let mut body = idle(&layer);
    let event = CloseEvent::from_static("restart");
    let fails = |mut drain: Drain| {
        // In a runtime without a timer, and outside of any runtime.
        for _ in 0..2 {
            let polled = || without_timer.block_on(async { waits(&mut drain) });
            assert!(catch_unwind(AssertUnwindSafe(polled)).is_err());
        }
        assert!(catch_unwind(AssertUnwindSafe(|| waits(&mut drain))).is_err());
    };
    fails(shutdown.drain(GRACE));
    fails(shutdown.drain(Duration::ZERO).close_event(event.clone()));
    fails(shutdown.drain(Duration::MAX).close_event(event.clone()));
    // Before the signal.
    fails(shutdown.drain(GRACE).after(std::future::pending::<()>()));
    assert!(!shutdown.is_draining() && !shutdown.is_closed());
    assert_eq!(body.wakes(), 0);
    body.assert_pending();
    shutdown.close();
    assert_eq!(
        body.rest().bytes(),
        CLOSE,
        "without the event of the drains"
    );
}

#[tokio::test(start_paused = true)]
async fn c18_time_in_which_the_process_does_not_run_does_not_count_for_the_linger() {
    const PAUSE: Duration = Duration::from_secs(30);
    // The process does not run from this moment after the begin of the drain.
    for pauses_at in [
        Duration::ZERO,
        GRACE - Duration::from_millis(1),
        GRACE,
        GRACE + Duration::from_millis(1),
    ] {
        for grace in [Duration::ZERO, GRACE] {
            let shutdown = Shutdown::new();
            let layer = shutdown_layer(&shutdown);
            let (server, mut client) = duplex(64);
            let mut connection = shutdown.connection(server);
            let drain = tokio::spawn(shutdown.drain(grace));
            let upstream = Script::frames([""; 0]).then(AfterScript::Pending);
            let mut body = Box::pin(event_stream(&layer, upstream));
            let serving = tokio::spawn(async move {
                while let Some(frame) = body.frame().await {
                    let data = frame.expect("no error").into_data().expect("data");
                    connection.write_all(&data).await?;
                }
                connection.shutdown().await
            });
            sleep(pauses_at).await;
            advance(PAUSE).await;
            let served = within(serving).await.expect("no panic");
            let case = (pauses_at, grace);
            assert!(served.is_ok(), "{case:?}: {served:?}");
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.expect("no error");
            assert_eq!(read, CLOSE, "{case:?}");
            assert_eq!(counts(within(drain).await.expect("no panic")), (1, 0));
        }
    }
}
