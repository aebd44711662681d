//! Cancelled streams: the close event is prompt, no upstream outruns it, and no frame that was ready is lost.

use std::{
    future::{self, Future},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, request::Parts};
use http_body::Frame;
use http_body_util::StreamBody;
use testkit::{
    driver::Driver,
    exchange::{
        CLOSE, cancellation_layer, drive, event_stream_response, send_response, spend_budget,
    },
    feed::feed,
    script::{AfterScript, EndStream, Script, ScriptError, Step, data, trailers},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

const EVENT: &[u8] = b"data: x\n\n";

fn endless() -> Script {
    Script::new([]).then(AfterScript::Repeat(Bytes::from_static(EVENT)))
}

fn cancelled() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}

#[test]
fn c10_close_event_follows_cancellation_while_upstream_is_pending() {
    let token = CancellationToken::new();
    let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
    let mut body = drive(&cancellation_layer(&token), upstream);
    assert_eq!(body.data(), EVENT);
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(body.wakes(), 0);
    token.cancel();
    assert_eq!(body.wakes(), 1, "the cancellation wakes the task");
    assert_eq!(body.data(), CLOSE);
    body.rest();
}

#[test]
fn c11_upstream_that_is_always_ready_cannot_outrun_the_cancellation() {
    for frames_before in [0, 1, 31, 32, 33, 100] {
        let (token, upstream) = (CancellationToken::new(), endless());
        let log = upstream.log();
        let mut body = drive(&cancellation_layer(&token), upstream);
        for _ in 0..frames_before {
            assert_eq!(body.data(), EVENT);
        }
        token.cancel();
        let after = body.rest().frames;
        assert_eq!(after[after.len() - 1], CLOSE);
        // At most 32 frames until the cancellation is checked, and 32 frames after the check.
        assert!(after.len() <= 65, "{} frames after", after.len());
        assert!(frames_before > 0 || after.len() == 33);
        assert_eq!(log.polls(), frames_before + after.len() - 1);
    }
}

#[test]
fn c11_frames_that_end_at_a_boundary_without_an_event_cannot_outrun_the_cancellation() {
    for frame in [":\n", "\n", "data: x\n\n:\n", "data: x\r\r"] {
        let token = CancellationToken::new();
        let upstream = Script::frames([EVENT]).then(AfterScript::Repeat(frame.into()));
        let mut body = drive(&cancellation_layer(&token), upstream);
        assert_eq!(body.data(), EVENT);
        assert_eq!(body.data(), frame);
        token.cancel();
        let closed_after = (0..=65).find(|_| body.data().ends_with(CLOSE));
        assert!(closed_after.is_some(), "{frame:?}");
    }
}

#[test]
fn c11_upstream_that_only_yields_within_the_budget_is_polled_once() {
    let upstream = Script::new(vec![Step::Yield; 100]);
    let log = upstream.log();
    let mut body = drive(&cancellation_layer(&cancelled()), upstream);
    assert_eq!(body.data(), CLOSE);
    let polls = if cfg!(feature = "tokio") { 1 } else { 2 };
    assert_eq!(log.polls(), polls);
}

