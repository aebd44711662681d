//! Tests of what your own layers do to an event stream, without a server and without waiting.
//!
//! ```text
//! cargo test --example testing
//! cargo run --example testing       # the same, and says what it has proved
//! ```
//!
//! There is nothing to `curl`: tower-test stands in for the handlers, and the clock is paused, so a minute of
//! silence takes no time.

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

/// What the app puts around its handlers. Test the function that it uses itself.
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
    shutdown_tells_the_client_why().await;
    println!("a shutdown tells the client why");
    unfinished_event_is_never_sent().await;
    println!("an unfinished event is never sent");
    silent_stream_ends_after_a_minute().await;
    println!("a silent stream ends after a minute");
    other_answer_stays_as_it_is().await;
    println!("an answer that is no event stream stays as it is");
}

// In your own tests this is `#[tokio::test(start_paused = true)]`.
#[cfg_attr(test, tokio::test(start_paused = true))]
async fn shutdown_tells_the_client_why() {
    let shutdown = Shutdown::new();
    let (mut handler, answer) = event_stream();
    let mut body = through_the_layer(&shutdown, answer).await.into_body();

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
    // The handler's side is gone with the stream: this is how it notices.
    handler
        .send_data("data: 2\n\n".into())
        .await
        .expect_err("no reader");
}

#[cfg_attr(test, tokio::test(start_paused = true))]
async fn unfinished_event_is_never_sent() {
    let shutdown = Shutdown::new();
    let (mut handler, answer) = event_stream();
    let body = through_the_layer(&shutdown, answer).await.into_body();

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
    let (_handler, answer) = event_stream();
    let body = through_the_layer(&Shutdown::new(), answer)
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
async fn other_answer_stays_as_it_is() {
    let shutdown = Shutdown::new();
    shutdown.close();
    let answer = Response::builder()
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, 7)
        .body(Full::<Bytes>::from("{\"a\":1}"))
        .expect("a response");
    let response = through_the_layer(&shutdown, answer).await;
    assert_eq!(response.headers()[CONTENT_LENGTH], "7");
    assert_eq!(text(response.into_body()).await, "{\"a\":1}");
}

/// Sends one request through the layer, to a handler that gives this answer.
async fn through_the_layer<B: Body>(
    shutdown: &Shutdown,
    answer: Response<B>,
) -> Response<ResponseBody<B>> {
    let completion = completion(shutdown);
    let (mut service, mut handlers) = mock::spawn_layer(completion);
    assert!(service.poll_ready().is_ready());
    let response = service.call(Request::new(()));
    let (_request, send) = handlers.next_request().await.expect("the request");
    send.send_response(answer);
    response.await.expect("the response")
}

/// The answer of a handler, and the end that the handler sends into.
fn event_stream() -> (Sender<Bytes>, Response<Channel<Bytes, Infallible>>) {
    let (sender, body) = Channel::new(8);
    let answer = Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .body(body);
    (sender, answer.expect("a response"))
}

async fn text<B: Body<Data = Bytes, Error = Infallible>>(body: B) -> String {
    let Ok(collected) = body.collect().await;
    String::from_utf8(collected.to_bytes().into()).expect("text")
}
