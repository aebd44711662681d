//! Tower middleware that ends server-sent event streams with a close event.
//!
//! A client cannot distinguish a finished stream of [server-sent events][html] from a truncated one, and a stream that never ends
//! keeps a server from shutting down. [`SseCompletionLayer`] wraps the body of every `text/event-stream` response. When the
//! stream is cancelled, or ends without an event, its last event is `event: close` and it ends cleanly. Handlers need no
//! change.
//!
//! An axum server that closes its streams at Ctrl-C and SIGTERM, with the feature `signal`:
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
//! | to | use |
//! |---|---|
//! | let responses finish before a shutdown, and cut clients that do not read | [`Shutdown::drain`], [`Shutdown::connection`] |
//! | end streams for other reasons | [`cancel_when`](SseCompletionLayer::cancel_when), [`max_age`](SseCompletionLayer::max_age), [`idle_timeout`](SseCompletionLayer::idle_timeout) |
//! | end a stream as its protocol does, such as after `data: [DONE]` | [`end_mark`](SseCompletionLayer::end_mark), [`close_event`](SseCompletionLayer::close_event) |
//! | report how each stream ended | [`on_end`](SseCompletionLayer::on_end) |
//! | send a status in place of a stream that dies before its first event | [`FirstEventLayer`](first_event::FirstEventLayer) |
//! | wrap the streams of actix-web, poem or Rocket | [`byte_stream`](SseCompletionLayer::byte_stream) |
//!
//! The [`guide`] has pages on clients, shutdown in production, proxies, protocols and tests.
//!
//! # Guarantees
//!
//! `CONTRACT.md` states the guarantees of the crate, clause by clause. In short:
//!
//! - **Whole events.** A close event is never written inside another event, regardless of the upstream's frames. An unfinished
//!   event is buffered until its rest arrives. If the stream is closed first, the buffered bytes are discarded. The client receives
//!   a prefix of the upstream's events, followed by at most the close event. An event above the
//!   [buffer limit](SseCompletionLayer::buffer_limit) is forwarded as it arrives, and a stream that is cancelled inside it
//!   ends without a close event.
//! - **Promptness.** A cancellation wakes and ends the stream, even if the upstream is silent or always ready. Up to 32 frames
//!   that are ready are forwarded first.
//! - **Pass-through.** A stream that has delivered an event and ends on its own is not changed, unless an option requests it,
//!   and neither is a response that is not an event stream: the same bytes, frames, trailers, hints and errors.
//! - **Cost.** A frame of whole events, as the encoders of frameworks make it, is forwarded without an allocation, a lock or a
//!   copy.
//!
//! # Wrapped responses
//!
//! A response is wrapped if its `Content-Type` is `text/event-stream`, its status is 2xx other than 204, 205 and 206, its
//! `Content-Encoding` is absent, `identity` or `none`, the request method is neither `HEAD` nor `CONNECT`, and the handler has
//! not opted out with [`SkipCompletion`]. A wrapped response loses `Content-Length` and the headers that digest its bytes.
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
//! Several of these layers around one stream act as one layer in the place of the outermost: every shutdown, cancellation, end
//! mark and observer counts, the earliest deadline and the shortest interval hold, and for every other option the innermost
//! layer that sets it. The layers find each other by an extension of the response, which middleware between them must keep.
//!
//! # Body type change
//!
//! The layer changes the type of the response body from `B` to [`ResponseBody<B>`](ResponseBody). `Router::layer` of axum boxes
//! bodies. Elsewhere, name the new type, or box it with `http_body_util::BodyExt`. `tower::util::option_layer` does not compile
//! with a layer that changes the body's type; use a layer without a shutdown and without a cancellation instead.
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
//! - `tokio`, enabled by default: [`Shutdown::drain`], [`Shutdown::connection`], deadlines, the keep-alive, and the module
//!   [`first_event`]. Without it the layer runs on any executor, and on `wasm32-unknown-unknown` with the clock and the random
//!   numbers of the JavaScript host. The feature needs tokio's timer, which that target lacks.
//! - `signal`: [`stop_signal`], a future that completes at Ctrl-C and SIGTERM.
//! - `tracing`: an event for every stream that has ended, with the target `tower_sse_completion`, inside the span that was
//!   current when its request arrived. Its fields are those of [`StreamReport`] with the prefix `sse.` (of the close event: its name), and
//!   `http.response.body.size` (the bytes that were sent) and `error.type` as in the semantic conventions of OpenTelemetry.
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html

#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod byte_stream;
mod clock;
mod config;
mod coop;
#[cfg(feature = "tokio")]
mod deadlines;
mod eligibility;
mod event_stream;
#[cfg(feature = "tokio")]
pub mod first_event;
#[cfg(any(doc, all(doctest, feature = "signal")))]
pub mod guide;
mod layer;
mod report;
mod service;
mod shutdown;
#[cfg(feature = "signal")]
mod signal;
mod slot;
mod sync;
/// Scanning, buffering and matching of the bytes of an event stream. Contains no futures.
mod wire {
    pub(crate) mod buffer;
    pub(crate) mod close_event;
    pub(crate) mod event_match;
    pub(crate) mod scanner;
}

#[cfg(feature = "signal")]
pub use self::signal::{StopSignal, stop_signal};
pub use self::{
    body::ResponseBody,
    byte_stream::ByteStream,
    eligibility::SkipCompletion,
    layer::SseCompletionLayer,
    report::{Ending, StreamReport},
    service::{ResponseFuture, SseCompletion},
    shutdown::{Closed, Draining, Shutdown},
    wire::{
        close_event::{CloseEvent, InvalidCloseEvent},
        event_match::{EventMatch, SseEvent},
    },
};
#[cfg(feature = "tokio")]
pub use self::{
    deadlines::{IdleTimeout, KeepAlive},
    shutdown::{Connection, Drain, Drained},
};

#[cfg(all(doctest, feature = "signal"))]
#[doc = include_str!("../README.md")]
struct Readme;
