// What a program sees of a stream with the clients of protocols: the text, and the error, if there is one.

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

// `closed` is the error after a close event, and `byDefault` that after the default close event. `skipped` is the error after
// a stream that ends inside an event, without the layer, and `unmarked` that after a stream without the end mark of the protocol.
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
  /** `useChat`, without React. */
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
  const cut = others.shutdown ?? { text: "one ", error: closed };
  const expected = {
    complete: { text: "one two" },
    silence: { text: "one two" },
    shutdown: cut,
    truncated: others.truncated ?? cut,
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
      // A client may drop the text before an event that it rejects.
      if (text !== undefined) assert.equal(seen, text);
    });
  }
}

function describe(error) {
  return `${error.constructor.name}: ${error.message}`;
}
