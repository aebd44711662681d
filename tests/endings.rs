//! Ends of streams that the endings table does not enumerate: close events that are made for each stream, events in several
//! frames, and upstreams whose hints are wrong.

use std::sync::{Arc, Mutex};

use http_body::SizeHint;
use testkit::{
    exchange::{cancellation_layer, drive},
    reports::Reports,
    script::{EndStream, Script, ScriptError, Step, data},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, Ending, SseCompletionLayer};

const EVENT: &str = "data: x\n\n";

#[test]
fn c9_close_event_is_made_once_from_the_ending_and_only_when_it_is_due() {
    let delivered = || Script::frames([EVENT]);
    for (closes, upstream, is_cancelled, ending) in [
        (false, delivered(), false, None),
        (false, Script::frames([":\n"]), false, Some(Ending::Empty)),
        (true, delivered(), false, Some(Ending::Completed)),
        (
            true,
            Script::new([Step::Error]),
            false,
            Some(Ending::Failed),
        ),
        (false, delivered(), true, Some(Ending::Cancelled)),
    ] {
        let (token, made) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let layer = cancellation_layer(&token)
            .close_on_completed(closes)
            .close_on_failed(closes)
            .close_event_with({
                let made = Arc::clone(&made);
                move |report| {
                    made.lock().expect("no panic").push(report.ending());
                    CloseEvent::new().data(report.ending().as_str())
                }
            });
        if is_cancelled {
            token.cancel();
        }
        let text = drive(&layer, upstream).rest().text();
        assert_eq!(*made.lock().expect("no panic"), Vec::from_iter(ending));
        let expected = ending.map(|ending| format!("event: close\ndata: {ending}\n\n"));
        assert!(text.ends_with(&expected.unwrap_or_default()), "{text:?}");
    }
}

#[test]
fn c14_hints_are_unknown_although_the_upstream_reports_its_end() {
    let upstream = Script::frames([":\n", "data: x"])
        .size_hint(SizeHint::with_exact(0))
        .end_stream(EndStream::Wrong);
    let mut body = drive(&SseCompletionLayer::new(), upstream);
    for _ in 0..2 {
        assert!(!body.is_end_stream());
        let hint = body.size_hint();
        assert_eq!((hint.lower(), hint.upper()), (0, None));
        body.data();
    }
    assert_eq!(body.size_hint().exact(), Some(0));
}

#[test]
fn c13_last_frame_of_a_buffered_event_ends_and_reports_the_stream() {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    let upstream = Script::frames(["data: x\n\nda", "ta: y\n\n"]).end_stream(EndStream::Known);
    let mut body = drive(&layer, upstream);
    assert_eq!(body.data(), "data: x\n\n");
    assert!(!body.is_end_stream());
    assert_eq!(reports.count(), 0);
    assert_eq!(body.data(), "data: y\n\n");
    assert!(body.is_end_stream());
    assert_eq!(reports.only().data_frames(), 2);
}

#[test]
fn frames_after_a_wrong_is_end_stream_are_forwarded() {
    let layer = SseCompletionLayer::new();
    let frames = [EVENT, "data: y", "\n\n", ":\n", "data: z\n\n"];
    let upstream = Script::frames(frames).end_stream(EndStream::Wrong);
    assert_eq!(drive(&layer, upstream).rest().frames, frames);

    let steps = [data(EVENT), data(EVENT), Step::Error];
    let output = drive(&layer, Script::new(steps).end_stream(EndStream::Wrong)).rest();
    assert_eq!(output.frames, [EVENT; 2]);
    assert_eq!(output.error, Some(ScriptError));
}
