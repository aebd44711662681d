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

/// Stands in for the upstream, and misbehaves as the request says: its body may be JSON with `die` as the model.
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
