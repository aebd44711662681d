//! A reverse proxy for language models, whose clients always learn that an answer was cut.
//!
//! ```text
//! cargo run --example llm_proxy
//! curl -N http://127.0.0.1:3000/v1/chat/completions -d all
//! curl -N http://127.0.0.1:3000/v1/chat/completions -d die     # in the middle of an event
//! curl -N http://127.0.0.1:3000/v1/messages -d stop            # between two events
//! curl -N http://127.0.0.1:3000/v1/messages -d say-nothing
//! ```
//!
//! The SDKs parse the data of every event as JSON, and raise an error object as a typed error: so that is the close
//! event, in the shape of the route. It is never the API's own end mark, which says that the answer is whole.

use std::{error::Error, io, time::Duration};

use axum::{
    BoxError, Router,
    body::Body,
    extract::Request,
    handler::Handler,
    http::{StatusCode, header},
    response::Response,
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, time};
use tower_sse_completion::{CloseEvent, Ending, Shutdown, SseCompletionLayer};

/// Name and value.
type Field = (&'static str, &'static str);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let models = TcpListener::bind("127.0.0.1:0").await?;
    let upstream = format!("http://{}", models.local_addr()?);
    tokio::spawn(async { axum::serve(models, language_models()).await });

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000");
    let shutdown = Shutdown::new();
    axum::serve(listener, proxy(&upstream, &shutdown)?)
        .with_graceful_shutdown(shutdown.after(tokio::signal::ctrl_c()))
        .await?;
    Ok(())
}

pub(crate) fn proxy(upstream: &str, shutdown: &Shutdown) -> Result<Router, Box<dyn Error>> {
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_on_failed(true)
        // Models think for minutes; an upstream that hangs says nothing for ever.
        .idle_timeout(Duration::from_secs(10 * 60))?;
    let event = CloseEvent::named("error")?;
    // For an upstream of https, take the connector of hyper-rustls.
    let client = Client::builder(TokioExecutor::new()).build_http();

    let route = |path: &str, end_mark: Field, error: fn(Ending) -> String| {
        let (uri, client, event) = (format!("{upstream}{path}"), client.clone(), event.clone());
        let completion = completion
            .clone()
            .close_event_with(move |ending| event.clone().data(error(ending)));
        let forward = async move |request| forward(&client, &uri, end_mark, request).await;
        Router::new().route(path, post(forward.layer(completion)))
    };
    let openai = route("/v1/chat/completions", ("data", "[DONE]"), |ending| {
        let message = reason(ending);
        format!(r#"{{"error":{{"message":"{message}","type":"server_error"}}}}"#)
    });
    let anthropic = route("/v1/messages", ("event", "message_stop"), |ending| {
        let message = reason(ending);
        format!(r#"{{"type":"error","error":{{"type":"overloaded_error","message":"{message}"}}}}"#)
    });
    Ok(openai.merge(anthropic))
}

/// The text of the upstream's own error is not for the client.
fn reason(ending: Ending) -> &'static str {
    match ending {
        Ending::Cancelled => "the server restarts",
        Ending::Empty => "the model gave no answer",
        Ending::Idle => "the model has fallen silent",
        _ => "the answer was cut",
    }
}

async fn forward(
    client: &Client<HttpConnector, Body>,
    uri: &str,
    end_mark: Field,
    request: Request,
) -> Result<Response, StatusCode> {
    let mut forwarded = Request::post(uri);
    // Without `accept-encoding`: an answer that comes compressed would pass as it is.
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
    let mut answer = client.request(forwarded).await.map_err(|error| {
        eprintln!("the upstream gives no answer: {error:?}");
        StatusCode::BAD_GATEWAY
    })?;
    // How the upstream's connection goes on is nothing to the client's.
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        answer.headers_mut().remove(name);
    }
    let content_type = answer.headers().get(header::CONTENT_TYPE);
    let streams =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    Ok(answer.map(|body| match streams {
        true => Body::new(StreamBody::new(until(end_mark, body))),
        false => Body::new(body),
    }))
}

/// To HTTP, an answer that stops between two events is whole. Here its end mark decides: nothing comes behind it, and
/// without it the end is an error.
fn until(end_mark: Field, body: Incoming) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> {
    stream::try_unfold((body, Vec::new()), move |(mut body, mut last)| async move {
        if ends_with(end_mark, &last) {
            return Ok(None);
        }
        match body.frame().await.transpose()? {
            Some(frame) => {
                last.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                // Enough for the last event.
                last.drain(..last.len().saturating_sub(256));
                Ok(Some((frame, (body, last))))
            }
            None if last.is_empty() => Ok(None),
            None => Err("the upstream has stopped before the end of its answer".into()),
        }
    })
}

/// A line of its own: a model may well say the same, but its words are in JSON, which breaks no lines.
fn ends_with(end_mark: Field, last: &[u8]) -> bool {
    let last = String::from_utf8_lossy(last);
    let mut fields = last.lines().filter_map(|line| line.split_once(':'));
    (last.ends_with("\n\n") || last.ends_with("\r\n\r\n"))
        && fields.any(|(name, value)| (name, value.trim()) == end_mark)
}

/// Stands in for the upstream, and misbehaves as the request says: its body may be JSON with `die` as the model.
pub(crate) fn language_models() -> Router {
    let openai = [
        "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n",
        "data: [DONE]\n\n",
    ];
    let anthropic = [
        "event: content_block_delta\ndata: {\"delta\":{\"text\":\"hello\"}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ];
    Router::new()
        .route("/v1/chat/completions", answer(openai))
        .route("/v1/messages", answer(anthropic))
}

fn answer([first, last]: [&'static str; 2]) -> MethodRouter {
    post(async move |request: String| {
        let is_to = |what| request.contains(what);
        let chunks = if is_to("say-nothing") {
            vec![]
        } else if is_to("stop") {
            vec![Ok(first)]
        } else if is_to("die") {
            vec![Ok(first), Ok(&last[..9]), Err(io::Error::other("killed"))]
        } else {
            vec![Ok(first), Ok(last)]
        };
        let chunks = stream::iter(chunks).then(async |chunk| {
            time::sleep(Duration::from_millis(300)).await;
            chunk
        });
        (
            [(header::CONTENT_TYPE, "text/event-stream")],
            Body::from_stream(chunks),
        )
    })
}
