//! Keep-alive comments, on tokio's paused clock.

use std::time::Duration;

use testkit::{
    MIRI_STRIDE,
    decoder::decode,
    driver::Driver,
    exchange::{CLOSE, cancellation_layer, drive},
    feed::{Feed, feed},
    reports::Reports,
    script::{AfterScript, Script},
};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, KeepAlive, ResponseBody, SseCompletionLayer};

const SECOND: Duration = Duration::from_secs(1);
const COMMENT: &str = ":\n\n";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Returns a stream that is pending, with this interval in seconds.
fn kept_alive(
    seconds: u32,
    configure: impl FnOnce(SseCompletionLayer) -> SseCompletionLayer,
) -> (Feed, Driver<ResponseBody<Script>>) {
    let layer = SseCompletionLayer::new().keep_alive(SECOND * seconds);
    let (events, upstream) = feed();
    let mut body = drive(&configure(layer), upstream);
    body.assert_pending();
    (events, body)
}

#[tokio::test(start_paused = true)]
async fn c17_comment_is_written_after_each_silent_interval() {
    let (events, mut body) = kept_alive(10, |layer| layer);
    let expected = [(10, COMMENT.into()), (20, COMMENT.into())];
    assert_eq!(body.advance(25).await, expected);
    events.send(": of the handler\n");
    assert_eq!(body.ready_data(), [": of the handler\n"]);
    let output = body.advance(12).await;
    assert_eq!(
        output,
        [(10, COMMENT.into())],
        "the comment of the handler has reset the interval"
    );
}

#[tokio::test(start_paused = true)]
async fn c17_comment_is_written_at_a_boundary_only() {
    // An unfinished event that is buffered does not defer the comment.
    let (events, mut body) = kept_alive(1, |layer| layer);
    events.send("data: 1\n\ndata: 2");
    assert_eq!(body.ready_data(), ["data: 1\n\n"]);
    assert_eq!(body.advance(1).await, [(1, COMMENT.into())]);
    events.send("\n\n");
    assert_eq!(body.ready_data(), ["data: 2\n\n"]);

    // An unfinished event that was forwarded defers the comment.
    let (events, mut body) = kept_alive(1, |layer| layer.buffer_limit(0));
    events.send("data: 1");
    assert_eq!(body.ready_data(), ["data: 1"]);
    assert_eq!(body.advance(5).await, []);
    events.send("\n\n");
    assert_eq!(body.ready_data(), ["\n\n"]);
    assert_eq!(body.advance(1).await, [(1, COMMENT.into())]);
}

#[tokio::test(start_paused = true)]
async fn c17_comment_never_separates_cr_and_lf() {
    let (events, mut body) = kept_alive(1, |layer| layer);
    events.send("data: 1\r\n\r");
    assert_eq!(body.ready_data(), ["data: 1\r\n\r"]);
    assert_eq!(body.advance(3).await, []);
    events.send("\n");
    assert_eq!(body.ready_data(), ["\n"]);
    assert_eq!(body.advance(1).await, [(1, COMMENT.into())]);
}

#[tokio::test(start_paused = true)]
async fn c17_comment_does_not_reset_the_idle_timeout() {
    let layer = SseCompletionLayer::new()
        .close_event_with(|report| CloseEvent::new().data(report.ending().as_str()))
        .keep_alive(SECOND * 2)
        .idle_timeout(SECOND * 5);
    let (_events, upstream) = feed();
    let mut body = drive(&layer, upstream);
    body.assert_pending();
    let close = "event: close\ndata: idle\n\n";
    let expected = [(2, COMMENT), (4, COMMENT), (5, close)];
    let output = body.advance(9).await;
    assert_eq!(output, expected.map(|(second, data)| (second, data.into())));
}

