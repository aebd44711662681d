//! Many streams at once, each in a task of its own with a channel of its own, as a server with a registry has them.

use std::{
    future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::{
    runtime::Builder,
    sync::{Notify, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tower_sse_completion::Shutdown;

use crate::sides::{BoxBody, CLOSE_EVENT, Item, Side, by_hand, with_layer};

/// What all streams took together.
pub struct Round {
    pub broadcasts: std::vec::IntoIter<Duration>,
    pub close: Duration,
}

/// Counts what all streams have done, and tells when the last one has.
struct Countdown {
    streams: usize,
    done: AtomicUsize,
    all_done: Notify,
}

const BROADCASTS: usize = 3;
const EVENT: &[u8] = b"id: 12345\ndata: {\"symbol\":\"ABCD\",\"price\":123.45}\n\n";

/// Opens the streams, sends some events to all of them, and ends them.
pub fn round(workers: usize, streams: usize, side: Side) -> Round {
    match side {
        Side::ByHand => {
            let token = CancellationToken::new();
            let body = by_hand(&token);
            run(workers, streams, body, move || token.cancel())
        }
        Side::Layer => {
            let shutdown = Shutdown::new();
            let body = with_layer(&shutdown);
            run(workers, streams, body, move || shutdown.close())
        }
    }
}

fn run(
    workers: usize,
    streams: usize,
    body: impl Fn(ReceiverStream<Item>) -> BoxBody,
    signal: impl FnOnce() + Send + 'static,
) -> Round {
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let waiting = Arc::new(Semaphore::new(0));
        let countdown = Arc::new(Countdown::new(streams));
        let mut senders = Vec::with_capacity(streams);
        for _ in 0..streams {
            let (sender, receiver) = mpsc::channel(1);
            senders.push(sender);
            let body = body(ReceiverStream::new(receiver));
            tokio::spawn(client(body, Arc::clone(&waiting), Arc::clone(&countdown)));
        }
        let all = u32::try_from(streams).expect("not that many streams");
        let _permits = waiting.acquire_many(all).await.expect("it is open");

        let mut broadcasts = Vec::with_capacity(BROADCASTS);
        for _ in 0..BROADCASTS {
            let start = Instant::now();
            let publisher = tokio::spawn(async move {
                for sender in &senders {
                    let event = Frame::data(Bytes::from_static(EVENT));
                    sender.try_send(Ok(event)).expect("nothing is queued");
                }
                senders
            });
            countdown.all().await;
            broadcasts.push(start.elapsed());
            senders = publisher.await.expect("no panic");
        }

        let start = Instant::now();
        tokio::spawn(async { signal() }).await.expect("no panic");
        countdown.all().await;
        Round {
            broadcasts: broadcasts.into_iter(),
            close: start.elapsed(),
        }
    })
}

/// Reads a stream to its end, as a server does.
async fn client(mut body: BoxBody, waiting: Arc<Semaphore>, countdown: Arc<Countdown>) {
    let first = {
        let mut first = pin!(body.frame());
        let polled = future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "nothing was sent yet");
        waiting.add_permits(1);
        first.await
    };
    let mut next = first;
    let mut last = Bytes::new();
    while let Some(Ok(frame)) = next {
        last = frame.into_data().expect("no trailers");
        if last == EVENT {
            countdown.one();
        }
        next = body.frame().await;
    }
    assert_eq!(last, CLOSE_EVENT, "and the end");
    countdown.one();
}

impl Countdown {
    fn new(streams: usize) -> Self {
        Self {
            streams,
            done: AtomicUsize::new(0),
            all_done: Notify::new(),
        }
    }

    fn one(&self) {
        if self.done.fetch_add(1, Ordering::AcqRel) + 1 == self.streams {
            self.done.store(0, Ordering::Release);
            self.all_done.notify_one();
        }
    }

    async fn all(&self) {
        self.all_done.notified().await;
    }
}
