//! The upstream of this example.

use std::{io, time::Duration};

use axum::{
    Router,
    body::Body,
    http::header,
    routing::{MethodRouter, post},
};
use futures_util::{StreamExt, stream};
use tokio::time;

/// Returns the routes of an upstream that misbehaves on demand. The request body names the behaviour, for example as the model
/// in JSON.
pub(crate) fn language_models() -> Router {
    let completions = [
        "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n",
        "data: [DONE]\n\n",
    ];
    let responses = [
        "event: response.output_text.delta\ndata: {\"delta\":\"hello\"}\n\n",
        "event: response.completed\ndata: {\"response\":{\"status\":\"completed\"}}\n\n",
    ];
    let messages = [
        "event: content_block_delta\ndata: {\"delta\":{\"text\":\"hello\"}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ];
    Router::new()
        .route("/v1/chat/completions", respond(completions))
        .route("/v1/responses", respond(responses))
        .route("/v1/messages", respond(messages))
}

fn respond([first, last]: [&'static str; 2]) -> MethodRouter {
    post(async move |request: String| {
        let requested = |what| request.contains(what);
        if requested("think") {
            time::sleep(Duration::from_secs(30)).await;
        }
        let chunks = if requested("say-nothing") {
            vec![]
        } else if requested("stop") {
            vec![Ok(first)]
        } else if requested("die") {
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
