// Tests of the clients of protocols: the text that a program receives from a stream, and the error, if the client reports one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { clients, read } from "./protocols.mjs";
import { useServer } from "./server.mjs";

const server = useServer();

const malformed = "SyntaxError: Error reading response: malformed server-sent event JSON.";
const noMessage = "AnthropicError: stream ended without producing a Message with role=assistant";

// Errors of a client: `closed` after the close event of its protocol, `byDefault` after the default close event, and `skipped` after
// a stream that ends inside an event and skips the layer. `shutdown`, `truncated` and `unmarked` are the results in these situations
// if they are not the text and `closed`; `unmarked` ends between two events, without the end mark of the protocol.
const results = {
  openai: { closed: "APIError: restart", byDefault: malformed, skipped: malformed },
  openai_responses: { closed: "APIError: restart", byDefault: malformed, skipped: malformed },
  anthropic: {
    closed: 'APIError: {"type":"error","error":{"type":"overloaded_error","message":"restart"}}',
    byDefault: noMessage,
    skipped: noMessage,
  },
  ai_sdk: {
    closed: "Error: restart",
    byDefault: "JSONParseError: JSON parsing failed: Text: .\nError message: SyntaxError: Unexpected end of JSON input",
  },
  ag_ui: {
    shutdown: { text: "one (restart)" },
    byDefault: "SyntaxError: Unexpected end of JSON input",
    skipped: "SyntaxError: Expected double-quoted property name in JSON at position 47 (line 1 column 48)",
  },
  a2a: { closed: "RestA2AErrorImpl: restart", unmarked: { text: "one " } },
  a2a_json_rpc: {
    closed: "Error: SSE event contained an error: restart (Code: -32603) Data: {}",
    unmarked: { text: "one " },
  },
  genai: {
    shutdown: { text: "one " },
    truncated: { text: "one ", error: "Error: Incomplete JSON segment at the end" },
    skipped: "Error: Incomplete JSON segment at the end",
  },
};

for (const [name, { closed, byDefault, skipped, ...others }] of Object.entries(results)) {
  const shutdown = others.shutdown ?? { text: "one ", error: closed };
  const expected = {
    complete: { text: "one two" },
    silence: { text: "one two" },
    shutdown,
    truncated: others.truncated ?? shutdown,
    skipped: { text: "one ", error: skipped },
    unmarked: others.unmarked ?? shutdown,
    default: { error: byDefault },
  };
  for (const [situation, { text, error }] of Object.entries(expected)) {
    test(`${name}, ${situation}`, { timeout: 60_000 }, async (test) => {
      test.mock.method(console, "error", () => {});
      const seen = await read(clients[name].run, `${server.url}/${name}/${situation}`);
      assert.equal(seen.error, error);
      // A client that rejects an event may also drop the text before that event.
      if (text !== undefined) assert.equal(seen.text, text);
    });
  }
}

// A subscription resumes after each of these ends.
for (const situation of ["shutdown", "unmarked"]) {
  test(`graphql_sse, ${situation}`, { timeout: 60_000 }, async () => {
    const seen = await read(clients.graphql_sse.run, `${server.url}/graphql_sse/${situation}`);
    assert.deepEqual(seen, { text: "one (resumed) two", error: undefined });
  });
}

// The error object is not an event, so its message never reaches the user. Without the layer, the response looks complete and empty
// to the clients of OpenAI.
const noChunks = "AnthropicError: request ended without sending any chunks";
for (const [name, skipped] of Object.entries({ openai: undefined, openai_responses: undefined, anthropic: noChunks })) {
  // The close event follows the error, but the client reads no further.
  test(`${name}, upstream_error`, { timeout: 60_000 }, async () => {
    const seen = await read(clients[name].run, `${server.url}/${name}/upstream_error`);
    assert.equal(seen.text, "one ");
    assert.equal(seen.error, results[name].closed.replace("restart", "overloaded"));
  });
  for (const [situation, error] of Object.entries({ unframed: results[name].closed, skipped_unframed: skipped })) {
    test(`${name}, ${situation}`, { timeout: 60_000 }, async () => {
      const seen = await read(clients[name].run, `${server.url}/${name}/${situation}`);
      assert.deepEqual(seen, { text: "", error });
    });
  }
}
