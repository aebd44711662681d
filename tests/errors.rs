//! Errors of the upstream: the frames that reach the client before the error, and the close event in place of the error.

use std::task::Poll;

use testkit::{
    exchange::{CLOSE, cancellation_layer, drive},
    reports::Reports,
    script::{Script, ScriptError, Step, data},
    server::{self, VERSIONS, receive},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{Ending, SseCompletionLayer};

const EVENT: &str = "data: 1\n\n";

fn observed() -> (Reports, SseCompletionLayer) {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    (reports, layer)
}

fn failing(frames: &[impl AsRef<[u8]>]) -> Script {
    Script::new(frames.iter().map(data).chain([Step::Error]))
}

/// Streams whose frames and error are ready in one poll.
fn frames() -> Vec<Vec<String>> {
    let large = format!("data: {}\n\n", "x".repeat(16 * 1024));
    vec![
        vec![EVENT.to_owned()],
        vec![EVENT.to_owned(); 2],
        vec![EVENT.to_owned(); 100],
        vec![EVENT.to_owned(), large],
        vec![": a comment\n".to_owned()],
        vec!["data: 1\n\ndata: unfinished".to_owned()],
        vec!["data: unfinished".to_owned()],
    ]
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c12_client_has_every_frame_before_the_error() {
    for version in VERSIONS {
        for frames in frames() {
            for round in 0..10 {
                let (reports, layer) = observed();
                let (sent, frames) = (frames.concat(), frames.clone());
                let upstream = move || failing(&frames);
                let address = server::serve_scripts(layer, upstream).await;
                let response = server::request(address, version, "GET", "/").await;
                let received = receive(response.into_body()).await;
                let case = format!("{version:?}, round {round}");
                assert_eq!(received.bytes.len(), sent.len(), "{case}");
                assert_eq!(received.bytes, sent.as_bytes(), "{case}");
                assert!(received.error.is_some(), "{case}: the stream is aborted");
                assert_eq!(reports.only().ending(), Ending::Failed, "{case}");
            }
        }
    }
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c12_close_on_failed_ends_the_response_cleanly() {
    for version in VERSIONS {
        for (frames, kept) in [
            (&[EVENT, EVENT][..], "data: 1\n\ndata: 1\n\n"),
            (&["data: 1\n\ndata: unfinished"], EVENT),
            (&[][..], ""),
        ] {
            let (reports, layer) = observed();
            let layer = layer.close_on_failed(true);
            let address = server::serve_scripts(layer, move || failing(frames)).await;
            let response = server::request(address, version, "GET", "/").await;
            let text = receive(response.into_body()).await.text();
            assert_eq!(
                text.as_bytes(),
                [kept.as_bytes(), CLOSE].concat(),
                "{version:?}"
            );
            let report = reports.only();
            assert_eq!(report.ending(), Ending::Failed, "{version:?}");
            assert!(report.close_event_sent(), "{version:?}");
        }
    }
}

#[test]
fn c12_error_waits_for_another_poll_after_a_frame_was_sent() {
    for frames in [
        &[EVENT][..],
        &[EVENT, EVENT],
        &[": a comment\n"],
        &["data: unfinished"],
        &["data: 1\n\ndata: unfinished"],
        &["", EVENT, ""],
    ] {
        let (reports, layer) = observed();
        let mut body = drive(&layer, failing(frames));
        let mut bytes = Vec::new();
        while let Poll::Ready(frame) = body.poll() {
            let frame = frame.expect("not the end").expect("no error yet");
            bytes.extend(frame.into_data().expect("data"));
        }
        assert_eq!(bytes, frames.concat().as_bytes(), "{frames:?}");
        assert_eq!(body.wakes(), 1, "{frames:?}: the body wakes its task");
        assert_eq!(reports.count(), 0, "{frames:?}: the error is still to come");
        assert!(!body.is_end_stream(), "{frames:?}");
        let output = body.rest();
        assert_eq!(output.error, Some(ScriptError), "{frames:?}");
        assert!(output.frames.is_empty(), "{frames:?}: nothing follows");
        assert_eq!(reports.only().ending(), Ending::Failed, "{frames:?}");
    }
}

#[test]
fn c12_error_before_anything_was_sent_does_not_wait() {
    for frames in [&[""; 0][..], &["", ""]] {
        let mut body = drive(&SseCompletionLayer::new(), failing(frames));
        let polled = body.poll();
        assert!(
            matches!(polled, Poll::Ready(Some(Err(ScriptError)))),
            "{polled:?}"
        );
        assert_eq!(body.wakes(), 0);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn c12_error_after_a_keep_alive_comment_waits() {
    use std::time::Duration;

    let layer = SseCompletionLayer::new().keep_alive(Duration::from_secs(1));
    let upstream = Script::new([Step::Pending, Step::Pending, Step::Error]);
    let mut body = drive(&layer, upstream);
    assert!(body.poll().is_pending());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(body.data(), ":\n\n");
    let wakes = body.wakes();
    assert!(body.poll().is_pending(), "the comment is flushed first");
    assert!(body.wakes() > wakes);
    assert_eq!(body.rest().error, Some(ScriptError));
}

#[test]
fn c12_pending_error_is_the_end_although_a_cancellation_fires() {
    for is_dropped in [false, true] {
        let (token, reports) = (CancellationToken::new(), Reports::default());
        let layer = cancellation_layer(&token).on_end(reports.observer());
        let upstream = failing(&[EVENT]);
        let log = upstream.log();
        let mut body = drive(&layer, upstream);
        body.data();
        assert!(body.poll().is_pending());
        assert!(log.dropped(), "the upstream has ended");
        token.cancel();
        if is_dropped {
            body.drop_body();
        } else {
            let output = body.rest();
            assert_eq!(output.error, Some(ScriptError));
            assert_eq!(output.text(), "");
        }
        let report = reports.only();
        assert_eq!(
            (report.ending(), report.close_event_sent()),
            (Ending::Failed, false),
            "dropped: {is_dropped}"
        );
    }
}

#[test]
fn c12_text_of_the_error_is_never_written() {
    for closes in [false, true] {
        let layer = SseCompletionLayer::new().close_on_failed(closes);
        let text = drive(&layer, failing(&[EVENT])).rest().text();
        let secret = ScriptError.to_string();
        assert!(!text.contains(&secret), "{text:?}");
    }
}
