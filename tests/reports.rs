//! Every completed stream is reported once, and truly.

use std::{
    future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{cancelled_by, event_stream, through},
    script::{AfterScript, EndStream, Script, Step, data},
};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tower::layer::util::Stack;
use tower_sse_completion::{Ending, ResponseBody, Shutdown, SseCompletionLayer, StreamReport};

/// What was reported.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<StreamReport>>>);

impl Reports {
    fn layer(&self) -> SseCompletionLayer {
        let reports = self.clone();
        SseCompletionLayer::new()
            .on_end(move |report| reports.0.lock().expect("no panic").push(report.clone()))
    }

    #[track_caller]
    fn none(&self) {
        assert_eq!(self.0.lock().expect("no panic").len(), 0);
    }

    /// The one report there is.
    #[track_caller]
    fn one(&self) -> StreamReport {
        let reports = std::mem::take(&mut *self.0.lock().expect("no panic"));
        assert_eq!(reports.len(), 1, "{reports:?}");
        reports[0].clone()
    }

    /// The one report of a stream that panicked behind so many frames.
    #[track_caller]
    fn one_behind_a_panic(&self, panicked: thread::Result<bool>, ending: Ending, frames: u64) {
        assert!(panicked.is_err(), "the server learns of it");
        let report = self.one();
        assert_eq!((report.ending(), report.data_frames()), (ending, frames));
    }
}

/// The ending, whether a close event was sent, whether an event was delivered, frames and bytes.
fn facts(report: &StreamReport) -> (Ending, bool, bool, u64, u64) {
    (
        report.ending(),
        report.close_event_sent(),
        report.delivered(),
        report.data_frames(),
        report.bytes(),
    )
}

#[test]
fn c16_report_says_what_was_forwarded() {
    let reports = Reports::default();
    for (frames, expected) in [
        (&["data: 1\n\n"][..], (Ending::Completed, false, true, 1, 9)),
        (&[], (Ending::Empty, true, false, 0, 0)),
        (&["", ":\n", ""], (Ending::Empty, true, false, 1, 2)),
        (&["data: unfinished"], (Ending::Empty, true, false, 0, 0)),
        (
            &["data: 1\n\nda", "ta: 2\n\n"],
            (Ending::Completed, false, true, 2, 18),
        ),
        (
            &["da", "ta: ", "1\n\n"],
            (Ending::Completed, false, true, 3, 9),
        ),
        (
            &["data: 1\n\n", "da", "ta"],
            (Ending::Completed, false, true, 3, 13),
        ),
        (
            &["data: 1\n\n"; 100],
            (Ending::Completed, false, true, 100, 900),
        ),
    ] {
        let mut body = Driver::new(event_stream(&reports.layer(), Script::frames(frames)));
        body.rest();
        assert_eq!(facts(&reports.one()), expected, "{frames:?}");
        drop(body);
        reports.none();
    }
}

#[test]
fn c16_discarded_bytes_and_the_close_event_do_not_count() {
    let reports = Reports::default();
    let layer = reports.layer().close_on_completed(true);
    let upstream = Script::frames(["data: 1\n\nid: 7\n", "data: unfinished"]);
    Driver::new(event_stream(&layer, upstream)).rest();
    assert_eq!(facts(&reports.one()), (Ending::Completed, true, true, 1, 9));
}

#[test]
fn c16_cancelled_stream_is_reported_with_its_close_event() {
    let (reports, token) = (Reports::default(), CancellationToken::new());
    let cancel = token.clone();
    let layer = reports
        .layer()
        .cancel_when(move |_| cancel.clone().cancelled_owned());
    let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer, upstream));
    body.data();
    assert!(body.poll().is_pending());
    token.cancel();
    reports.none();
    body.data();
    assert_eq!(facts(&reports.one()), (Ending::Cancelled, true, true, 1, 9));
}

#[test]
fn c16_cancellation_within_a_larger_event_is_reported_without_a_close_event() {
    let (reports, token) = (Reports::default(), CancellationToken::new());
    let cancel = token.clone();
    let layer = reports
        .layer()
        .hold_limit(4)
        .cancel_when(move |_| cancel.clone().cancelled_owned());
    let upstream = Script::frames(["data: 1"]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer, upstream));
    body.data();
    token.cancel();
    body.rest();
    assert_eq!(
        facts(&reports.one()),
        (Ending::Cancelled, false, false, 1, 7)
    );
}

