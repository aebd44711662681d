//! Reports that the endings table does not enumerate: split events, dropped bodies, panics and times.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
#[cfg(feature = "tokio")]
use testkit::script::data;
use testkit::{
    driver::Driver,
    exchange::{drive, event_stream_response, send_response, shutdown_layer},
    reports::Reports,
    script::{AfterScript, Script, Step},
};
use tower_sse_completion::{CloseEvent, Ending, Shutdown, SseCompletionLayer, StreamReport};

const EVENT: &str = "data: 1\n\n";

fn observed() -> (Reports, SseCompletionLayer) {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    (reports, layer)
}

/// The ending, the close event, the delivery, the data frames, and the received bytes of a report.
fn facts(report: &StreamReport) -> (Ending, bool, bool, u64, u64) {
    (
        report.ending(),
        report.close_event_sent(),
        report.delivered(),
        report.data_frames(),
        report.bytes_received(),
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
    let long = format!("{:1$}\n\n", "ta:", 5000 - "da\n\n".len());
    for (frames, polls, expected) in [
        (
            &[EVENT, "data: 2\n\nda"][..],
            1,
            (Ending::Dropped, false, true, 1, 9),
        ),
        // The second frame of a long buffered event has not been forwarded.
        (&["da", &long], 1, (Ending::Dropped, false, false, 1, 5000)),
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
fn c21_panic_of_the_observer_is_contained() {
    let panicking = |_: &StreamReport| panic!("an intended panic");
    for layer in [
        SseCompletionLayer::new().on_end(panicking),
        SseCompletionLayer::new().on_end_with(move |_| panicking),
    ] {
        let output = drive(&layer, Script::frames([EVENT])).rest();
        assert_eq!(output.text(), EVENT);
        // A second panic while the first one unwinds would end the process.
        assert_panics(drive(&layer, Script::new([Step::Panic])));
    }
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
fn c21_received_bytes_include_discarded_bytes_and_sent_bytes_the_close_event() {
    let (reports, layer) = observed();
    let shutdown = Shutdown::new();
    let upstream = Script::frames([EVENT, "data: un", "finished"]).then(AfterScript::Pending);
    let mut body = drive(&layer.shutdown(&shutdown), upstream);
    body.data();
    body.assert_pending();
    shutdown.close();
    let close = body.rest().bytes();
    let report = reports.only();
    assert_eq!(report.bytes_received(), EVENT.len() as u64 + 16);
    assert_eq!(report.bytes_sent(), (EVENT.len() + close.len()) as u64);
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn c21_sent_bytes_include_comments_and_received_bytes_a_dropped_byte_order_mark() {
    let (reports, layer) = observed();
    let layer = layer.keep_alive(Duration::from_secs(1));
    let upstream = Script::new([Step::Pending, Step::Pending, data("\u{feff}"), data(EVENT)]);
    let mut body = drive(&layer, upstream);
    assert!(body.poll().is_pending());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(body.data(), ":\n\n");
    assert_eq!(body.rest().text(), EVENT);
    let report = reports.only();
    assert_eq!(report.bytes_received(), 3 + EVENT.len() as u64);
    assert_eq!(report.bytes_sent(), 3 + EVENT.len() as u64);
}

#[test]
fn c21_observer_of_a_request_is_made_from_its_head() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let layer = SseCompletionLayer::new().on_end_with({
        let reports = Arc::clone(&reports);
        move |request| {
            let (path, reports) = (request.uri.path().to_owned(), Arc::clone(&reports));
            move |report| {
                let mut reports = reports.lock().expect("no panic");
                reports.push((path, report.ending()));
            }
        }
    });
    let start = |path| {
        let mut request = Request::new(());
        *request.uri_mut() = path;
        let response = event_stream_response(Script::frames([EVENT]));
        Driver::new(send_response(&layer, request, response).into_body())
    };
    let mut first = start(Uri::from_static("/1"));
    let mut second = start(Uri::from_static("/2"));
    second.data();
    drop(second);
    first.rest();
    // A body that is dropped unpolled, and a response that is not an event stream, are not reported.
    drop(start(Uri::from_static("/3")));
    let response = Response::new(Script::frames([EVENT]));
    Driver::new(send_response(&layer, Request::new(()), response).into_body()).collect();
    let expected = [("/2", Ending::Dropped), ("/1", Ending::Completed)];
    let expected = expected.map(|(path, ending)| (path.to_owned(), ending));
    assert_eq!(*reports.lock().expect("no panic"), expected);
}

#[test]
fn c8_closure_that_makes_the_close_event_receives_the_report_so_far() {
    let so_far = Arc::new(Mutex::new(None));
    let shutdown = Shutdown::new();
    let layer = shutdown_layer(&shutdown).close_event_with({
        let so_far = Arc::clone(&so_far);
        move |report| {
            *so_far.lock().expect("no panic") = Some(report.clone());
            CloseEvent::new()
        }
    });
    let mut body = drive(
        &layer,
        Script::frames([EVENT, "data"]).then(AfterScript::Pending),
    );
    body.data();
    body.assert_pending();
    shutdown.close();
    body.rest();
    let report = so_far.lock().expect("no panic").take();
    let report = report.expect("the closure was called");
    let expected = StreamReport::new(Ending::Cancelled)
        .with_delivered(true)
        .with_data_frames(1)
        .with_bytes_received(EVENT.len() as u64 + 4)
        .with_bytes_sent(EVENT.len() as u64)
        .with_duration(report.duration())
        .with_time_to_first_event(report.time_to_first_event());
    assert_eq!(report, expected);
    assert!(report.time_to_first_event().is_some());
}

#[test]
fn report_can_be_built() {
    let report = StreamReport::new(Ending::Cancelled);
    assert_eq!(facts(&report), (Ending::Cancelled, false, false, 0, 0));
    assert_eq!(report.bytes_sent(), 0);
    assert_eq!(report.duration(), Duration::ZERO);
    assert_eq!(report.time_to_first_event(), None);
    let built = report
        .clone()
        .with_close_event(CloseEvent::new())
        .with_delivered(true)
        .with_data_frames(1)
        .with_bytes_received(2)
        .with_bytes_sent(3)
        .with_duration(Duration::from_secs(4))
        .with_time_to_first_event(Some(Duration::from_secs(5)));
    assert_eq!(facts(&built), (Ending::Cancelled, true, true, 1, 2));
    assert_eq!(built.bytes_sent(), 3);
    assert_eq!(built.duration(), Duration::from_secs(4));
    let time = built.time_to_first_event();
    assert_eq!(time, Some(Duration::from_secs(5)));
    assert_ne!(built, report);
}

#[test]
fn ending_is_displayed_in_lower_case() {
    for (ending, text) in [
        (Ending::Completed, "completed"),
        (Ending::Empty, "empty"),
        (Ending::Truncated, "truncated"),
        (Ending::Cancelled, "cancelled"),
        (Ending::Expired, "expired"),
        (Ending::Idle, "idle"),
        (Ending::Failed, "failed"),
        (Ending::Dropped, "dropped"),
    ] {
        assert_eq!(ending.as_str(), text);
        assert_eq!(ending.to_string(), text);
    }
}
