//! Cancelled streams: promptly, whatever the upstream does, and without losing what it had ready.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{self, Future},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::request::Parts;
use http_body::Frame;
use http_body_util::StreamBody;
use testkit::{
    driver::Driver,
    exchange::{CLOSE, cancelled_by, event_stream, spend_budget},
    script::{AfterScript, EndStream, Script, ScriptError, Step, data, trailers},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CancelWhen, NeverCancel, ResponseBody, SseCompletionLayer};

const EVENT: &[u8] = b"data: x\n\n";

fn endless() -> Script {
    Script::new([]).then(AfterScript::Repeat(Bytes::from_static(EVENT)))
}

#[test]
fn c10_close_event_follows_cancellation_while_upstream_is_pending() {
    let token = CancellationToken::new();
    let upstream = Script::frames([EVENT]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
    assert_eq!(body.data(), EVENT);
    assert!(body.poll().is_pending());
    assert_eq!(body.wakes(), 0);
    token.cancel();
    assert_eq!(body.wakes(), 1, "the cancellation wakes the task");
    assert_eq!(
        body.data(),
        CLOSE,
        "in that poll, or one that it wakes itself for"
    );
    body.rest();
}

#[test]
fn c10_upstream_is_dropped_before_the_close_event_is_handed_out() {
    let token = CancellationToken::new();
    let upstream = Script::new([]).then(AfterScript::Pending);
    let log = upstream.log();
    let dropped_before = Arc::new(AtomicUsize::new(0));
    let layer = cancelled_by(&token).close_event_with({
        let (log, dropped_before) = (Arc::clone(&log), Arc::clone(&dropped_before));
        move |_| {
            dropped_before.fetch_add(usize::from(log.dropped()), Ordering::SeqCst);
            tower_sse_completion::CloseEvent::new()
        }
    });
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert!(body.poll().is_pending());
    assert!(!log.dropped());
    token.cancel();
    assert_eq!(body.data(), CLOSE);
    assert_eq!(dropped_before.load(Ordering::SeqCst), 1);
}

#[test]
fn c11_upstream_that_is_always_ready_cannot_outrun_the_cancellation() {
    let token = CancellationToken::new();
    for frames_before in [0, 1, 31, 32, 33, 100] {
        let token = token.child_token();
        let upstream = endless();
        let log = upstream.log();
        let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
        for _ in 0..frames_before {
            assert_eq!(body.data(), EVENT);
        }
        token.cancel();
        let after = body.rest().frames;
        assert_eq!(after.last().map(|frame| &frame[..]), Some(CLOSE));
        // At most 32 before it is looked at, and 32 after that.
        assert!(after.len() <= 65, "{} frames after", after.len());
        assert_eq!(log.polls(), frames_before + after.len() - 1);
    }
}

/// Frames that are whole, but do not end in a blank line of their own.
#[test]
fn c11_upstream_whose_comments_are_always_ready_cannot_outrun_the_cancellation() {
    for whole in [":\n", "\n", "data: x\n\n:\n", "data: x\r\r"] {
        let token = CancellationToken::new();
        let upstream = Script::frames([EVENT]).then(AfterScript::Repeat(whole.into()));
        let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
        assert_eq!(body.data(), EVENT);
        assert_eq!(body.data(), whole);
        token.cancel();
        let seen = (0..=65).find(|_| body.data().ends_with(CLOSE));
        assert!(seen.is_some(), "{whole:?}");
    }
}

#[test]
fn c11_what_is_ready_when_the_cancellation_is_seen_still_gets_out() {
    let token = CancellationToken::new();
    token.cancel();
    let upstream = Script::frames(["data: 1\n\n", "da", "ta: 2\n\n"]).then(AfterScript::Pending);
    let output = Driver::new(event_stream(&cancelled_by(&token), upstream)).rest();
    assert_eq!(
        output.text(),
        "data: 1\n\ndata: 2\n\nevent: close\ndata:\n\n"
    );
}

#[test]
fn c11_at_most_32_ready_frames_follow_a_cancellation_that_was_seen() {
    let token = CancellationToken::new();
    token.cancel();
    let output = Driver::new(event_stream(&cancelled_by(&token), endless())).rest();
    assert_eq!(output.frames.len(), 33);
}

#[test]
fn c11_unfinished_event_is_discarded() {
    let token = CancellationToken::new();
    let upstream = Script::frames(["data: 1\n\nid: 77\ndata: {"]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
    assert_eq!(body.data(), "data: 1\n\n");
    assert!(body.poll().is_pending());
    token.cancel();
    assert_eq!(body.rest().bytes(), CLOSE);
}

#[test]
fn c11_budget_of_the_executor_does_not_lose_the_last_message() {
    let token = CancellationToken::new();
    token.cancel();
    let upstream = Script::new([Step::Yield, data(EVENT)]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
    assert_eq!(body.data(), EVENT);
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn c11_upstream_that_wakes_by_value_does_not_lose_its_last_message() {
    let token = CancellationToken::new();
    token.cancel();
    let mut frames = VecDeque::from([Frame::data(Bytes::from_static(EVENT))]);
    let mut yielded = false;
    let stream = stream::poll_fn(move |cx| {
        if !mem::replace(&mut yielded, true) {
            let waker = cx.waker().clone();
            waker.wake();
            return Poll::Pending;
        }
        match frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok::<_, Infallible>(frame))),
            None => Poll::Pending,
        }
    });
    let mut body = Driver::new(event_stream(&cancelled_by(&token), StreamBody::new(stream)));
    assert_eq!(body.data(), EVENT);
    assert_eq!(body.data(), CLOSE);
}

#[test]
fn c11_upstream_that_only_yields_gets_one_poll_more() {
    let token = CancellationToken::new();
    token.cancel();
    let upstream = Script::new(vec![Step::Yield; 100]);
    let log = upstream.log();
    let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
    assert_eq!(body.data(), CLOSE);
    assert_eq!(log.polls(), 2);
}

#[tokio::test]
async fn c11_message_queued_before_the_cancellation_gets_out_of_a_real_channel() {
    let token = CancellationToken::new();
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let frames = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let upstream = http_body_util::StreamBody::new(frames);
    let mut body: Driver<ResponseBody<_, _>> =
        Driver::new(event_stream(&cancelled_by(&token), upstream));
    assert!(body.poll().is_pending());
    let message = http_body::Frame::data(Bytes::from_static(EVENT));
    sender
        .send(Ok::<_, ScriptError>(message))
        .await
        .expect("the receiver is there");
    token.cancel();
    // With its budget spent, a tokio channel says that it has nothing, although it holds a message.
    spend_budget();
    assert!(body.poll().is_pending());
    tokio::task::yield_now().await;
    assert_eq!(body.data(), EVENT);
    assert_eq!(body.data(), CLOSE);
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn c11_cancellation_is_seen_when_the_upstream_ends_with_the_budget_spent() {
    for end_stream in [EndStream::Unknown, EndStream::Known] {
        let (send, receive) = tokio::sync::watch::channel(false);
        let layer = SseCompletionLayer::new().cancel_when(move |_| {
            let mut receive = receive.clone();
            async move {
                let _ = receive.wait_for(|&ends| ends).await;
            }
        });
        let upstream = Script::frames(["data: x\n\n", "data: x\n\n"]).end_stream(end_stream);
        let mut body = Driver::new(event_stream(&layer, upstream));
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
    for (steps, expected) in [
        (vec![], None),
        (vec![Step::Error], None),
        (vec![Step::Trailers], Some(trailers())),
    ] {
        let token = CancellationToken::new();
        token.cancel();
        let steps = [data(EVENT)].into_iter().chain(steps);
        let output = Driver::new(event_stream(&cancelled_by(&token), Script::new(steps))).rest();
        assert_eq!(output.frames, [EVENT, CLOSE]);
        assert_eq!(output.trailers, expected);
        assert_eq!(output.error, None);
    }
}

#[test]
fn c11_handler_that_ends_by_the_same_signal_still_gets_its_close_event() {
    for end_stream in [EndStream::Unknown, EndStream::Known] {
        for end in [None, Some(Step::Error), Some(Step::Trailers)] {
            let token = CancellationToken::new();
            let upstream = Script::new([data(EVENT), data(EVENT)].into_iter().chain(end))
                .end_stream(end_stream);
            let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
            assert_eq!(body.data(), EVENT);
            // The next check is far off; the upstream ends before it.
            token.cancel();
            let output = body.rest();
            assert_eq!(output.frames, [EVENT, CLOSE]);
            assert_eq!(output.error, None);
        }
    }
}

#[test]
fn c13_nothing_is_polled_after_it_has_finished() {
    // The script panics when it is polled after its end; so does this future.
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
    let output = Driver::new(event_stream(&layer, upstream)).rest();
    assert_eq!(output.frames.last().map(|frame| &frame[..]), Some(CLOSE));
    assert_eq!(polls.load(Ordering::SeqCst), 4);
}

#[test]
fn c15_moment_of_the_cancellation_makes_no_difference() {
    #[derive(Debug, PartialEq, PartialOrd)]
    enum Moment {
        BeforeTheRequest,
        BeforeTheFirstPoll,
        BetweenPolls,
    }
    for moment in [
        Moment::BeforeTheRequest,
        Moment::BeforeTheFirstPoll,
        Moment::BetweenPolls,
    ] {
        let token = CancellationToken::new();
        if moment == Moment::BeforeTheRequest {
            token.cancel();
        }
        let upstream = Script::new([]).then(AfterScript::Pending);
        let mut body = Driver::new(event_stream(&cancelled_by(&token), upstream));
        if moment == Moment::BeforeTheFirstPoll {
            token.cancel();
        }
        if moment == Moment::BetweenPolls {
            assert!(body.poll().is_pending());
            token.cancel();
        }
        assert_eq!(body.rest().bytes(), CLOSE, "{moment:?}");
    }
}

#[test]
fn c15_cancellation_during_a_poll_is_seen_in_that_poll() {
    let token = CancellationToken::new();
    let cancels = future::poll_fn({
        let token = token.clone();
        move |_| {
            token.cancel();
            Poll::<Option<Result<http_body::Frame<Bytes>, ScriptError>>>::Pending
        }
    });
    let upstream = http_body_util::StreamBody::new(cancels.into_stream().filter_map_none());
    let mut body: Driver<ResponseBody<_, _>> =
        Driver::new(event_stream(&cancelled_by(&token), upstream));
    assert!(body.poll_while_woken().is_ready());
}

/// A stream of what a future of an option gives.
trait FilterMapNone: Sized {
    fn filter_map_none<T>(self) -> impl futures_util::Stream<Item = T> + Send
    where
        Self: futures_util::Stream<Item = Option<T>> + Send,
        T: Send,
    {
        futures_util::StreamExt::filter_map(self, future::ready)
    }
}

impl<S> FilterMapNone for S {}

#[test]
fn c15_several_cancellations_end_a_stream_by_the_first_that_fires() {
    for which in 0..3 {
        let tokens: [CancellationToken; 3] = Default::default();
        let of = |index: usize| {
            let token = tokens[index].clone();
            move |_: &Parts| token.clone().cancelled_owned()
        };
        let layer = SseCompletionLayer::new()
            .cancel_when(of(0))
            .cancel_when(of(1))
            .cancel_when(of(2));
        let upstream = Script::new([]).then(AfterScript::Pending);
        let mut body = Driver::new(event_stream(&layer, upstream));
        assert!(body.poll().is_pending());
        tokens[which].cancel();
        assert_eq!(body.wakes(), 1);
        assert_eq!(body.rest().bytes(), CLOSE);
    }
}

#[test]
fn cancellation_is_made_from_the_head_of_the_request() {
    let layer = SseCompletionLayer::new().cancel_when(|request: &Parts| {
        let cancelled = request.headers.contains_key("x-cancelled");
        async move {
            if !cancelled {
                future::pending::<()>().await;
            }
        }
    });
    for (name, expected) in [("x-cancelled", CLOSE), ("x-other", b"")] {
        let mut request = http::Request::new(());
        request
            .headers_mut()
            .insert(name, http::HeaderValue::from_static("1"));
        let response = http::Response::builder()
            .header("content-type", "text/event-stream")
            .body(Script::new([]).then(AfterScript::Pending))
            .expect("a valid response");
        let mut body =
            Driver::new(testkit::exchange::through(&layer, request, response).into_body());
        match body.poll_while_woken() {
            Poll::Ready(_) => assert_eq!(expected, CLOSE),
            Poll::Pending => assert_eq!(expected, b""),
        }
    }
}

/// Counts how often it is polled, and never fires.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn layer(&self) -> SseCompletionLayer<CancelWhen<impl Fn(&Parts) -> Counted + Clone + use<>>> {
        let counted = self.clone();
        SseCompletionLayer::new().cancel_when(move |_| counted.clone())
    }

    fn take(&self) -> usize {
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
fn c17_cancellation_is_polled_when_pending_and_every_few_ready_frames() {
    let counted = Counted::default();
    let layer = counted.layer();

    let mut body = Driver::new(event_stream(&layer, endless()));
    for _ in 0..320 {
        body.data();
    }
    assert_eq!(counted.take(), 10, "ready frames");

    let upstream = Script::frames([b"data: x\n\ndata: y"; 320]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer, upstream));
    for _ in 0..320 {
        body.data();
    }
    assert!(counted.take() <= 10, "frames of any kind");

    let upstream = Script::new([]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert!(body.poll().is_pending());
    counted.take();
    for _ in 0..100 {
        assert!(body.poll().is_pending());
    }
    assert_eq!(counted.take(), 100, "pending");
}

#[test]
fn cancellation_is_not_polled_for_other_responses() {
    let counted = Counted::default();
    let layer = counted.layer();
    let response = http::Response::new(Script::frames(["{}"]));
    let response = testkit::exchange::through(&layer, http::Request::new(()), response);
    Driver::new(response.into_body()).collect();
    assert_eq!(counted.take(), 0);
}

fn assert_future(_: impl Future<Output = ()>) {}

#[test]
fn never_cancel_is_never_ready() {
    assert_future(NeverCancel);
    assert_eq!(NeverCancel.now_or_never(), None);
}
