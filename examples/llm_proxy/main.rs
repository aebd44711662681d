//! A reverse proxy for language models, whose clients can detect every incomplete response.
//!
//! ```text
//! cargo run --features signal --example llm_proxy [-- --port 3000]
//! curl -N http://127.0.0.1:3000/v1/chat/completions -d all
//! curl -N http://127.0.0.1:3000/v1/responses -d die            # fails inside an event
//! curl -N http://127.0.0.1:3000/v1/messages -d stop            # ends between two events
//! curl -N http://127.0.0.1:3000/v1/messages -d say-nothing
//! ```
//!
//! The SDKs parse the data of every event as JSON, and raise an error object as a typed error. Therefore the close event
//! is an error object in the shape of the route. It is never the end mark of the API, which states that the response is
//! complete.
//!
//! A client that leaves stops its upstream at once: the server drops the handler or the body of the response, and with
//! it the connection to the upstream. No task reads the upstream on behalf of a client.

mod end_mark;
#[path = "../support/listen.rs"]
mod listen;
mod models;

use std::{error::Error, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    handler::Handler,
    http::{StatusCode, header},
    response::Response,
    routing::post,
};
use end_mark::{EndMark, require};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
pub(crate) use models::language_models;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_http::decompression::Decompression;
use tower_sse_completion::{CloseEvent, Ending, Shutdown, SseCompletionLayer, stop_signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let models = TcpListener::bind("127.0.0.1:0").await?;
    let upstream = format!("http://{}", models.local_addr()?);
    tokio::spawn(async { axum::serve(models, language_models()).await });

    let commands = [
        "curl -N /v1/chat/completions -d all",
        "curl -N /v1/responses -d die",
        "curl -N /v1/messages -d stop",
    ];
    let listener = listen::listen(&commands).await?;
    let shutdown = Shutdown::new();
    axum::serve(listener, proxy(&upstream, &shutdown)?)
        .with_graceful_shutdown(shutdown.after(stop_signal()?))
        .await?;
    Ok(())
}

/// Returns an error object with this message, in JSON on one line.
type ErrorShape = fn(message: &str) -> String;

pub(crate) fn proxy(upstream: &str, shutdown: &Shutdown) -> Result<Router, Box<dyn Error>> {
    // For an upstream of https, take the connector of hyper-rustls.
    let client = Decompression::new(Client::builder(TokioExecutor::new()).build_http());
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_on_truncated(true)
        .close_on_failed(true)
        // Models think for minutes. An upstream that hangs never sends anything.
        .idle_timeout(Duration::from_secs(10 * 60));
    let event = CloseEvent::named("error")?;

    let forward_to = |end_mark: Option<EndMark>, error: ErrorShape| {
        let (event, upstream, client) = (event.clone(), upstream.to_owned(), client.clone());
        let completion = completion
            .clone()
            .close_event_with(move |report| event.clone().data(error(reason(report.ending()))));
        let handler = async move |request| forward(&client, &upstream, end_mark, request).await;
        handler.layer(completion)
    };
    let apis: [(&str, EndMark, ErrorShape); 3] = [
        ("/v1/chat/completions", is_done, openai_error),
        ("/v1/responses", is_response_end, openai_error),
        ("/v1/messages", is_message_stop, anthropic_error),
    ];
    // Without an end mark, an upstream that ends between two events counts as complete.
    let mut router = Router::new().fallback(forward_to(None, openai_error));
    for (path, end_mark, error) in apis {
        router = router.route(path, post(forward_to(Some(end_mark), error)));
    }
    Ok(router)
}

fn is_done(name: &str, value: &str) -> bool {
    (name, value) == ("data", "[DONE]")
}

fn is_response_end(name: &str, value: &str) -> bool {
    let state = value.strip_prefix("response.").unwrap_or_default();
    name == "event" && ["completed", "incomplete", "failed"].contains(&state)
}

fn is_message_stop(name: &str, value: &str) -> bool {
    (name, value) == ("event", "message_stop")
}

fn openai_error(message: &str) -> String {
    format!(r#"{{"error":{{"message":"{message}","type":"server_error"}}}}"#)
}

fn anthropic_error(message: &str) -> String {
    format!(r#"{{"type":"error","error":{{"type":"overloaded_error","message":"{message}"}}}}"#)
}

/// Describes an ending to clients, without the text of the upstream's own error.
fn reason(ending: Ending) -> &'static str {
    match ending {
        Ending::Cancelled => "the server is restarting",
        Ending::Idle => "the model has stopped sending",
        Ending::Empty => "the model has sent nothing",
        _ => "the response is incomplete",
    }
}

async fn forward(
    client: &Decompression<Client<HttpConnector, Body>>,
    upstream: &str,
    end_mark: Option<EndMark>,
    request: Request,
) -> Result<Response, StatusCode> {
    let target = request.uri().path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    let mut forwarded = Request::builder()
        .method(request.method())
        .uri(format!("{upstream}{target}"))
        // A compressed stream would pass through the layer untouched. An upstream that compresses nevertheless is
        // decompressed, by one feature of tower-http for each coding.
        .header(header::ACCEPT_ENCODING, "identity");
    for name in [
        "content-type",
        "authorization",
        "x-api-key",
        "anthropic-version",
    ] {
        if let Some(value) = request.headers().get(name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let forwarded = forwarded.body(request.into_body());
    let forwarded = forwarded.map_err(|_| StatusCode::BAD_REQUEST)?;
    let response = client.clone().oneshot(forwarded).await;
    let mut response = response.map_err(|error| {
        eprintln!("the upstream does not respond: {error:?}");
        StatusCode::BAD_GATEWAY
    })?;

    // These headers describe the connection to the upstream.
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_event_stream =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if is_event_stream && response.headers().contains_key(header::CONTENT_ENCODING) {
        eprintln!("the upstream compresses in a coding that this proxy does not decode");
        return Err(StatusCode::BAD_GATEWAY);
    }
    Ok(response.map(|body| match end_mark {
        Some(end_mark) if is_event_stream => require(end_mark, Body::new(body)),
        _ => Body::new(body),
    }))
}
