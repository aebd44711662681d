//! `Shutdown`: closing and counting. Draining is in `drain.rs`.

use std::{
    future,
    sync::{Arc, Barrier},
    thread,
};

use futures_util::FutureExt;
use http::{Request, Response};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{
        CLOSE, drive, event_stream, event_stream_response, extended, idle, send_response,
        shutdown_layer,
    },
    script::{AfterScript, Script},
};
use tower_sse_completion::{
    CloseEvent, InvalidCloseEvent, ResponseBody, Shutdown, SseCompletionLayer,
};

#[test]
fn c10_close_wakes_and_ends_every_stream() {
    let shutdown = Shutdown::new();
    let mut bodies: Vec<_> = (0..20).map(|_| idle(&shutdown_layer(&shutdown))).collect();
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
    let output = drive(&shutdown_layer(&shutdown), upstream).rest();
    assert_eq!(output.text(), "data: x\n\nevent: close\ndata:\n\n");
}

#[test]
fn c15_dropped_shutdown_never_fires() {
    let shutdown = Shutdown::new();
    let mut body = {
        let layer = shutdown_layer(&shutdown);
        idle(&layer)
    };
    drop(shutdown);
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(body.wakes(), 0);
}

#[test]
fn c18_close_with_sends_its_event_unless_the_response_has_its_own() {
    let shutdown = Shutdown::new();
    let layer = shutdown_layer(&shutdown).close_event(CloseEvent::new().data("the layer's"));
    let mut with_own_event = extended(&layer, CloseEvent::new().data("the handler's"));
    let mut without = idle(&layer);
    shutdown.close_with(CloseEvent::new().data("the shutdown's"));
    shutdown.close_with(CloseEvent::new().data("too late"));
    assert_eq!(
        with_own_event.rest().text(),
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
    let layer = shutdown_layer(&all);
    let mut response = event_stream_response(Script::silent());
    session.attach(response.extensions_mut());
    let response = send_response(&layer, Request::new(()), response);
    let mut session_stream = Driver::new(response.into_body());
    let mut other = idle(&layer);
    assert!(session_stream.poll().is_pending());
    assert_eq!((all.open_streams(), session.open_streams()), (2, 1));
    session.close_with(CloseEvent::named("logged-out").expect("a valid name"));
    assert_eq!(session_stream.rest().text(), "event: logged-out\ndata:\n\n");
    assert!(other.poll().is_pending());
    assert_eq!((all.open_streams(), session.open_streams()), (1, 0));
}

#[test]
fn c18_open_streams_counts_event_streams_until_they_end_or_are_dropped() {
    let shutdown = Shutdown::new();
    let layer = shutdown_layer(&shutdown);
    let json = Response::new(Script::frames(["{}"]));
    let json = send_response(&layer, Request::new(()), json);
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
    let debug = "Shutdown { is_draining: false, is_closed: false, open_streams: 1, .. }";
    assert_eq!(format!("{shutdown:?}"), debug);
    drop(dropped);
    assert_eq!(shutdown.open_streams(), 0);
    shutdown.close();
    assert!(format!("{shutdown:?}").contains("is_closed: true"));
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
    let mut body = idle(&shutdown_layer(&shutdown));
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
    let mut body = idle(&shutdown_layer(&shutdown));
    let references = body.waker_references();
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(body.waker_references(), references);
}

#[test]
fn c18_stream_that_ended_leaves_no_waker() {
    let shutdown = Shutdown::new();
    let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
    let mut body = drive(&shutdown_layer(&shutdown), upstream);
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
        let mut body = drive(&shutdown_layer(&shutdown), Script::silent());
        let polled = body.poll_while_woken();
        closer.join().expect("no panic");
        if polled.is_pending() {
            assert!(body.wakes() > 0, "pending, and nothing wakes the task");
            assert_eq!(body.rest().bytes(), CLOSE);
        }
        body.drop_body();
        assert_eq!(
            body.waker_references(),
            2,
            "only the references of the driver are left"
        );
    }
}

/// A stream of this layer with these shutdowns attached, that has delivered an event and waits.
fn attached(layer: &SseCompletionLayer, shutdowns: &[&Shutdown]) -> Driver<ResponseBody<Script>> {
    let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
    let mut response = event_stream_response(upstream);
    for shutdown in shutdowns {
        shutdown.attach(response.extensions_mut());
    }
    let response = send_response(layer, Request::new(()), response);
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
fn c15_two_shutdowns_that_fired_send_one_close_event() -> Result<(), InvalidCloseEvent> {
    let (process, session) = (Shutdown::new(), Shutdown::new());
    let mut body = attached(&shutdown_layer(&process), &[&session]);
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
            let mut body = attached(&shutdown_layer(&process), &twice);
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
