// Tests of the clients of protocols: the text that a program receives from a stream, and the error, if the client reports one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HttpAgent } from "@ag-ui/client";
import { JsonRpcTransportFactory, RestTransportFactory } from "@a2a-js/sdk/client";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { AbstractChat, DefaultChatTransport } from "ai";
import OpenAI from "openai";
import { useServer } from "./server.mjs";

const server = useServer();

const question = { messages: [{ role: "user", content: "?" }], model: "m", stream: true };
const options = { apiKey: "none", logLevel: "off", maxRetries: 0 };

const malformed = "SyntaxError: Error reading response: malformed server-sent event JSON.";
const noMessage = "AnthropicError: stream ended without producing a Message with role=assistant";

// Errors of a client: `closed` after the close event of its protocol, `byDefault` after the default close event, `skipped` after
// a stream that ends inside an event and skips the layer, and `unmarked` after a stream without the end mark of the protocol.
// `shutdown` and `truncated` are the results in these situations if they are not the text and `closed`.
const clients = {
  openai: {
    run(baseURL, see) {
      const { chat } = new OpenAI({ ...options, baseURL });
      return each(chat.completions.create(question), (chunk) => see(chunk.choices[0].delta.content));
    },
    closed: "APIError: restart",
    byDefault: malformed,
    skipped: malformed,
  },
  openai_responses: {
    run(baseURL, see) {
      const { responses } = new OpenAI({ ...options, baseURL });
      const stream = responses.create({ model: "m", input: "?", stream: true });
      return each(stream, (event) => see(event.delta));
    },
    closed: "APIError: restart",
    byDefault: malformed,
    skipped: malformed,
  },
  anthropic: {
    run(baseURL, see) {
      const { messages } = new Anthropic({ ...options, baseURL });
      return messages.stream({ ...question, max_tokens: 9 }).on("text", see).finalMessage();
    },
    closed: 'APIError: {"type":"error","error":{"type":"overloaded_error","message":"restart"}}',
    byDefault: noMessage,
    skipped: noMessage,
    unmarked: noMessage,
  },
  /** The chat behind `useChat`, without React. */
  ai_sdk: {
    async run(api, see) {
      const state = {
        messages: [],
        pushMessage: (message) => state.messages.push(message),
        replaceMessage: (index, message) => (state.messages[index] = message),
        snapshot: structuredClone,
      };
      const chat = new (class extends AbstractChat {})({ state, transport: new DefaultChatTransport({ api }) });
      await chat.sendMessage({ text: "?" });
      for (const part of chat.lastMessage.parts) see(part.text);
      assert.equal(chat.status, chat.error ? "error" : "ready");
      if (chat.error) throw chat.error;
    },
    closed: "Error: restart",
    byDefault: "JSONParseError: JSON parsing failed: Text: .\nError message: SyntaxError: Unexpected end of JSON input",
  },
  ag_ui: {
    run(url, see) {
      return new HttpAgent({ url }).runAgent({}, {
        onTextMessageContentEvent: ({ event }) => see(event.delta),
        onRunErrorEvent: ({ event }) => see(`(${event.message})`),
      });
    },
    shutdown: { text: "one (restart)" },
    byDefault: "SyntaxError: Unexpected end of JSON input",
    skipped: "SyntaxError: Expected double-quoted property name in JSON at position 47 (line 1 column 48)",
  },
  a2a: { run: a2a(new RestTransportFactory()), closed: "RestA2AErrorImpl: restart" },
  a2a_json_rpc: {
    run: a2a(new JsonRpcTransportFactory()),
    closed: "Error: SSE event contained an error: restart (Code: -32603) Data: {}",
  },
  genai: {
    run(baseUrl, see) {
      const { models } = new GoogleGenAI({ apiKey: "none", httpOptions: { baseUrl } });
      return each(models.generateContentStream({ model: "m", contents: "?" }), (chunk) => see(chunk.text));
    },
    shutdown: { text: "one " },
    truncated: { text: "one ", error: "Error: Incomplete JSON segment at the end" },
    skipped: "Error: Incomplete JSON segment at the end",
  },
};

function a2a(factory) {
  return async (url, see) => {
    const transport = await factory.create(url, { supportedInterfaces: [] });
    const message = { messageId: "m", role: 1, parts: [], extensions: [], referenceTaskIds: [] };
    await each(transport.sendMessageStream({ message }), ({ payload: { $case, value } }) => {
      if ($case === "artifactUpdate") see(value.artifact.parts[0].content.value);
    });
  };
}

async function each(stream, see) {
  for await (const event of await stream) see(event);
}

for (const [name, { run, closed, byDefault, skipped, unmarked, ...others }] of Object.entries(clients)) {
  const shutdown = others.shutdown ?? { text: "one ", error: closed };
  const expected = {
    complete: { text: "one two" },
    silence: { text: "one two" },
    shutdown,
    truncated: others.truncated ?? shutdown,
    skipped: { text: "one ", error: skipped },
    unmarked: { text: "one ", error: unmarked },
    default: { error: byDefault },
  };
  for (const [situation, { text, error }] of Object.entries(expected)) {
    test(`${name}, ${situation}`, { timeout: 60_000 }, async (test) => {
      test.mock.method(console, "error", () => {});
      let seen = "";
      const see = (piece = "") => (seen += piece);
      const end = await run(`${server.url}/${name}/${situation}`, see).then(() => undefined, describe);
      assert.equal(end, error);
      // A client that rejects an event may also drop the text before that event.
      if (text !== undefined) assert.equal(seen, text);
    });
  }
}

function describe(error) {
  return `${error.constructor.name}: ${error.message}`;
}