#[test]
fn c16_failed_stream_is_reported_when_its_error_is_handed_out() {
    let reports = Reports::default();
    let steps = [data("data: 1\n\nda"), Step::Error];
    let mut body = Driver::new(event_stream(&reports.layer(), Script::new(steps.clone())));
    body.data();
    assert_eq!(body.data(), "da");
    reports.none();
    body.rest();
    assert_eq!(facts(&reports.one()), (Ending::Failed, false, true, 1, 11));

    let layer = reports.layer().close_on_failed(true);
    Driver::new(event_stream(&layer, Script::new(steps))).rest();
    assert_eq!(facts(&reports.one()), (Ending::Failed, true, true, 1, 9));
}

#[test]
fn c16_trailers_complete_the_stream_even_if_it_is_not_polled_again() {
    let reports = Reports::default();
    let upstream = Script::new([data("data: 1\n\n"), Step::Trailers]);
    let mut body = Driver::new(event_stream(&reports.layer(), upstream));
    body.data();
    reports.none();
    assert!(body.poll().is_ready());
    assert_eq!(reports.one().ending(), Ending::Completed);

    let mut body = Driver::new(event_stream(
        &reports.layer(),
        Script::new([Step::Trailers]),
    ));
    body.data();
    reports.none();
    assert!(body.poll().is_ready(), "the trailers");
    assert_eq!(facts(&reports.one()), (Ending::Empty, true, false, 0, 0));
}

#[test]
fn c16_upstream_that_says_its_end_completes_the_stream_even_if_it_is_not_polled_again() {
    let reports = Reports::default();
    let upstream = Script::frames(["data: 1\n\n", "data: 2\n\n"]).end_stream(EndStream::Known);
    let mut body = Driver::new(event_stream(&reports.layer(), upstream));
    body.data();
    reports.none();
    body.data();
    assert_eq!(
        facts(&reports.one()),
        (Ending::Completed, false, true, 2, 18)
    );
    drop(body);
    reports.none();

    // Not while something is held.
    let upstream = Script::frames(["data: 1\n\nda"]).end_stream(EndStream::Known);
    let mut body = Driver::new(event_stream(&reports.layer(), upstream));
    body.data();
    reports.none();
    body.data();
    assert_eq!(
        facts(&reports.one()),
        (Ending::Completed, false, true, 1, 11)
    );
}

#[test]
fn c16_dropped_body_is_reported_with_what_it_has_sent() {
    let reports = Reports::default();
    let upstream = Script::frames(["data: 1\n\n", "data: 2\n\nda"]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&reports.layer(), upstream));
    body.data();
    drop(body);
    assert_eq!(facts(&reports.one()), (Ending::Dropped, false, true, 1, 9));

    // The second part of an event is still to go.
    let upstream = Script::frames(["da", "ta: 1\n\n"]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&reports.layer(), upstream));
    assert_eq!(body.data(), "da");
    drop(body);
    assert_eq!(facts(&reports.one()), (Ending::Dropped, false, false, 1, 2));
}

#[test]
fn c16_body_that_was_never_polled_is_not_reported() {
    let reports = Reports::default();
    let body: ResponseBody<_> = event_stream(&reports.layer(), Script::frames(["data: 1\n\n"]));
    drop(body);
    reports.none();
}

#[test]
fn c16_other_responses_are_not_reported() {
    let reports = Reports::default();
    let response = Response::new(Script::frames(["{}"]));
    let response = through(&reports.layer(), Request::new(()), response);
    Driver::new(response.into_body()).collect();
    reports.none();
}

#[test]
fn c16_panic_of_the_upstream_is_a_failure() {
    // In the first poll, behind a frame that went the long way, and behind those that went the short way.
    for frames in [0, 1, 5] {
        let reports = Reports::default();
        let steps = (0..frames)
            .map(|_| data("data: 1\n\n"))
            .chain([Step::Panic]);
        let mut body = Driver::new(event_stream(&reports.layer(), Script::new(steps)));
        for _ in 0..frames {
            body.data();
        }
        let panicked = catch_unwind(AssertUnwindSafe(move || body.poll().is_ready()));
        reports.one_behind_a_panic(panicked, Ending::Failed, frames);
    }
}

