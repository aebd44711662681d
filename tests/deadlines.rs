//! Maximum age and idle timeout, on tokio's paused clock.

use std::time::Duration;

use testkit::{
    exchange::{cancellation_layer, drive, spend_budget},
    feed::feed,
    script::{AfterScript, EndStream, Script, Step, data},
};
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, SseCompletionLayer};

const SECOND: Duration = Duration::from_secs(1);
const EVENT: &str = "data: 1\n\n";
const EXPIRED: &str = "event: close\ndata: expired\n\n";
const IDLE: &str = "event: close\ndata: idle\n\n";

fn layer() -> SseCompletionLayer {
    SseCompletionLayer::new()
        .close_event_with(|report| CloseEvent::new().data(report.ending().as_str()))
}

#[tokio::test(start_paused = true)]
async fn c16_max_age_ends_a_stream_at_a_boundary() {
    let (events, upstream) = feed();
    let mut body = drive(&layer().max_age(SECOND * 10), upstream);
    events.send("data: 1\n\ndata: 2");
    assert_eq!(body.data(), EVENT);
    body.assert_pending();
    assert_eq!(body.advance(20).await, [(10, EXPIRED.into())]);
    body.rest();
}

#[tokio::test(start_paused = true)]
async fn c16_max_age_ends_a_stream_that_is_never_pending() {
    let upstream = Script::new([]).then(AfterScript::Repeat(EVENT.into()));
    let mut body = drive(&layer().max_age(SECOND), upstream);
    for _ in 0..100 {
        body.data();
    }
    advance(SECOND * 2).await;
    let frames = body.rest().frames;
    assert!(frames.len() <= 65);
    assert_eq!(frames[frames.len() - 1], EXPIRED);
}

