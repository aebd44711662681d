//! The layer of each client. `docs/clients.md` quotes these functions, and a test compares the two.

use tower_sse_completion::{CloseEvent, SseCompletionLayer};

use crate::samples::{
    A2A, A2A_JSON_RPC, AG_UI, AI_SDK, ANTHROPIC, DATASTAR, FEED, GENAI, OPENAI, OPENAI_RESPONSES,
    Sample,
};

type Layer = SseCompletionLayer;

/// The path of a client, its layer, and the stream that the client receives.
type Client = (&'static str, fn(Layer) -> Layer, Sample);

pub const CLIENTS: &[Client] = &[
    ("event_source", event_source, FEED),
    ("datastar", datastar, DATASTAR),
    ("openai", openai, OPENAI),
    ("openai_responses", openai, OPENAI_RESPONSES),
    ("anthropic", anthropic, ANTHROPIC),
    ("ai_sdk", ai_sdk, AI_SDK),
    ("ag_ui", ag_ui, AG_UI),
    ("a2a", a2a, A2A),
    ("a2a_json_rpc", a2a_json_rpc, A2A_JSON_RPC),
    ("genai", genai, GENAI),
];

fn event_source(layer: Layer) -> Layer {
    layer
        .close_event(CloseEvent::new())
        .close_on_completed(true)
}

fn datastar(layer: Layer) -> Layer {
    layer
        .close_event(
            CloseEvent::from_static("datastar-patch-signals").data(r#"signals {"live":false}"#),
        )
        .close_on_completed(true)
        .close_on_truncated(true)
}

fn openai(layer: Layer) -> Layer {
    layer
        .close_event(CloseEvent::new().data(r#"{"error":{"message":"restart"}}"#))
        .close_on_truncated(true)
}

fn anthropic(layer: Layer) -> Layer {
    layer
        .close_event(
            CloseEvent::from_static("error").data(
                r#"{"type":"error","error":{"type":"overloaded_error","message":"restart"}}"#,
            ),
        )
        .close_on_truncated(true)
}

fn ai_sdk(layer: Layer) -> Layer {
    layer
        .close_event(CloseEvent::new().data(r#"{"type":"error","errorText":"restart"}"#))
        .close_on_truncated(true)
}

fn ag_ui(layer: Layer) -> Layer {
    layer
        .close_event(CloseEvent::new().data(r#"{"type":"RUN_ERROR","message":"restart"}"#))
        .close_on_truncated(true)
}

fn a2a(layer: Layer) -> Layer {
    layer
        .close_event(CloseEvent::from_static("error").data(r#"{"error":{"message":"restart"}}"#))
        .close_on_truncated(true)
}

fn a2a_json_rpc(layer: Layer) -> Layer {
    layer
        .close_event(
            CloseEvent::new()
                .data(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"restart"}}"#),
        )
        .close_on_truncated(true)
}

fn genai(layer: Layer) -> Layer {
    layer.close_event(CloseEvent::new())
}