#[test]
fn c16_stream_whose_cancellation_panics_is_reported() {
    // In the first poll, at a check, and where the stream is silent behind frames that went the short way.
    for (polls_before, frames) in [(0, 0), (1, 32), (2, 40)] {
        let reports = Reports::default();
        let polls = Arc::new(AtomicUsize::new(0));
        let layer = reports.layer().cancel_when(move |_| {
            let polls = Arc::clone(&polls);
            future::poll_fn(move |_| {
                assert!(
                    polls.fetch_add(1, Ordering::SeqCst) < polls_before,
                    "it panics, as it should"
                );
                Poll::Pending
            })
        });
        let steps = (0..frames).map(|_| data("data: 1\n\n"));
        let upstream = Script::new(steps).then(AfterScript::Pending);
        let mut body = Driver::new(event_stream(&layer, upstream));
        for _ in 0..frames {
            body.data();
        }
        let panicked = catch_unwind(AssertUnwindSafe(move || body.poll().is_ready()));
        reports.one_behind_a_panic(panicked, Ending::Dropped, frames);
    }
}

#[test]
fn c16_panic_of_the_observer_is_contained() {
    let layer = SseCompletionLayer::new().on_end(|_| panic!("the observer panics, as it should"));
    let output = Driver::new(event_stream(&layer, Script::frames(["data: 1\n\n"]))).rest();
    assert_eq!(output.text(), "data: 1\n\n");

    // While another panic unwinds, it would end the process.
    let mut body = Driver::new(event_stream(&layer, Script::new([Step::Panic])));
    let panicked = catch_unwind(AssertUnwindSafe(move || body.poll().is_ready()));
    assert!(panicked.is_err());
}

#[tokio::test(start_paused = true)]
async fn c16_report_has_the_times_from_the_response() {
    let reports = Reports::default();
    let steps = [
        data(":\n"),
        Step::Pending,
        data("data: 1\n\n"),
        data("data: 2\n\n"),
    ];
    let mut body = Driver::new(event_stream(&reports.layer(), Script::new(steps)));
    let second = Duration::from_secs(1);
    advance(second).await;
    body.data();
    assert!(body.poll().is_pending());
    advance(second).await;
    body.data();
    advance(second).await;
    body.rest();
    let report = reports.one();
    assert_eq!(report.time_to_first_event(), Some(second * 2));
    assert_eq!(report.duration(), second * 3);
}

#[test]
fn c16_stream_without_an_event_has_no_time_to_the_first() {
    let reports = Reports::default();
    Driver::new(event_stream(&reports.layer(), Script::frames([":\n"]))).rest();
    assert_eq!(reports.one().time_to_first_event(), None);
}

#[test]
fn c16_upstream_that_says_its_end_is_reported_with_the_last_queued_frame() {
    let reports = Reports::default();
    let upstream = Script::frames(["da", "ta: 1\n\n"]).end_stream(EndStream::Known);
    let mut body = Driver::new(event_stream(&reports.layer(), upstream));
    body.data();
    reports.none();
    body.data();
    assert_eq!(
        facts(&reports.one()),
        (Ending::Completed, false, true, 2, 9)
    );
}

#[test]
fn c16_panic_of_the_maker_of_the_close_event_keeps_the_ending() {
    let reports = Reports::default();
    let layer = reports
        .layer()
        .close_event_with(|_| panic!("the maker panics, as it should"));
    let mut body = Driver::new(event_stream(&layer, Script::new([])));
    let panicked = catch_unwind(AssertUnwindSafe(move || body.poll().is_ready()));
    assert!(panicked.is_err());
    assert_eq!(facts(&reports.one()), (Ending::Empty, false, false, 0, 0));
}

/// Two layers around one stream: the bytes that come out, and the ending that the inner one reports.
fn stacked(
    inner: &SseCompletionLayer,
    outer: &SseCompletionLayer,
    upstream: Script,
) -> Driver<ResponseBody<ResponseBody<Script>>> {
    let response = Response::builder()
        .header("content-type", "text/event-stream")
        .body(upstream)
        .expect("a valid response");
    let response = through(inner, Request::new(()), response);
    Driver::new(through(outer, Request::new(()), response).into_body())
}

