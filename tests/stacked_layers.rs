//! Layers around layers: one close event, one report, and one count for each stream.

use bytes::Bytes;
use http::{Request, Response};
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{CLOSE, cancelled_by, drive, event_stream_response, through},
    reports::Reports,
    script::{AfterScript, Script, Step, data},
};
use tokio_util::sync::CancellationToken;
use tower::layer::util::Stack;
use tower_sse_completion::{Ending, ResponseBody, Shutdown, SseCompletionLayer};

const EVENT: &str = "data: 1\n\n";

fn reported_to(reports: &Reports) -> SseCompletionLayer {
    SseCompletionLayer::new().on_end(reports.observer())
}

fn shut_down_by(shutdown: &Shutdown) -> SseCompletionLayer {
    SseCompletionLayer::new().shutdown(shutdown)
}

/// A stream without an event that is pending, with this extension.
fn silent(extension: Option<&Shutdown>) -> Response<Script> {
    let mut response = event_stream_response(Script::silent());
    if let Some(shutdown) = extension {
        response.extensions_mut().insert(shutdown.clone());
    }
    response
}

fn wrap<B>(layer: &SseCompletionLayer, response: Response<B>) -> Response<ResponseBody<B>>
where
    B: http_body::Body<Data = Bytes>,
{
    through(layer, Request::new(()), response)
}

#[track_caller]
fn assert_one_close_event(text: &str, case: impl std::fmt::Debug) {
    assert_eq!(
        text.matches("event: close").count(),
        1,
        "{case:?}: {text:?}"
    );
}

#[test]
fn c1_stacked_layers_write_one_close_event_at_a_natural_end() {
    for steps in [vec![], vec![data(EVENT)], vec![Step::Error]] {
        let (inner, outer) = (Reports::default(), Reports::default());
        let [inner_layer, outer_layer] = [&inner, &outer].map(|reports| {
            reported_to(reports)
                .close_on_completed(true)
                .close_on_failed(true)
        });
        let both = Stack::new(inner_layer, outer_layer);
        let text = drive(&both, Script::new(steps.clone())).rest().text();
        assert_one_close_event(&text, steps);
        assert!(inner.only().close_event_sent());
        assert_eq!(outer.count(), 0);
    }
}

#[test]
fn c1_inner_layer_decides_that_there_is_no_close_event() {
    let inner = SseCompletionLayer::new().close_on_empty(false);
    let both = Stack::new(inner, SseCompletionLayer::new());
    let output = drive(&both, Script::frames(["data: unfinished"])).rest();
    assert_eq!(output.text(), "data: unfinished");
}

#[test]
fn c1_stacked_layers_write_one_close_event_when_both_are_cancelled() {
    for frames in [0, 1, 31, 32, 33, 100] {
        let reports = Reports::default();
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        let inner = reported_to(&reports).shutdown(&shutdowns[0]);
        let both = Stack::new(inner, shut_down_by(&shutdowns[1]));
        let upstream = Script::frames(vec![EVENT; frames]).then(AfterScript::Pending);
        let mut body = drive(&both, upstream);
        shutdowns.iter().for_each(Shutdown::close);
        let text = body.rest().text();
        assert_one_close_event(&text, frames);
        assert!(text.as_bytes().ends_with(CLOSE));
        assert_eq!(reports.count(), 1);
    }
}

#[test]
fn c1_stacked_layers_write_one_close_event_before_trailers() {
    for frames in (0..=100).step_by(MIRI_STRIDE) {
        // The two layers check the cancellation in different polls.
        for polls in [0, 1, 20, 31, 32, 33, 64] {
            let token = CancellationToken::new();
            let both = Stack::new(cancelled_by(&token), cancelled_by(&token));
            let steps = (0..frames).map(|_| data(EVENT));
            let mut body = drive(&both, Script::new(steps.chain([Step::Trailers])));
            for _ in 0..polls.min(frames) {
                body.data();
            }
            token.cancel();
            let output = body.rest();
            let case = (frames, polls);
            assert_one_close_event(&output.text(), case);
            assert!(frames >= 32 || output.trailers.is_some(), "{case:?}");
        }
    }
}

#[test]
fn c1_outer_layer_adds_its_cancellation() {
    let (reports, shutdown) = (Reports::default(), Shutdown::new());
    let both = Stack::new(reported_to(&reports), shut_down_by(&shutdown));
    let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
    let mut body = drive(&both, upstream);
    body.data();
    assert!(body.poll().is_pending());
    shutdown.close();
    assert_eq!(body.rest().bytes(), CLOSE);
    assert_eq!(reports.only().ending(), Ending::Dropped);
}

#[test]
fn c1_stream_that_the_inner_layer_forwards_does_not_outrun_the_outer_layer() {
    let token = CancellationToken::new();
    token.cancel();
    let both = Stack::new(SseCompletionLayer::new(), cancelled_by(&token));
    let upstream = Script::new([]).then(AfterScript::Repeat(EVENT.into()));
    let frames = drive(&both, upstream).rest().frames;
    assert_eq!(frames.len(), 33);
    assert_eq!(frames[32], CLOSE);
}

#[test]
fn shutdown_counts_and_closes_a_stream_once_however_often_it_is_attached() {
    for places in 0..3_usize.pow(3) * 2 {
        let (shutdown, reports) = (Shutdown::new(), Reports::default());
        let layers = [
            SseCompletionLayer::new(),
            shut_down_by(&shutdown),
            shut_down_by(&shutdown).shutdown(&shutdown),
        ];
        let extension = (places % 2 == 1).then_some(&shutdown);
        let [inner, middle, outer] = [2, 6, 18].map(|divisor| &layers[places / divisor % 3]);

        let inner = inner.clone().on_end(reports.observer());
        let response = wrap(outer, wrap(middle, wrap(&inner, silent(extension))));
        let attached = usize::from(places > 0);
        assert_eq!(shutdown.open_streams(), attached, "{places}");
        let mut body = Driver::new(response.into_body());
        assert!(body.poll().is_pending());
        shutdown.close();
        if attached == 1 {
            assert_eq!(body.rest().bytes(), CLOSE, "{places}");
            assert_eq!(reports.count(), 1, "{places}");
        } else {
            assert!(body.poll().is_pending());
        }
        assert_eq!(shutdown.open_streams(), 0, "{places}");
    }
}

#[test]
fn shutdown_in_the_response_of_an_inner_layer_ends_the_stream() {
    let (all, session) = (Shutdown::new(), Shutdown::new());
    let plain = SseCompletionLayer::new;
    for (outer, inserted) in [
        (plain(), &session),
        (shut_down_by(&all), &session),
        (shut_down_by(&all), &all),
    ] {
        // The handler may have added another shutdown to the response.
        for previous in [None, Some(Shutdown::new())] {
            let mut inner = wrap(&plain(), silent(previous.as_ref()));
            inner.extensions_mut().insert(inserted.clone());
            let _body = wrap(&outer, inner).into_body();
            assert_eq!(inserted.open_streams(), 1);
            assert!(previous.is_none_or(|previous| previous.open_streams() == 1));
        }
    }
    session.close();
    let mut inner = wrap(&plain(), silent(None));
    inner.extensions_mut().insert(session);
    let body = wrap(&plain(), inner).into_body();
    assert_eq!(Driver::new(body).rest().bytes(), CLOSE);
}
