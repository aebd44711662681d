//! A reverse proxy for language models, whose clients can detect every incomplete response.
//!
//! ```text
//! cargo run --features signal --example llm_proxy [-- --port 3000]
//! curl -N http://127.0.0.1:3000/v1/chat/completions -d all
//! curl -N http://127.0.0.1:3000/v1/responses -d die            # fails inside an event
//! curl -N http://127.0.0.1:3000/v1/messages -d stop            # ends between two events
//! curl -N http://127.0.0.1:3000/v1/messages -d say-nothing
//! curl -N http://127.0.0.1:3000/v1/messages -d '{"model":"think","stream":true}'   # the head is late
//! ```
//!
//! The layer of each route knows the end marks of its API. The SDKs parse the data of every event as JSON, and raise an error object
//! as a typed error. Therefore the close event is an error object in the shape of the route.
//!
//! A client that leaves stops its upstream: the server drops the handler or the body of the response, and with it the connection
//! to the upstream. A dropped body only waits for the next frame, which may be the end.

mod late_head;
#[path = "../support/listen.rs"]
mod listen;
mod models;
mod read_on;

use std::{error::Error, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    handler::Handler,
    http::{StatusCode, header},
    response::Response,
    routing::post,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use late_head::is_event_stream;
pub(crate) use late_head::respond_within;
pub(crate) use models::language_models;
pub(crate) use read_on::ReadOn;
use serde::Deserialize;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_http::decompression::Decompression;
use tower_sse_completion::{
    CloseEvent, Ending, EventMatch, IdleTimeout, Shutdown, SseCompletionLayer, stop_signal,
};

/// Time after which the head of a stream is sent, although the upstream has sent none.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

const MAX_REQUEST: usize = 32 * 1024 * 1024;

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
    // Responses have time to finish. `Shutdown::close` would end each with an error.
    let drain = shutdown
        .drain(Duration::from_secs(30))
        .after(stop_signal()?);
    let app = proxy(&upstream, &shutdown, HEAD_LIMIT)?;
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
    let (served, _) = tokio::join!(server, drain);
    Ok(served?)
}

/// Returns an error object with this message, in JSON on one line.
type ErrorShape = fn(message: &str) -> String;

pub(crate) fn proxy(
    upstream: &str,
    shutdown: &Shutdown,
    head_limit: Duration,
) -> Result<Router, Box<dyn Error>> {
    // For an upstream of https, take the connector of hyper-rustls.
    let client = Decompression::new(Client::builder(TokioExecutor::new()).build_http());
    // Models think for minutes. An upstream that hangs sends nothing, or pings.
    let idle_timeout = IdleTimeout::after(Duration::from_secs(10 * 60));
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_on_truncated(true)
        .close_on_failed(true)
        .keep_alive(Duration::from_secs(15))
        .idle_timeout(idle_timeout.ignoring(EventMatch::event("ping")));
    let event = CloseEvent::named("error")?;

    let forward_to = |end_marks: Vec<EventMatch>, error: ErrorShape| {
        let (event, upstream, client) = (event.clone(), upstream.to_owned(), client.clone());
        let completion = end_marks
            .into_iter()
            .fold(completion.clone(), SseCompletionLayer::end_mark)
            .close_event_with(move |report| event.clone().data(error(reason(report.ending()))));
        let handler =
            async move |request| respond(client.clone(), &upstream, head_limit, request).await;
        handler.layer(completion)
    };
    let done = EventMatch::data("[DONE]");
    let response_ends = ["completed", "incomplete", "failed"]
        .map(|state| EventMatch::event(format!("response.{state}")));
    let message_stop = EventMatch::event("message_stop");

    let chat_completions = forward_to(vec![done], openai_error);
    let responses = forward_to(response_ends.to_vec(), openai_error);
    let messages = forward_to(vec![message_stop], anthropic_error);
    Ok(Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/responses", post(responses))
        .route("/v1/messages", post(messages))
        // Without an end mark, an upstream that ends between two events counts as complete.
        .fallback(forward_to(Vec::new(), openai_error)))
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

type HttpClient = Decompression<Client<HttpConnector, Body>>;

/// The part of a request that decides whether its response is an event stream.
#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    stream: bool,
}

async fn respond(
    client: HttpClient,
    upstream: &str,
    head_limit: Duration,
    request: Request,
) -> Result<Response, StatusCode> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_REQUEST).await;
    let body = body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let is_stream = serde_json::from_slice::<Options>(&body).is_ok_and(|options| options.stream);
    let target = head.uri.path_and_query();
    let target = format!("{upstream}{}", target.map_or("/", |target| target.as_str()));
    let response = forward(client, target, Request::from_parts(head, body.into()));
    match is_stream {
        true => respond_within(head_limit, response).await,
        false => response.await,
    }
}

async fn forward(
    client: HttpClient,
    target: String,
    request: Request,
) -> Result<Response, StatusCode> {
    let mut forwarded = Request::builder()
        .method(request.method())
        .uri(target)
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
    let response = client.oneshot(forwarded).await;
    let mut response = response.map_err(|error| {
        eprintln!("the upstream does not respond: {error:?}");
        StatusCode::BAD_GATEWAY
    })?;

    // These headers describe the connection to the upstream.
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
    let is_event_stream = is_event_stream(response.headers());
    if is_event_stream && response.headers().contains_key(header::CONTENT_ENCODING) {
        eprintln!("the upstream compresses in a coding that this proxy does not decode");
        return Err(StatusCode::BAD_GATEWAY);
    }
    Ok(response.map(|body| match Body::new(body) {
        body if is_event_stream => Body::new(ReadOn::new(body)),
        body => body,
    }))
}
