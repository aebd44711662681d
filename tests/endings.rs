//! How streams end: when a close event is due, what goes out around it, and what the hints say meanwhile.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use http_body_util::{Empty, Full};
use testkit::{
    driver::{Driver, Output},
    exchange::{CLOSE, event_stream},
    script::{AfterScript, EndStream, Script, ScriptError, Step, data, trailers},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, Ending, SseCompletionLayer};

fn layer() -> SseCompletionLayer {
    SseCompletionLayer::new()
}

fn ended(layer: &SseCompletionLayer, upstream: Script) -> Output<ScriptError> {
    Driver::new(event_stream(layer, upstream)).rest()
}

fn frames<T: AsRef<[u8]>>(frames: impl IntoIterator<Item = T>) -> Script {
    Script::frames(frames)
}

#[test]
fn c9_stream_that_delivered_nothing_is_closed() {
    for upstream in [
        vec![],
        vec![""],
        vec![":\n"],
        vec![": keep-alive\n\n", ": keep-alive\n\n"],
        vec!["retry: 5\n\n"],
        vec!["event: x\nid: 7\n\n"],
        vec![
            "datum: x\n\n",
            "dat: x\n\n",
            "database: x\n\n",
            "Data: x\n\n",
            " data: x\n\n",
        ],
        vec!["\n\r\n\r"],
    ] {
        let bytes = ended(&layer(), frames(&upstream)).bytes();
        let expected = [upstream.concat().as_bytes(), CLOSE].concat();
        let lf = [upstream.concat().as_bytes(), b"\n", CLOSE].concat();
        let ends_in_cr = upstream.concat().ends_with('\r');
        assert_eq!(
            bytes,
            if ends_in_cr { lf } else { expected },
            "{upstream:?}"
        );
    }
}

#[test]
fn c9_empty_bodies_of_http_body_util_are_closed() {
    let body: tower_sse_completion::ResponseBody<_> = event_stream(&layer(), Empty::<Bytes>::new());
    assert_eq!(Driver::new(body).rest().bytes(), CLOSE);
    let body: tower_sse_completion::ResponseBody<_> =
        event_stream(&layer(), Full::new(Bytes::new()));
    assert_eq!(Driver::new(body).rest().bytes(), CLOSE);
}

#[test]
fn c9_unfinished_event_is_not_delivered_and_is_discarded_for_the_close_event() {
    let output = ended(&layer(), frames(["id: 7\n", "data: {\"a\":1"]));
    assert_eq!(output.bytes(), CLOSE);
}

#[test]
fn c9_stream_that_delivered_something_ends_as_it_is() {
    for upstream in [
        vec!["data: x\n\n"],
        vec!["data\n\n"],
        vec!["data:\r\r"],
        vec!["data: x\n\n", "data: unfinished"],
        vec!["da", "ta: x\n", "\n", "id: 5\n"],
    ] {
        let output = ended(&layer(), frames(&upstream));
        assert_eq!(output.text(), upstream.concat(), "{upstream:?}");
    }
}

#[test]
fn c9_close_on_empty_can_be_switched_off() {
    let layer = layer().close_on_empty(false);
    assert_eq!(
        ended(&layer, frames([":\n", "data: x"])).text(),
        ":\ndata: x"
    );
}

#[test]
fn c9_close_on_completed_can_be_switched_on() {
    let layer = layer().close_on_completed(true);
    let output = ended(&layer, frames(["data: x\n\n", "data: unfinished"]));
    assert_eq!(output.text(), "data: x\n\nevent: close\ndata:\n\n");
}

#[test]
fn c9_endings_are_told_to_the_maker_of_the_close_event() {
    let token = CancellationToken::new();
    let layer = layer()
        .close_on_completed(true)
        .close_on_failed(true)
        .close_event_with(|ending| CloseEvent::new().data(ending.as_str()))
        .cancel_when({
            let token = token.clone();
            move |_| token.clone().cancelled_owned()
        });
    let close = |upstream| {
        let text = Driver::new(event_stream(&layer, upstream)).rest().text();
        text.rsplit("data: ").next().map(str::to_owned)
    };
    assert_eq!(close(frames([""; 0])).as_deref(), Some("empty\n\n"));
    let delivered = || frames(["data: x\n\n"]);
    assert_eq!(close(delivered()).as_deref(), Some("completed\n\n"));
    let failed = Script::new([Step::Error]);
    assert_eq!(close(failed).as_deref(), Some("failed\n\n"));
    token.cancel();
    assert_eq!(close(delivered()).as_deref(), Some("cancelled\n\n"));
}

#[test]
fn close_event_is_made_once_and_only_when_it_is_due() {
    let made = Arc::new(Mutex::new(Vec::new()));
    let layer = layer().close_event_with({
        let made = Arc::clone(&made);
        move |ending| {
            made.lock().expect("no panic").push(ending);
            CloseEvent::new()
        }
    });
    ended(&layer, frames(["data: x\n\n"]));
    assert_eq!(*made.lock().expect("no panic"), []);
    ended(&layer, frames([":\n"]));
    assert_eq!(*made.lock().expect("no panic"), [Ending::Empty]);
}

#[test]
fn c12_error_is_passed_on_behind_what_was_held() {
    let upstream = Script::new([data("data: x\n\nda"), data("ta: y"), Step::Error]);
    let output = ended(&layer(), upstream);
    assert_eq!(output.text(), "data: x\n\ndata: y");
    assert_eq!(output.error, Some(ScriptError));
}

