//! Tower middleware that ends server-sent event streams with a close event.
//!
//! A client cannot distinguish a finished stream of [server-sent events][html] from a truncated one, and a stream that never ends
//! keeps a server from shutting down. [`SseCompletionLayer`] wraps the body of every `text/event-stream` response. When the
//! stream is cancelled, or ends without an event, its last event is `event: close` and it ends cleanly. Handlers need no
//! change.
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
//! // An event stream that never ends on its own.
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
//! In an axum server, with the feature `signal`:
//!
#![cfg_attr(feature = "signal", doc = "```no_run")]
#![cfg_attr(not(feature = "signal"), doc = "```ignore")]
//! use axum::{Router, response::sse::{Event, Sse}, routing::get};
//! use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};
//! # async fn events() -> Sse<futures_util::stream::Pending<Result<Event, std::convert::Infallible>>> {
//! #     Sse::new(futures_util::stream::pending())
//! # }
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let shutdown = Shutdown::new();
//!     let app = Router::new()
//!         .route("/events", get(events))
//!         .layer(SseCompletionLayer::new().shutdown(&shutdown));
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app)
//!         .with_graceful_shutdown(shutdown.after(stop_signal()?))
//!         .await
//! }
//! ```
//!
//! A stream is cancelled by a [`Shutdown`] or by [any future](SseCompletionLayer::cancel_when), and ended by a
//! [deadline](SseCompletionLayer::max_age). [`on_end`](SseCompletionLayer::on_end) reports how each stream ended.
//! [`byte_stream`](SseCompletionLayer::byte_stream) does the same in frameworks whose bodies are streams of bytes.
//!
//! The [`guide`] has pages on clients, shutdown in production, proxies, protocols and tests.
//!
//! # Guarantees
//!
//! `CONTRACT.md` in the package states them clause by clause, and each clause has tests. In short:
//!
//! - **Whole events.** A close event is never written inside another event, regardless of the upstream's frames. An unfinished
//!   event is buffered until its end arrives, and discarded if the stream is closed before that. Therefore a client sees a
//!   prefix of the events that it would have seen, then at most the close event. An event above the
//!   [buffer limit](SseCompletionLayer::buffer_limit) is forwarded as it arrives, and a stream that is cancelled inside it
//!   ends without a close event.
//! - **Promptness.** A cancellation wakes the stream and ends it, regardless of how long the upstream stays silent and how much
//!   it has ready. Up to 32 frames that are ready are forwarded first.
//! - **Pass-through.** A stream that has delivered an event and ends on its own is not changed, and neither is a response
//!   that is not an event stream: the same bytes, frames, trailers, hints and errors.
//! - **Cost.** A frame of whole events, as the encoders of frameworks make it, takes no allocation, no lock and no copy.
//!
//! # Wrapped responses
//!
//! A response is wrapped if its `Content-Type` is `text/event-stream`, its status is 2xx other than 204, 205 and 206, its
//! `Content-Encoding` is absent, `identity` or `none`, the request method is neither `HEAD` nor `CONNECT`, and the handler has
//! not opted out with [`SkipCompletion`]. It loses `Content-Length` and the headers that digest its bytes.
//!
//! # Browsers
//!
//! `EventSource` reconnects whenever a stream ends. `close` is only an event name; the page must act on it:
//!
//! ```js
//! source.addEventListener("close", () => source.close());
//! ```
//!
//! # Layer order
//!
//! Compression belongs outside of this layer, so that the close event is compressed too: before it in a
//! `tower::ServiceBuilder`, after it with axum's `Router::layer`. A body that has been compressed already passes through
//! unchanged.
//!
//! If two of these layers wrap one stream, the client receives at most one close event, and the inner layer makes the report. The
//! layers recognize each other by an extension of the response, which middleware between them must keep.
//!
//! # Body type change
//!
//! The layer changes the type of the response body to [`ResponseBody`]. `Router::layer` of axum boxes bodies.
//! Elsewhere, name the new type ([`MakeCancellation`] has the example of a library) or erase it:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body::Body;
//! use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
//! use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};
//! use tower_sse_completion::{MakeCancellation, SseCompletionLayer};
//!
//! type Erased<R, E, B> = BoxCloneSyncService<Request<R>, Response<UnsyncBoxBody<Bytes, B>>, E>;
//!
//! fn erase<S, R, B, C>(inner: S, layer: SseCompletionLayer<C>) -> Erased<R, S::Error, B::Error>
//! where
//!     C: MakeCancellation<Cancellation: Send + 'static> + Clone + Send + Sync + 'static,
//!     S: Service<Request<R>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
//!     R: 'static,
//!     B: Body<Data = Bytes, Error: Send> + Send + 'static,
//! {
//!     let service = ServiceBuilder::new()
//!         .map_response(|response: Response<_>| response.map(BodyExt::boxed_unsync))
//!         .layer(layer)
//!         .service(inner);
//!     BoxCloneSyncService::new(service)
//! }
//! # let inner = tower::service_fn(async |_: Request<()>| {
//! #     Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::<Bytes>::default()))
//! # });
//! # let _: Erased<(), _, _> = erase(inner, SseCompletionLayer::new());
//! ```
//!
//! [`ResponseBody`] is `Send` if the inner body, its error and the cancellation are, and `Sync` likewise. `BodyExt::boxed` needs
//! both, and axum's body and a [`BoxCancellation`] are not `Sync`.
//! `tower::util::option_layer` does not compile with a layer that changes the body's type. Use a layer without a
//! cancellation instead.
//!
//! The data of the inner body must convert into `Bytes`, as that of all common bodies does. For another `Buf`, wrap the inner
//! service with `http_body_util::BodyExt::map_frame`:
//!
//! ```
//! use bytes::{Buf, Bytes};
//! use http_body::{Body, Frame};
//! use http_body_util::BodyExt;
//!
//! fn with_bytes<B: Body>(body: B) -> impl Body<Data = Bytes, Error = B::Error> {
//!     body.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
//! }
//! # let _ = with_bytes::<http_body_util::Empty<Bytes>>;
//! ```
//!
//! # Limits
//!
//! - A server does not poll the body of a connection whose client has stopped reading, so no body can end that stream.
//!   [`Shutdown::drain`] returns nevertheless and counts such streams. [`Shutdown::connection`] wraps the connections, so
//!   that the drain can cut them.
//! - Plain text that is sent as `text/event-stream` has no events, so up to the buffer limit of it is buffered. Set
//!   [`buffer_limit(0)`](SseCompletionLayer::buffer_limit), or opt out.
//!
//! # Features
//!
//! - `tokio`, enabled by default: [`Shutdown::drain`], [`Shutdown::connection`], deadlines and the keep-alive. Without it the
//!   layer runs on any executor, and on `wasm32-unknown-unknown` with the clock and the random numbers of the JavaScript host.
//!   The feature needs tokio's timer, which that target lacks.
//! - `signal`: [`stop_signal`], a future that completes at Ctrl-C and SIGTERM.
//! - `tracing`: an event for every stream that has ended, with the target `tower_sse_completion`, inside the span that was
//!   current when its request arrived. Its fields are those of [`StreamReport`] with the prefix `sse.`, and
//!   `http.response.body.size` (the bytes that were sent) and `error.type` as in the semantic conventions of OpenTelemetry.
//! - `metrics`: counts and durations of streams, for the `metrics` crate. The guide has the table of names. Install the
//!   recorder before the layer is made, which is when the metrics are described.
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html

