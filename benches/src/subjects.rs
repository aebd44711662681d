//! The bodies that are measured: the bare upstream, other wrappers of it, and the body of this crate.

use std::{
    convert::Infallible,
    fmt,
    future::{self, Future},
    hint::black_box,
    pin::{Pin, pin},
    sync::LazyLock,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::response::{IntoResponse, Sse, sse};
use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody, combinators::MapFrame};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, service_fn, util::BoxCloneSyncService};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use crate::upstream::Shape;

/// Units of work between two marks. The number is divisible by that of the frames of each shape, and by 32, because the layer
/// checks its cancellation before every 32nd ready frame.
pub const UNITS: usize = 2400;

/// The default close event.
pub const CLOSE_EVENT: Bytes = Bytes::from_static(b"event: close\ndata:\n\n");

pub const EVENT_STREAM: &str = "text/event-stream";

/// The cancellation of hand-written streams.
static TOKEN: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// The service that a layer wraps. Its response has the body of the request. Its type is erased, as in a router.
pub type Inner<U> = BoxCloneSyncService<Request<U>, Response<U>, Infallible>;

/// Evaluates an expression for the bare body, for two wrappers, and for each variant of the layer: `|column, layer| …`.
#[macro_export]
macro_rules! each_layer {
    (|$column:ident, $layer:ident| $expression:expr) => {{
        use ::tower_http::map_response_body::MapResponseBodyLayer;
        use ::tower_sse_completion::{EventMatch, Shutdown, SseCompletionLayer};
        let (shutdown, other) = (Shutdown::new(), Shutdown::new());
        let token = ::tokio_util::sync::CancellationToken::new();
        let none = SseCompletionLayer::new();
        let one = none.clone().shutdown(&shutdown);
        $crate::each_layer!(@ $column, $layer, $expression,
            "bare" => ::tower::layer::util::Identity::new(),
            "hand written" => MapResponseBodyLayer::new($crate::subjects::hand_written_body),
            "do nothing" => MapResponseBodyLayer::new($crate::subjects::do_nothing),
            "none" => none.clone(),
            "shutdown" => one.clone(),
            "two shutdowns" => one.clone().shutdown(&other),
            "two layers" => (one.clone(), one.clone()),
            "token" => none.clone().cancel_when(move |_| token.clone().cancelled_owned()),
            "all options" => $crate::subjects::all_options(&shutdown),
            "end mark" => one.clone().end_mark(EventMatch::data("[DONE]")),
        );
    }};
    (@ $column:ident, $layer:ident, $expression:expr, $($name:literal => $value:expr,)*) => {
        $({
            let ($column, $layer) = ($name, $value);
            $expression;
        })*
    };
}

/// Returns the runtime whose timer the deadlines of a layer use.
///
/// # Panics
///
/// Panics if the operating system has no resources for a runtime.
pub fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
}

/// Returns a function that sends a request to the service that this layer wraps, polls the body of the response this many
/// times, and returns the body. The body is that of the request.
///
/// # Panics
///
/// The function panics if the response is not there at once.
pub fn exchange<L, U, B>(
    layer: L,
    content_type: &'static str,
    upstream: impl Fn() -> U,
    polls: usize,
) -> impl FnMut() -> Pin<Box<B>>
where
    L: Layer<Inner<U>>,
    L::Service: Service<Request<U>, Response = Response<B>, Error: fmt::Debug>,
    U: Send + 'static,
    B: Body<Data = Bytes>,
{
    let mut service = layer.layer(inner(content_type));
    move || {
        let mut cx = Context::from_waker(Waker::noop());
        let response = pin!(service.call(black_box(Request::new(upstream()))));
        let Poll::Ready(response) = response.poll(&mut cx) else {
            panic!("the response is pending");
        };
        let mut body = Box::pin(response.expect("a response").into_body());
        let mut polled: Pin<&mut dyn Body<Data = Bytes, Error = B::Error>> = body.as_mut();
        for _ in 0..polls {
            let frame = black_box(polled.as_mut()).poll_frame(&mut cx);
            black_box(matches!(frame, Poll::Ready(Some(Ok(_)))));
        }
        body
    }
}

fn inner<U: Send + 'static>(content_type: &'static str) -> Inner<U> {
    BoxCloneSyncService::new(service_fn(move |request: Request<U>| {
        let mut response = Response::new(request.into_body());
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        future::ready(Ok(response))
    }))
}

/// Returns work that polls this body for the frames of its upstream: through a virtual call, as every framework does, so that
/// no body is inlined into the loop.
///
/// # Panics
///
/// The work panics if the body returns other bytes, or ends.
pub fn frames<B>(shape: Shape, body: Pin<Box<B>>) -> impl FnMut()
where
    B: Body<Data = Bytes> + 'static,
{
    let mut body: Pin<Box<dyn Body<Data = Bytes, Error = B::Error>>> = body;
    let expected = shape.bytes(UNITS);
    move || {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = 0;
        while bytes < expected {
            match black_box(body.as_mut()).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Poll::Pending => {}
                Poll::Ready(_) => panic!("the body has ended"),
            }
        }
        assert_eq!(bytes, expected, "{}", shape.name);
    }
}

/// Wraps a body, for [`MapResponseBodyLayer`](tower_http::map_response_body::MapResponseBodyLayer): the minimum of a layer
/// that changes the type of the body.
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

/// Returns the body of a [hand-written](hand_written) stream.
pub fn hand_written_body<S, E>(upstream: S) -> StreamBody<impl Stream<Item = S::Item> + use<S, E>>
where
    S: Stream<Item = Result<Frame<Bytes>, E>>,
{
    StreamBody::new(hand_written(upstream, Ok(Frame::data(CLOSE_EVENT)), &TOKEN))
}

/// Returns the body of the stream that users write with `select!`.
pub fn selected_body<S, E>(mut upstream: S) -> StreamBody<impl Stream<Item = S::Item> + use<S, E>>
where
    S: Stream<Item = Result<Frame<Bytes>, E>> + Unpin,
{
    StreamBody::new(async_stream::stream! {
        loop {
            tokio::select! {
                () = TOKEN.cancelled() => {
                    yield Ok(Frame::data(CLOSE_EVENT));
                    break;
                }
                item = upstream.next() => match item {
                    Some(item) => yield item,
                    None => break,
                }
            }
        }
    })
}

/// Encodes an event for each frame, with the encoder of axum. The event is equal to the frame of [`Shape::short`].
pub fn sse<S: Stream + Send + 'static>(upstream: S, keep_alive: bool) -> axum::body::Body {
    let events = upstream.map(|_frame| Ok::<_, Infallible>(sse::Event::default().data("x")));
    match keep_alive {
        true => Sse::new(events)
            .keep_alive(sse::KeepAlive::new())
            .into_response(),
        false => Sse::new(events).into_response(),
    }
    .into_body()
}
