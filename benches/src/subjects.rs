//! The bodies that are measured: the bare upstream, other wrappers of it, and the body of this crate.

use std::{
    convert::Infallible,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::response::{IntoResponse, Sse, sse};
use bytes::{Buf, Bytes};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{Request, Response, response::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::MapFrame};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::{
    map_response_body::MapResponseBodyLayer,
    on_early_drop::{OnBodyDropFn, OnEarlyDropLayer},
    timeout::ResponseBodyTimeoutLayer,
    trace::TraceLayer,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use crate::upstream::Upstream;

/// The default close event.
pub const CLOSE_EVENT: Bytes = Bytes::from_static(b"event: close\ndata:\n\n");

type Inner = BoxCloneSyncService<Request<Empty<Bytes>>, Response<Upstream>, Infallible>;
type Item = Result<Frame<Bytes>, Infallible>;

/// All subjects, in the order of the table.
pub const SUBJECTS: [&str; 13] = [
    "bare",
    "do_nothing",
    "on_early_drop",
    "trace",
    "timeout",
    "hand_written",
    "select",
    "sse",
    "sse_keep_alive",
    "none",
    "token",
    "shutdown",
    "all_options",
];

/// Polls the body of this subject to its end, and returns the number of its bytes.
///
/// # Panics
///
/// Panics if the subject is unknown.
pub fn poll_to_end(subject: &str, content_type: &'static str, upstream: Upstream) -> usize {
    let shutdown = Shutdown::new();
    match subject {
        "bare" => poll_all(pin!(upstream)),
        "do_nothing" => {
            let layer = MapResponseBodyLayer::new(do_nothing::<Upstream>);
            poll_all(pin!(respond(layer, content_type, upstream)))
        }
        "on_early_drop" => {
            let layer = OnEarlyDropLayer::builder().on_body_drop(OnBodyDropFn::new(
                |_: &Request<Empty<Bytes>>| |_: &Parts| || (),
            ));
            poll_all(pin!(respond(layer, content_type, upstream)))
        }
        "trace" => poll_all(pin!(respond(
            TraceLayer::new_for_http(),
            content_type,
            upstream
        ))),
        "timeout" => {
            let layer = ResponseBodyTimeoutLayer::new(Duration::from_secs(30));
            poll_all(pin!(respond(layer, content_type, upstream)))
        }
        "hand_written" => {
            let close_event = Ok(Frame::data(CLOSE_EVENT));
            let frames = hand_written(upstream, close_event, &CancellationToken::new());
            poll_all(pin!(StreamBody::new(frames)))
        }
        "select" => poll_all(pin!(StreamBody::new(selected(upstream)))),
        "sse" => poll_all(pin!(sse(upstream).into_response().into_body())),
        "sse_keep_alive" => {
            let kept_alive = sse(upstream).keep_alive(sse::KeepAlive::new());
            poll_all(pin!(kept_alive.into_response().into_body()))
        }
        "none" => poll_all(pin!(respond(
            SseCompletionLayer::new(),
            content_type,
            upstream
        ))),
        "token" => {
            let token = CancellationToken::new();
            let layer =
                SseCompletionLayer::new().cancel_when(move |_| token.clone().cancelled_owned());
            poll_all(pin!(respond(layer, content_type, upstream)))
        }
        "shutdown" => {
            let layer = SseCompletionLayer::new().shutdown(&shutdown);
            poll_all(pin!(respond(layer, content_type, upstream)))
        }
        "all_options" => poll_all(pin!(respond(
            all_options(&shutdown),
            content_type,
            upstream
        ))),
        other => panic!("unknown subject {other:?}"),
    }
}

/// Wraps a body, for [`MapResponseBodyLayer`]: the minimum of a layer that changes the type of the body.
pub fn do_nothing<B: Body<Data = Bytes>>(
    upstream: B,
) -> MapFrame<B, impl FnMut(Frame<Bytes>) -> Frame<Bytes>> {
    upstream.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
}

/// Returns the layer with all options that cost something per event.
pub fn all_options(shutdown: &Shutdown) -> SseCompletionLayer {
    let minute = Duration::from_secs(60);
    SseCompletionLayer::new()
        .shutdown(shutdown)
        .on_end(|report| {
            black_box(report.bytes_sent());
        })
        .max_age(minute)
        .idle_timeout(minute)
        .keep_alive(minute)
}

/// Returns the stream that users write with combinators.
pub fn hand_written<S: Stream>(
    upstream: S,
    close_event: S::Item,
    token: &CancellationToken,
) -> impl Stream<Item = S::Item> + use<S> {
    upstream
        .take_until(token.clone().cancelled_owned())
        .chain(stream::iter([close_event]))
}

/// Returns the stream that users write with `select!`.
fn selected(mut upstream: Upstream) -> impl Stream<Item = Item> {
    let token = CancellationToken::new();
    async_stream::stream! {
        loop {
            tokio::select! {
                () = token.cancelled() => {
                    yield Ok(Frame::data(CLOSE_EVENT));
                    break;
                }
                item = upstream.next() => match item {
                    Some(item) => yield item,
                    None => break,
                }
            }
        }
    }
}

/// Encodes the stream with the encoder of axum.
fn sse(upstream: Upstream) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    Sse::new(upstream.map(|_item| Ok(sse::Event::default().data("x"))))
}

fn inner(content_type: &'static str, upstream: Upstream) -> Inner {
    let upstream = std::sync::Arc::new(std::sync::Mutex::new(Some(upstream)));
    BoxCloneSyncService::new(service_fn(move |_request| {
        let upstream = upstream.lock().expect("no panic").take();
        let response = Response::builder().header("content-type", content_type);
        std::future::ready(Ok(response
            .body(upstream.expect("one request"))
            .expect("a valid response")))
    }))
}

fn respond<L, B>(layer: L, content_type: &'static str, upstream: Upstream) -> B
where
    L: Layer<Inner>,
    L::Service: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    let response = layer
        .layer(inner(content_type, upstream))
        .oneshot(Request::new(Empty::new()))
        .now_or_never();
    let Ok(response) = response.expect("a response at once");
    response.into_body()
}

/// Polls through a virtual call, as every framework does, so that no body is inlined into the loop.
fn poll_all<E>(mut body: Pin<&mut dyn Body<Data = Bytes, Error = E>>) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    loop {
        match black_box(body.as_mut()).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Poll::Pending => {}
            Poll::Ready(_) => return bytes,
        }
    }
}
