//! The public types need no bound that their parts do not need, are small, and hide data in their `Debug` output.

#[cfg(feature = "signal")]
use std::io;
#[cfg(feature = "tokio")]
use std::time::Duration;
use std::{
    cell::Cell,
    convert::Infallible,
    fmt::Debug,
    future,
    marker::PhantomPinned,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http::{Request, Response};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, event_stream, event_stream_response},
    script::Script,
};
use tower::{Layer, Service};
use tower_sse_completion::{
    CloseEvent, Ending, EventMatch, InvalidCloseEvent, ResponseBody, ResponseFuture, Shutdown,
    SkipCompletion, SseCompletion, SseCompletionLayer, StreamReport,
};

fn is_send<T: Send>() {}
fn is_sync<T: Sync>() {}
fn is_unpin<T: Unpin>() {}
fn is_static<T: 'static>() {}
fn is_clone<T: Clone>() {}

#[test]
fn c23_public_types_are_send_sync_and_unpin_with_their_parts() {
    is_send::<SseCompletionLayer>();
    is_sync::<SseCompletionLayer>();
    is_clone::<SseCompletionLayer>();
    is_send::<SseCompletion<()>>();
    is_sync::<SseCompletion<()>>();
    is_clone::<SseCompletion<()>>();
    is_send::<ResponseFuture<future::Ready<()>>>();
    is_sync::<ResponseFuture<future::Ready<()>>>();
    is_send::<ResponseBody<Script>>();
    is_sync::<ResponseBody<Script>>();
    is_unpin::<ResponseBody<Body>>();
    is_send::<ResponseBody<Body>>();
    is_send::<CloseEvent>();
    is_sync::<CloseEvent>();
    is_send::<InvalidCloseEvent>();
    is_sync::<InvalidCloseEvent>();
    is_send::<StreamReport>();
    is_sync::<StreamReport>();
    is_static::<SkipCompletion>();
    is_static::<Ending>();
}

#[cfg(feature = "tokio")]
#[test]
fn c23_shutdown_and_its_futures_are_send_and_sync() {
    use tower_sse_completion::{Closed, Connection, Drain, Drained, Draining, KeepAlive, Shutdown};

    fn is_send_sync_unpin<T: Send + Sync + Unpin + 'static>(_: &T) {}
    let shutdown = Shutdown::new();
    is_send_sync_unpin(&shutdown);
    is_send_sync_unpin(&shutdown.draining());
    is_send::<Draining>();
    is_sync::<Drained>();
    is_send::<KeepAlive>();
    is_sync::<Closed>();
    let drain: Drain = shutdown.drain(std::time::Duration::ZERO);
    is_send_and_static(&drain.after(future::pending::<()>()));
    fn is_send_and_static(_: &(impl Send + 'static)) {}
    is_send_and_static(&shutdown.after(future::pending::<()>()));
    is_send_sync_unpin(
        &shutdown
            .connection(())
            .write_timeout(std::time::Duration::ZERO),
    );
    is_send::<Connection<Cell<()>>>();
    // A connection has no bound on the inner connection.
    let _: Connection<Rc<PhantomPinned>> = shutdown.connection(Rc::default());
}

#[cfg(feature = "signal")]
#[test]
fn c23_stop_signal_is_send_and_sync() {
    fn is_send_sync_unpin<T: Send + Sync + Unpin + 'static>() {}
    is_send_sync_unpin::<tower_sse_completion::StopSignal>();
}

/// A service that is neither `Send` nor `Sync` nor `'static`, like its body and its future.
struct Local<'a>(&'a Rc<Cell<usize>>);

/// Data that is neither `Send` nor `Bytes`.
struct LocalData(Rc<[u8]>, usize);

impl Buf for LocalData {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        &self.0[self.1..]
    }

    fn advance(&mut self, count: usize) {
        self.1 += count;
    }
}

impl From<LocalData> for Bytes {
    fn from(data: LocalData) -> Self {
        Self::copy_from_slice(data.chunk())
    }
}

struct LocalBody<'a>(&'a Rc<Cell<usize>>, PhantomPinned);

impl<'a> Service<Request<()>> for Local<'a> {
    type Response = Response<LocalBody<'a>>;
    type Error = Rc<()>;
    type Future = future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        let body = LocalBody(self.0, PhantomPinned);
        future::ready(Ok(event_stream_response(body)))
    }
}