#[tokio::test]
async fn c11_message_that_a_channel_queued_before_the_cancellation_is_forwarded() {
    let token = CancellationToken::new();
    let (events, upstream) = feed();
    let mut body = drive(&cancellation_layer(&token), upstream);
    assert!(body.poll().is_pending());
    events.send(EVENT);
    token.cancel();
    // With the budget spent, the channel is pending although it holds a message.
    spend_budget();
    assert!(body.poll().is_pending());
    tokio::task::yield_now().await;
    assert_eq!(body.data(), EVENT);
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn c11_cancellation_is_not_polled_after_it_has_completed() {
    for events in 0..3 {
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let layer = SseCompletionLayer::new().cancel_when({
            let is_cancelled = Arc::clone(&is_cancelled);
            move |_| {
                let is_cancelled = Arc::clone(&is_cancelled);
                // Panics if it is polled again.
                async move {
                    future::poll_fn(|_| match is_cancelled.load(Ordering::SeqCst) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    })
                    .await;
                }
            }
        });
        let upstream = Script::frames(vec![EVENT; events]).then(AfterScript::Pending);
        let mut body = drive(&layer, upstream);
        for _ in 0..events {
            assert_eq!(body.data(), EVENT);
        }
        body.assert_pending();
        is_cancelled.store(true, Ordering::SeqCst);
        assert_eq!(body.rest().bytes(), CLOSE);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn c11_upstream_is_polled_only_once_more_if_the_budget_stays_spent() {
    let upstream = Script::silent();
    let log = upstream.log();
    let mut body = drive(&cancellation_layer(&cancelled()), upstream);
    spend_budget();
    assert!(body.poll().is_pending());
    assert_eq!(body.wakes(), 1);
    assert_eq!(body.data(), CLOSE);
    assert_eq!(log.polls(), 2);
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn c11_cancellation_is_seen_if_the_upstream_ends_with_the_budget_spent() {
    for end_stream in [EndStream::Unknown, EndStream::Known] {
        let (send, receive) = tokio::sync::watch::channel(false);
        let layer = SseCompletionLayer::new().cancel_when(move |_| {
            let mut receive = receive.clone();
            async move {
                let _ = receive.wait_for(|&ends| ends).await;
            }
        });
        let upstream = Script::frames([EVENT, EVENT]).end_stream(end_stream);
        let mut body = drive(&layer, upstream);
        assert_eq!(body.data(), EVENT);
        send.send(true).expect("the stream is open");
        spend_budget();
        assert_eq!(body.data(), EVENT);
        assert_eq!(body.rest().bytes(), CLOSE);
        tokio::task::yield_now().await;
    }
}

#[test]
fn c11_end_of_the_upstream_after_the_cancellation_is_cancelled() {
    for (end, expected) in [
        (None, None),
        (Some(Step::Error), None),
        (Some(Step::Trailers), Some(trailers())),
    ] {
        let upstream = Script::new([data(EVENT)].into_iter().chain(end));
        let output = drive(&cancellation_layer(&cancelled()), upstream).rest();
        assert_eq!(output.frames, [EVENT, CLOSE]);
        assert_eq!((output.trailers, output.error), (expected, None));
    }
}

#[test]
fn c11_stream_whose_handler_ends_by_the_same_signal_has_a_close_event() {
    for end_stream in [EndStream::Unknown, EndStream::Known] {
        for end in [None, Some(Step::Error), Some(Step::Trailers)] {
            let token = CancellationToken::new();
            let steps = [data(EVENT), data(EVENT)].into_iter().chain(end);
            let upstream = Script::new(steps).end_stream(end_stream);
            let mut body = drive(&cancellation_layer(&token), upstream);
            assert_eq!(body.data(), EVENT);
            // The upstream ends before the next check of the cancellation.
            token.cancel();
            let output = body.rest();
            assert_eq!(output.frames, [EVENT, CLOSE]);
            assert_eq!(output.error, None);
        }
    }
}

#[test]
fn c13_nothing_is_polled_after_it_has_finished() {
    // The script and the cancellation panic when they are polled after their ends.
    let polls = Arc::new(AtomicUsize::new(0));
    let layer = SseCompletionLayer::new().cancel_when({
        let polls = Arc::clone(&polls);
        move |_| {
            let polls = Arc::clone(&polls);
            let mut done = false;
            future::poll_fn(move |_| {
                assert!(!done, "the cancellation was polled after it had fired");
                done = polls.fetch_add(1, Ordering::SeqCst) == 3;
                if done { Poll::Ready(()) } else { Poll::Pending }
            })
        }
    });
    let upstream = Script::new([data(EVENT), Step::Pending, Step::Pending, data(EVENT)])
        .then(AfterScript::Repeat(Bytes::from_static(EVENT)));
    let frames = drive(&layer, upstream).rest().frames;
    assert_eq!(frames[frames.len() - 1], CLOSE);
    assert_eq!(polls.load(Ordering::SeqCst), 4);
}

#[test]
fn c15_cancellation_during_a_poll_is_seen_in_that_poll() {
    let token = CancellationToken::new();
    let upstream = stream::poll_fn({
        let token = token.clone();
        move |_| {
            token.cancel();
            Poll::<Option<Result<Frame<Bytes>, ScriptError>>>::Pending
        }
    });
    let mut body = drive(&cancellation_layer(&token), StreamBody::new(upstream));
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn c15_first_of_several_cancellations_ends_the_stream() {
    for first in 0..3 {
        let tokens: [CancellationToken; 3] = Default::default();
        let cancelled = |index: usize| {
            let token = tokens[index].clone();
            move |_: &Parts| token.clone().cancelled_owned()
        };
        let layer = SseCompletionLayer::new()
            .cancel_when(cancelled(0))
            .cancel_when(cancelled(1))
            .cancel_when(cancelled(2));
        let mut body = drive(&layer, Script::silent());
        assert!(body.poll().is_pending());
        tokens[first].cancel();
        assert_eq!(body.wakes(), 1);
        assert_eq!(body.rest().bytes(), CLOSE);
    }
}

#[test]
fn cancellation_is_made_from_the_head_of_the_request() {
    let layer = SseCompletionLayer::new().cancel_when(|request: &Parts| {
        let is_cancelled = request.headers.contains_key("x-cancelled");
        future::poll_fn(move |_| match is_cancelled {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
    });
    for (name, is_cancelled) in [("x-cancelled", true), ("x-other", false)] {
        let mut request = Request::new(());
        let value = HeaderValue::from_static("1");
        request.headers_mut().insert(name, value);
        let response = send_response(&layer, request, event_stream_response(Script::silent()));
        let mut body = Driver::new(response.into_body());
        assert_eq!(body.poll_while_woken().is_ready(), is_cancelled);
    }
}

/// A cancellation that counts its polls, and never completes.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn layer(&self) -> SseCompletionLayer {
        let counted = self.clone();
        SseCompletionLayer::new().cancel_when(move |_| counted.clone())
    }

    fn take_polls(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Future for Counted {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Pending
    }
}

#[test]
fn c20_cancellation_is_polled_when_pending_and_before_every_32nd_ready_frame() {
    let counted = Counted::default();
    // A shutdown that has not fired changes nothing.
    for layer in [counted.layer(), counted.layer().shutdown(&Shutdown::new())] {
        let mut body = drive(&layer, endless());
        for _ in 0..320 {
            body.data();
        }
        assert_eq!(counted.take_polls(), 10, "ready frames");

        let frames = [b"data: x\n\ndata: y"; 320];
        let mut body = drive(&layer, Script::frames(frames).then(AfterScript::Pending));
        for _ in 0..320 {
            body.data();
        }
        assert!(counted.take_polls() <= 10, "frames of any kind");

        let mut body = drive(&layer, Script::silent());
        assert!(body.poll().is_pending());
        counted.take_polls();
        for _ in 0..100 {
            assert!(body.poll().is_pending());
        }
        assert_eq!(counted.take_polls(), 100, "pending");
    }
}

#[test]
fn cancellation_is_not_polled_for_other_responses() {
    let counted = Counted::default();
    let response = Response::new(Script::frames(["{}"]));
    let response = send_response(&counted.layer(), Request::new(()), response);
    Driver::new(response.into_body()).collect();
    assert_eq!(counted.take_polls(), 0);
}
