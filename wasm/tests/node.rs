//! Tests of the layer in Node.js, on the executor of the JavaScript host.
#![cfg(target_arch = "wasm32")]

use std::{cell::RefCell, convert::Infallible, sync::mpsc, time::Duration};

use bytes::Bytes;
use futures_channel::{mpsc as frames, oneshot};
use futures_util::stream;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_completion::{
    CloseEvent, Ending, ResponseBody, Shutdown, SseCompletionLayer, StreamReport,
};
use wasm_bindgen_futures::spawn_local;
use wasm_bindgen_test::{console_log, wasm_bindgen_test};

const EVENT: &str = "data: hello\n\n";

type Item = Result<Frame<Bytes>, &'static str>;

/// Returns the body of a response that the layer has wrapped.
async fn wrapped_body<B: Body<Data = Bytes>>(
    layer: &SseCompletionLayer,
    upstream: B,
) -> ResponseBody<B> {
    let upstream = RefCell::new(Some(upstream));
    let service = service_fn(async |_: Request<()>| {
        let upstream = upstream.take().expect("one request");
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, Infallible>(response.body(upstream).expect("a valid head"))
    });
    let response = layer.layer(service).oneshot(Request::new(())).await;
    response.expect("the service does not fail").into_body()
}

fn data(data: &'static str) -> Item {
    Ok(Frame::data(Bytes::from_static(data.as_bytes())))
}

#[wasm_bindgen_test]
async fn c10_shutdown_wakes_a_stream_that_waits() {
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new().shutdown(&shutdown);
    let (upstream, items) = frames::unbounded::<Item>();
    let mut body = wrapped_body(&layer, StreamBody::new(items)).await;
    upstream
        .unbounded_send(data(EVENT))
        .expect("the stream is open");
    let first = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(first.into_data().expect("data"), EVENT);

    let (waits, waiting) = oneshot::channel();
    let (ends, ended) = oneshot::channel();
    spawn_local(async {
        waits.send(()).expect("the test waits");
        let rest = body.collect().await.expect("no error");
        ends.send(rest.to_bytes()).expect("the test waits");
    });
    waiting.await.expect("the task runs");
    assert_eq!(shutdown.open_streams(), 1);
    shutdown.close();
    assert_eq!(
        ended.await.expect("the stream ends"),
        "event: close\ndata:\n\n"
    );
    assert_eq!(shutdown.open_streams(), 0);
}

#[wasm_bindgen_test]
async fn c21_ending_is_reported_with_the_clock_of_the_host() {
    let (send, reports) = mpsc::channel();
    let layer = SseCompletionLayer::new()
        .on_end(move |report: &StreamReport| send.send(report.clone()).expect("the test waits"));

    let upstreams = [
        (Ending::Completed, vec![data(EVENT)]),
        (Ending::Truncated, vec![data("data: hel")]),
        (
            Ending::Failed,
            vec![data(EVENT), Err("the upstream has failed")],
        ),
    ];
    for (ending, items) in upstreams {
        let items = stream::iter(items);
        let _ = wrapped_body(&layer, StreamBody::new(items))
            .await
            .collect()
            .await;
        assert_eq!(reports.try_recv().expect("a report").ending(), ending);
    }
}

#[wasm_bindgen_test]
async fn c8_reconnection_time_is_drawn() {
    let range = Duration::from_millis(1)..=Duration::from_millis((1 << 31) - 1);
    let event = CloseEvent::new()
        .retry_between(range)
        .expect("a valid range");
    let layer = SseCompletionLayer::new().close_event(event);
    let closed = wrapped_body(&layer, Empty::new()).await.collect().await;
    let bytes = closed.expect("no error").to_bytes();
    // `.ci/wasm` compares the `retry` line with that of another process.
    console_log!("{}", str::from_utf8(&bytes).expect("UTF-8"));
}
