//! How much is held back, and what happens to an unfinished event that is larger.

use std::task::Poll;

use bytes::{Buf, Bytes};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, cancelled_by, event_stream},
    script::{AfterScript, Script, ScriptError, Step, data},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{ResponseBody, SseCompletionLayer};

/// An event of this many bytes, without its blank line.
fn unfinished(length: usize) -> Vec<u8> {
    let mut event = b"data: ".to_vec();
    event.resize(length, b'x');
    event
}

#[test]
fn c7_unfinished_event_up_to_the_limit_is_held() {
    let upstream = Script::new([data(unfinished(99)), data("x")]).then(AfterScript::Pending);
    let layer = SseCompletionLayer::new().hold_limit(100);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert!(body.poll().is_pending());
}

#[test]
fn c7_stream_is_closed_again_behind_a_large_event_that_flowed_through() {
    let token = CancellationToken::new();
    let layer = cancelled_by(&token).hold_limit(0);
    let frames = ["data: 1\n\n", "data: 2", "2\n\n"];
    let upstream = Script::frames(frames).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer, upstream));
    for frame in frames {
        assert_eq!(body.data(), frame);
    }
    assert!(body.poll().is_pending());
    token.cancel();
    assert_eq!(body.rest().bytes(), CLOSE);
}

#[test]
fn c7_default_limit_is_64_kibibytes() {
    let limit = 64 * 1024;
    for (length, held) in [(limit, true), (limit + 1, false)] {
        let upstream = Script::new([data(unfinished(length))]).then(AfterScript::Pending);
        let mut body = Driver::new(event_stream(&SseCompletionLayer::new(), upstream));
        assert_eq!(body.poll().is_pending(), held);
    }
}

#[test]
fn c7_larger_unfinished_event_flows_as_it_comes() {
    let pieces = [unfinished(60), vec![b'y'; 60], vec![b'z'; 10]];
    let upstream = Script::frames(&pieces).then(AfterScript::Pending);
    let layer = SseCompletionLayer::new().hold_limit(100);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert_eq!(body.data(), pieces[0]);
    assert_eq!(body.data(), pieces[1]);
    assert_eq!(body.data(), pieces[2]);
    assert!(body.poll().is_pending());
}

#[test]
fn c7_rest_of_a_frame_that_is_larger_than_the_limit_flows_with_it() {
    let frame = [b"data: 1\n\n", &unfinished(200)[..]].concat();
    let upstream = Script::frames([&frame[..], b"\n\ndata: 2"]).then(AfterScript::Pending);
    let layer = SseCompletionLayer::new().hold_limit(100);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert_eq!(body.data(), frame);
    assert_eq!(
        body.data(),
        "\n\n",
        "and after its blank line all is as before"
    );
    assert!(body.poll().is_pending());
}

#[test]
fn c7_cancellation_within_a_larger_event_ends_the_stream_without_a_close_event() {
    let token = CancellationToken::new();
    let upstream = Script::new([data(unfinished(200))]).then(AfterScript::Pending);
    let log = upstream.log();
    let layer = cancelled_by(&token).hold_limit(100);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert_eq!(body.data().len(), 200);
    token.cancel();
    assert!(matches!(body.poll_while_woken(), Poll::Ready(None)));
    assert!(log.dropped());
    body.rest();
}

