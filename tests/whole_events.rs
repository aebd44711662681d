//! The output is a prefix of the upstream's bytes that ends at a boundary, and at most a close event, for every split of a
//! stream into frames and for a cancellation at any poll. The decoder of the test kit is the judge.

use std::task::Poll;

use proptest::prelude::*;
use testkit::{
    MIRI_STRIDE,
    decoder::decode,
    exchange::{CLOSE, cancellation_layer, drive},
    script::{AfterScript, Script, Step, data},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::SseCompletionLayer;

#[test]
fn c5_lf_after_a_cr_is_in_the_frame_of_the_close_event() {
    let upstream = Script::frames([":\r"]);
    let output = drive(&SseCompletionLayer::new(), upstream).rest();
    assert_eq!(output.frames.len(), 2);
    assert_eq!(output.frames[1], "\nevent: close\ndata:\n\n");
}

#[test]
fn c6_complete_comment_line_is_not_buffered() {
    for frames in [
        &["data: x\n\n", ":\n"][..],
        &["data: x\n\n", ": hi\r\n"],
        &["data: x\n\n", ":\r"],
        // The comment follows an event that was buffered.
        &["data: x\n\n", "data: y", "z\n\n", ":\n"],
    ] {
        let upstream = Script::frames(frames).then(AfterScript::Pending);
        let mut body = drive(&SseCompletionLayer::new(), upstream);
        assert_eq!(body.ready_data(), frames);
    }
}

#[test]
fn c6_unfinished_comment_line_and_byte_order_mark_are_buffered() {
    for unfinished in [": hi", "\u{feff}"] {
        let upstream = Script::frames([unfinished]).then(AfterScript::Pending);
        let mut body = drive(&SseCompletionLayer::new(), upstream);
        assert!(body.poll().is_pending(), "{unfinished:?}");
    }
}

#[test]
fn c6_frames_of_a_buffered_event_are_consecutive() {
    let token = CancellationToken::new();
    let upstream = Script::frames(["data: x\n\nda", "ta: y\n\n"]).then(AfterScript::Pending);
    let mut body = drive(&cancellation_layer(&token), upstream);
    assert_eq!(body.data(), "data: x\n\n");
    assert_eq!(body.data(), "da");
    token.cancel();
    assert_eq!(body.data(), "ta: y\n\n");
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn c6_event_before_a_long_unfinished_one_is_forwarded() {
    for line_end in ["\n", "\r", "\r\n"] {
        let event = format!("data: 1{line_end}{line_end}");
        let unfinished = format!("data: 2{line_end}").repeat(40);
        let upstream = Script::frames([event.clone() + &unfinished]).then(AfterScript::Pending);
        let mut body = drive(&SseCompletionLayer::new(), upstream);
        assert_eq!(body.ready_data(), [event]);
    }
}

/// Generates a line of an event stream, with all syntax that the standard defines and some that it does not.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        4 => Just("data"),
        2 => Just("id"),
        2 => Just("event"),
        1 => Just("retry"),
        1 => Just("datum"),
        1 => Just("dat"),
        1 => Just(""),
        1 => "[a-z\u{e9}\u{1f600}\\x00]{1,4}".prop_map(|name| &*name.leak()),
    ];
    let separator = prop_oneof![3 => Just(": "), 1 => Just(":"), 1 => Just("")];
    let value = prop_oneof![3 => "[a-z0-9: ]{0,6}", 1 => "\\PC{0,3}", 1 => Just("\0".to_owned())];
    prop_oneof![
        5 => (field, separator, value).prop_map(|(field, separator, value)| {
            [field, separator, &value].concat().replace(['\r', '\n'], "").into_bytes()
        }),
        4 => Just(Vec::new()),
        // Not UTF-8.
        1 => prop::collection::vec(any::<u8>().prop_filter("within a line", |byte| !b"\r\n".contains(byte)), 0..4),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![3 => Just("\n"), 2 => Just("\r\n"), 1 => Just("\r")];
    let lines = prop::collection::vec((line(), end), 0..16);
    (prop::bool::weighted(0.2), lines, line()).prop_map(|(mark, lines, rest)| {
        let mark: &[u8] = if mark { b"\xEF\xBB\xBF" } else { b"" };
        let lines = lines
            .into_iter()
            .flat_map(|(line, end)| [line, end.into()].concat());
        [mark, &lines.collect::<Vec<u8>>(), &rest].concat()
    })
}

/// Generates a stream, split into frames at random positions. Some frames follow a pending poll.
fn script() -> impl Strategy<Value = (Vec<u8>, Vec<Step>)> {
    let cuts = prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..10);
    (stream(), cuts).prop_map(|(stream, cuts)| {
        let mut cuts: Vec<_> = cuts
            .into_iter()
            .map(|(index, pending)| (index.index(stream.len() + 1), pending))
            .collect();
        cuts.sort_unstable();
        let mut steps = Vec::new();
        let mut start = 0;
        for (end, pending) in cuts {
            steps.push(data(&stream[start..end]));
            if pending {
                steps.push(Step::Pending);
            }
            start = end;
        }
        steps.push(data(&stream[start..]));
        (stream, steps)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096 / (MIRI_STRIDE as u32).pow(2), failure_persistence: None, ..ProptestConfig::default() })]

    /// Tests C4 and C6 literally.
    #[test]
    fn c6_events_are_a_prefix_of_those_without_the_layer_and_at_most_the_close_event(
        (stream, steps) in script(),
        cancelled_at in 0..24_usize,
        ends in any::<bool>(),
        buffer_limit in prop_oneof![4 => Just(64 * 1024), 1 => 0..40_usize],
    ) {
        let token = CancellationToken::new();
        let then = if ends { AfterScript::End } else { AfterScript::Pending };
        let layer = cancellation_layer(&token).buffer_limit(buffer_limit);
        let mut body = drive(&layer, Script::new(steps).then(then));
        let mut out = Vec::new();
        for _ in 0..cancelled_at {
            if let Poll::Ready(Some(Ok(frame))) = body.poll() {
                out.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            }
        }
        token.cancel();
        out.extend(body.rest().bytes());

        let (forwarded, closed) = match out.strip_suffix(CLOSE) {
            Some(rest) => match rest.strip_suffix(b"\n") {
                Some(cr) if cr.ends_with(b"\r") && !stream.starts_with(rest) => (cr, true),
                _ => (rest, true),
            },
            None => (&out[..], false),
        };
        prop_assert!(stream.starts_with(forwarded), "C4: a prefix of the upstream's bytes");
        prop_assert!(!closed || !decode(forwarded).pending, "C5: at a boundary");

        let without = decode(&stream);
        let with = decode(&out);
        let mut events = with.events.clone();
        if closed {
            let close = events.pop().expect("the close event");
            prop_assert_eq!((&*close.event_type, &*close.data), ("close", ""));
        }
        prop_assert!(without.events.starts_with(&events), "C6: whole events only");
        prop_assert_eq!(with.last_event_id, decode(forwarded).last_event_id, "C6: the resume point");
        if !closed && ends && buffer_limit == 64 * 1024 {
            prop_assert_eq!(forwarded, &stream[..], "C4: all bytes, if no close event is due");
        }
    }
}
