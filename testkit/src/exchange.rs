//! Sends one response through a layer.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tower_service::Service;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use crate::{
    driver::Driver,
    script::{AfterScript, Script, ScriptError},
};

/// The default close event.
pub const CLOSE: &[u8] = b"event: close\ndata:\n\n";

/// A service that has one response, for one request.
#[derive(Debug)]
pub struct OneResponse<B>(Option<Response<B>>);

impl<B> OneResponse<B> {
    /// Returns a service with this response.
    pub fn new(response: Response<B>) -> Self {
        Self(Some(response))
    }
}

impl<B> Service<Request<()>> for OneResponse<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        ready(Ok(self.0.take().expect("one request")))
    }
}

/// Sends the response to this request through the layer.
///
/// # Panics
///
/// Panics if the layer's service does not respond at its first poll.
pub fn send_response<L, B, T>(layer: &L, request: Request<()>, response: Response<B>) -> Response<T>
where
    L: Layer<OneResponse<B>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
{
    let future = layer.layer(OneResponse::new(response)).call(request);
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response,
        Poll::Pending => panic!("the service did not respond at once"),
    }
}

/// Sends a successful `text/event-stream` response with this body through the layer, and returns the wrapped body.
///
/// ```
/// use testkit::{driver::Driver, exchange::{CLOSE, event_stream}, script::Script};
/// use tower_sse_completion::SseCompletionLayer;
///
/// let body = event_stream(&SseCompletionLayer::new(), Script::frames([""; 0]));
/// assert_eq!(Driver::new(body).rest().bytes(), CLOSE);
/// ```
pub fn event_stream<L, B, T>(layer: &L, upstream: B) -> T
where
    L: Layer<OneResponse<B>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
{
    send_response(layer, Request::new(()), event_stream_response(upstream)).into_body()
}

/// Sends a body through the layer as [`event_stream`] does, and returns a driver of the wrapped body.
pub fn drive<L, B, T>(layer: &L, upstream: B) -> Driver<T>
where
    L: Layer<OneResponse<B>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
    T: Body<Data = Bytes>,
{
    Driver::new(event_stream(layer, upstream))
}

/// Sends a stream through the layer, and returns the stream once it has delivered an event and is pending.
pub fn idle<L, T>(layer: &L) -> Driver<T>
where
    L: Layer<OneResponse<Script>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
    T: Body<Data = Bytes, Error = ScriptError>,
{
    let upstream = Script::frames(["data: x\n\n"]).then(AfterScript::Pending);
    let mut body = drive(layer, upstream);
    body.data();
    body.assert_pending();
    body
}

/// Sends a response through the layer whose stream is always pending and which has this extension.
pub fn extended<L, T, E>(layer: &L, extension: E) -> Driver<T>
where
    L: Layer<OneResponse<Script>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
    T: Body<Data = Bytes>,
    E: Clone + Send + Sync + 'static,
{
    let mut response = event_stream_response(Script::silent());
    response.extensions_mut().insert(extension);
    Driver::new(send_response(layer, Request::new(()), response).into_body())
}

/// Returns a successful `text/event-stream` response with this body.
pub fn event_stream_response<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Returns a layer whose streams end when this shutdown closes.
pub fn shutdown_layer(shutdown: &Shutdown) -> SseCompletionLayer {
    SseCompletionLayer::new().shutdown(shutdown)
}

/// Returns a layer whose streams are cancelled by this token.
pub fn cancellation_layer(token: &CancellationToken) -> SseCompletionLayer {
    let token = token.clone();
    SseCompletionLayer::new().cancel_when(move |_| token.clone().cancelled_owned())
}

/// Spends the cooperative budget of the current task. Until its next yield, tokio's channels and timers are pending
/// regardless of their state.
///
/// # Panics
///
/// Panics outside of a task of a tokio runtime.
pub fn spend_budget() {
    let mut cx = Context::from_waker(Waker::noop());
    let mut is_spent = || {
        pin!(tokio::task::consume_budget())
            .poll(&mut cx)
            .is_pending()
    };
    assert!((0..1000).any(|_| is_spent()), "only a task has a budget");
}