#[test]
fn c1_stacked_layers_write_one_close_event_at_a_natural_end() {
    let (inner, outer) = (Reports::default(), Reports::default());
    let always = |reports: &Reports| {
        reports
            .layer()
            .close_on_completed(true)
            .close_on_failed(true)
    };
    for steps in [vec![], vec![data("data: 1\n\n")], vec![Step::Error]] {
        let script = Script::new(steps);
        let text = stacked(&always(&inner), &always(&outer), script)
            .rest()
            .text();
        assert_eq!(text.matches("event: close").count(), 1, "{text:?}");
        assert!(inner.one().close_event_sent());
        outer.none();
    }
    // The inner layer decides, also that there is none.
    let quiet = inner.layer().close_on_empty(false);
    let output = stacked(
        &quiet,
        &always(&outer),
        Script::frames(["data: unfinished"]),
    )
    .rest();
    assert_eq!(output.text(), "data: unfinished");
}

#[test]
fn c1_stacked_layers_write_one_close_event_when_both_are_cancelled() {
    for frames in [0, 1, 31, 32, 33, 100] {
        let reports = Reports::default();
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        let inner = reports.layer().shutdown(&shutdowns[0]);
        let outer = SseCompletionLayer::new().shutdown(&shutdowns[1]);
        let steps = (0..frames).map(|_| data("data: 1\n\n"));
        let upstream = Script::new(steps).then(AfterScript::Pending);
        let mut body = stacked(&inner, &outer, upstream);
        shutdowns.iter().for_each(Shutdown::close);
        let text = body.rest().text();
        assert_eq!(
            text.matches("event: close").count(),
            1,
            "{frames}: {text:?}"
        );
        assert!(text.ends_with("event: close\ndata:\n\n"));
        reports.one();
    }
}

#[test]
fn c1_stacked_layers_write_one_close_event_in_front_of_trailers() {
    for frames in (0..=100).step_by(MIRI_STRIDE) {
        for polls in [0, 1, 20, 31, 32, 33, 64] {
            // It is looked at after every few frames, so that the two layers do not see it at once.
            let token = CancellationToken::new();
            let both = Stack::new(cancelled_by(&token), cancelled_by(&token));
            let steps = (0..frames).map(|_| data("data: 1\n\n"));
            let upstream = Script::new(steps.chain([Step::Trailers]));
            let mut body = Driver::new(event_stream(&both, upstream));
            for _ in 0..polls.min(frames) {
                body.data();
            }
            token.cancel();
            let output = body.rest();
            let text = output.text();
            let name = format!("{frames} frames, cancelled behind {polls}");
            assert_eq!(text.matches("event: close").count(), 1, "{name}: {text:?}");
            if frames < 32 {
                assert!(output.trailers.is_some(), "{name}: no trailers");
            }
        }
    }
}

#[test]
fn c1_shutdown_of_both_layers_counts_and_closes_the_stream_once() {
    let (shutdown, reports) = (Shutdown::new(), Reports::default());
    let inner = reports.layer().shutdown(&shutdown);
    let outer = SseCompletionLayer::new().shutdown(&shutdown);
    let upstream = Script::new([]).then(AfterScript::Pending);
    let mut body = stacked(&inner, &outer, upstream);
    assert!(body.poll().is_pending());
    assert_eq!(shutdown.open_streams(), 1);
    shutdown.close();
    assert_eq!(body.rest().text(), "event: close\ndata:\n\n");
    assert_eq!(reports.one().ending(), Ending::Cancelled);
    assert_eq!(shutdown.open_streams(), 0);
}

#[test]
fn shutdown_that_layer_and_response_both_have_counts_the_stream_once() {
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .shutdown(&shutdown);
    let response = Response::builder()
        .header("content-type", "text/event-stream")
        .extension(shutdown.clone())
        .body(Script::new([]))
        .expect("a valid response");
    let inner = through(&layer, Request::new(()), response);
    assert_eq!(shutdown.open_streams(), 1);
    let _outer = through(&SseCompletionLayer::new(), Request::new(()), inner);
    assert_eq!(shutdown.open_streams(), 1);
}

