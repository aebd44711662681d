// The process of the example, and a `fetch` that records its exchanges.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export async function server(t, { flags = [], port = 0, maxAgeMs } = {}) {
  const env = { ...process.env, PORT: String(port) };
  if (maxAgeMs !== undefined) env.MAX_AGE_MS = String(maxAgeMs);
  const child = spawn(process.env.MCP_SERVER, flags, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const exit = once(child, 'exit').then(([code]) => code);
  const [line] = await once(createInterface(child.stdout), 'line');
  return {
    url: new URL(`${line}/mcp`),
    kill: signal => child.kill(signal),
    /** Resolves to the exit code, or to `undefined` if the process has not ended within this time. */
    ends: (withinMs = 30_000) => withTimer(withinMs, exit),
  };
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
  return { fetch: recordingFetch, exchanges, of: method => exchanges.filter(one => one.method === method) };
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
