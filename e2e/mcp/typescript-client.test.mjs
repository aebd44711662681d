// The official TypeScript client for revisions up to 2025-11-25, with the layer and without it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ErrorCode } from '@modelcontextprotocol/sdk/types.js';
import { A_WHILE, LAYER, both, recorder, server, text, until, upTo, withoutCloseEvent } from './recording.mjs';

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

test('a shutdown waits for the call and not for the subscription', async t => {
  const [layer, without] = await both(async endedBy => {
    const example = await server(t, { endedBy });
    const { client, of } = await connected(t, example);
    const tools = (await client.listTools()).tools.map(tool => tool.name);
    const counted = await count(client, 4, { atFirst: () => example.kill('SIGINT') });
    const exitCode = await example.ends(A_WHILE);
    const posts = of('POST').map(({ body }) => body);
    const gets = of('GET').map(({ body, end }) => ({ body, end }));
    await client.close();
    return { results: { tools, counted }, posts, gets, exitCode, goneWithClient: await example.ends() };
  });

  const counted = { result: 'counted to 4', progress: upTo(4) };
  assert.deepEqual(layer.results, { tools: ['count'], counted });
  assert.equal(layer.exitCode, 0);
  assert.deepEqual(layer.results, without.results);
  assert.deepEqual(layer.posts, without.posts);
  const [subscription] = layer.gets;
  assert.deepEqual(layer.gets, [{ body: subscription.body, end: 'clean' }]);
  assert.deepEqual(without.gets, [{ body: withoutCloseEvent(subscription.body), end: 'open' }]);
  assert.equal(without.exitCode, undefined, 'the server waits until its client has left');
  assert.equal(without.goneWithClient, 0);
});

test("rmcp's own token loses the result", async t => {
  const example = await server(t, { endedBy: 'token' });
  const { client, of } = await connected(t, example);
  const counting = count(client, 4, { atFirst: () => example.kill('SIGINT'), timeout: 10_000 });
  await assert.rejects(counting, { code: ErrorCode.RequestTimeout });
  assert.equal(await example.ends(), 0);
  const [subscription] = of('GET');
  assert.doesNotMatch(subscription.body, /close/);
});

test('a subscription of the maximum age is resumed, and a response has none', async t => {
  const [layer, without] = await both(async endedBy => {
    const { client, of } = await connected(t, await server(t, { endedBy, maxAgeMs: 1_000 }));
    const counted = await count(client, 6);
    if (endedBy === LAYER) await until(() => of('GET').length > 1);
    return { counted, posts: of('POST').map(({ body }) => body), gets: of('GET') };
  });

  assert.deepEqual(layer.counted, { result: 'counted to 6', progress: upTo(6) });
  assert.deepEqual([layer.counted, layer.posts], [without.counted, without.posts]);
  const [closed, resumed] = layer.gets;
  assert.deepEqual([closed.end, resumed.lastEventId], ['clean', '0']);
  assert.deepEqual(without.gets, [{ ...closed, body: withoutCloseEvent(closed.body), end: 'open' }]);
});

test('a call that outlasts the grace fails, and its connection is not cut', async t => {
  const [layer, killed] = await both(async endedBy => {
    const example = await server(t, { endedBy });
    const { client, errors, of } = await connected(t, example);
    // Without the layer the server would not end, so the test kills it.
    const atFirst = () => example.kill(endedBy === LAYER ? 'SIGINT' : 'SIGKILL');
    await assert.rejects(count(client, 40, { atFirst, timeout: 13_000 }), { code: ErrorCode.RequestTimeout });
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
  const [layer, without] = await both(async endedBy => {
    const example = await server(t, { endedBy });
    const { client } = await connected(t, example);
    await count(client, 1);
    example.kill(endedBy === LAYER ? 'SIGINT' : 'SIGKILL');
    assert.notEqual(await example.ends(), undefined);
    const successor = await server(t, { endedBy, port: example.url.port });
    const error = await count(client, 1).catch(({ code, message }) => ({ code, message }));
    const { client: newClient } = await connected(t, successor);
    return { error, counted: await count(newClient, 1) };
  });

  assert.equal(layer.error.code, 404);
  assert.equal(layer.counted.result, 'counted to 1');
  assert.deepEqual(layer, without);
});
