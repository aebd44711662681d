//! The output is a prefix of the upstream's bytes that ends at a boundary, and at most a close event: for every way to cut
//! a stream into frames, and for a cancellation at any poll. The decoder of the test kit is the judge.

use std::task::Poll;

use proptest::prelude::*;
use testkit::{
    decoder::{boundaries, decode},
    exchange::{CLOSE, cancelled_by, drive},
    script::{AfterScript, Script, Step, data},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::SseCompletionLayer;

/// Streams that are hard to cut.
const STREAMS: &[&[u8]] = &[
    b"data: 1\n\ndata: 2\n\n",
    b"data: 1\r\n\r\ndata: 2\r\n\r\n",
    b"data: 1\r\rdata: 2\r\r",
    b"id: 7\r\ndata: 1\n\r\ndata: 2\r\n\n",
    b"data:1\n\r:c\rdata\r\n\r",
    b"\xEF\xBB\xBFdata: bom\n\n",
    b"\xEF\xBB\xBF\n:c\n\xEF\xBB\xBF: no comment\n\n",
    b"\xEF\xBBdata: x\n\ndata: y\n\n",
    b":\n: c\n\n:\ndata: 1\n: inside\n\n:\n",
    b"retry: 5\n\nevent: x\n\ndatum: 1\n\ndata\n\n",
    b"event: e\nid: 1\ndata: a\ndata: b\n\nid\n\nid: 2\n",
    b"\r\n\r\n\n\n\rdata: x",
    "data: \u{e9}\u{1f600}\n\ndata:\n\n".as_bytes(),
];

/// Sends these frames through the layer, and cancels before this poll. Returns `None` if the stream ends earlier.
fn cancelled_before_poll(frames: &[&[u8]], then: AfterScript, poll: usize) -> Option<Vec<u8>> {
    let token = CancellationToken::new();
    let upstream = Script::frames(frames).then(then);
    let mut body = drive(&cancelled_by(&token), upstream);
    let mut bytes = Vec::new();
    for _ in 0..poll {
        match body.poll() {
            Poll::Ready(Some(Ok(frame))) => bytes.extend(frame.into_data().expect("data")),
            Poll::Ready(_) => return None,
            Poll::Pending => {}
        }
    }
    if body.is_end_stream() {
        return None;
    }
    token.cancel();
    bytes.extend(body.rest().bytes());
    Some(bytes)
}

/// Returns the output that is expected if these bytes have arrived and the stream is closed.
fn closed_after(bytes: &[u8]) -> Vec<u8> {
    let whole = boundaries(bytes).pop().unwrap_or(0);
    let lf: &[u8] = if bytes[..whole].ends_with(b"\r") {
        b"\n"
    } else {
        b""
    };
    [&bytes[..whole], lf, CLOSE].concat()
}

/// Cancels before every poll. There are at most 32 frames, so that all are forwarded after a cancellation, too.
#[track_caller]
fn assert_whole(frames: &[&[u8]]) {
    let stream = frames.concat();
    for poll in 0..=frames.len() + 2 {
        for then in [AfterScript::Pending, AfterScript::End] {
            if let Some(bytes) = cancelled_before_poll(frames, then, poll) {
                assert_eq!(
                    bytes.escape_ascii().to_string(),
                    closed_after(&stream).escape_ascii().to_string(),
                    "frames {frames:?} cancelled before poll {poll}",
                );
            }
        }
    }
    let layer = SseCompletionLayer::new();
    let output = drive(&layer, Script::frames(frames)).rest();
    let expected = if decode(&stream).events.is_empty() {
        closed_after(&stream)
    } else {
        stream
    };
    assert_eq!(output.bytes(), expected, "frames {frames:?}");
}

#[test]
fn c6_every_cut_into_two_and_three_frames_at_every_cancellation_keeps_events_whole() {
    for stream in STREAMS {
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let frames = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_whole(&frames);
            }
        }
    }
}

#[test]
fn c6_one_byte_per_frame_keeps_events_whole() {
    for stream in STREAMS {
        for stream in stream.chunks(32) {
            let frames: Vec<&[u8]> = stream.chunks(1).collect();
            assert_whole(&frames);
        }
    }
}

#[test]
fn c5_close_event_completes_a_split_crlf() {
    let frames: [&[u8]; 2] = [b"data: x\r\n\r", b""];
    assert_eq!(
        cancelled_before_poll(&frames, AfterScript::Pending, 9).as_deref(),
        Some(&b"data: x\r\n\r\nevent: close\ndata:\n\n"[..])
    );
}

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
        // After an event that was buffered.
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
    let mut body = drive(&cancelled_by(&token), upstream);
    assert_eq!(body.data(), "data: x\n\n");
    assert_eq!(body.data(), "da");
    token.cancel();
    assert_eq!(body.data(), "ta: y\n\n");
    assert_eq!(body.data(), CLOSE);
}

/// A line of an event stream, with everything that the standard defines and some things that it does not.
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

/// A stream, cut into frames at random places. Some frames follow a pending poll.
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
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    /// C4 and C6, literally.
    #[test]
    fn c6_events_are_a_prefix_of_those_without_the_layer_and_at_most_the_close_event(
        (stream, steps) in script(),
        cancelled_at in 0..24_usize,
        ends in any::<bool>(),
        hold_limit in prop_oneof![4 => Just(64 * 1024), 1 => 0..40_usize],
    ) {
        let token = CancellationToken::new();
        let then = if ends { AfterScript::End } else { AfterScript::Pending };
        let layer = cancelled_by(&token).hold_limit(hold_limit);
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
        if !closed && ends && hold_limit == 64 * 1024 {
            prop_assert_eq!(forwarded, &stream[..], "C4: all bytes, if no close event is due");
        }
    }
}
