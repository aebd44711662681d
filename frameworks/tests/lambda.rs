//! The Lambda example, through the adapter of lambda_http and without AWS.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../examples/lambda.rs"]
mod example;

use std::time::Duration;

use futures_util::TryStreamExt;
use lambda_http::{Context, LambdaEvent, StreamAdapter, tower::ServiceExt};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn stream_ends_at_its_maximum_age() {
    let event = json!({
        "version": "2.0",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": { "host": "localhost" },
        "requestContext": { "http": { "method": "GET", "path": "/" } },
        "isBase64Encoded": false,
    });
    let event = serde_json::from_value(event).expect("an event of a function URL");
    let service = StreamAdapter::from(example::service(Duration::from_millis(1_250)));
    let response = service.oneshot(LambdaEvent::new(event, Context::default()));
    let response = response.await.unwrap_or_else(|never| match never {});
    assert_eq!(
        response.metadata_prelude.headers["content-type"],
        "text/event-stream"
    );

    let chunks: Vec<_> = response.stream.try_collect().await.expect("no error");
    let ticks = "id: 1\ndata: tick\n\nid: 2\ndata: tick\n\n";
    assert_eq!(
        chunks.concat(),
        format!("{ticks}event: close\ndata:\n\n").as_bytes()
    );
}