#[test]
fn c12_error_before_anything_else_is_passed_on_alone() {
    let output = ended(&layer(), Script::new([Step::Error]));
    assert_eq!((output.frames.len(), output.error), (0, Some(ScriptError)));
}

#[test]
fn c12_close_event_takes_the_place_of_an_error_and_tells_nothing_of_it() {
    let upstream = Script::new([data("data: x\n\n"), data("data: unfin"), Step::Error]);
    let output = ended(&layer().close_on_failed(true), upstream);
    assert_eq!(output.text(), "data: x\n\nevent: close\ndata:\n\n");
    assert_eq!(output.error, None);
}

#[test]
fn c13_trailers_come_after_the_close_event() {
    let log;
    let output = {
        let upstream = Script::new([data(":\n"), Step::Trailers]);
        log = upstream.log();
        ended(&layer(), upstream)
    };
    assert_eq!(output.frames, [":\n".as_bytes(), CLOSE]);
    assert_eq!(output.trailers, Some(trailers()));
    assert_eq!(log.polls(), 2, "nothing comes after trailers");
}

#[test]
fn c13_trailers_come_after_what_was_held() {
    let upstream = Script::new([data("data: x\n\ndata: y"), Step::Trailers]);
    let output = ended(&layer(), upstream);
    assert_eq!(output.text(), "data: x\n\ndata: y");
    assert_eq!(output.trailers, Some(trailers()));
}

#[test]
fn c13_end_is_said_with_the_close_event_unless_trailers_follow() {
    let mut body = Driver::new(event_stream(&layer(), frames([":\n"])));
    assert_eq!(body.data(), ":\n");
    assert!(!body.is_end_stream());
    assert_eq!(body.data(), CLOSE);
    assert!(body.is_end_stream());

    let upstream = Script::new([Step::Trailers]);
    let mut body = Driver::new(event_stream(&layer(), upstream));
    assert_eq!(body.data(), CLOSE);
    assert!(!body.is_end_stream());
    assert_eq!(body.rest().trailers, Some(trailers()));
}

#[test]
fn c13_end_is_said_with_the_last_frame_of_an_upstream_that_says_so() {
    let upstream = frames(["data: x\n\n", "data: y\n\n"]).end_stream(EndStream::Known);
    let mut body = Driver::new(event_stream(&layer(), upstream));
    body.data();
    assert!(!body.is_end_stream());
    body.data();
    assert!(body.is_end_stream());
    body.rest();
}

#[test]
fn c13_end_is_not_said_while_anything_is_still_to_go() {
    // Held bytes.
    let upstream = frames(["data: x\n\ndata: y"]).end_stream(EndStream::Known);
    let mut body = Driver::new(event_stream(&layer(), upstream));
    assert_eq!(body.data(), "data: x\n\n");
    assert!(!body.is_end_stream());
    assert_eq!(body.data(), "data: y");
    assert!(body.is_end_stream());

    // Queued bytes.
    let upstream = frames(["data: x\n\nda", "ta: y\n\n"]).end_stream(EndStream::Known);
    let mut body = Driver::new(event_stream(&layer(), upstream));
    body.data();
    assert_eq!(body.data(), "da");
    assert!(!body.is_end_stream());
    assert_eq!(body.data(), "ta: y\n\n");
    assert!(body.is_end_stream());

    // A close event.
    let upstream = frames(["data: x\n\n"]).end_stream(EndStream::Known);
    let layer = layer().close_on_completed(true);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert_eq!(body.data(), "data: x\n\n");
    assert!(!body.is_end_stream());
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn upstream_that_lies_about_its_end_loses_nothing() {
    let upstream = ["data: x\n\n", "data: y", "\n\n", ":\n", "data: z\n\n"];
    let output = ended(&layer(), frames(upstream).end_stream(EndStream::Wrong));
    assert_eq!(output.text(), upstream.concat());

    let steps = [data("data: x\n\n"), data("data: y\n\n"), Step::Error];
    let upstream = Script::new(steps).end_stream(EndStream::Wrong);
    let output = ended(&layer(), upstream);
    assert_eq!(output.text(), "data: x\n\ndata: y\n\n");
    assert_eq!(
        output.error,
        Some(ScriptError),
        "and is not polled after it"
    );
}

#[test]
fn c14_hints_promise_nothing_while_a_close_event_may_come() {
    let lies = [SizeHint::with_exact(9), SizeHint::with_exact(0)];
    for (size_hint, end_stream) in lies.into_iter().zip([EndStream::Unknown, EndStream::Wrong]) {
        let upstream = frames([":\n", "data: x"])
            .size_hint(size_hint)
            .end_stream(end_stream);
        let mut body = Driver::new(event_stream(&layer(), upstream));
        for _ in 0..2 {
            assert!(!body.is_end_stream());
            assert_eq!(
                (body.size_hint().lower(), body.size_hint().upper()),
                (0, None)
            );
            body.data();
        }
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}

#[test]
fn c14_empty_body_is_not_at_its_end_before_its_close_event() {
    let body: tower_sse_completion::ResponseBody<_> = event_stream(&layer(), Empty::<Bytes>::new());
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), None);
}

#[test]
fn upstream_that_never_ends_is_never_closed() {
    let upstream = frames(["data: x\n\n"]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer(), upstream));
    body.data();
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(body.wakes(), 0, "and nothing polls on a timer");
}

#[test]
fn ending_is_displayed_as_its_word() {
    assert_eq!(Ending::Cancelled.to_string(), "cancelled");
    assert_eq!(Ending::Cancelled.to_string(), Ending::Cancelled.as_str());
}