#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod byte_stream;
mod cancel;
mod clock;
mod config;
mod coop;
#[cfg(feature = "tokio")]
mod deadlines;
mod eligibility;
mod event_stream;
mod frame;
mod future;
#[cfg(any(doc, all(doctest, feature = "signal")))]
pub mod guide;
mod layer;
mod layer_marker;
mod report;
mod service;
mod shutdown;
#[cfg(feature = "signal")]
mod signal;
mod stop;
mod sync;
mod wire;

#[cfg(feature = "signal")]
pub use self::signal::{StopSignal, stop_signal};
pub use self::{
    body::ResponseBody,
    byte_stream::ByteStream,
    cancel::{BoxCancellation, CancelWhen, FirstOf, MakeCancellation, NeverCancel},
    eligibility::SkipCompletion,
    future::ResponseFuture,
    layer::SseCompletionLayer,
    report::{ending::Ending, stream_report::StreamReport},
    service::SseCompletion,
    shutdown::{Closed, Draining, Shutdown},
    wire::close_event::{CloseEvent, InvalidCloseEvent},
};
#[cfg(feature = "tokio")]
pub use self::{
    deadlines::KeepAlive,
    shutdown::{Connection, Drain, Drained},
};

#[cfg(all(doctest, feature = "signal"))]
#[doc = include_str!("../README.md")]
struct Readme;
