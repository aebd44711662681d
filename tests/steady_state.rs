//! What a frame does not cost: allocations. Counted, so in a program of its own.

mod support;

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Body;
use support::{
    cancelled_by, event_stream,
    script::{Script, Then, data},
};
use tokio_util::sync::CancellationToken;

/// Polls this often, and returns how many allocations that took.
fn allocations_of(body: &mut (impl Body<Data = Bytes> + Unpin), polls: usize) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    allocation_counter::measure(|| {
        for _ in 0..polls {
            let polled = std::pin::Pin::new(&mut *body).poll_frame(&mut cx);
            assert!(matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_)))));
        }
    })
    .count_total
}

#[test]
fn c17_event_that_arrives_and_goes_out_takes_no_allocation() {
    let token = CancellationToken::new();
    for event in ["data: x\n\n", "data: x\r\n\r\n", "data: x\r\r", ":\n"] {
        let upstream = Script::new([data("data: first\n\n")])
            .then(Then::Repeat(Bytes::from_static(event.as_bytes())));
        let mut body = Box::pin(event_stream(&cancelled_by(&token), upstream));
        assert_eq!(allocations_of(&mut body, 1000), 0, "{event:?}");
    }
}

#[test]
fn c17_quiet_poll_takes_no_allocation() {
    let token = CancellationToken::new();
    let upstream = Script::new([]).then(Then::Pending);
    let mut body = Box::pin(event_stream(&cancelled_by(&token), upstream));
    assert_eq!(allocations_of(&mut body, 1000), 0);
}

#[test]
fn c7_event_in_pieces_is_held_in_about_as_much_memory_as_the_limit() {
    let limit = 64 * 1024;
    let upstream = Script::new([data("data: ")]).then(Then::Repeat(Bytes::from_static(b"x")));
    let layer = tower_sse_completion::SseCompletionLayer::new().hold_limit(limit);
    let body: tower_sse_completion::ResponseBody<_> = event_stream(&layer, upstream);
    let mut body = Box::pin(body);
    let mut cx = Context::from_waker(Waker::noop());
    let held =
        allocation_counter::measure(|| while body.as_mut().poll_frame(&mut cx).is_pending() {});
    // The buffer, and its copy while it grows.
    assert!(
        held.bytes_max <= limit as u64 * 3 / 2 + 1024,
        "{} bytes",
        held.bytes_max
    );
}
