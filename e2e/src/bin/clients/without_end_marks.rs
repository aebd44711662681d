//! The layers of the protocols that have end marks, without the end marks.

use tower_sse_completion::{CloseEvent, SseCompletionLayer};

use crate::{
    samples::{AG_UI, AI_SDK, ANTHROPIC, GRAPHQL_SSE, OPENAI, OPENAI_RESPONSES},
    table::Client,
};

pub const CLIENTS: &[Client] = &[
    ("openai", openai, OPENAI),
    ("openai_responses", openai, OPENAI_RESPONSES),
    ("anthropic", anthropic, ANTHROPIC),
    ("ai_sdk", ai_sdk, AI_SDK),
    ("ag_ui", ag_ui, AG_UI),
    ("graphql_sse", SseCompletionLayer::new, GRAPHQL_SSE),
];

fn openai() -> SseCompletionLayer {
    layer(CloseEvent::new().data(r#"{"error":{"message":"restart"}}"#))
}

fn anthropic() -> SseCompletionLayer {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"restart"}}"#;
    layer(CloseEvent::from_static("error").data(error))
}

fn ai_sdk() -> SseCompletionLayer {
    layer(CloseEvent::new().data(r#"{"type":"error","errorText":"restart"}"#))
}

fn ag_ui() -> SseCompletionLayer {
    layer(CloseEvent::new().data(r#"{"type":"RUN_ERROR","message":"restart"}"#))
}

fn layer(event: CloseEvent) -> SseCompletionLayer {
    SseCompletionLayer::new()
        .close_event(event)
        .close_on_truncated(true)
}
