//! The rules of the HTML standard for event streams, case by case, for the decoder of the test kit, for published decoders,
//! and for the layer. The cases are in `testkit::vectors`.

#[path = "vectors/published.rs"]
mod published;

use std::{collections::HashSet, task::Poll};

use published::PUBLISHED;
use testkit::{
    MIRI_STRIDE,
    decoder::{Decoded, Decoder, Event, boundaries, decode, deliveries},
    exchange::{cancellation_layer, drive},
    reports::Reports,
    script::{AfterScript, Script},
    vectors::{Case, cases},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, Ending, SseCompletionLayer, StreamReport};

/// A close event whose type occurs in no case, and which is therefore distinct from all of their events.
const BYE: &[u8] = b"event: bye\ndata:\n\n";

fn bye() -> CloseEvent {
    CloseEvent::named("bye").expect("a valid name")
}

/// Returns all cases, or a sample of them.
fn sample() -> impl Iterator<Item = Case> {
    cases().into_iter().step_by(MIRI_STRIDE)
}

#[test]
fn cases_are_complete_and_have_distinct_names() {
    let cases = cases();
    let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 190, "{} cases", cases.len());
}

#[test]
fn decoder_of_the_test_kit_conforms_in_every_framing() {
    for case in sample() {
        let name = &case.name;
        for frames in case.framings(case.stream.len()) {
            let mut decoder = Decoder::new();
            let events: Vec<_> = frames
                .iter()
                .flat_map(|frame| decoder.feed(frame))
                .collect();
            let decoded = Decoded {
                events,
                last_event_id: decoder.last_event_id().to_owned(),
                retry: decoder.retry(),
                pending: decoder.is_pending(),
            };
            assert_eq!(decoded, case.decoded, "{name}: {}", shown(&frames));
        }
        assert_eq!(decode(&case.stream), case.decoded, "{name}");
    }
}

#[test]
fn decoder_of_the_test_kit_finds_the_boundaries_and_deliveries_at_every_length() {
    for case in sample() {
        let name = &case.name;
        assert_eq!(boundaries(&case.stream), case.boundaries, "{name}");
        assert_eq!(deliveries(&case.stream), case.deliveries, "{name}");
        for length in case.cuts() {
            let decoded = decode(&case.stream[..length]);
            let is_boundary = case.boundaries.contains(&length);
            assert_eq!(!decoded.pending, is_boundary, "{name}: {length} bytes");
            let delivered = case.delivered_before(length);
            assert_eq!(decoded.events.len(), delivered, "{name}: {length} bytes");
        }
    }
}