#[test]
fn shutdown_of_layers_that_have_another_one_in_between_counts_the_stream_once() {
    let shutdown = Shutdown::new();
    let has = SseCompletionLayer::new().shutdown(&shutdown);
    let upstream = Script::new([]).then(AfterScript::Pending);
    let response = Response::builder()
        .header("content-type", "text/event-stream")
        .body(upstream)
        .expect("a valid response");
    let inner = through(&has, Request::new(()), response);
    let middle = through(&SseCompletionLayer::new(), Request::new(()), inner);
    let outer = through(&has, Request::new(()), middle);
    assert_eq!(shutdown.open_streams(), 1);
    shutdown.close();
    assert_eq!(
        Driver::new(outer.into_body()).rest().text(),
        "event: close\ndata:\n\n"
    );
}

#[test]
fn shutdown_put_into_the_response_between_two_layers_ends_the_stream() {
    let (shutdown, session) = (Shutdown::new(), Shutdown::new());
    for (outer, inserted) in [
        (SseCompletionLayer::new(), &session),
        (SseCompletionLayer::new().shutdown(&shutdown), &session),
        (SseCompletionLayer::new().shutdown(&shutdown), &shutdown),
    ] {
        // The handler may have put one there that was another.
        for brought in [None, Some(Shutdown::new())] {
            let mut response = Response::builder()
                .header("content-type", "text/event-stream")
                .body(Script::new([]).then(AfterScript::Pending))
                .expect("a valid response");
            if let Some(brought) = &brought {
                response.extensions_mut().insert(brought.clone());
            }
            let mut inner = through(&SseCompletionLayer::new(), Request::new(()), response);
            inner.extensions_mut().insert(inserted.clone());
            let body = through(&outer, Request::new(()), inner).into_body();
            assert_eq!(inserted.open_streams(), 1);
            if let Some(brought) = &brought {
                assert_eq!(brought.open_streams(), 1);
            }
            drop(body);
        }
    }
    session.close();
    let mut inner = through(
        &SseCompletionLayer::new(),
        Request::new(()),
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(Script::new([]).then(AfterScript::Pending))
            .expect("a valid response"),
    );
    inner.extensions_mut().insert(session);
    let body = through(&SseCompletionLayer::new(), Request::new(()), inner).into_body();
    assert_eq!(Driver::new(body).rest().text(), "event: close\ndata:\n\n");
}

#[test]
fn c1_outer_layer_adds_its_cancellation() {
    let reports = Reports::default();
    let shutdown = Shutdown::new();
    let outer = SseCompletionLayer::new().shutdown(&shutdown);
    let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
    let mut body = stacked(&reports.layer(), &outer, upstream);
    body.data();
    assert!(body.poll().is_pending());
    shutdown.close();
    assert_eq!(body.rest().text(), "event: close\ndata:\n\n");
    assert_eq!(
        reports.one().ending(),
        Ending::Dropped,
        "by the outer layer"
    );
}

#[test]
fn c1_outer_layer_is_not_outrun_by_a_stream_that_the_inner_one_lets_pass() {
    let token = CancellationToken::new();
    token.cancel();
    let both = Stack::new(SseCompletionLayer::new(), cancelled_by(&token));
    let upstream = Script::new([]).then(AfterScript::Repeat(Bytes::from_static(b"data: 1\n\n")));
    let output = Driver::new(event_stream(&both, upstream)).rest();
    assert_eq!(output.frames.len(), 33);
    assert!(
        output
            .text()
            .ends_with("data: 1\n\nevent: close\ndata:\n\n")
    );
}

#[test]
fn c1_marker_is_all_that_is_added_to_the_extensions() {
    let response = Response::builder()
        .header("content-type", "text/event-stream")
        .extension(7_u8)
        .body(Script::new([]))
        .expect("a valid response");
    let response = through(&SseCompletionLayer::new(), Request::new(()), response);
    assert_eq!(response.extensions().len(), 2);
    assert_eq!(response.extensions().get(), Some(&7_u8));
}

#[test]
fn frames_that_go_the_short_way_are_counted() {
    let reports = Reports::default();
    let event = Bytes::from_static(b"data: 1\n\n");
    let upstream = Script::new([]).then(AfterScript::Repeat(event));
    let mut body = Driver::new(event_stream(&reports.layer(), upstream));
    for _ in 0..1000 {
        body.data();
    }
    drop(body);
    assert_eq!(
        facts(&reports.one()),
        (Ending::Dropped, false, true, 1000, 9000)
    );
}
