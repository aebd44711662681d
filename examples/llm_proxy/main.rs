//! A reverse proxy for language models, whose clients always learn that an answer was cut.
//!
//! ```text
//! cargo run --features signal --example llm_proxy
//! curl -N http://127.0.0.1:3000/v1/chat/completions -d all
//! curl -N http://127.0.0.1:3000/v1/chat/completions -d die     # in the middle of an event
//! curl -N http://127.0.0.1:3000/v1/messages -d stop            # between two events
//! curl -N http://127.0.0.1:3000/v1/messages -d say-nothing
//! ```
//!
//! The SDKs parse the data of every event as JSON, and raise an error object as a typed error: so that is the close
//! event, in the shape of the route. It is never the API's own end mark, which says that the answer is whole.

mod end_mark;
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
use end_mark::{Field, until};
use http_body_util::StreamBody;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
pub(crate) use models::language_models;
use tokio::net::TcpListener;
use tower_sse_completion::{CloseEvent, Ending, Shutdown, SseCompletionLayer, stop_signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let models = TcpListener::bind("127.0.0.1:0").await?;
    let upstream = format!("http://{}", models.local_addr()?);
    tokio::spawn(async { axum::serve(models, language_models()).await });

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000");
    let shutdown = Shutdown::new();
    axum::serve(listener, proxy(&upstream, &shutdown)?)
        .with_graceful_shutdown(shutdown.after(stop_signal()?))
        .await?;
    Ok(())
}

pub(crate) fn proxy(upstream: &str, shutdown: &Shutdown) -> Result<Router, Box<dyn Error>> {
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_on_failed(true)
        // Models think for minutes; an upstream that hangs says nothing for ever.
        .idle_timeout(Duration::from_secs(10 * 60));
    let event = CloseEvent::named("error")?;
    // For an upstream of https, take the connector of hyper-rustls.
    let client = Client::builder(TokioExecutor::new()).build_http();

    let route = |path: &str, end_mark: Field, error: fn(Ending) -> String| {
        let (uri, client, event) = (format!("{upstream}{path}"), client.clone(), event.clone());
        let completion = completion
            .clone()
            .close_event_with(move |report| event.clone().data(error(report.ending())));
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
