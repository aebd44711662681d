//! The layer on executors that are not tokio's.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::mpsc,
    thread,
    time::Duration,
};

use async_executor::Executor;
use bytes::Bytes;
use futures_lite::{
    future::{Boxed, FutureExt, block_on},
    stream,
};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use testkit::exchange::{CLOSE, event_stream};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

/// Time after which a stream counts as one that has not been woken.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asserts that a silent stream that this executor collects ends when another thread closes its shutdown.
fn assert_wakes_on_close(executor: impl FnOnce(Boxed<Bytes>) -> Bytes + Send + 'static) {
    let shutdown = Shutdown::new();
    let upstream = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let body = event_stream(&SseCompletionLayer::new().shutdown(&shutdown), upstream);

    let (waits, waiting) = mpsc::channel();
    let task = async move {
        let mut collected = pin!(body.collect());
        let bytes = poll_fn(|cx| {
            let poll = collected.as_mut().poll(cx);
            // Nobody listens after the first time.
            let _ = waits.send(());
            poll
        });
        bytes
            .await
            .unwrap_or_else(|never| match never {})
            .to_bytes()
    };
    let (ends, ended) = mpsc::channel();
    thread::spawn(move || ends.send(executor(task.boxed())));

    waiting.recv().expect("the stream is polled");
    shutdown.close();
    assert_eq!(
        ended.recv_timeout(TIMEOUT).expect("the task is woken"),
        CLOSE
    );
}

#[test]
fn c10_shutdown_wakes_a_stream_in_block_on() {
    assert_wakes_on_close(block_on);
}

#[test]
fn c10_shutdown_wakes_a_stream_on_the_executor_of_smol() {
    assert_wakes_on_close(|task| {
        let executor = Executor::new();
        block_on(executor.run(executor.spawn(task)))
    });
}
