//! The layer of each client. `docs/clients.md` has these functions, and a test compares the two.

use tower_sse_completion::{CloseEvent, EventMatch, SseCompletionLayer};

use crate::samples::{
    A2A, A2A_JSON_RPC, AG_UI, AI_SDK, ANTHROPIC, DATASTAR, FEED, GENAI, GRAPHQL_SSE, OPENAI,
    OPENAI_RESPONSES, Sample,
};

/// The path of a client, its layer, and the stream that the client receives.
pub type Client = (&'static str, fn() -> SseCompletionLayer, Sample);

pub const CLIENTS: &[Client] = &[
    ("event_source", event_source, FEED),
    ("datastar", datastar, DATASTAR),
    ("openai", openai_chat, OPENAI),
    ("openai_responses", openai_responses, OPENAI_RESPONSES),
    ("anthropic", anthropic, ANTHROPIC),
    ("ai_sdk", ai_sdk, AI_SDK),
    ("ag_ui", ag_ui, AG_UI),
    ("graphql_sse", graphql_sse, GRAPHQL_SSE),
    ("a2a", a2a, A2A),
    ("a2a_json_rpc", a2a_json_rpc, A2A_JSON_RPC),
    ("genai", genai, GENAI),
];

fn event_source() -> SseCompletionLayer {
    SseCompletionLayer::new().close_on_completed(true)
}

fn datastar() -> SseCompletionLayer {
    let event = CloseEvent::from_static("datastar-patch-signals");
    SseCompletionLayer::new()
        .close_event(event.data(r#"signals {"live":false}"#))
        .close_on_completed(true)
        .close_on_truncated(true)
}

fn openai_chat() -> SseCompletionLayer {
    SseCompletionLayer::new()
        .end_mark(EventMatch::data("[DONE]"))
        .close_event(CloseEvent::new().data(r#"{"error":{"message":"restart"}}"#))
        .close_on_truncated(true)
}

fn openai_responses() -> SseCompletionLayer {
    SseCompletionLayer::new()
        .end_mark(EventMatch::event("response.completed"))
        .end_mark(EventMatch::event("response.incomplete"))
        .end_mark(EventMatch::event("response.failed"))
        .close_event(CloseEvent::new().data(r#"{"error":{"message":"restart"}}"#))
        .close_on_truncated(true)
}

fn anthropic() -> SseCompletionLayer {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"restart"}}"#;
    SseCompletionLayer::new()
        .end_mark(EventMatch::event("message_stop"))
        .close_event(CloseEvent::from_static("error").data(error))
        .close_on_truncated(true)
}

fn ai_sdk() -> SseCompletionLayer {
    SseCompletionLayer::new()
        .end_mark(EventMatch::data("[DONE]"))
        .close_event(CloseEvent::new().data(r#"{"type":"error","errorText":"restart"}"#))
        .close_on_truncated(true)
}

fn ag_ui() -> SseCompletionLayer {
    SseCompletionLayer::new()
        .end_mark(EventMatch::when(|event| {
            let event = serde_json::from_str::<serde_json::Value>(event.data());
            event.is_ok_and(|event| event["type"] == "RUN_FINISHED" || event["type"] == "RUN_ERROR")
        }))
        .close_event(CloseEvent::new().data(r#"{"type":"RUN_ERROR","message":"restart"}"#))
        .close_on_truncated(true)
}

fn graphql_sse() -> SseCompletionLayer {
    SseCompletionLayer::new()
        .end_mark(EventMatch::event("complete"))
        .close_event(None)
}

fn a2a() -> SseCompletionLayer {
    let event = CloseEvent::from_static("error");
    SseCompletionLayer::new()
        .close_event(event.data(r#"{"error":{"message":"restart"}}"#))
        .close_on_truncated(true)
}

fn a2a_json_rpc() -> SseCompletionLayer {
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"restart"}}"#;
    SseCompletionLayer::new()
        .close_event(CloseEvent::new().data(error))
        .close_on_truncated(true)
}

fn genai() -> SseCompletionLayer {
    SseCompletionLayer::new()
}
