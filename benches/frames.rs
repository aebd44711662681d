//! Instructions per frame, counted by callgrind, for aligned events of 100 bytes.
//!
//! `cargo bench --bench frames` needs valgrind, and `gungraun-runner` in the version of the `gungraun` in `Cargo.lock`.
//! Each benchmark polls 1,000 frames, so the last three digits are what one frame does not cost.

#![allow(missing_docs, reason = "gungraun's macros make public items")]

use std::{
    convert::Infallible,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::{Request, Response, response::Parts};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::on_early_drop::{OnBodyDropFn, OnEarlyDropLayer};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

const FRAMES: usize = 1_000;

static EVENT: &[u8; 100] = b"\
    data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n\n";

/// An upstream that has this many events ready.
struct Events(usize);

impl Events {
    fn next_event(&mut self) -> Option<Result<Frame<Bytes>, Infallible>> {
        self.0 = self.0.checked_sub(1)?;
        Some(Ok(Frame::data(Bytes::from_static(black_box(EVENT)))))
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next_event())
    }
}

impl Stream for Events {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next_event())
    }
}

fn through<L>(layer: L) -> <L::Service as tower::Service<Request<()>>>::Response
where
    L: Layer<tower::util::BoxCloneService<Request<()>, Response<Events>, Infallible>>,
    L::Service: tower::Service<Request<()>, Error = Infallible>,
{
    let service = service_fn(|_request| async {
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok(response.body(Events(FRAMES)).expect("a valid response"))
    });
    layer
        .layer(service.boxed_clone())
        .oneshot(Request::new(()))
        .now_or_never()
        .expect("a response without waiting")
        .unwrap_or_else(|never| match never {})
}

fn bare() -> Events {
    Events(FRAMES)
}

fn on_early_drop() -> impl Body<Data = Bytes, Error = Infallible> {
    through(
        OnEarlyDropLayer::builder()
            .on_body_drop(OnBodyDropFn::new(|_: &Request<()>| |_: &Parts| || ())),
    )
    .into_body()
}

fn hand_written() -> impl Body<Data = Bytes, Error = Infallible> {
    let token = CancellationToken::new();
    let close = Frame::data(Bytes::from_static(b"event: close\ndata:\n\n"));
    StreamBody::new(
        Events(FRAMES)
            .take_until(token.cancelled_owned())
            .chain(stream::iter([Ok(close)])),
    )
}

fn without_cancellation() -> impl Body<Data = Bytes, Error = Infallible> {
    through(SseCompletionLayer::new()).into_body()
}

fn with_cancellation_token() -> impl Body<Data = Bytes, Error = Infallible> {
    let token = CancellationToken::new();
    let layer = SseCompletionLayer::new().cancel_when(move |_| token.clone().cancelled_owned());
    through(layer).into_body()
}

fn with_shutdown() -> impl Body<Data = Bytes, Error = Infallible> {
    through(SseCompletionLayer::new().shutdown(&Shutdown::new())).into_body()
}

/// Through a virtual call, as in every framework, so that no body melts into this loop.
fn poll_all(mut body: Pin<&mut dyn Body<Data = Bytes, Error = Infallible>>) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    while let Poll::Ready(Some(Ok(frame))) = black_box(body.as_mut()).poll_frame(&mut cx) {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    bytes
}

#[library_benchmark]
#[bench::bare(bare())]
#[bench::on_early_drop(on_early_drop())]
#[bench::hand_written(hand_written())]
#[bench::without_cancellation(without_cancellation())]
#[bench::with_cancellation_token(with_cancellation_token())]
#[bench::with_shutdown(with_shutdown())]
fn aligned(body: impl Body<Data = Bytes, Error = Infallible>) -> usize {
    poll_all(pin!(body))
}

library_benchmark_group!(name = frames, benchmarks = aligned);
main!(library_benchmark_groups = frames);
