// The official conformance suite, with the layer and without it. The suite requires tools, prompts and resources
// that the example does not have, so most scenarios fail. The results have to be the same.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { server } from './recording.mjs';

const SUITE = join(import.meta.dirname, 'node_modules/.bin/conformance');

/** Returns `scenario check: status, error` for each check. */
async function results(t, flags) {
  const { url } = await server(t, { flags });
  const directory = mkdtempSync(join(tmpdir(), 'conformance-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const suite = spawn(SUITE, ['server', '--url', url.href, '--output-dir', directory], { stdio: 'ignore' });
  await once(suite, 'exit');
  return readdirSync(directory).sort().flatMap(folder => {
    const scenario = folder.replace(/-\d{4}-\d\d-\d\dT.*/, '');
    const checks = JSON.parse(readFileSync(join(directory, folder, 'checks.json'), 'utf8'));
    return checks.map(({ id, status, errorMessage }) => `${scenario} ${id}: ${status}, ${errorMessage}`);
  });
}

test('the conformance suite has the same results with the layer', async t => {
  const [layer, without] = await Promise.all([results(t, []), results(t, ['--without-layer'])]);

  const passed = layer.filter(result => result.includes(': SUCCESS')).map(result => result.split(' ')[0]);
  t.diagnostic(`${passed.length} of ${layer.length} checks pass`);
  for (const scenario of ['server-initialize', 'ping', 'tools-list', 'server-sse-multiple-streams']) {
    assert.ok(passed.includes(`server-${scenario}`), `${scenario} has to pass: ${passed}`);
  }
  assert.deepEqual(layer, without);
});
