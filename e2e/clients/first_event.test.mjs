// Tests of clients of language models with a gateway whose upstream dies before its first event: the text or the error, and the
// number of requests. `ungated` is the same gateway without the layer that holds the head.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { clients, read } from "./protocols.mjs";
import { useServer } from "./server.mjs";

const server = useServer();

const failed = '{"error":{"message":"the model has failed"}}';
const silent = '{"error":{"message":"the model is silent"}}';
const overloaded = '{"error":{"message":"overloaded"}}';
const unframed = '{"error":{"message":"no such model"}}';
const rejected = '{"type":"error","error":{"type":"invalid_request_error","message":"no such model"}}';

// `error` is the error after a response with this status and this body, and `closed` the error after the close event.
const openaiErrors = {
  error: (status, body) => `InternalServerError: ${status} ${JSON.parse(body).error.message}`,
  closed: "APIError: restart",
  retries: 2,
};
const tested = {
  openai: openaiErrors,
  openai_responses: { ...openaiErrors, hasPreamble: true },
  anthropic: {
    error: (status, body) => `${status === 504 ? "GatewayTimeoutError" : "InternalServerError"}: ${status} ${body}`,
    closed: 'APIError: {"type":"error","error":{"type":"overloaded_error","message":"restart"}}',
    retries: 2,
    hasPreamble: true,
  },
  ai_sdk: { error: (_, body) => `APICallError: ${body}`, closed: "Error: restart", retries: 0 },
};

for (const [name, { error, closed, retries, hasPreamble }] of Object.entries(tested)) {
  const dead = [error(502, failed), 1 + retries];
  const expected = {
    "first_event dead_once": retries ? ["one two", 2] : dead,
    "first_event dead": dead,
    "first_event preamble": hasPreamble ? dead : [closed, 1],
    "first_event rejected": [error(502, rejected), 1],
    "first_event overloaded": [error(502, overloaded), 1 + retries],
    "first_event unframed": [error(502, unframed), 1 + retries],
    "first_event silent": [error(504, silent), 1 + retries],
    "ungated dead_once": [closed, 1],
    "ungated dead": [closed, 1],
    "ungated preamble": [closed, 1],
    "ungated unframed": [closed, 1],
  };
  for (const [key, result] of Object.entries(expected)) {
    test(`${name}, ${key}`, { timeout: 60_000 }, async (test) => {
      test.mock.method(console, "error", () => {});
      const [gate, situation] = key.split(" ");
      const url = `${server.url}/${gate}/${name}/${situation}/${gate}`;
      const seen = await read(clients[name].run, url, retries);
      const requests = await fetch(`${server.url}/requests/${name}/${situation}/${gate}`);
      assert.deepEqual([seen.error ?? seen.text, Number(await requests.text())], result);
    });
  }
}

test("docs/first_event.md has the function of the server", () => {
  const functions = (path) =>
    readFileSync(new URL(path, import.meta.url), "utf8").match(/^fn (decide|object)\([^]*?^\}/gm);
  assert.equal(functions("../src/bin/clients/first_event.rs").length, 2);
  assert.deepEqual(functions("../../docs/first_event.md"), functions("../src/bin/clients/first_event.rs"));
});
