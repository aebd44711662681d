//! Allocations: none for a frame, and few for a stream. A separate program, because the tests count them.

use std::{
    convert::Infallible,
    future::{self, Future},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use testkit::{
    MIRI_STRIDE,
    exchange::{cancellation_layer, event_stream},
    script::{AfterScript, Script, data},
};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, service_fn};
use tower_sse_completion::{EventMatch, IdleTimeout, ResponseBody, Shutdown, SseCompletionLayer};

/// Returns the number of allocations of this many polls.
fn count_allocations(body: &mut (impl Body<Data = Bytes> + Unpin), polls: usize) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    allocation_counter::measure(|| {
        for _ in 0..polls {
            let polled = Pin::new(&mut *body).poll_frame(&mut cx);
            assert!(matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_)))));
        }
    })
    .count_total
}

#[test]
fn c20_forwarded_event_and_a_pending_poll_take_no_allocation() {
    let first = || Script::new([data("data: first\n\n")]);
    let events = ["data: x\n\n", "data: x\r\n\r\n", "data: x\r\r", ":\n"];
    let busy = events.map(|event| first().then(AfterScript::Repeat(event.into())));
    for upstream in busy.into_iter().chain([Script::silent()]) {
        let (token, shutdown) = (CancellationToken::new(), Shutdown::new());
        let layer = cancellation_layer(&token).shutdown(&shutdown);
        let mut body = Box::pin(event_stream(&layer.on_end(|_| {}), upstream));
        // The first poll registers the waker.
        count_allocations(&mut body, 1);
        assert_eq!(count_allocations(&mut body, 1000), 0);
    }
}

#[test]
fn c20_event_of_a_stream_with_end_marks_takes_no_allocation() {
    let timeout = IdleTimeout::after(Duration::from_secs(60)).ignoring(EventMatch::event("ping"));
    let layer = SseCompletionLayer::new()
        .end_mark(EventMatch::data("[DONE]"))
        .end_mark(EventMatch::when(|event| event.data() == "done"))
        .on_end(|_| {});
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    for layer in [layer.clone(), layer.idle_timeout(timeout)] {
        for event in [
            "event: delta\ndata: a long part of an answer\ndata: in two lines\nid: 7\n\n",
            "data: x\r\n\r\n",
            "event: ping\rdata\r\r",
            ":\n",
        ] {
            let event = Bytes::from_static(event.as_bytes());
            let upstream = Script::new([data("data: first\n\n")]).then(AfterScript::Repeat(event));
            let mut body = Box::pin(event_stream(&layer, upstream));
            // The reader keeps the memory of the first events.
            count_allocations(&mut body, 2);
            assert_eq!(count_allocations(&mut body, 1000), 0);
        }
    }
}

#[test]
fn c20_pending_request_takes_no_allocation() {
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new().shutdown(&shutdown);
    let mut service = layer.layer(service_fn(|_: Request<()>| {
        future::pending::<Result<Response<Script>, Infallible>>()
    }));
    let mut request = || {
        allocation_counter::measure(|| {
            let mut response = pin!(service.call(Request::new(())));
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..3 {
                assert!(response.as_mut().poll(&mut cx).is_pending());
            }
        })
        .count_total
    };
    // The first request allocates what all requests share.
    request();
    assert_eq!(request(), 0);
}

#[tokio::test]
async fn c18_spread_drain_that_is_dropped_keeps_no_memory() {
    const STREAMS: usize = 1000 / MIRI_STRIDE;
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .end_on_drain(|_| true);
    let mut cx = Context::from_waker(Waker::noop());
    let _streams = [(); STREAMS].map(|()| {
        let mut body = Box::pin(event_stream(&layer, Script::silent()));
        assert!(body.as_mut().poll_frame(&mut cx).is_pending());
        body
    });
    let kept = allocation_counter::measure(|| {
        let mut drain = shutdown.drain(Duration::MAX).spread_over(Duration::MAX);
        assert!(Pin::new(&mut drain).poll(&mut cx).is_pending());
    });
    assert!(
        kept.bytes_max > 10 * STREAMS as u64,
        "the places are sorted"
    );
    // The list of drains keeps its capacity.
    assert!(kept.bytes_current <= 128, "{} bytes", kept.bytes_current);
}

#[test]
fn c24_call_of_a_wrapped_connection_takes_no_allocation() {
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, empty};

    let shutdown = Shutdown::new();
    let (server, _client) = tokio::io::duplex(16);
    let mut silent = shutdown.connection(server);
    let mut ready = shutdown
        .connection(empty())
        .write_timeout(std::time::Duration::from_secs(30));
    let mut cx = Context::from_waker(Waker::noop());
    let mut poll = |polls: usize| {
        allocation_counter::measure(|| {
            for _ in 0..polls {
                let mut buffer = [0; 16];
                let mut buffer = ReadBuf::new(&mut buffer);
                let read = Pin::new(&mut silent).poll_read(&mut cx, &mut buffer);
                assert!(read.is_pending());
                let written = Pin::new(&mut ready).poll_write(&mut cx, b"data: x\n\n");
                assert!(matches!(written, Poll::Ready(Ok(9))));
                assert!(Pin::new(&mut ready).poll_flush(&mut cx).is_ready());
            }
        })
        .count_total
    };
    // The first poll registers the waker.
    poll(1);
    assert_eq!(poll(1000), 0);
}

#[test]
fn shutdown_takes_at_most_64_bytes_for_a_stream() {
    const STREAMS: usize = 10_000 / MIRI_STRIDE;
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new().shutdown(&shutdown);
    let mut bodies: Vec<Pin<Box<ResponseBody<Script>>>> = Vec::new();
    let mut measure = |layer: &SseCompletionLayer| {
        bodies.reserve(STREAMS);
        let mut cx = Context::from_waker(Waker::noop());
        let allocated = allocation_counter::measure(|| {
            for _ in 0..STREAMS {
                let mut body = Box::pin(event_stream(layer, Script::silent()));
                assert!(body.as_mut().poll_frame(&mut cx).is_pending());
                bodies.push(body);
            }
        });
        allocated.bytes_current / STREAMS as i64
    };
    let without = measure(&SseCompletionLayer::new());
    let with = measure(&layer);
    assert!(with - without <= 64, "{} bytes", with - without);
}

#[test]
fn c7_buffer_for_an_event_in_pieces_takes_about_as_much_memory_as_the_limit() {
    // A vector that doubles its capacity would exceed the second limit.
    for limit in [64 * 1024, 33_000].map(|limit| limit / MIRI_STRIDE) {
        assert_buffer_memory(limit);
    }
}

fn assert_buffer_memory(limit: usize) {
    let upstream =
        Script::new([data("data: ")]).then(AfterScript::Repeat(Bytes::from_static(b"x")));
    let layer = SseCompletionLayer::new().buffer_limit(limit);
    let body: ResponseBody<_> = event_stream(&layer, upstream);
    let mut body = Box::pin(body);
    let mut cx = Context::from_waker(Waker::noop());
    let held =
        allocation_counter::measure(|| while body.as_mut().poll_frame(&mut cx).is_pending() {});
    // The buffer, and the smaller buffer while it grows.
    assert!(
        held.bytes_max <= limit as u64 * 2 + 1024,
        "{} bytes",
        held.bytes_max
    );
}