#[tokio::test(start_paused = true)]
async fn c17_first_byte_order_mark_after_a_comment_is_dropped() {
    let mark = "\u{feff}";
    for rest in ["data: 1\n\n".to_owned(), format!("{mark}: 1\n\n")] {
        let stream = format!("{mark}{rest}").into_bytes();
        for buffer_limit in [64 * 1024, 0, 1, 2, 3, 4]
            .into_iter()
            .step_by(MIRI_STRIDE.min(3))
        {
            for first in 0..stream.len() {
                for second in (first..stream.len()).step_by(MIRI_STRIDE) {
                    let (events, mut body) =
                        kept_alive(1, |layer| layer.buffer_limit(buffer_limit));
                    assert_eq!(body.advance(1).await, [(1, COMMENT.into())]);
                    for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                        events.send(piece);
                    }
                    let frames = body.ready_data();
                    let case = format!("{buffer_limit} buffered, cut at {first} and {second}");
                    assert!(frames.iter().all(|data| !data.is_empty()), "{case}");
                    assert_eq!(frames.concat(), rest.as_bytes(), "{case}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c21_frames_that_are_joined_after_a_comment_are_counted_individually() {
    let reports = Reports::default();
    let (events, mut body) = kept_alive(1, |layer| layer.on_end(reports.observer()));
    assert_eq!(body.advance(1).await, [(1, COMMENT.into())]);
    for piece in ["da", "ta: ", "1\n\n"] {
        events.send(piece);
    }
    assert_eq!(body.data(), "data: 1\n\n");
    drop(body);
    assert_eq!(reports.only().data_frames(), 3);
}

#[tokio::test(start_paused = true)]
async fn c17_close_event_follows_a_comment() {
    let token = CancellationToken::new();
    let layer = cancellation_layer(&token).keep_alive(SECOND);
    let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
    let mut body = drive(&layer, upstream);
    assert_eq!(body.ready_data(), ["data: 1\n\n"]);
    advance(SECOND).await;
    assert_eq!(body.data(), COMMENT);
    token.cancel();
    assert_eq!(body.rest().bytes(), CLOSE);
}

#[tokio::test(start_paused = true)]
async fn c17_comment_is_due_in_a_late_first_poll() {
    let (_events, upstream) = feed();
    let mut body = drive(&SseCompletionLayer::new().keep_alive(SECOND), upstream);
    advance(SECOND * 2).await;
    assert_eq!(body.data(), COMMENT);
}

#[tokio::test(start_paused = true)]
async fn c16_interval_of_keep_alive_is_at_least_one_millisecond() {
    // A shorter interval would end in every poll, and the server would poll in a loop.
    let (_events, upstream) = feed();
    let layer = SseCompletionLayer::new().keep_alive(Duration::from_nanos(1));
    let mut body = drive(&layer, upstream);
    for _ in 0..3 {
        body.assert_pending();
        advance(Duration::from_micros(900)).await;
        body.assert_pending();
        advance(Duration::from_micros(100)).await;
        assert_eq!(body.data(), COMMENT);
    }
}

/// Decodes a stream as published SDKs do that deviate from the HTML standard: splits the stream at blank lines, and returns
/// the blocks that start with `data: `.
fn split_at_blank_lines(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n");
    let blocks = text
        .split("\n\n")
        .filter_map(|block| block.strip_prefix("data: "));
    blocks.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn c17_client_that_splits_at_blank_lines_loses_nothing() {
    let every_second = || KeepAlive::new().interval(SECOND);
    for (keep_alive, comment, is_lossless) in [
        (KeepAlive::default().interval(SECOND), ":\n\n", true),
        (every_second().text("ping"), ": ping\n\n", true),
        (
            every_second().text("a\r\nb\rc\n"),
            ": a\n: b\n: c\n:\n\n",
            true,
        ),
        (
            every_second().text("ping").blank_line(false),
            ": ping\n",
            false,
        ),
        (every_second().blank_line(false), ":\n", false),
    ] {
        for line_end in ["\n", "\r\n"] {
            let (events, mut body) = kept_alive(1, |layer| layer.keep_alive(keep_alive.clone()));
            let mut bytes = Vec::new();
            for number in 0..3 {
                let output = body.advance(2).await;
                assert_eq!(
                    output,
                    [(1, comment.into()), (2, comment.into())],
                    "{keep_alive:?}"
                );
                bytes.extend(output.into_iter().flat_map(|(_, data)| data));
                events.send(format!("data: {number}{line_end}{line_end}"));
                bytes.extend(body.ready_data().concat());
            }
            let expected: &[&str] = if is_lossless { &["0", "1", "2"] } else { &[] };
            assert_eq!(
                split_at_blank_lines(&bytes),
                expected,
                "{keep_alive:?}, {line_end:?}"
            );
            let decoded = decode(&bytes).events;
            assert_eq!(
                decoded.len(),
                3,
                "{keep_alive:?}: a conforming client loses nothing"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c7_limit_applies_to_the_first_event_after_a_comment() {
    let (events, mut body) = kept_alive(1, |layer| layer.buffer_limit(8));
    assert_eq!(body.advance(1).await, [(1, COMMENT.into())]);
    events.send("data: more than fits");
    assert_eq!(body.ready_data(), ["data: more than fits"]);
}

#[tokio::test(start_paused = true)]
async fn c17_byte_order_mark_that_is_dropped_leaves_no_empty_frame() {
    for frames in [&[BYTE_ORDER_MARK][..], &[b"\xEF\xBB", b"\xBF"]] {
        let layer = SseCompletionLayer::new()
            .keep_alive(SECOND)
            .close_on_empty(false);
        let (events, upstream) = feed();
        let mut body = drive(&layer, upstream);
        body.assert_pending();
        assert_eq!(body.advance(1).await, [(1, COMMENT.into())]);
        for frame in frames {
            events.send(*frame);
        }
        drop(events);
        assert_eq!(body.rest().frames, [""; 0]);
    }
}
