//! A complete sample stream of each protocol, hand-written from the documentation of the protocol.

/// Three frames: whole events, the beginning of an event, and the rest of the stream.
pub type Sample = [&'static str; 3];

pub const FEED: Sample = [
    "retry: 50\nid: 1\ndata: one\n\n",
    "id: 2\ndata: tw",
    "o\n\n",
];

/// The event that follows [`FEED`] for a client that resumes after its end.
pub const AFTER_FEED: &str = "id: 3\ndata: three\n\n";

pub const DATASTAR: Sample = [
    "event: datastar-patch-elements\nid: 1\nretry: 50\ndata: elements <p id=\"text\">one</p>\n\n",
    "event: datastar-patch-elements\nid: 2\ndata: elements <p id=\"te",
    "xt\">two</p>\n\n",
];

pub const OPENAI: Sample = [
    concat!(
        r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"one "},"finish_reason":null}]}"#,
        "\n\n",
    ),
    r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"de"#,
    concat!(
        r#"lta":{"content":"two"},"finish_reason":"stop"}]}"#,
        "\n\ndata: [DONE]\n\n",
    ),
];

pub const OPENAI_RESPONSES: Sample = [
    concat!(
        "event: response.created\n",
        r#"data: {"type":"response.created","sequence_number":0,"response":{"id":"r","object":"response","status":"in_progress","output":[]}}"#,
        "\n\nevent: response.output_text.delta\n",
        r#"data: {"type":"response.output_text.delta","sequence_number":1,"item_id":"i","output_index":0,"content_index":0,"delta":"one "}"#,
        "\n\n",
    ),
    concat!(
        "event: response.output_text.delta\n",
        r#"data: {"type":"response.output_text.delta","sequence_number":2,"item_id":"i","output_in"#,
    ),
    concat!(
        r#"dex":0,"content_index":0,"delta":"two"}"#,
        "\n\nevent: response.completed\n",
        r#"data: {"type":"response.completed","sequence_number":3,"response":{"id":"r","object":"response","status":"completed","output":[]}}"#,
        "\n\n",
    ),
];

pub const ANTHROPIC: Sample = [
    concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}"#,
        "\n\nevent: content_block_start\n",
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        "\n\nevent: content_block_delta\n",
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"one "}}"#,
        "\n\n",
    ),
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"del",
    concat!(
        r#"ta":{"type":"text_delta","text":"two"}}"#,
        "\n\nevent: content_block_stop\n",
        r#"data: {"type":"content_block_stop","index":0}"#,
        "\n\nevent: message_delta\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}"#,
        "\n\nevent: message_stop\n",
        r#"data: {"type":"message_stop"}"#,
        "\n\n",
    ),
];

pub const AI_SDK: Sample = [
    concat!(
        r#"data: {"type":"start","messageId":"m"}"#,
        "\n\n",
        r#"data: {"type":"text-start","id":"t"}"#,
        "\n\n",
        r#"data: {"type":"text-delta","id":"t","delta":"one "}"#,
        "\n\n",
    ),
    r#"data: {"type":"text-delta","id":"t","#,
    concat!(
        r#""delta":"two"}"#,
        "\n\n",
        r#"data: {"type":"text-end","id":"t"}"#,
        "\n\n",
        r#"data: {"type":"finish"}"#,
        "\n\ndata: [DONE]\n\n",
    ),
];

pub const AG_UI: Sample = [
    concat!(
        r#"data: {"type":"RUN_STARTED","threadId":"t","runId":"r"}"#,
        "\n\n",
        r#"data: {"type":"TEXT_MESSAGE_START","messageId":"m","role":"assistant"}"#,
        "\n\n",
        r#"data: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"one "}"#,
        "\n\n",
    ),
    r#"data: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","#,
    concat!(
        r#""delta":"two"}"#,
        "\n\n",
        r#"data: {"type":"TEXT_MESSAGE_END","messageId":"m"}"#,
        "\n\n",
        r#"data: {"type":"RUN_FINISHED","threadId":"t","runId":"r"}"#,
        "\n\n",
    ),
];

pub const GRAPHQL_SSE: Sample = [
    "event: next\ndata: {\"data\":{\"text\":\"one \"}}\n\n",
    "event: next\ndata: {\"data\":{\"te",
    "xt\":\"two\"}}\n\nevent: complete\ndata:\n\n",
];

pub const A2A: Sample = [
    concat!(
        r#"data: {"artifactUpdate":{"taskId":"t","contextId":"c","artifact":{"artifactId":"a","parts":[{"text":"one "}]}}}"#,
        "\n\n",
    ),
    r#"data: {"artifactUpdate":{"taskId":"t","contextId":"c","artifact":{"artifactId":"a","#,
    concat!(
        r#""parts":[{"text":"two"}]},"append":true}}"#,
        "\n\n",
        r#"data: {"statusUpdate":{"taskId":"t","contextId":"c","status":{"state":"TASK_STATE_COMPLETED"}}}"#,
        "\n\n",
    ),
];

/// The `id` is 1, because the client numbers its requests from 1.
pub const A2A_JSON_RPC: Sample = [
    concat!(
        r#"data: {"jsonrpc":"2.0","id":1,"result":{"artifactUpdate":{"taskId":"t","contextId":"c","artifact":{"artifactId":"a","parts":[{"text":"one "}]}}}}"#,
        "\n\n",
    ),
    r#"data: {"jsonrpc":"2.0","id":1,"result":{"artifactUpdate":{"taskId":"t","contextId":"c","#,
    concat!(
        r#""artifact":{"artifactId":"a","parts":[{"text":"two"}]},"append":true}}}"#,
        "\n\n",
        r#"data: {"jsonrpc":"2.0","id":1,"result":{"statusUpdate":{"taskId":"t","contextId":"c","status":{"state":"TASK_STATE_COMPLETED"}}}}"#,
        "\n\n",
    ),
];

pub const GENAI: Sample = [
    concat!(
        r#"data: {"candidates":[{"content":{"role":"model","parts":[{"text":"one "}]},"index":0}]}"#,
        "\n\n",
    ),
    r#"data: {"candidates":[{"content":{"role":"model","parts":[{"te"#,
    concat!(r#"xt":"two"}]},"finishReason":"STOP","index":0}]}"#, "\n\n"),
];
