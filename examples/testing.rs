//! Tests of your own layers around an event stream, without a server and without waiting.
//!
//! ```text
//! cargo test --example testing
//! cargo run --example testing       # runs the same tests, and prints their names
//! ```
//!
//! The example starts no server. tower-test stands in for the handlers, and the clock is paused, so a minute of silence
//! takes no time.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{
    Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;
use http_body_util::{BodyExt, Channel, Full, channel::Sender};
use tokio::time::Instant;
use tower_sse_completion::{CloseEvent, ResponseBody, Shutdown, SseCompletionLayer};
use tower_test::mock;

const MINUTE: Duration = Duration::from_secs(60);

/// The layer of the app. Test the function that the app calls.
fn completion(shutdown: &Shutdown) -> SseCompletionLayer {
    SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_event_with(|report| {
            let data = format!(r#"{{"reason":"{}"}}"#, report.ending());
            CloseEvent::new().data(data)
        })
        .idle_timeout(MINUTE)
}

#[cfg(not(test))]
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    close_event_has_the_reason().await;
    println!("the close event has the reason");
    unfinished_event_is_never_sent().await;
    println!("an unfinished event is never sent");
    silent_stream_ends_after_a_minute().await;
    println!("a silent stream ends after a minute");
    other_response_is_forwarded_unchanged().await;
    println!("a response that is not an event stream is forwarded unchanged");
}

// In your own tests this is `#[tokio::test(start_paused = true)]`.
#[cfg_attr(test, tokio::test(start_paused = true))]
async fn close_event_has_the_reason() {
    let shutdown = Shutdown::new();
    let (mut handler, response) = event_stream();
    let mut body = send_through_layer(&shutdown, response).await.into_body();

    handler
        .send_data("data: 1\n\n".into())
        .await
        .expect("a reader");
    let first = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(first.into_data().expect("data"), "data: 1\n\n");

    shutdown.close();
    assert_eq!(
        text(body).await,
        "event: close\ndata: {\"reason\":\"cancelled\"}\n\n"
    );
    // The receiver of the handler is dropped with the stream, so sending fails.
    handler
        .send_data("data: 2\n\n".into())
        .await
        .expect_err("no reader");
}

#[cfg_attr(test, tokio::test(start_paused = true))]
async fn unfinished_event_is_never_sent() {
    let shutdown = Shutdown::new();
    let (mut handler, response) = event_stream();
    let body = send_through_layer(&shutdown, response).await.into_body();

    let one_and_a_half = "data: 1\n\nid: 2\ndata: {\"half\":";
    handler
        .send_data(one_and_a_half.into())
        .await
        .expect("a reader");
    shutdown.close();
    assert_eq!(
        text(body).await,
        "data: 1\n\nevent: close\ndata: {\"reason\":\"cancelled\"}\n\n"
    );
}

#[cfg_attr(test, tokio::test(start_paused = true))]
async fn silent_stream_ends_after_a_minute() {
    let (_handler, response) = event_stream();
    let body = send_through_layer(&Shutdown::new(), response)
        .await
        .into_body();

    let start = Instant::now();
    assert_eq!(
        text(body).await,
        "event: close\ndata: {\"reason\":\"idle\"}\n\n"
    );
    assert_eq!(start.elapsed().as_secs(), MINUTE.as_secs());
}

#[cfg_attr(test, tokio::test(start_paused = true))]
async fn other_response_is_forwarded_unchanged() {
    let shutdown = Shutdown::new();
    shutdown.close();
    let response = Response::builder()
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, 7)
        .body(Full::<Bytes>::from("{\"a\":1}"))
        .expect("a response");
    let response = send_through_layer(&shutdown, response).await;
    assert_eq!(response.headers()[CONTENT_LENGTH], "7");
    assert_eq!(text(response.into_body()).await, "{\"a\":1}");
}

/// Sends one request through the layer, to a handler that returns this response.
async fn send_through_layer<B: Body>(
    shutdown: &Shutdown,
    handled: Response<B>,
) -> Response<ResponseBody<B>> {
    let completion = completion(shutdown);
    let (mut service, mut handlers) = mock::spawn_layer(completion);
    assert!(service.poll_ready().is_ready());
    let response = service.call(Request::new(()));
    let (_request, send) = handlers.next_request().await.expect("the request");
    send.send_response(handled);
    response.await.expect("the response")
}

/// Returns the response of a handler, and the sender of its body.
fn event_stream() -> (Sender<Bytes>, Response<Channel<Bytes, Infallible>>) {
    let (sender, body) = Channel::new(8);
    let response = Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .body(body);
    (sender, response.expect("a response"))
}

async fn text<B: Body<Data = Bytes, Error = Infallible>>(body: B) -> String {
    let Ok(collected) = body.collect().await;
    String::from_utf8(collected.to_bytes().into()).expect("text")
}
