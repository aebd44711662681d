//! Events that arrive in several frames, and comments.

use testkit::{
    exchange::{CLOSE, cancellation_layer, drive},
    script::{AfterScript, Script},
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
        assert_eq!(body.ready_data().concat(), frames.concat().as_bytes());
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
fn c6_buffered_event_and_its_rest_are_one_frame_up_to_4_kibibytes() {
    let rest = "x".repeat(4096 - "data\n\n".len()) + "\n\n";
    let upstream = Script::frames(["da", "ta", &rest]).then(AfterScript::Pending);
    let mut body = drive(&SseCompletionLayer::new(), upstream);
    assert_eq!(body.ready_data(), [format!("data{rest}").into_bytes()]);
}

#[test]
fn c6_frames_of_a_larger_buffered_event_are_consecutive() {
    let token = CancellationToken::new();
    let rest = "x".repeat(4097 - "data\n\n".len()) + "\n\n";
    let upstream = Script::frames(["data: x\n\nda", "ta", &rest]).then(AfterScript::Pending);
    let mut body = drive(&cancellation_layer(&token), upstream);
    assert_eq!(body.data(), "data: x\n\n");
    assert_eq!(body.data(), "data");
    token.cancel();
    assert_eq!(body.data(), rest);
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
