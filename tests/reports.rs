//! Reports that the endings table does not enumerate: split events, dropped bodies, panics and times.

use std::{
    future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use testkit::{
    driver::Driver,
    exchange::{drive, through},
    reports::Reports,
    script::{AfterScript, Script, Step, data},
};
use tower_sse_completion::{Ending, SseCompletionLayer, StreamReport};

const EVENT: &str = "data: 1\n\n";

fn observed() -> (Reports, SseCompletionLayer) {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    (reports, layer)
}

/// The ending, the close event, the delivery, the data frames, and the bytes of a report.
fn facts(report: &StreamReport) -> (Ending, bool, bool, u64, u64) {
    (
        report.ending(),
        report.close_event_sent(),
        report.delivered(),
        report.data_frames(),
        report.bytes(),
    )
}

#[track_caller]
fn assert_panics<B: Body<Data = Bytes>>(mut body: Driver<B>) {
    let polled = catch_unwind(AssertUnwindSafe(move || body.poll().is_ready()));
    assert!(polled.is_err(), "the server observes the panic");
}

#[test]
fn c21_frames_count_once_however_events_are_split() {
    for (frames, expected) in [
        (&["", ":\n", ""][..], (Ending::Empty, true, false, 1, 2)),
        (
            &["data: 1\n\nda", "ta: 2\n\n"],
            (Ending::Completed, false, true, 2, 18),
        ),
        (
            &["da", "ta: ", "1\n\n"],
            (Ending::Completed, false, true, 3, 9),
        ),
        (&[EVENT; 1000], (Ending::Completed, false, true, 1000, 9000)),
    ] {
        let (reports, layer) = observed();
        let mut body = drive(&layer, Script::frames(frames));
        body.rest();
        assert_eq!(facts(&reports.only()), expected, "{frames:?}");
        drop(body);
        assert_eq!(reports.count(), 1, "{frames:?}");
    }
}

#[test]
fn c21_dropped_body_is_reported_with_its_forwarded_frames() {
    for (frames, polls, expected) in [
        (
            &[EVENT, "data: 2\n\nda"][..],
            1,
            (Ending::Dropped, false, true, 1, 9),
        ),
        // The second frame of a buffered event has not been forwarded.
        (
            &["da", "ta: 1\n\n"],
            1,
            (Ending::Dropped, false, false, 1, 2),
        ),
        (
            &[EVENT; 1001],
            1000,
            (Ending::Dropped, false, true, 1000, 9000),
        ),
    ] {
        let (reports, layer) = observed();
        let upstream = Script::frames(frames).then(AfterScript::Pending);
        let mut body = drive(&layer, upstream);
        for _ in 0..polls {
            body.data();
        }
        drop(body);
        assert_eq!(facts(&reports.only()), expected, "{frames:?}");
    }
}

#[test]
fn c21_other_responses_are_not_reported() {
    let (reports, layer) = observed();
    let response = Response::new(Script::frames(["{}"]));
    let response = through(&layer, Request::new(()), response);
    Driver::new(response.into_body()).collect();
    assert_eq!(reports.count(), 0);
}

#[test]
fn c21_stream_whose_cancellation_panics_is_reported() {
    // In the first poll, at a check, and while the upstream is pending.
    for (polls_before, frames) in [(0, 0), (1, 32), (2, 40)] {
        let (reports, layer) = observed();
        let polls = Arc::new(AtomicUsize::new(0));
        let layer = layer.cancel_when(move |_| {
            let polls = Arc::clone(&polls);
            future::poll_fn(move |_| {
                let polls = polls.fetch_add(1, Ordering::SeqCst);
                assert!(polls < polls_before, "an intended panic");
                Poll::Pending
            })
        });
        let upstream = Script::new((0..frames).map(|_| data(EVENT))).then(AfterScript::Pending);
        let mut body = drive(&layer, upstream);
        for _ in 0..frames {
            body.data();
        }
        assert_panics(body);
        let report = reports.only();
        assert_eq!(
            (report.ending(), report.data_frames()),
            (Ending::Failed, frames)
        );
    }
}

#[test]
fn c21_panic_of_the_observer_is_contained() {
    let layer = SseCompletionLayer::new().on_end(|_| panic!("an intended panic"));
    let output = drive(&layer, Script::frames([EVENT])).rest();
    assert_eq!(output.text(), EVENT);

    // A second panic while the first one unwinds would end the process.
    assert_panics(drive(&layer, Script::new([Step::Panic])));
}

#[test]
fn c21_panic_of_the_closure_that_makes_the_close_event_keeps_the_ending() {
    let (reports, layer) = observed();
    let layer = layer.close_event_with(|_| panic!("an intended panic"));
    assert_panics(drive(&layer, Script::new([])));
    assert_eq!(facts(&reports.only()), (Ending::Empty, false, false, 0, 0));
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn c21_times_count_from_the_response() {
    use std::time::Duration;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);
    let (reports, layer) = observed();
    let steps = [data(":\n"), Step::Pending, data(EVENT), data(EVENT)];
    let mut body = drive(&layer, Script::new(steps));
    advance(SECOND).await;
    body.data();
    assert!(body.poll().is_pending());
    advance(SECOND).await;
    body.data();
    advance(SECOND).await;
    body.rest();
    let report = reports.only();
    assert_eq!(report.time_to_first_event(), Some(SECOND * 2));
    assert_eq!(report.duration(), SECOND * 3);
}

#[test]
fn c21_stream_without_an_event_has_no_time_to_the_first_event() {
    let (reports, layer) = observed();
    drive(&layer, Script::frames([":\n"])).rest();
    assert_eq!(reports.only().time_to_first_event(), None);
}

#[test]
fn ending_is_displayed_as_its_word() {
    assert_eq!(Ending::Cancelled.to_string(), "cancelled");
    assert_eq!(Ending::Cancelled.to_string(), Ending::Cancelled.as_str());
}
