// The process of the example, a `fetch` that records its exchanges, and helpers for the tests of both clients.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export const LAYER = 'layer';
export const WITHOUT = 'nothing';
export const A_WHILE = 3_000;
const CLOSE_EVENT = /event: close\ndata:\nretry: ([0-9]+)\n\n$/;

export const both = scenario => Promise.all([scenario(LAYER), scenario(WITHOUT)]);

/** Returns the numbers from 1 to this one. */
export const upTo = last => Array.from({ length: last }, (_, index) => index + 1);

/** Returns the body without its close event, which is required. */
export function withoutCloseEvent(body) {
  const [closeEvent, retry] = body.match(CLOSE_EVENT) ?? assert.fail(body);
  assert.ok(retry >= 500 && retry <= 2000, retry);
  return body.slice(0, -closeEvent.length);
}

export function text({ content: [first, ...others] }) {
  assert.deepEqual(others, []);
  return first.text;
}

export async function server(t, { endedBy = LAYER, port = 0, maxAgeMs } = {}) {
  const env = { ...process.env, PORT: String(port) };
  if (endedBy !== LAYER) env.ENDED_BY = endedBy;
  if (maxAgeMs !== undefined) env.MAX_AGE_MS = String(maxAgeMs);
  const child = spawn(process.env.MCP_SERVER, [], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const exit = once(child, 'exit').then(([code]) => code);
  const [line] = await once(createInterface(child.stdout), 'line');
  return {
    url: new URL(`${line.split(' ')[0]}/mcp`),
    kill: signal => child.kill(signal),
    /** Resolves to the exit code, or to `undefined` if the process has not ended within this time. */
    ends: (withinMs = 30_000) => withTimer(withinMs, exit),
  };
}

/** Resolves once the condition holds. */
export async function until(condition) {
  const start = Date.now();
  while (!condition()) {
    assert.ok(Date.now() - start < 30_000, `timed out waiting for: ${condition}`);
    await new Promise(resolve => { setTimeout(resolve, 10); });
  }
}

async function withTimer(ms, promise) {
  let timer;
  const over = new Promise(resolve => { timer = setTimeout(resolve, ms); });
  const first = await Promise.race([promise, over]);
  clearTimeout(timer);
  return first;
}

/** Returns a `fetch` and the list of its exchanges. The `end` of an exchange is `open`, `clean` or `cut`. */
export function recorder() {
  const exchanges = [];
  const recordingFetch = async (url, init) => {
    const response = await fetch(url, init);
    const lastEventId = new Headers(init.headers).get('last-event-id');
    const exchange = { method: init.method, lastEventId, body: '', end: 'open' };
    exchanges.push(exchange);
    if (!response.body) return response;
    return new Response(record(response.body, exchange), response);
  };
  return { fetch: recordingFetch, exchanges, of: method => exchanges.filter(exchange => exchange.method === method) };
}

function record(body, exchange) {
  const reader = body.getReader();
  const text = new TextDecoder();
  return new ReadableStream({
    async pull(controller) {
      try {
        const { value, done } = await reader.read();
        if (done) {
          exchange.end = 'clean';
          controller.close();
        } else {
          exchange.body += text.decode(value, { stream: true });
          controller.enqueue(value);
        }
      } catch (error) {
        exchange.end = 'cut';
        controller.error(error);
      }
    },
    cancel: reason => reader.cancel(reason),
  });
}
