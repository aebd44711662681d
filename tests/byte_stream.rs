//! Streams of bytes end like response bodies.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream::FusedStream};
use http::{Method, Request, request::Parts};
use http_body_util::BodyDataStream;
use testkit::{
    MIRI_STRIDE,
    exchange::{CLOSE, cancellation_layer, event_stream},
    reports::Reports,
    script::{AfterScript, Script, ScriptError, Step, data},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, Ending, SseCompletionLayer};

/// Returns the head of the request whose responses are the streams.
fn head() -> Parts {
    let request = Request::get("/events?topic=news").body(());
    request.expect("a valid request").into_parts().0
}

type Items = Vec<Result<Bytes, ScriptError>>;

const STREAMS: [&[u8]; 6] = [
    b"",
    b":\n",
    b"data: 1\n\n",
    b"id: 1\ndata: 1\r\n\r\n: half",
    b"\xEF\xBB\xBFdata: 1\r\rid: 2\ndata: half",
    b"retry: 5\n\ndata: 1\n\ndata: 2\n\n",
];

fn items<S>(stream: &mut Pin<&mut S>) -> Items
where
    S: Stream<Item = Result<Bytes, ScriptError>>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut items = Vec::new();
    while let Poll::Ready(Some(item)) = stream.as_mut().poll_next(&mut cx) {
        items.push(item);
    }
    items
}

/// Returns every split into two frames, each followed by the end, an error, or a cancellation.
fn scripts() -> impl Iterator<Item = (Vec<Step>, bool)> {
    STREAMS.into_iter().flat_map(|bytes| {
        (0..=bytes.len()).flat_map(move |split| {
            let (start, end) = bytes.split_at(split);
            let frames = vec![data(start), data(end)];
            let failing = [frames.clone(), vec![Step::Error]].concat();
            let silent = [frames.clone(), vec![Step::Pending]].concat();
            [(frames, false), (failing, false), (silent, true)]
        })
    })
}

#[test]
fn stream_and_body_return_the_same_bytes() {
    let mut compared = 0;
    for (steps, is_cancelled) in scripts().step_by(MIRI_STRIDE) {
        let outputs: [Items; 2] = [false, true].map(|as_body| {
            let token = CancellationToken::new();
            let layer = cancellation_layer(&token);
            let upstream = Script::new(steps.clone());
            let stream: Pin<Box<dyn Stream<Item = Result<Bytes, ScriptError>>>> = if as_body {
                Box::pin(BodyDataStream::new(event_stream(&layer, upstream)))
            } else {
                Box::pin(layer.byte_stream(&head(), BodyDataStream::new(upstream)))
            };
            let mut stream = pin!(stream);
            let mut output = items(&mut stream);
            if is_cancelled {
                token.cancel();
                output.extend(items(&mut stream));
            }
            output
        });
        assert_eq!(outputs[0], outputs[1], "{steps:?}");
        compared += 1;
    }
    assert!(compared > 150 / MIRI_STRIDE, "{compared}");
}

#[test]
fn c13_end_is_final() {
    let mut stream = pin!(SseCompletionLayer::new().byte_stream(
        &head(),
        BodyDataStream::new(
            // The script panics when it is polled after its end.
            Script::frames([":\n"])
        )
    ));
    assert!(!stream.is_terminated());
    assert_eq!(items(&mut stream).len(), 2);
    assert!(stream.is_terminated());
    for _ in 0..3 {
        assert_eq!(stream.next().now_or_never(), Some(None));
    }
}

#[test]
fn c21_stream_is_reported_once() {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    for frames in [&["data: 1\n\n"][..], &[]] {
        let mut stream =
            pin!(layer.byte_stream(&head(), BodyDataStream::new(Script::frames(frames))));
        items(&mut stream);
    }
    {
        let upstream = Script::silent();
        let mut stream = pin!(layer.byte_stream(&head(), BodyDataStream::new(upstream)));
        items(&mut stream);
    }
    let reported = reports.all();
    let reported: Vec<_> = reported
        .iter()
        .map(|report| (report.ending(), report.bytes_received()))
        .collect();
    let expected = [
        (Ending::Completed, 9),
        (Ending::Empty, 0),
        (Ending::Dropped, 0),
    ];
    assert_eq!(reported, expected);
}

