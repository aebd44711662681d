//! Tower middleware that ends every event stream on purpose.
//!
//! A client cannot tell a finished stream of [server-sent events][html] from one that was cut, and a stream that
//! never ends keeps a server from shutting down. [`SseCompletionLayer`] wraps the body of every `text/event-stream`
//! response: when the stream is cancelled, or ends without having delivered an event, its last event is
//! `event: close`, and its end is a clean one. Handlers need no change.
//!
//! ```
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse_completion::{Shutdown, SseCompletionLayer};
//! # use std::convert::Infallible;
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body::Frame;
//! # use http_body_util::{BodyExt, Full, StreamBody};
//! # use futures_util::{stream, StreamExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // An event stream that never ends by itself.
//! let service = service_fn(|_request: Request<Full<Bytes>>| async {
//!     let first = Ok::<_, Infallible>(Frame::data(Bytes::from("data: hello\n\n")));
//!     let body = StreamBody::new(stream::iter([first]).chain(stream::pending()));
//!     Response::builder().header("content-type", "text/event-stream").body(body)
//! });
//!
//! let shutdown = Shutdown::new();
//! let service = SseCompletionLayer::new().shutdown(&shutdown).layer(service);
//!
//! let response = service.oneshot(Request::default()).await?;
//! shutdown.close();
//! let body = response.into_body().collect().await?.to_bytes();
//! assert_eq!(body, "data: hello\n\nevent: close\ndata:\n\n");
//! # Ok(())
//! # }
//! ```
//!
//! A stream is cancelled by a [`Shutdown`], by [any future](SseCompletionLayer::cancel_when), or by a
//! [deadline](SseCompletionLayer::max_age). [`on_end`](SseCompletionLayer::on_end) tells how each one ended.
//! Where a framework's body is a stream of bytes, [`byte_stream`](SseCompletionLayer::byte_stream) does the same.
//!
//! # What it promises
//!
//! - **Whole events.** A close event never ends up inside of another event, however the upstream cuts its frames. An
//!   unfinished event is held back until its end has come, and discarded when the stream is closed before that. So
//!   a client sees a beginning of the events it would have seen, and then at most the close event, and the last
//!   event ID that it resumes from is that of an event it has seen.
//! - **Promptness.** A cancelled stream ends at once, however long the upstream has been silent, and an upstream
//!   that is always ready cannot outrun it. What the upstream had ready is still sent.
//! - **Nothing else.** A stream that delivered events and ended by itself is not changed, and neither is any
//!   response that is not an event stream: same bytes, frames, trailers, headers, hints and errors.
//! - **No cost to speak of.** A frame that ends with an event, as every framework's encoder makes it, takes no
//!   allocation, no lock and no copy.
//!
//! # Which responses
//!
//! A response is completed when its `Content-Type` is `text/event-stream`, its status is 2xx other than 204, 205
//! and 206, its `Content-Encoding` is absent or `identity`, the request was neither `HEAD` nor `CONNECT`, and the
//! handler did not opt out with [`SkipCompletion`]. It loses `Content-Length` and the headers that digest its
//! bytes.
//!
//! # What a page has to do
//!
//! A browser reconnects to every stream that ends, closed or not. The page ends that:
//!
//! ```js
//! source.addEventListener("close", () => source.close());
//! ```
//!
//! # Layer order
//!
//! Compression belongs outside of this layer, so that the close event is compressed too: in a
//! `tower::ServiceBuilder` above it, with axum's `Router::layer` after it. A body that is compressed
//! already passes through untouched.
//!
//! # Body type change
//!
//! The layer changes the type of the response body to [`ResponseBody`]. axum boxes bodies by itself. Elsewhere, a
//! place that names the body's type has to name the new one, or box: `tower::util::MapResponseLayer` with
//! `http_body_util::BodyExt::boxed`. `tower::util::option_layer` does not compile with a layer that changes the
//! body's type; use a layer that never cancels instead.
//!
//! # Limits
//!
//! - A server does not poll the body of a connection whose client has stopped reading, so nothing that wraps a body
//!   can end it. [`Shutdown::drain`] is bounded and counts such clients; cut their connections.
//! - An unfinished event of more than [`hold_limit`](SseCompletionLayer::hold_limit) bytes flows through, and a
//!   stream that is cancelled within it ends without a close event.
//!
//! # Features
//!
//! - `tokio`, on by default: [`Shutdown`], deadlines and keep-alive. Without it the layer runs on any executor.
//! - `tracing`: an event for every stream that ended, inside of the span that was current when its request came. Its fields
//!   are those of [`StreamReport`] under `sse.`, and `http.response.body.size` and `error.type` as in the semantic
//!   conventions of OpenTelemetry.
//! - `metrics`: counts and times of streams, for the `metrics` crate. The README has the table of names.
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html

mod body;
mod byte_stream;
mod cancel;
mod config;
mod coop;
#[cfg(feature = "tokio")]
mod deadlines;
mod eligibility;
mod event_stream;
mod future;
mod layer;
mod report;
mod service;
#[cfg(feature = "tokio")]
mod shutdown;
mod wire;

pub use self::{
    body::ResponseBody,
    byte_stream::ByteStream,
    cancel::{CancelWhen, FirstOf, NeverCancel},
    eligibility::SkipCompletion,
    future::ResponseFuture,
    layer::SseCompletionLayer,
    report::{ending::Ending, stream_report::StreamReport},
    service::SseCompletion,
    wire::close_event::{CloseEvent, InvalidCloseEvent},
};
#[cfg(feature = "tokio")]
pub use self::{
    deadlines::InvalidDeadline,
    shutdown::{Drained, Draining, Shutdown},
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
