//! The buffer for unfinished events, and events that exceed its limit.

use std::{convert::Infallible, task::Poll};

use bytes::{Buf, Bytes};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, cancellation_layer, drive, event_stream},
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
fn c7_default_limit_is_64_kibibytes() {
    let limit = 64 * 1024;
    for (length, held) in [(limit, true), (limit + 1, false)] {
        let steps = [data(unfinished(length - 1)), data("x")];
        let upstream = Script::new(steps).then(AfterScript::Pending);
        let mut body = drive(&SseCompletionLayer::new(), upstream);
        assert_eq!(body.poll().is_pending(), held);
    }
}

#[test]
fn c7_larger_unfinished_event_is_forwarded_as_it_arrives() {
    let whole = [b"data: 1\n\n", &unfinished(200)[..]].concat();
    for (frames, expected) in [
        // Held bytes and those that exceed the limit are joined.
        (
            vec![unfinished(60), vec![b'y'; 60], vec![b'z'; 10]],
            vec![120, 10],
        ),
        // A frame stays whole, and after the end of the event the next one is held.
        (vec![whole, b"\n\ndata: 2".to_vec()], vec![209, 2]),
    ] {
        let upstream = Script::frames(&frames).then(AfterScript::Pending);
        let layer = SseCompletionLayer::new().buffer_limit(100);
        let mut body = drive(&layer, upstream);
        let output = body.ready_data();
        let lengths: Vec<_> = output.iter().map(|frame| frame.len()).collect();
        assert_eq!(lengths, expected);
        assert!(frames.concat().starts_with(&output.concat()));
    }
}

#[test]
fn c7_cancellation_after_a_larger_event_closes() {
    let token = CancellationToken::new();
    let upstream = Script::new([data(unfinished(200)), data("\n\n")]).then(AfterScript::Pending);
    let layer = cancellation_layer(&token).buffer_limit(100);
    let mut body = drive(&layer, upstream);
    assert_eq!(body.data().len(), 200);
    token.cancel();
    assert_eq!(body.data(), "\n\n", "the end of the event was ready");
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn c7_error_after_a_cancellation_within_a_larger_event_is_forwarded() {
    let token = CancellationToken::new();
    token.cancel();
    let upstream = Script::new([data(unfinished(200)), Step::Error]);
    let layer = cancellation_layer(&token).buffer_limit(100);
    let output = drive(&layer, upstream).rest();
    assert_eq!((output.frames.len(), output.error), (1, Some(ScriptError)));
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
    let mut body = drive(&SseCompletionLayer::new(), upstream);
    for frame in &frames {
        let Poll::Ready(Some(Ok(out))) = body.poll() else {
            panic!("{frame:?} has to be forwarded at once")
        };
        let out = out.into_data().expect("data");
        assert_eq!((out.as_ptr(), out.len()), (frame.as_ptr(), frame.len()));
    }
}

#[test]
fn c7_upstream_with_endless_empty_frames_does_not_block_its_task() {
    let upstream = Script::new([]).then(AfterScript::Repeat(Bytes::new()));
    let log = upstream.log();
    let mut body = drive(&SseCompletionLayer::new(), upstream);
    for polls in 1..10 {
        let before = log.polls();
        assert!(body.poll().is_pending());
        assert!((1..=64).contains(&(log.polls() - before)));
        assert_eq!(body.wakes(), polls, "the body wakes its own task");
    }
}

#[test]
fn c7_upstream_with_an_endless_event_does_not_block_its_task() {
    let token = CancellationToken::new();
    let upstream =
        Script::new([data("data: 1\n\ndata: ")]).then(AfterScript::Repeat(Bytes::from("x")));
    let log = upstream.log();
    let mut body = drive(&cancellation_layer(&token), upstream);
    body.data();
    assert!(body.poll().is_pending());
    assert!(log.polls() <= 65);
    token.cancel();
    assert_eq!(body.data(), CLOSE);
}

/// Data of another type than `Bytes`.
#[derive(Debug)]
struct Text(&'static str);

impl Buf for Text {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn advance(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }
}

impl From<Text> for Bytes {
    fn from(text: Text) -> Self {
        Self::from_static(text.0.as_bytes())
    }
}

#[test]
fn c7_data_that_becomes_bytes_is_not_copied() {
    const FRAMES: [&str; 3] = ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"];
    let frames = FRAMES.map(|text| Ok::<_, Infallible>(http_body::Frame::data(Text(text))));
    let upstream = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
    let body: ResponseBody<_> = event_stream(&SseCompletionLayer::new(), upstream);
    let mut body = Driver::new(body);
    for text in FRAMES {
        assert_eq!(body.data().as_ptr(), text.as_ptr());
    }
    assert_eq!(body.rest().text(), "");
}
