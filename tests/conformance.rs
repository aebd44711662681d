//! What the HTML standard says of event streams, case by case, and what the layer makes of each. The cases are in
//! `vectors/event_streams.txt`.

#[path = "vectors/published.rs"]
mod published;
mod vectors;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    task::Poll,
};

use published::PUBLISHED;
use testkit::{
    decoder::{Event, boundaries, decode},
    driver::Driver,
    exchange::{CLOSE, cancelled_by, event_stream},
    script::{AfterScript, Script},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{Ending, SseCompletionLayer, StreamReport};
use vectors::cases;

#[test]
fn vectors_are_many_and_have_names_of_their_own() {
    let cases = cases();
    let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 190, "{} cases", cases.len());
}

#[test]
fn decoder_of_the_tests_conforms_at_every_cut() {
    for case in cases() {
        let name = &case.name;
        assert_eq!(decode(&case.stream), case.decoded, "{name}");
        for cut in case.cuts() {
            let decoded = decode(&case.stream[..cut]);
            let is_boundary = case.boundaries.contains(&cut);
            assert_eq!(!decoded.pending, is_boundary, "{name}: boundary at {cut}");
            let delivered = case.delivered_before(cut);
            assert_eq!(
                decoded.events.len(),
                delivered,
                "{name}: events up to {cut}"
            );
        }
        if case.stream.len() <= 256 {
            assert_eq!(boundaries(&case.stream), case.boundaries, "{name}");
        }
    }
}

/// Marks have to be right, too: one falls when the decoder has been mended.
#[test]
fn published_decoders_come_to_the_same_unless_marked() {
    let mut wrong = Vec::new();
    for published in &PUBLISHED {
        let mut conforming = 0;
        for mut case in cases() {
            case.decoded.pending = false;
            let decoded = published.decode(&case.stream);
            let conforms = decoded.as_ref() == Some(&case.decoded);
            if conforms == case.deviates(published.name) {
                let (name, case) = (published.name, &case.name);
                wrong.push(format!("{name} of {case}\n    comes to {decoded:?}"));
            }
            conforming += usize::from(conforms);
        }
        assert!(
            conforming >= 140,
            "{conforming} cases of {}",
            published.name
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn c5_cancelled_stream_is_cut_at_the_last_boundary_however_it_came() {
    for case in cases() {
        for length in case.cuts() {
            for frames in case.framings(length) {
                let (before, after, report) = cancelled(&frames);
                let boundary = case.boundary_before(length);
                let name = || format!("{}: {}", case.name, shown(&frames));
                assert_bytes(&before, &case.stream[..boundary], name);
                assert_bytes(&after, &closing(&before), name);
                assert_eq!(report.ending(), Ending::Cancelled, "{}", name());
                assert!(report.close_event_sent(), "{}", name());
                assert_eq!(report.bytes(), boundary as u64, "{}", name());
                let delivered = case.delivered_before(length) > 0;
                assert_eq!(report.delivered(), delivered, "{}", name());
            }
        }
    }
}

#[test]
fn c9_stream_is_closed_at_its_end_if_it_delivered_nothing_however_it_came() {
    for case in cases() {
        for frames in case.framings(case.stream.len()) {
            let name = || format!("{}: {}", case.name, shown(&frames));
            let (bytes, report) = ended(&frames);
            if case.deliveries.is_empty() {
                let whole = &case.stream[..case.boundary_before(case.stream.len())];
                assert_bytes(&bytes, &[whole, &closing(whole)].concat(), name);
                assert_eq!(report.ending(), Ending::Empty, "{}", name());
            } else {
                assert_bytes(&bytes, &case.stream, name);
                assert_eq!(report.ending(), Ending::Completed, "{}", name());
            }
            let nothing = case.deliveries.is_empty();
            assert_eq!(report.close_event_sent(), nothing, "{}", name());
            assert_eq!(report.delivered(), !nothing, "{}", name());
        }
    }
}

#[test]
fn c6_decoders_see_the_events_of_a_cancelled_stream_and_then_the_close_event() {
    for case in cases() {
        let (before, after, _) = cancelled(&[&case.stream]);
        let out = [before, after].concat();
        let mut expected = case.decoded.events.clone();
        expected.push(Event {
            event_type: "close".to_owned(),
            data: String::new(),
            last_event_id: case.decoded.last_event_id.clone(),
        });
        assert_eq!(decode(&out).events, expected, "{}", case.name);
        for published in PUBLISHED.iter().filter(|it| !case.deviates(it.name)) {
            let decoded = published.decode(&out).map(|decoded| decoded.events);
            assert_eq!(
                decoded.as_ref(),
                Some(&expected),
                "{} of {}",
                published.name,
                case.name
            );
        }
    }
}

/// Lets these frames through the layer and then cancels: what came out before and after that, and the report.
fn cancelled(frames: &[&[u8]]) -> (Vec<u8>, Vec<u8>, StreamReport) {
    let token = CancellationToken::new();
    let (observer, report) = report();
    let upstream = Script::frames(frames).then(AfterScript::Pending);
    let layer = cancelled_by(&token).on_end(observer);
    let mut body = Driver::new(event_stream(&layer, upstream));
    let mut before = Vec::new();
    while let Poll::Ready(Some(Ok(frame))) = body.poll_while_woken() {
        before.extend(frame.into_data().expect("data"));
    }
    token.cancel();
    let after = body.rest().bytes();
    (before, after, report())
}

/// Lets these frames and the end through the layer.
fn ended(frames: &[&[u8]]) -> (Vec<u8>, StreamReport) {
    let (observer, report) = report();
    let layer = SseCompletionLayer::new().on_end(observer);
    let bytes = Driver::new(event_stream(&layer, Script::frames(frames)))
        .rest()
        .bytes();
    (bytes, report())
}

/// An observer, and what gives the one report that it got.
fn report() -> (
    impl Fn(&StreamReport) + Send + Sync + 'static,
    impl FnOnce() -> StreamReport,
) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let observed = Arc::clone(&reports);
    let observer =
        move |report: &StreamReport| observed.lock().expect("no panic").push(report.clone());
    let one = move || {
        let mut reports = reports.lock().expect("no panic");
        assert_eq!(reports.len(), 1, "one report for each stream");
        reports.remove(0)
    };
    (observer, one)
}

/// What closes a stream of which this is out.
fn closing(out: &[u8]) -> Vec<u8> {
    let lf: &[u8] = if out.ends_with(b"\r") { b"\n" } else { b"" };
    [lf, CLOSE].concat()
}

#[track_caller]
fn assert_bytes(actual: &[u8], expected: &[u8], name: impl Fn() -> String) {
    assert!(
        actual == expected,
        "{}\n  came out {}\n  expected {}",
        name(),
        actual.escape_ascii(),
        expected.escape_ascii()
    );
}

fn shown(frames: &[&[u8]]) -> String {
    let frames: Vec<_> = frames
        .iter()
        .map(|frame| frame.escape_ascii().to_string())
        .collect();
    format!("in {} frames: {}", frames.len(), frames.join(" + "))
}
