//! Greatest age, idle timeout and keep-alive, on tokio's paused clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::StreamBody;
use testkit::{
    MIRI_STRIDE,
    driver::Driver,
    exchange::{CLOSE, cancelled_by, event_stream, spend_budget},
    script::{AfterScript, EndStream, Script, ScriptError, Step, data},
};
use tokio::{
    sync::mpsc,
    time::{Instant, advance},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, InvalidDeadline, ResponseBody, SseCompletionLayer};

type Frame = Result<http_body::Frame<Bytes>, ScriptError>;
type Fed = Driver<ResponseBody<StreamBody<UnboundedReceiverStream<Frame>>>>;

const SECOND: Duration = Duration::from_secs(1);

fn layer() -> SseCompletionLayer {
    SseCompletionLayer::new().close_event_with(|ending| CloseEvent::new().data(ending.as_str()))
}

/// A stream that is fed by hand.
fn fed(layer: &SseCompletionLayer) -> (impl Fn(&'static [u8]) + use<>, Fed) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let send = move |data: &'static [u8]| {
        let frame = http_body::Frame::data(Bytes::from_static(data));
        sender.send(Ok(frame)).expect("the stream is open");
    };
    let upstream = StreamBody::new(UnboundedReceiverStream::new(receiver));
    (send, Driver::new(event_stream(layer, upstream)))
}

/// Lets the time pass second by second, and returns what comes out with the second in which it came.
async fn pass(body: &mut Fed, seconds: u64) -> Vec<(u64, Bytes)> {
    let mut out = Vec::new();
    for second in 1..=seconds {
        let wakes = body.wakes();
        advance(SECOND).await;
        if body.wakes() == wakes {
            continue;
        }
        while let Poll::Ready(Some(Ok(frame))) = body.poll_while_woken() {
            out.push((second, frame.into_data().expect("data")));
        }
    }
    out
}

#[track_caller]
fn pending(body: &mut Fed) {
    assert!(body.poll_while_woken().is_pending());
}

#[tokio::test(start_paused = true)]
async fn max_age_ends_a_stream_between_two_events() -> Result<(), InvalidDeadline> {
    let (send, mut body) = fed(&layer().max_age(SECOND * 10)?);
    send(b"data: 1\n\ndata: 2");
    assert_eq!(body.data(), "data: 1\n\n");
    pending(&mut body);
    let out = pass(&mut body, 20).await;
    assert_eq!(out, [(10, "event: close\ndata: expired\n\n".into())]);
    body.rest();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn max_age_ends_a_stream_that_is_never_quiet() -> Result<(), InvalidDeadline> {
    let upstream = Script::new([]).then(AfterScript::Repeat(Bytes::from_static(b"data: x\n\n")));
    let layer = layer().max_age(SECOND)?;
    let mut body: Driver<ResponseBody<_>> = Driver::new(event_stream(&layer, upstream));
    for _ in 0..100 {
        body.data();
    }
    advance(SECOND * 2).await;
    let frames = body.rest().frames;
    assert!(frames.len() <= 65);
    assert_eq!(frames[frames.len() - 1], "event: close\ndata: expired\n\n");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn max_age_jitter_draws_from_the_end_of_the_age() -> Result<(), InvalidDeadline> {
    let layer = layer().max_age(SECOND * 20)?.max_age_jitter(0.5)?;
    let mut ages = Vec::new();
    for _ in 0..50 {
        let (_send, mut body) = fed(&layer);
        pending(&mut body);
        let out = pass(&mut body, 21).await;
        ages.extend(out.iter().map(|(second, _)| *second));
    }
    assert_eq!(ages.len(), 50);
    assert!(ages.iter().all(|age| (10..=21).contains(age)), "{ages:?}");
    let spread = ages.iter().max().zip(ages.iter().min());
    assert!(
        spread.is_some_and(|(oldest, youngest)| oldest - youngest > 4),
        "50 draws from 10 seconds: {ages:?}"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn timer_wakes_a_stream_that_fell_silent_with_the_budget_spent() -> Result<(), InvalidDeadline>
{
    let ten = SECOND * 10;
    for (layer, expected) in [
        (layer().max_age(ten)?, "event: close\ndata: expired\n\n"),
        (layer().idle_timeout(ten)?, "event: close\ndata: idle\n\n"),
        (layer().keep_alive(ten)?, ":\n"),
    ] {
        // Before it first runs, and when it has fired too early and is set anew.
        for has_run in [false, true] {
            let (send, mut body) = fed(&layer);
            let mut start = 0;
            if has_run && expected != "event: close\ndata: expired\n\n" {
                pending(&mut body);
                advance(SECOND * 4).await;
                start = 4;
            }
            send(b"data: 1\n\n");
            assert_eq!(body.data(), "data: 1\n\n");
            if start > 0 {
                advance(SECOND * 6).await;
                start -= 10;
            }
            spend_budget();
            assert!(body.poll().is_pending());
            tokio::task::yield_now().await;
            pending(&mut body);
            let out = pass(&mut body, 10).await;
            let second = (10 + start) as u64;
            assert_eq!(out, [(second, expected.into())], "{has_run}");
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_counts_from_the_last_delivered_event() -> Result<(), InvalidDeadline> {
    let (send, mut body) = fed(&layer().idle_timeout(SECOND * 10)?);
    pending(&mut body);
    assert_eq!(pass(&mut body, 8).await, []);
    send(b"data: 1\n\n");
    assert_eq!(body.data(), "data: 1\n\n");
    pending(&mut body);
    assert_eq!(pass(&mut body, 8).await, [], "the event has set it back");
    send(b": comment\n\n");
    send(b"retry: 5\n\n");
    send(b"data: unfinished");
    body.data();
    body.data();
    pending(&mut body);
    let out = pass(&mut body, 8).await;
    assert_eq!(out, [(2, "event: close\ndata: idle\n\n".into())]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn every_event_sets_the_idle_timeout_and_the_keep_alive_back() -> Result<(), InvalidDeadline>
{
    let (send, mut body) = fed(&layer().idle_timeout(SECOND * 10)?.keep_alive(SECOND * 9)?);
    pending(&mut body);
    for event in [
        "data: 1\n\n",
        "id: 2\ndata: 2\n\n",
        "data\n\n",
        "event: a\r\ndata:4\r\n\r\n",
        ": ping\n\ndata: 5\n\n",
        "data: 6\n\n: ping\n\n",
    ] {
        assert_eq!(pass(&mut body, 8).await, [], "before {event:?}");
        send(event.as_bytes());
        assert_eq!(body.data(), event);
        pending(&mut body);
    }
    let out = pass(&mut body, 10).await;
    let comment = Bytes::from_static(b":\n");
    let close = Bytes::from_static(b"event: close\ndata: idle\n\n");
    assert_eq!(out, [(9, comment), (10, close)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn deadline_of_a_steady_stream_that_moved_to_another_task_wakes_the_new_one()
-> Result<(), InvalidDeadline> {
    let (send, mut body) = fed(&layer().max_age(SECOND * 10)?);
    send(b"data: 1\n\n");
    body.data();
    pending(&mut body);
    pending(&mut body);
    let mut body = body.in_another_task();
    pending(&mut body);
    pending(&mut body);
    assert_eq!(body.wakes(), 0, "nothing has happened yet");
    tokio::time::advance(SECOND * 11).await;
    assert_eq!(body.wakes(), 1);
    assert_eq!(body.data(), "event: close\ndata: expired\n\n");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn every_event_of_a_steady_stream_sets_idle_timeout_and_keep_alive_back()
-> Result<(), InvalidDeadline> {
    let layers = [
        layer().idle_timeout(SECOND * 10)?,
        layer().keep_alive(SECOND * 10)?,
    ];
    for layer in layers {
        let (send, mut body) = fed(&layer);
        for _ in 0..5 {
            send(b"data: 1\n\n");
            assert_eq!(body.data(), "data: 1\n\n");
            pending(&mut body);
            assert_eq!(pass(&mut body, 8).await, []);
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_keep_alive_comes_when_nothing_was_sent_for_so_long() -> Result<(), InvalidDeadline> {
    let (send, mut body) = fed(&layer().keep_alive(SECOND * 10)?);
    pending(&mut body);
    let comment = Bytes::from_static(b":\n");
    let out = pass(&mut body, 25).await;
    assert_eq!(out, [(10, comment.clone()), (20, comment.clone())]);
    send(b": the handler's own\n");
    body.data();
    pending(&mut body);
    let out = pass(&mut body, 12).await;
    assert_eq!(out, [(10, comment)], "whatever was sent");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_keep_alive_comes_between_events_alone() -> Result<(), InvalidDeadline> {
    // Held back, an unfinished event is no obstacle.
    let (send, mut body) = fed(&layer().keep_alive(SECOND)?);
    send(b"data: 1\n\ndata: 2");
    body.data();
    pending(&mut body);
    assert_eq!(pass(&mut body, 1).await, [(1, ":\n".into())]);
    send(b"\n\n");
    assert_eq!(body.data(), "data: 2");
    assert_eq!(body.data(), "\n\n");

    // Sent in part, it is one.
    let (send, mut body) = fed(&layer().keep_alive(SECOND)?.hold_limit(0));
    send(b"data: 1");
    body.data();
    pending(&mut body);
    assert_eq!(pass(&mut body, 5).await, []);
    send(b"\n\n");
    body.data();
    pending(&mut body);
    assert_eq!(pass(&mut body, 1).await, [(1, ":\n".into())]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_keep_alive_is_no_traffic_for_the_idle_timeout() -> Result<(), InvalidDeadline> {
    let (_send, mut body) = fed(&layer().keep_alive(SECOND * 2)?.idle_timeout(SECOND * 5)?);
    pending(&mut body);
    let out = pass(&mut body, 9).await;
    let comment = Bytes::from_static(b":\n");
    let close = Bytes::from_static(b"event: close\ndata: idle\n\n");
    assert_eq!(out, [(2, comment.clone()), (4, comment), (5, close)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_byte_order_mark_behind_a_keep_alive_does_not_spoil_the_first_event()
-> Result<(), InvalidDeadline> {
    let stream = b"\xEF\xBB\xBFdata: 1\n\n";
    for hold_limit in [64 * 1024, 0, 1, 2, 3, 4]
        .into_iter()
        .step_by(MIRI_STRIDE.min(3))
    {
        for first in 0..stream.len() {
            for second in (first..stream.len()).step_by(MIRI_STRIDE) {
                let (send, mut body) = fed(&layer().keep_alive(SECOND)?.hold_limit(hold_limit));
                pending(&mut body);
                let mut bytes: Vec<u8> = pass(&mut body, 1).await.remove(0).1.to_vec();
                assert_eq!(bytes, b":\n");
                for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                    send(piece);
                }
                while let Poll::Ready(Some(Ok(frame))) = body.poll_while_woken() {
                    let data = frame.into_data().expect("data");
                    assert!(!data.is_empty());
                    bytes.extend(data);
                }
                let cuts = format!("{hold_limit} held, cut at {first} and {second}");
                assert_eq!(bytes, b":\ndata: 1\n\n", "{cuts}");
            }
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_one_byte_order_mark_behind_a_keep_alive_is_left_out_and_no_second_one()
-> Result<(), InvalidDeadline> {
    for hold_limit in [64 * 1024, 0, 3] {
        let (send, mut body) = fed(&layer().keep_alive(SECOND)?.hold_limit(hold_limit));
        pending(&mut body);
        pass(&mut body, 1).await;
        let mark = b"\xEF\xBB\xBF";
        for piece in [&mark[..], mark, b": 1\n\n"] {
            send(piece);
        }
        let mut bytes = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = body.poll_while_woken() {
            bytes.extend(frame.into_data().expect("data"));
        }
        assert_eq!(bytes, b"\xEF\xBB\xBF: 1\n\n", "{hold_limit} held");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c16_frames_that_go_out_together_behind_a_keep_alive_are_counted_one_by_one()
-> Result<(), InvalidDeadline> {
    let frames = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&frames);
    let layer = layer()
        .keep_alive(SECOND)?
        .on_end(move |report| counted.store(report.data_frames(), Ordering::SeqCst));
    let (send, mut body) = fed(&layer);
    pending(&mut body);
    assert_eq!(pass(&mut body, 1).await, [(1, ":\n".into())]);
    for piece in ["da", "ta: ", "1\n\n"] {
        send(piece.as_bytes());
    }
    assert_eq!(body.data(), "data: 1\n\n");
    drop(body);
    assert_eq!(frames.load(Ordering::SeqCst), 3);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_keep_alive_never_comes_between_cr_and_lf() -> Result<(), InvalidDeadline> {
    let (send, mut body) = fed(&layer().keep_alive(SECOND)?);
    send(b"data: 1\r\n\r");
    body.data();
    pending(&mut body);
    assert_eq!(pass(&mut body, 3).await, []);
    send(b"\n");
    body.data();
    pending(&mut body);
    assert_eq!(pass(&mut body, 1).await, [(1, ":\n".into())]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_cancellation_still_closes_behind_a_keep_alive() -> Result<(), InvalidDeadline> {
    let token = CancellationToken::new();
    let layer = cancelled_by(&token).keep_alive(SECOND)?;
    let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer, upstream));
    body.data();
    assert!(body.poll_while_woken().is_pending());
    advance(SECOND).await;
    assert_eq!(body.data(), ":\n");
    token.cancel();
    assert_eq!(body.rest().bytes(), CLOSE);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn c19_keep_alive_is_not_lost_when_the_first_poll_comes_late() -> Result<(), InvalidDeadline>
{
    let (_send, mut body) = fed(&layer().keep_alive(SECOND)?);
    advance(SECOND * 2).await;
    assert_eq!(body.data(), ":\n");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn deadline_that_has_passed_does_not_matter_to_a_stream_that_ends_by_itself()
-> Result<(), InvalidDeadline> {
    for end_stream in [EndStream::Unknown, EndStream::Known] {
        let layer = layer().idle_timeout(SECOND)?.max_age(SECOND)?;
        let upstream = Script::frames(["data: 1\n\n", "data: [DONE]\n\n"]).end_stream(end_stream);
        let mut body: Driver<ResponseBody<_>> = Driver::new(event_stream(&layer, upstream));
        body.data();
        // A client that reads slowly.
        advance(SECOND * 2).await;
        assert_eq!(body.rest().text(), "data: [DONE]\n\n");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn deadline_does_not_matter_either_where_it_is_seen_before_the_end()
-> Result<(), InvalidDeadline> {
    let layer = layer().idle_timeout(SECOND)?.max_age(SECOND)?;
    for (end, closes) in [
        (None, false),
        (Some(Step::Trailers), false),
        (Some(Step::Error), false),
        (Some(Step::Pending), true),
    ] {
        // It is looked at before the first frame, and once more behind 32 of them.
        for (frames, polled) in [(1, 0), (20, 0), (31, 0), (40, 30), (63, 32)] {
            let steps = (0..frames).map(|_| data("data: 1\n\n"));
            let upstream = Script::new(steps.chain(end.clone()));
            let mut body: Driver<ResponseBody<_>> = Driver::new(event_stream(&layer, upstream));
            for _ in 0..polled {
                body.data();
            }
            advance(SECOND * 2).await;
            let output = body.rest();
            let name = format!("{frames} frames, then {end:?}");
            let text = "data: 1\n\n".repeat(frames - polled);
            let (events, close) = output
                .text()
                .split_at_checked(text.len())
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .expect("all events");
            assert_eq!(events, text, "{name}");
            assert_eq!(close.is_empty(), !closes, "{name}: {close}");
            assert_eq!(
                output.error.is_some(),
                matches!(end, Some(Step::Error)),
                "{name}"
            );
            assert_eq!(
                output.trailers.is_some(),
                matches!(end, Some(Step::Trailers)),
                "{name}"
            );
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn keep_alive_comes_at_most_every_millisecond() -> Result<(), InvalidDeadline> {
    // Else one would be due whenever the stream is polled, and the server would never be done with it.
    let (_send, mut body) = fed(&layer().keep_alive(Duration::from_nanos(1))?);
    for _ in 0..3 {
        pending(&mut body);
        advance(Duration::from_micros(900)).await;
        pending(&mut body);
        advance(Duration::from_micros(100)).await;
        assert_eq!(body.data(), ":\n");
    }
    Ok(())
}

#[test]
fn zero_durations_and_bad_fractions_are_refused() {
    let zero = [
        layer().max_age(Duration::ZERO),
        layer().idle_timeout(Duration::ZERO),
        layer().keep_alive(Duration::ZERO),
    ];
    for refused in zero {
        let error = refused.expect_err("zero");
        assert_eq!(error.to_string(), "a deadline of an event stream is zero");
    }
    for fraction in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = layer().max_age_jitter(fraction).expect_err("no fraction");
        assert_eq!(
            error.to_string(),
            "the jitter of the greatest age of an event stream is not between 0 and 1"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn endless_durations_never_end_a_stream() -> Result<(), InvalidDeadline> {
    let layer = layer()
        .max_age(Duration::MAX)?
        .idle_timeout(Duration::MAX)?;
    let (_send, mut body) = fed(&layer);
    pending(&mut body);
    advance(Duration::from_secs(60 * 60 * 24 * 365 * 2)).await;
    pending(&mut body);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn deadlines_wake_no_stream_that_has_ended() -> Result<(), InvalidDeadline> {
    let token = CancellationToken::new();
    let layer = cancelled_by(&token).max_age(SECOND * 10)?;
    let upstream = Script::new([]).then(AfterScript::Pending);
    let mut body = Driver::new(event_stream(&layer, upstream));
    assert!(body.poll().is_pending());
    token.cancel();
    body.rest();
    let (wakes, start) = (body.wakes(), Instant::now());
    advance(SECOND * 20).await;
    assert_eq!((body.wakes(), start.elapsed()), (wakes, SECOND * 20));
    Ok(())
}
