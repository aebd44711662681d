// The official TypeScript client, with the layer and without it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ErrorCode } from '@modelcontextprotocol/sdk/types.js';
import { recorder, server } from './recording.mjs';

const LAYER = [];
const WITHOUT = ['--without-layer'];
const A_WHILE = 3_000;
const CLOSE_EVENT = /event: close\ndata:\nretry: ([0-9]+)\n\n$/;

async function connected(t, { url }) {
  const recorded = recorder();
  const client = new Client({ name: 'test', version: '1' });
  const errors = [];
  client.onerror = error => errors.push(error.message);
  await client.connect(new StreamableHTTPClientTransport(url, { fetch: recorded.fetch }));
  t.after(() => client.close());
  return { client, errors, ...recorded };
}

/** Calls the long tool, and calls `atFirst` at the first progress. */
async function count(client, to, { atFirst = () => {}, timeout } = {}) {
  const progress = [];
  const onprogress = ({ progress: number, total }) => {
    assert.equal(total, to);
    if (progress.push(number) === 1) atFirst();
  };
  const result = await client.callTool({ name: 'count', arguments: { to } }, undefined, { onprogress, timeout });
  return { result: text(result), progress };
}

async function add(client) {
  return text(await client.callTool({ name: 'add', arguments: { a: 1, b: 2 } }));
}

function text({ content: [first, ...others] }) {
  assert.deepEqual(others, []);
  return first.text;
}

/** Returns the body without its close event, which is required. */
function withoutCloseEvent(body) {
  const [closeEvent, retry] = body.match(CLOSE_EVENT) ?? assert.fail(body);
  assert.ok(retry >= 500 && retry <= 2000, retry);
  return body.slice(0, -closeEvent.length);
}

const both = scenario => Promise.all([scenario(LAYER), scenario(WITHOUT)]);

/** Returns the numbers from 1 to this one. */
const upTo = last => Array.from({ length: last }, (_, index) => index + 1);

test('a shutdown waits for the answer and not for the subscription', async t => {
  const [layer, without] = await both(async flags => {
    const example = await server(t, { flags });
    const { client, of } = await connected(t, example);
    const tools = (await client.listTools()).tools.map(tool => tool.name);
    const sum = await add(client);
    const counted = await count(client, 4, { atFirst: () => example.kill('SIGINT') });
    const exitCode = await example.ends(A_WHILE);
    const posts = of('POST').map(({ body }) => body);
    const gets = of('GET').map(({ body, end }) => ({ body, end }));
    await client.close();
    return { results: { tools, sum, counted }, posts, gets, exitCode, goneWithClient: await example.ends() };
  });

  const counted = { result: 'counted to 4', progress: upTo(4) };
  assert.deepEqual(layer.results, { tools: ['add', 'count'], sum: '3', counted });
  assert.equal(layer.exitCode, 0);
  assert.deepEqual(layer.results, without.results);
  assert.deepEqual(layer.posts, without.posts);
  const [subscription] = layer.gets;
  assert.deepEqual(layer.gets, [{ body: subscription.body, end: 'clean' }]);
  assert.deepEqual(without.gets, [{ body: withoutCloseEvent(subscription.body), end: 'open' }]);
  assert.equal(without.exitCode, undefined, 'the server waits until its client has left');
  assert.equal(without.goneWithClient, 0);
});

test("rmcp's own token loses the answer", async t => {
  const example = await server(t, { flags: ['--token-only'] });
  const { client, of } = await connected(t, example);
  const counting = count(client, 4, { atFirst: () => example.kill('SIGINT'), timeout: 10_000 });
  await assert.rejects(counting, { code: ErrorCode.RequestTimeout });
  assert.equal(await example.ends(), 0);
  const [subscription] = of('GET');
  assert.doesNotMatch(subscription.body, /close/);
});

test('an answer that was closed is resumed', async t => {
  const [layer, without] = await both(async flags => {
    // The tool ends halfway between two closes, because rmcp keeps no result for an absent client.
    const { client, exchanges } = await connected(t, await server(t, { flags, maxAgeMs: 8_000 }));
    const { result, progress } = await count(client, 26);
    const answer = exchanges.filter(({ body }) => body.includes('"progress"'));
    // rmcp starts with the last event that the client has received, and so repeats it.
    return { result, progress: [...new Set(progress)], answer };
  });

  assert.equal(layer.result, 'counted to 26');
  assert.deepEqual(layer.progress, upTo(26));
  assert.deepEqual([layer.result, layer.progress], [without.result, without.progress]);
  const [closed, resumed] = layer.answer;
  const [whole] = without.answer;
  const seen = withoutCloseEvent(closed.body);
  assert.deepEqual([closed.method, closed.end, resumed.method], ['POST', 'clean', 'GET']);
  assert.ok(whole.body.startsWith(seen));
  assert.equal([...seen.matchAll(/id: (.*)/g)].at(-1)[1], resumed.lastEventId);
  assert.ok(whole.body.endsWith(resumed.body));
});

test('an answer that outlasts the grace fails, and is not cut', async t => {
  const [layer, killed] = await both(async flags => {
    const example = await server(t, { flags });
    const { client, errors, of } = await connected(t, example);
    // Without the layer the server would not end, so the test kills it.
    const atFirst = () => example.kill(flags === LAYER ? 'SIGINT' : 'SIGKILL');
    await assert.rejects(count(client, 40, { atFirst, timeout: 18_000 }), { code: ErrorCode.RequestTimeout });
    await example.ends();
    return { errors, streams: [of('GET')[0], of('POST').at(-1)] };
  });

  const cut = ({ errors }) => errors.filter(error => error.startsWith('SSE stream disconnected')).length;
  assert.deepEqual(layer.streams.map(({ end }) => end), ['clean', 'clean']);
  assert.deepEqual(killed.streams.map(({ end }) => end), ['cut', 'cut']);
  assert.deepEqual([cut(layer), cut(killed)], [0, 2]);
  layer.streams.forEach(({ body }) => withoutCloseEvent(body));
});

test('a session ends with its process', async t => {
  const [layer, without] = await both(async flags => {
    const example = await server(t, { flags });
    const { client } = await connected(t, example);
    await add(client);
    example.kill(flags === LAYER ? 'SIGINT' : 'SIGKILL');
    assert.notEqual(await example.ends(), undefined);
    const successor = await server(t, { flags, port: example.url.port });
    const error = await add(client).catch(({ code, message }) => ({ code, message }));
    const { client: newClient } = await connected(t, successor);
    return { error, sum: await add(newClient) };
  });

  assert.equal(layer.error.code, 404);
  assert.equal(layer.sum, '3');
  assert.deepEqual(layer, without);
});