/// A mark of a decoder that conforms is an error too, so that marks are removed when decoders are corrected.
#[test]
#[cfg_attr(miri, ignore = "checks no code of this repository")]
fn published_decoders_conform_unless_marked() {
    let mut wrong = Vec::new();
    for published in &PUBLISHED {
        let mut conforming = 0;
        for mut case in cases() {
            case.decoded.pending = false;
            let decoded = published.decode(&case.stream);
            let conforms = decoded.as_ref() == Some(&case.decoded);
            if conforms == case.deviates(published.name) {
                let (name, case) = (published.name, &case.name);
                wrong.push(format!("{name} of {case}\n    returns {decoded:?}"));
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
fn c5_cancelled_stream_ends_at_its_last_boundary_in_every_framing() {
    for case in sample() {
        for length in case.cuts().into_iter().step_by(MIRI_STRIDE) {
            for frames in case.framings(length) {
                let (before, after, report) = cancelled(&frames);
                let boundary = case.boundary_before(length);
                let name = || format!("{}: {}", case.name, shown(&frames));
                assert_bytes(&before, &case.stream[..boundary], name);
                assert_bytes(&after, &closing(&before), name);
                assert_eq!(report.ending(), Ending::Cancelled, "{}", name());
                assert!(report.close_event_sent(), "{}", name());
                let sent = before.len() + after.len();
                assert_eq!(report.bytes_sent(), sent as u64, "{}", name());
                assert_eq!(report.bytes_received(), length as u64, "{}", name());
                let delivered = case.delivered_before(length) > 0;
                assert_eq!(report.delivered(), delivered, "{}", name());
            }
        }
    }
}

#[test]
fn c6_cancellation_before_any_poll_discards_at_most_the_unfinished_event() {
    for case in sample() {
        let length = case.stream.len();
        let expected = &case.stream[..case.boundary_before(length)];
        // A cancelled stream forwards up to 32 ready frames. Therefore all complete events are forwarded.
        for frames in case.framings(length).filter(|frames| frames.len() <= 32) {
            for polls in (0..=frames.len() + 2).step_by(MIRI_STRIDE) {
                for after in [AfterScript::Pending, AfterScript::End] {
                    let token = CancellationToken::new();
                    let upstream = Script::frames(&frames).then(after);
                    let mut body = drive(&cancellation_layer(&token).close_event(bye()), upstream);
                    let mut bytes = Vec::new();
                    for _ in 0..polls {
                        if let Poll::Ready(Some(frame)) = body.poll() {
                            bytes.extend(frame.expect("no error").into_data().expect("data"));
                        }
                    }
                    // The stream has ended on its own.
                    if body.is_end_stream() || bytes.len() > expected.len() {
                        continue;
                    }
                    token.cancel();
                    bytes.extend(body.rest().bytes());
                    let name = || format!("{}: {}, {polls} polls", case.name, shown(&frames));
                    assert_bytes(&bytes, &[expected, &closing(expected)].concat(), name);
                }
            }
        }
    }
}

#[test]
fn c9_stream_without_an_event_is_closed_at_its_end_in_every_framing() {
    for case in sample() {
        for frames in case.framings(case.stream.len()) {
            let name = || format!("{}: {}", case.name, shown(&frames));
            let (bytes, report) = ended(&frames);
            let delivered = !case.deliveries.is_empty();
            let ending = match (case.ends_in_event(), delivered) {
                (true, _) => Ending::Truncated,
                (false, true) => Ending::Completed,
                (false, false) => Ending::Empty,
            };
            if ending == Ending::Empty {
                let whole = &case.stream[..case.boundary_before(case.stream.len())];
                assert_bytes(&bytes, &[whole, &closing(whole)].concat(), name);
            } else {
                assert_bytes(&bytes, &case.stream, name);
            }
            assert_eq!(report.ending(), ending, "{}", name());
            let closed = ending == Ending::Empty;
            assert_eq!(report.close_event_sent(), closed, "{}", name());
            assert_eq!(report.delivered(), delivered, "{}", name());
        }
    }
}

#[test]
fn c6_decoders_see_the_events_of_a_cancelled_stream_and_then_the_close_event() {
    for case in sample() {
        let (before, after, _) = cancelled(&[&case.stream]);
        let out = [before, after].concat();
        let mut expected = case.decoded.events.clone();
        expected.push(Event {
            event_type: "bye".to_owned(),
            data: String::new(),
            last_event_id: case.decoded.last_event_id.clone(),
        });
        assert_eq!(decode(&out).events, expected, "{}", case.name);
        for published in PUBLISHED
            .iter()
            .filter(|decoder| !cfg!(miri) && !case.deviates(decoder.name))
        {
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

/// Sends these frames through the layer, and cancels. Returns the bytes before and after the cancellation, and the report.
fn cancelled(frames: &[&[u8]]) -> (Vec<u8>, Vec<u8>, StreamReport) {
    let token = CancellationToken::new();
    let reports = Reports::default();
    let upstream = Script::frames(frames).then(AfterScript::Pending);
    let layer = cancellation_layer(&token)
        .close_event(bye())
        .on_end(reports.observer());
    let mut body = drive(&layer, upstream);
    let before = body.ready_data().concat();
    token.cancel();
    let after = body.rest().bytes();
    (before, after, reports.only())
}

/// Sends these frames and the end through the layer.
fn ended(frames: &[&[u8]]) -> (Vec<u8>, StreamReport) {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new()
        .close_event(bye())
        .on_end(reports.observer());
    let bytes = drive(&layer, Script::frames(frames)).rest().bytes();
    (bytes, reports.only())
}

/// Returns the last frame of a closed stream that has forwarded these bytes.
fn closing(out: &[u8]) -> Vec<u8> {
    let lf: &[u8] = if out.ends_with(b"\r") { b"\n" } else { b"" };
    [lf, BYE].concat()
}

#[track_caller]
fn assert_bytes(actual: &[u8], expected: &[u8], name: impl Fn() -> String) {
    assert!(
        actual == expected,
        "{}\n  returned {}\n  expected {}",
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
