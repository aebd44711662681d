// The official TypeScript client 2, which speaks the revision 2026-07-28 and older ones, with the layer and without it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, SdkErrorCode, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { A_WHILE, LAYER, both, recorder, server, text, upTo, withoutCloseEvent } from './recording.mjs';

async function connected(t, { url }, mode) {
  const recorded = recorder();
  const client = new Client({ name: 'test', version: '1' }, { versionNegotiation: { mode } });
  await client.connect(new StreamableHTTPClientTransport(url, { fetch: recorded.fetch }));
  t.after(() => client.close());
  return { client, ...recorded };
}

/** Calls the long tool, and calls `atFirst` at the first progress. */
async function count(client, to, { atFirst = () => {}, timeout } = {}) {
  const progress = [];
  const onprogress = ({ progress: number }) => {
    if (progress.push(number) === 1) atFirst();
  };
  const result = await client.callTool({ name: 'count', arguments: { to } }, { onprogress, timeout });
  return { result: text(result), progress };
}

/** Shuts the server down while a subscription is open and the tool counts. */
async function shutDown(t, endedBy, { to = 4, timeout } = {}) {
  const example = await server(t, { endedBy });
  const { client, exchanges } = await connected(t, example, 'auto');
  const version = client.getNegotiatedProtocolVersion();
  const subscription = await client.listen({ toolsListChanged: true });
  const { honoredFilter, closed } = subscription;
  const counted = await count(client, to, { atFirst: () => example.kill('SIGTERM'), timeout })
    .catch(({ code }) => code);
  const exitCode = await example.ends(A_WHILE);
  await client.close();
  const [listen, call] = exchanges.slice(-2);
  assert.ok(exchanges.every(({ method }) => method === 'POST'));
  return { results: { version, honoredFilter, counted }, closed: await closed, exitCode, listen, call };
}

test('a shutdown ends a subscription gracefully and waits for the response', async t => {
  const [layer, without] = await both(endedBy => shutDown(t, endedBy));

  assert.deepEqual(layer.results, {
    version: '2026-07-28',
    honoredFilter: { toolsListChanged: true },
    counted: { result: 'counted to 4', progress: upTo(4) },
  });
  assert.deepEqual(layer.results, without.results);
  assert.deepEqual(layer.call, without.call);
  assert.deepEqual([layer.closed, layer.exitCode], ['graceful', 0]);
  assert.deepEqual([without.closed, without.exitCode], ['remote', undefined], 'the server waits for its client');
  const [end, ...others] = layer.listen.body.replace(without.listen.body, '').trim().split('\n\n');
  assert.deepEqual(others, []);
  assert.equal(JSON.parse(end.replace('data: ', '')).result.resultType, 'complete');
});

test("rmcp's own token ends a subscription abruptly and loses the response", async t => {
  const { results, closed, exitCode } = await shutDown(t, 'token', { timeout: 5_000 });

  assert.deepEqual([closed, results.counted, exitCode], ['remote', SdkErrorCode.RequestTimeout, 0]);
});

test('a call that outlasts the grace period fails, and its response is not cut', async t => {
  const { results, closed, exitCode, call } = await shutDown(t, LAYER, { to: 40, timeout: 13_000 });

  assert.deepEqual([closed, results.counted, exitCode], ['graceful', SdkErrorCode.RequestTimeout, 0]);
  assert.equal(call.end, 'clean');
  withoutCloseEvent(call.body);
});

test('in the older revisions a shutdown ends the GET and waits for the response', async t => {
  const example = await server(t);
  const { client, of } = await connected(t, example, 'legacy');
  const counted = await count(client, 4, { atFirst: () => example.kill('SIGTERM') });

  assert.deepEqual(counted, { result: 'counted to 4', progress: upTo(4) });
  assert.equal(await example.ends(A_WHILE), 0);
  assert.equal(client.getNegotiatedProtocolVersion(), '2025-11-25');
  const [subscription] = of('GET');
  assert.equal(subscription.end, 'clean');
  withoutCloseEvent(subscription.body);
});
