// Tests of clients of language models with a gateway whose upstream dies before its first event: the text or the error, and the
// number of requests. `ungated` is the same gateway without the layer that holds the head.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { AbstractChat, DefaultChatTransport } from "ai";
import OpenAI from "openai";
import { useServer } from "./server.mjs";

const server = useServer();

const options = { apiKey: "none", logLevel: "off" };
const question = { messages: [{ role: "user", content: "?" }], model: "m", stream: true };

const object = (message) => JSON.stringify({ error: { message } });
const closed = JSON.stringify({ type: "error", error: { type: "overloaded_error", message: "restart" } });

// `error` is the error for a response with a status, and `closed` the one after the close event.
const clients = {
  openai: {
    async run(baseURL) {
      const { chat } = new OpenAI({ ...options, baseURL });
      return collect(await chat.completions.create(question), (chunk) => chunk.choices[0].delta.content);
    },
    error: (status, message) => `InternalServerError: ${status} ${message}`,
    closed: "APIError: restart",
    retries: 2,
  },
  openai_responses: {
    async run(baseURL) {
      const { responses } = new OpenAI({ ...options, baseURL });
      return collect(await responses.create({ model: "m", input: "?", stream: true }), (event) => event.delta);
    },
    error: (status, message) => `InternalServerError: ${status} ${message}`,
    closed: "APIError: restart",
    retries: 2,
    hasPreamble: true,
  },
  anthropic: {
    async run(baseURL) {
      const { messages } = new Anthropic({ ...options, baseURL });
      let text = "";
      const stream = messages.stream({ ...question, max_tokens: 9 }).on("text", (piece) => (text += piece));
      await stream.finalMessage();
      return text;
    },
    error: (status, message) =>
      `${status === 504 ? "GatewayTimeoutError" : "InternalServerError"}: ${status} ${object(message)}`,
    closed: `APIError: ${closed}`,
    retries: 2,
    hasPreamble: true,
  },
  /** The chat behind `useChat`, without React. */
  ai_sdk: {
    async run(api) {
      const state = {
        messages: [],
        pushMessage: (message) => state.messages.push(message),
        replaceMessage: (index, message) => (state.messages[index] = message),
        snapshot: structuredClone,
      };
      const chat = new (class extends AbstractChat {})({ state, transport: new DefaultChatTransport({ api }) });
      await chat.sendMessage({ text: "?" });
      if (chat.error) throw chat.error;
      return chat.lastMessage.parts.map(({ text }) => text).join("");
    },
    error: (_, message) => `APICallError: ${object(message)}`,
    closed: "Error: restart",
    retries: 0,
  },
};

async function collect(stream, text) {
  let collected = "";
  for await (const event of stream) collected += text(event) ?? "";
  return collected;
}

for (const [name, { run, error, closed, retries, hasPreamble }] of Object.entries(clients)) {
  const failed = [error(502, "the model has failed"), 1 + retries];
  const expected = {
    "first_event dead_once": retries ? ["one two", 2] : failed,
    "first_event dead": failed,
    "first_event preamble": hasPreamble ? failed : [closed, 1],
    "first_event rejected": [error(502, "no such model"), 1],
    "first_event unframed": [error(502, "no such model"), 1 + retries],
    "first_event silent": [error(504, "the model is silent"), 1 + retries],
    "ungated dead_once": [closed, 1],
    "ungated dead": [closed, 1],
    "ungated preamble": [closed, 1],
    "ungated unframed": [closed, 1],
  };
  for (const [key, result] of Object.entries(expected)) {
    test(`${name}, ${key}`, { timeout: 60_000 }, async (test) => {
      test.mock.method(console, "error", () => {});
      const [gate, situation] = key.split(" ");
      const describe = ({ constructor, message }) => `${constructor.name}: ${message}`;
      const seen = await run(`${server.url}/${gate}/${name}/${situation}/${gate}`).catch(describe);
      const requests = await fetch(`${server.url}/requests/${name}/${situation}/${gate}`);
      assert.deepEqual([seen, Number(await requests.text())], result);
    });
  }
}
