//! The two sides: the layer, and what users who know the combinators write.

use std::{convert::Infallible, pin::Pin};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, stream};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

pub type Item = Result<Frame<Bytes>, Infallible>;
/// As in every framework.
pub type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    ByHand,
    Layer,
}

pub const SIDES: [Side; 2] = [Side::ByHand, Side::Layer];
pub const CLOSE_EVENT: &[u8] = b"event: close\ndata:\n\n";

/// One layer for all streams, as in a server.
pub fn with_layer(shutdown: &Shutdown) -> impl Fn(ReceiverStream<Item>) -> BoxBody + use<> {
    let service = SseCompletionLayer::new()
        .shutdown(shutdown)
        .layer(service_fn(|request: Request<ReceiverStream<Item>>| {
            let body = StreamBody::new(request.into_body());
            let response = Response::builder().header("content-type", "text/event-stream");
            future::ready(response.body(body))
        }));
    move |upstream| {
        let response = service
            .clone()
            .oneshot(Request::new(upstream))
            .now_or_never();
        let response = response.expect("no waiting").expect("a response");
        Box::pin(response.into_body())
    }
}

/// One token for all streams.
pub fn by_hand(token: &CancellationToken) -> impl Fn(ReceiverStream<Item>) -> BoxBody + use<> {
    let token = token.clone();
    move |upstream| {
        let close_event = Frame::data(Bytes::from_static(CLOSE_EVENT));
        let stream = upstream
            .take_until(token.clone().cancelled_owned())
            .chain(stream::iter([Ok(close_event)]));
        Box::pin(StreamBody::new(stream))
    }
}