#[test]
fn cancellation_is_made_once_for_each_stream_from_its_request() {
    let calls = Arc::new(AtomicUsize::new(0));
    let layer = SseCompletionLayer::new().cancel_when({
        let calls = Arc::clone(&calls);
        move |request| {
            assert_eq!(request.method, Method::GET);
            assert_eq!(request.uri, "/events?topic=news");
            calls.fetch_add(1, Ordering::SeqCst);
            std::future::ready(())
        }
    });
    let mut stream = pin!(layer.byte_stream(
        &head(),
        BodyDataStream::new(Script::frames(["data: 1\n\n"]))
    ));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let cancelled = [
        Ok(Bytes::from("data: 1\n\n")),
        Ok(Bytes::from_static(CLOSE)),
    ];
    assert_eq!(items(&mut stream), cancelled);
}

#[test]
fn options_of_one_stream_are_set_on_a_clone_of_the_layer() {
    let layer = SseCompletionLayer::new();
    let own = layer.clone().close_event(CloseEvent::new().data("own"));
    for (layer, event) in [
        (layer, "event: close\ndata:\n\n"),
        (own, "event: close\ndata: own\n\n"),
    ] {
        let mut stream = pin!(layer.byte_stream(&head(), BodyDataStream::new(Script::new([]))));
        assert_eq!(items(&mut stream), [Ok(Bytes::from(event))]);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn deadlines_and_shutdowns_end_byte_streams() {
    use std::time::Duration;
    use tower_sse_completion::Shutdown;

    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .close_event_with(|report| CloseEvent::new().data(report.ending().as_str()));
    let expiring = layer.clone().max_age(Duration::from_secs(5));
    let silent = || BodyDataStream::new(Script::silent());

    let mut stream = pin!(expiring.byte_stream(&head(), silent()));
    let event = stream.next().await.expect("an item").expect("no error");
    assert_eq!(event, "event: close\ndata: expired\n\n");

    let mut stream = pin!(layer.byte_stream(&head(), silent()));
    assert_eq!(shutdown.open_streams(), 1);
    shutdown.close();
    let event = stream.next().await.expect("an item").expect("no error");
    assert_eq!(event, "event: close\ndata: cancelled\n\n");
    assert_eq!(shutdown.open_streams(), 0);
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn c18_drain_ends_the_byte_streams_of_the_requests_that_the_closure_chooses() {
    use std::time::Duration;
    use tower_sse_completion::Shutdown;

    const GRACE: Duration = Duration::from_secs(10);
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .end_on_drain(|request| request.method == Method::GET && request.uri.path() == "/events");
    let start = |method, uri: &str| {
        let mut request = head();
        (request.method, request.uri) = (method, uri.parse().expect("a URI"));
        let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
        Box::pin(layer.byte_stream(&request, BodyDataStream::new(upstream)))
    };
    let first = [Ok(Bytes::from("data: 1\n\n"))];
    let close = [Ok(Bytes::from_static(CLOSE))];
    let mut subscription = pin!(start(Method::GET, "/events"));
    let mut others = [
        start(Method::POST, "/events"),
        start(Method::GET, "/responses"),
    ];
    assert_eq!(items(&mut subscription), first);
    for other in &mut others {
        assert_eq!(items(&mut other.as_mut()), first);
    }
    let drain = tokio::spawn(shutdown.drain(GRACE));
    tokio::time::sleep(GRACE / 2).await;
    assert_eq!(items(&mut subscription), close);
    for other in &mut others {
        assert_eq!(
            items(&mut other.as_mut()),
            [],
            "the stream has the grace period"
        );
    }
    tokio::time::sleep(GRACE / 2 + Duration::from_millis(1)).await;
    for other in &mut others {
        assert_eq!(items(&mut other.as_mut()), close);
    }
    let drained = drain.await.expect("no panic");
    assert_eq!((drained.ended(), drained.still_open()), (3, 0));
}