impl http_body::Body for LocalBody<'_> {
    type Data = LocalData;
    type Error = Rc<()>;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<LocalData>, Rc<()>>>> {
        self.0.set(self.0.get() + 1);
        Poll::Ready(None)
    }
}

#[test]
fn c23_no_bound_is_added_to_services_bodies_data_or_errors() {
    let polls = Rc::new(Cell::new(0));
    let layer = SseCompletionLayer::new();
    let mut service = SseCompletion::new(Local(&polls), layer);
    let response = futures_util::FutureExt::now_or_never(service.call(Request::new(())));
    let Some(Ok(response)) = response else {
        panic!("a response")
    };
    let mut body = Driver::new(response.into_body());
    assert_eq!(body.data(), CLOSE);
    assert_eq!(polls.get(), 1);
}

#[test]
fn layer_can_be_named() {
    let layer: SseCompletionLayer = SseCompletionLayer::new().cancel_when(|_| future::pending());
    let service: SseCompletion<()> = SseCompletion::new((), layer);
    let _: SseCompletionLayer = SseCompletion::<()>::layer();
    service.into_inner();
}

#[test]
fn debug_output_has_the_name_of_the_type_and_no_data() {
    let body: ResponseBody<Body> = event_stream(&SseCompletionLayer::new(), Body::from("data: x"));
    let (request, ()) = Request::new(()).into_parts();
    let upstream = futures_util::stream::empty::<Result<Bytes, Infallible>>();
    let stream = SseCompletionLayer::new().byte_stream(&request, upstream);
    let service = tower::service_fn(|_: Request<()>| {
        future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let response = SseCompletionLayer::new()
        .layer(service)
        .call(Request::new(()));
    let shutdown = Shutdown::new();
    let values: [(&dyn Debug, &str); 8] = [
        (&body, "ResponseBody { .. }"),
        (&stream, "ByteStream { .. }"),
        (&response, "ResponseFuture { .. }"),
        (
            &shutdown,
            "Shutdown { is_draining: false, is_closed: false, open_streams: 0, .. }",
        ),
        (&shutdown.draining(), "Draining { waiter: Waiter { .. } }"),
        (&EventMatch::event("done"), "Event(\"done\")"),
        (&EventMatch::data("[DONE]"), "Data(\"[DONE]\")"),
        (&EventMatch::when(|_| true), "When(..)"),
    ];
    for (value, expected) in values {
        assert_eq!(format!("{value:?}"), expected);
    }
}

#[test]
fn debug_output_of_a_layer_has_its_options_and_no_data() {
    let plain = SseCompletionLayer::new();
    let options = SseCompletionLayer::new()
        .cancel_when(|_| future::pending())
        .close_event_with(|_| CloseEvent::new())
        .on_end(|_| ());
    let others = SseCompletionLayer::new()
        .close_event(None)
        .on_end_with(|_| |_| ());
    for (layer, parts) in [
        (
            plain,
            ["cancellations: 0", "close_event: None", "observer: None"],
        ),
        (
            options,
            [
                "cancellations: 1",
                "close_event: Some(PerStream(..))",
                "observer: Shared(..)",
            ],
        ),
        (
            others,
            [
                "ends_on_drain: false",
                "close_event: Some(None)",
                "observer: PerRequest(..)",
            ],
        ),
    ] {
        let debug = format!("{layer:?}");
        assert!(!debug.contains("Waker"), "{debug}");
        for part in parts {
            assert!(debug.contains(part), "{part} is missing: {debug}");
        }
    }
}

#[cfg(feature = "tokio")]
#[test]
fn debug_output_of_a_drain_has_its_times() {
    let drain = Shutdown::new().drain(Duration::from_secs(9));
    let debug = format!("{drain:?}");
    assert!(debug.contains("grace: 9s"), "{debug}");
}

#[cfg(feature = "signal")]
#[cfg_attr(miri, ignore = "Miri has no signals")]
#[tokio::test]
async fn debug_output_of_a_stop_signal_has_its_name() -> io::Result<()> {
    let signal = tower_sse_completion::stop_signal()?;
    assert_eq!(format!("{signal:?}"), "StopSignal { .. }");
    Ok(())
}

#[test]
fn body_is_small() {
    assert!(size_of::<ResponseBody<Body>>() <= 128);
    assert!(size_of::<CloseEvent>() <= 16);
}
