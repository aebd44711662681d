//! The public types need no bound that their parts do not need, are small, and hide data in their `Debug` output.

use std::{
    cell::Cell,
    convert::Infallible,
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
use tower::Service;
use tower_sse_completion::{
    CancelWhen, CloseEvent, Ending, FirstOf, InvalidCloseEvent, NeverCancel, ResponseBody,
    ResponseFuture, SkipCompletion, SseCompletion, SseCompletionLayer, StreamReport,
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
    is_send::<FirstOf<NeverCancel, CancelWhen<()>>>();
    is_sync::<FirstOf<NeverCancel, CancelWhen<()>>>();
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
    let layer = SseCompletionLayer::new().cancel_when(|_| {
        let local = Rc::new(());
        async move {
            future::pending::<()>().await;
            drop(local);
        }
    });
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
    type Make = fn(&http::request::Parts) -> future::Pending<()>;
    type Cancel = FirstOf<NeverCancel, CancelWhen<Make>>;
    let never: Make = |_| future::pending();
    let layer: SseCompletionLayer<Cancel> = SseCompletionLayer::new().cancel_when(never);
    let service: SseCompletion<(), Cancel> = SseCompletion::new((), layer);
    let _: SseCompletionLayer<NeverCancel> = SseCompletion::<()>::layer();
    service.into_inner();
}

#[test]
fn debug_output_has_the_name_of_the_type_and_no_data() {
    let body: ResponseBody<Body> = event_stream(&SseCompletionLayer::new(), Body::from("data: x"));
    assert_eq!(format!("{body:?}"), "ResponseBody { .. }");
    let (request, ()) = Request::new(()).into_parts();
    let upstream = futures_util::stream::empty::<Result<Bytes, Infallible>>();
    let stream = SseCompletionLayer::new().byte_stream(&request, upstream);
    assert_eq!(format!("{stream:?}"), "ByteStream { .. }");
    let plain = SseCompletionLayer::new();
    assert!(format!("{plain:?}").contains("observer: None"), "{plain:?}");
    let layer = plain
        .cancel_when(|_| future::pending())
        .close_event_with(|_| CloseEvent::new())
        .on_end(|_| ());
    let debug = format!("{layer:?}");
    assert!(!debug.contains("Waker"), "{debug}");
    for part in [
        "second: CancelWhen { .. }",
        "close_event: PerStream(..)",
        "observer: Shared(..)",
        "ends_on_drain: false",
    ] {
        assert!(debug.contains(part), "{part} is missing: {debug}");
    }
}

#[test]
fn body_is_small() {
    assert!(size_of::<ResponseBody<Body>>() <= 128);
    assert!(size_of::<CloseEvent>() <= 16);
}
