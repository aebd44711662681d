//! How long many idle streams take from one signal to the last close event, and what a quiet poll costs on two threads.
//!
//! `cargo bench --bench shutdown` prints medians; each figure and the one it is compared with alternate in one run.

use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, stream};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    runtime::Builder,
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

type Item = Result<Frame<Bytes>, Infallible>;
type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

const STREAMS: usize = 100_000;
const ROUNDS: usize = 21;

/// A subscription: a channel that nothing is sent to.
fn subscription() -> (mpsc::Sender<Item>, ReceiverStream<Item>) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, ReceiverStream::new(receiver))
}

/// One layer for all streams, as in a server.
fn layered(shutdown: &Shutdown) -> impl Fn(ReceiverStream<Item>) -> BoxBody + use<> {
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
        Box::pin(
            response
                .expect("no waiting")
                .expect("a response")
                .into_body(),
        )
    }
}

fn hand_written(token: &CancellationToken) -> impl Fn(ReceiverStream<Item>) -> BoxBody + use<> {
    let token = token.clone();
    move |upstream| {
        let close = Frame::data(Bytes::from_static(b"event: close\ndata:\n\n"));
        let stream = upstream
            .take_until(token.clone().cancelled_owned())
            .chain(stream::iter([Ok(close)]));
        Box::pin(StreamBody::new(stream))
    }
}

/// From the signal to the end of the last stream.
fn time_to_end(
    workers: usize,
    body: impl Fn(ReceiverStream<Item>) -> BoxBody,
    signal: impl FnOnce() + Send + 'static,
) -> Duration {
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (waiting, left) = (
            Arc::new(Semaphore::new(0)),
            Arc::new(AtomicUsize::new(STREAMS)),
        );
        let (all_ended, mut ended) = mpsc::channel(1);
        let mut senders = Vec::new();
        for _ in 0..STREAMS {
            let (sender, upstream) = subscription();
            senders.push(sender);
            let mut body = body(upstream);
            let (waiting, left) = (Arc::clone(&waiting), Arc::clone(&left));
            let all_ended = all_ended.clone();
            tokio::spawn(async move {
                let first = {
                    let mut first = pin!(body.frame());
                    let polled = future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
                    assert!(polled.is_pending());
                    waiting.add_permits(1);
                    first.await
                };
                assert!(first.is_some_and(|frame| frame.is_ok()), "a close event");
                assert!(body.frame().await.is_none(), "and the end");
                if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                    all_ended.send(()).await.expect("somebody waits");
                }
            });
        }
        let _ = waiting.acquire_many(STREAMS as u32).await.expect("permits");
        let start = Instant::now();
        tokio::spawn(async { signal() }).await.expect("no panic");
        ended.recv().await.expect("all ended");
        start.elapsed()
    })
}

/// Nanoseconds for each quiet poll, on two threads at once, each with a stream of one of these.
fn quiet_polls(shutdowns: [&Shutdown; 2]) -> f64 {
    const POLLS: u32 = 5_000_000;
    let barrier = Barrier::new(2);
    let times = thread::scope(|scope| {
        let threads = shutdowns.map(|shutdown| {
            scope.spawn(|| {
                let (_sender, upstream) = subscription();
                let mut body = layered(shutdown)(upstream);
                let mut cx = Context::from_waker(Waker::noop());
                barrier.wait();
                let start = Instant::now();
                for _ in 0..POLLS {
                    let polled = black_box(body.as_mut()).poll_frame(&mut cx);
                    assert!(matches!(polled, Poll::Pending));
                }
                start.elapsed()
            })
        });
        threads.map(|thread| thread.join().expect("no panic"))
    });
    (times[0] + times[1]).as_nanos() as f64 / f64::from(2 * POLLS)
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    values[values.len() / 2]
}

fn main() {
    println!("{STREAMS} idle streams, from the signal to the last end, median of {ROUNDS}:");
    for workers in [1, 2] {
        let (mut with_layer, mut by_hand) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let shutdown = Shutdown::new();
            let close = shutdown.clone();
            with_layer.push(time_to_end(workers, layered(&shutdown), move || {
                close.close();
            }));
            let token = CancellationToken::new();
            let cancel = token.clone();
            by_hand.push(time_to_end(workers, hand_written(&token), move || {
                cancel.cancel();
            }));
        }
        println!(
            "  {workers} worker threads: Shutdown {:?}, CancellationToken by hand {:?}",
            median(with_layer),
            median(by_hand)
        );
    }

    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        one.push(quiet_polls([&shutdowns[0], &shutdowns[0]]));
        two.push(quiet_polls([&shutdowns[0], &shutdowns[1]]));
    }
    println!(
        "quiet polls on two threads, median of {ROUNDS}: one Shutdown {:.1} ns, two Shutdowns {:.1} ns",
        median(one),
        median(two)
    );
}
