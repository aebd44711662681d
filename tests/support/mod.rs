//! What the tests share: an upstream that follows a script, a driver that polls a body, and an independent decoder.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of this module"
)]

pub mod client;
pub mod decoder;
pub mod driver;
#[cfg(feature = "tokio")]
pub mod observed;
pub mod script;
pub mod server;

use std::convert::Infallible;

use futures_util::FutureExt;
use http::{Request, Response, request::Parts};
use http_body::Body;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse_completion::{CancelWhen, SseCompletionLayer};

/// The default close event, as bytes.
pub const CLOSE: &[u8] = b"event: close\ndata:\n\n";

/// Where all inputs of a kind are gone through: every one, or under Miri, which takes a thousand times as long, one of so
/// many.
pub const STRIDE: usize = if cfg!(miri) { 29 } else { 1 };

/// Sends a response through the layer, as the answer to this request.
pub fn through<L, B, T>(layer: &L, request: Request<()>, response: Response<B>) -> Response<T>
where
    L: Layer<tower::util::BoxService<Request<()>, Response<B>, Infallible>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
    B: Send + 'static,
{
    let mut response = Some(response);
    let inner = service_fn(move |_request| {
        let response = response.take().expect("one request");
        async move { Ok(response) }
    });
    layer
        .layer(tower::util::BoxService::new(inner))
        .oneshot(request)
        .now_or_never()
        .expect("a response without waiting")
        .unwrap_or_else(|never| match never {})
}

/// Sends a body through the layer, as an event stream.
pub fn event_stream<L, B, T>(layer: &L, upstream: B) -> T
where
    L: Layer<tower::util::BoxService<Request<()>, Response<B>, Infallible>>,
    L::Service: Service<Request<()>, Response = Response<T>, Error = Infallible>,
    B: Body + Send + 'static,
{
    let response = Response::builder()
        .header("content-type", "text/event-stream")
        .body(upstream)
        .expect("a valid response");
    through(layer, Request::new(()), response).into_body()
}

/// Spends the cooperative budget of the task. From here to its next yield, tokio's channels and timers say that they are
/// pending, whatever they hold.
pub fn spend_budget() {
    let is_spent = (0..1000).any(|_| tokio::task::consume_budget().now_or_never().is_none());
    assert!(is_spent, "only a task of a tokio runtime has a budget");
}

/// A layer whose streams this token cancels.
pub fn cancelled_by(
    token: &CancellationToken,
) -> SseCompletionLayer<CancelWhen<impl Fn(&Parts) -> WaitForCancellationFutureOwned + Clone + use<>>>
{
    let token = token.clone();
    SseCompletionLayer::new().cancel_when(move |_| token.clone().cancelled_owned())
}