#[test]
fn c7_cancellation_after_a_larger_event_closes() {
    let token = CancellationToken::new();
    let upstream = Script::new([data(unfinished(200)), data("\n\n")]).then(AfterScript::Pending);
    let layer = cancelled_by(&token).hold_limit(100);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert_eq!(body.data().len(), 200);
    token.cancel();
    assert_eq!(body.data(), "\n\n", "its end was ready");
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn c7_error_within_a_larger_event_is_passed_on_even_if_failed_streams_are_closed() {
    let upstream = Script::new([data(unfinished(200)), Step::Error]);
    let layer = SseCompletionLayer::new()
        .hold_limit(100)
        .close_on_failed(true);
    let output = Driver::new(event_stream(&layer, upstream)).rest();
    assert_eq!(output.frames.len(), 1);
    assert_eq!(output.error, Some(ScriptError));
}

#[test]
fn c7_error_after_a_cancellation_within_a_larger_event_is_not_passed_on() {
    let token = CancellationToken::new();
    token.cancel();
    let upstream = Script::new([data(unfinished(200)), Step::Error]);
    let layer = cancelled_by(&token).hold_limit(100);
    let output = Driver::new(event_stream(&layer, upstream)).rest();
    assert_eq!((output.frames.len(), output.error), (1, None));
}

#[test]
fn c7_end_within_a_larger_event_that_is_the_first_is_not_closed() {
    let upstream = Script::new([data(unfinished(200))]);
    let layer = SseCompletionLayer::new().hold_limit(100);
    let output = Driver::new(event_stream(&layer, upstream)).rest();
    assert_eq!(output.frames.len(), 1);
}

#[test]
fn c7_limit_of_zero_holds_nothing() {
    let upstream = Script::frames(["d", "ata: x", "\n\n"]);
    let layer = SseCompletionLayer::new().hold_limit(0);
    let output = Driver::new(event_stream(&layer, upstream)).rest();
    assert_eq!(output.frames, ["d", "ata: x", "\n\n"]);
}

#[test]
fn c7_aligned_frame_is_neither_copied_nor_split_nor_delayed() {
    let frames = [
        "data: 1\n\n",
        ":\n",
        "data: 2\r\n\r\n",
        "data: 3\n\ndata: 4\n\n",
        "data: 5\r\r",
        "data: 6\n\n",
    ]
    .map(Bytes::from);
    let upstream = Script::new(frames.iter().cloned().map(Step::Data)).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&SseCompletionLayer::new(), upstream));
    for frame in &frames {
        let Poll::Ready(Some(Ok(out))) = body.poll() else {
            panic!("{frame:?} has to come at once")
        };
        let out = out.into_data().expect("data");
        assert_eq!((out.as_ptr(), out.len()), (frame.as_ptr(), frame.len()));
    }
}

#[test]
fn c7_upstream_that_yields_empty_frames_for_ever_does_not_keep_a_poll() {
    let upstream = Script::new([]).then(AfterScript::Repeat(Bytes::new()));
    let log = upstream.log();
    let mut body = Driver::new(event_stream(&SseCompletionLayer::new(), upstream));
    for polls in 1..10 {
        let before = log.polls();
        assert!(body.poll().is_pending());
        assert!((1..=64).contains(&(log.polls() - before)));
        assert_eq!(body.wakes(), polls, "it goes on by itself");
    }
}

#[test]
fn c7_upstream_that_never_finishes_its_event_does_not_keep_a_poll() {
    let token = CancellationToken::new();
    let upstream =
        Script::new([data("data: 1\n\ndata: ")]).then(AfterScript::Repeat(Bytes::from("x")));
    let log = upstream.log();
    let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
    body.data();
    assert!(body.poll().is_pending());
    assert!(log.polls() <= 65);
    token.cancel();
    assert_eq!(body.data(), CLOSE);
}

/// Data in two parts, as `Buf` allows.
struct Parts(bytes::buf::Chain<&'static [u8], &'static [u8]>);

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.0.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

/// Each frame in two parts.
fn in_parts(
    frames: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> impl http_body::Body<Data = Parts, Error = ScriptError> {
    let frames = frames.into_iter().map(|(first, second)| {
        let parts = first.as_bytes().chain(second.as_bytes());
        Ok(http_body::Frame::data(Parts(parts)))
    });
    http_body_util::StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()))
}

#[test]
fn data_of_any_kind_is_taken_whole() {
    let parts = [
        ("data: 1\n\n", "data: 2\n\n"),
        ("data: 3\n\n", "data: unfin"),
        ("ished\n", "\n"),
        ("data: 4\n\n", "data: 5"),
    ];
    let body: ResponseBody<_> = event_stream(&SseCompletionLayer::new(), in_parts(parts));
    let text = Driver::new(body).rest().text();
    let expected: String = parts.into_iter().flat_map(|(a, b)| [a, b]).collect();
    assert_eq!(text, expected);
}

#[test]
fn c6_blank_line_at_the_end_of_a_part_is_not_the_end_of_the_data() {
    let parts = [
        ("data: 1\n\n", ""),
        ("data: 2\n\n", ""),
        ("data: 3\n\n", "data: unfin"),
        ("ished\n", "\n"),
    ];
    let body: ResponseBody<_> = event_stream(&SseCompletionLayer::new(), in_parts(parts));
    let mut body = Driver::new(body);
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        assert_eq!(body.data(), event);
    }
    assert_eq!(body.rest().text(), "data: unfinished\n\n");
}