#[tokio::test(start_paused = true)]
async fn c16_maximum_age_is_drawn_from_its_range() {
    let layer = layer().max_age_between(SECOND * 10..=SECOND * 20);
    let mut ages = Vec::new();
    for _ in 0..50 {
        let (_events, upstream) = feed();
        let mut body = drive(&layer, upstream);
        body.assert_pending();
        ages.extend(body.advance(21).await.iter().map(|(second, _)| *second));
    }
    assert_eq!(ages.len(), 50);
    assert!(ages.iter().all(|age| (10..=21).contains(age)), "{ages:?}");
    let spread = ages.iter().max().zip(ages.iter().min());
    assert!(
        spread.is_some_and(|(oldest, youngest)| oldest - youngest > 4),
        "50 draws from 10 seconds: {ages:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn c16_idle_timeout_counts_from_the_last_delivered_event() {
    let (events, upstream) = feed();
    let mut body = drive(&layer().idle_timeout(SECOND * 10), upstream);
    body.assert_pending();
    assert_eq!(body.advance(8).await, []);
    events.send(EVENT);
    assert_eq!(body.ready_data(), [EVENT]);
    assert_eq!(body.advance(8).await, [], "the event has reset the timeout");
    let others = [": comment\n\n", "retry: 5\n\n", "data: unfinished"];
    others.iter().for_each(|other| events.send(other));
    assert_eq!(body.ready_data(), others[..2]);
    assert_eq!(body.advance(8).await, [(2, IDLE.into())]);
}

#[tokio::test(start_paused = true)]
async fn c16_every_event_resets_the_idle_timeout_and_the_keep_alive() {
    let (idle, comment) = ((10, IDLE.into()), (9, ":\n\n".into()));
    for (layer, expected) in [
        (layer().idle_timeout(SECOND * 10), vec![idle.clone()]),
        (layer().keep_alive(SECOND * 9), vec![comment.clone()]),
        (
            layer().idle_timeout(SECOND * 10).keep_alive(SECOND * 9),
            vec![comment, idle],
        ),
    ] {
        let (events, upstream) = feed();
        let mut body = drive(&layer, upstream);
        body.assert_pending();
        for event in [
            EVENT,
            EVENT,
            "id: 2\ndata: 2\n\n",
            "data\n\n",
            "event: a\r\ndata:4\r\n\r\n",
            ": ping\n\ndata: 5\n\n",
            "data: 6\n\n: ping\n\n",
        ] {
            assert_eq!(body.advance(8).await, [], "before {event:?}");
            events.send(event);
            assert_eq!(body.ready_data(), [event]);
        }
        assert_eq!(body.advance(10).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn c16_deadline_of_a_stream_that_moved_to_another_task_wakes_the_new_task() {
    let (events, upstream) = feed();
    let mut body = drive(&layer().max_age(SECOND * 10), upstream);
    events.send(EVENT);
    assert_eq!(body.data(), EVENT);
    body.assert_pending();
    body.assert_pending();
    let mut body = body.in_another_task();
    body.assert_pending();
    body.assert_pending();
    assert_eq!(body.wakes(), 0);
    advance(SECOND * 11).await;
    assert_eq!(body.wakes(), 1);
    assert_eq!(body.data(), EXPIRED);
}

#[tokio::test(start_paused = true)]
async fn c16_timer_wakes_a_stream_that_was_polled_with_the_budget_spent() {
    let ten = SECOND * 10;
    for (layer, expected) in [
        (layer().max_age(ten), EXPIRED),
        (layer().idle_timeout(ten), IDLE),
        (layer().keep_alive(ten), ":\n\n"),
    ] {
        // Before the timer first runs, and after it has fired early and is reset.
        for has_run in [false, true] {
            let (events, upstream) = feed();
            let mut body = drive(&layer, upstream);
            let fires_early = has_run && expected != EXPIRED;
            if fires_early {
                body.assert_pending();
                advance(SECOND * 4).await;
            }
            events.send(EVENT);
            assert_eq!(body.data(), EVENT);
            if fires_early {
                advance(SECOND * 6).await;
            }
            spend_budget();
            assert!(body.poll().is_pending());
            tokio::task::yield_now().await;
            body.assert_pending();
            let second = if fires_early { 4 } else { 10 };
            let output = body.advance(10).await;
            assert_eq!(output, [(second, expected.into())], "{has_run}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c16_deadline_does_not_overrule_an_end_that_is_seen_first() {
    for end_stream in [EndStream::Unknown, EndStream::Known] {
        let layer = layer().idle_timeout(SECOND).max_age(SECOND);
        let upstream = Script::frames([EVENT, "data: [DONE]\n\n"]).end_stream(end_stream);
        let mut body = drive(&layer, upstream);
        body.data();
        // The client reads slowly, so the deadline passes before the end is polled.
        advance(SECOND * 2).await;
        assert_eq!(body.rest().text(), "data: [DONE]\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn c16_deadline_does_not_overrule_an_end_within_32_more_frames() {
    let layer = layer().idle_timeout(SECOND).max_age(SECOND);
    for (end, closes) in [
        (None, false),
        (Some(Step::Trailers), false),
        (Some(Step::Error), false),
        (Some(Step::Pending), true),
    ] {
        // The deadline is checked before the first frame, and again after 32 frames.
        for (frames, polled) in [(1, 0), (20, 0), (31, 0), (40, 30), (63, 32)] {
            let steps = (0..frames).map(|_| data(EVENT));
            let mut body = drive(&layer, Script::new(steps.chain(end.clone())));
            for _ in 0..polled {
                body.data();
            }
            advance(SECOND * 2).await;
            let output = body.rest();
            let case = format!("{frames} frames, {end:?}");
            let text = output.text();
            let close = text.strip_prefix(&EVENT.repeat(frames - polled));
            let close = close.expect("all events");
            assert_eq!(close.is_empty(), !closes, "{case}: {close}");
            let is_error = matches!(end, Some(Step::Error));
            assert_eq!(output.error.is_some(), is_error, "{case}");
            let has_trailers = matches!(end, Some(Step::Trailers));
            assert_eq!(output.trailers.is_some(), has_trailers, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c16_deadline_does_not_overrule_an_end_that_the_last_of_32_frames_announces() {
    let layer = layer().max_age(SECOND);
    for (end_stream, is_closed) in [(EndStream::Known, false), (EndStream::Unknown, true)] {
        let upstream = Script::frames([EVENT; 32]).end_stream(end_stream);
        let mut body = drive(&layer, upstream);
        advance(SECOND * 2).await;
        let output = body.rest();
        assert_eq!(output.frames[..32], [EVENT; 32]);
        let close: &[&str] = if is_closed { &[EXPIRED] } else { &[] };
        assert_eq!(output.frames[32..], *close, "{end_stream:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c16_deadline_of_zero_ends_the_stream_as_soon_as_it_starts() {
    let zero = [
        (layer().max_age(Duration::ZERO), EXPIRED),
        (layer().idle_timeout(Duration::ZERO), IDLE),
    ];
    for (layer, close) in zero {
        let (_events, upstream) = feed();
        let mut body = drive(&layer, upstream);
        assert_eq!(body.rest().text(), close);
    }
}

#[tokio::test(start_paused = true)]
async fn c16_range_of_ages_that_ends_before_it_starts_counts_as_its_start() {
    let (_events, upstream) = feed();
    let layer = layer().max_age_between(SECOND * 5..=SECOND);
    let mut body = drive(&layer, upstream);
    body.assert_pending();
    let closed: Vec<_> = body
        .advance(6)
        .await
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    assert_eq!(closed, [5]);
}

#[tokio::test(start_paused = true)]
async fn c16_endless_durations_never_end_a_stream() {
    let layer = layer().max_age(Duration::MAX).idle_timeout(Duration::MAX);
    let (_events, upstream) = feed();
    let mut body = drive(&layer, upstream);
    body.assert_pending();
    advance(Duration::from_secs(60 * 60 * 24 * 365 * 2)).await;
    body.assert_pending();
}

#[tokio::test(start_paused = true)]
async fn c16_deadlines_wake_no_stream_that_has_ended() {
    let token = CancellationToken::new();
    let layer = cancellation_layer(&token).max_age(SECOND * 10);
    let mut body = drive(&layer, Script::silent());
    body.assert_pending();
    token.cancel();
    body.rest();
    let (wakes, start) = (body.wakes(), Instant::now());
    advance(SECOND * 20).await;
    assert_eq!((body.wakes(), start.elapsed()), (wakes, SECOND * 20));
}
