// The official conformance suite of two revisions of the protocol, with the layer and without it. The suite requires tools,
// prompts and resources that the example does not have, so many scenarios fail. The results have to be the same.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { both, server } from './recording.mjs';

const SUITE = join(import.meta.dirname, 'node_modules/.bin/conformance');

/** The scenarios that have to pass, because two servers that cannot be reached would have the same results too. */
const REQUIRED = {
  '2025-11-25': ['server-initialize', 'ping', 'tools-list', 'server-sse-multiple-streams'],
  '2026-07-28': ['tools-list', 'server-sse-multiple-streams', 'http-header-validation'],
};

/** Returns `scenario check: status, error` for each check. */
async function results(t, revision, endedBy) {
  const { url } = await server(t, { endedBy });
  const directory = mkdtempSync(join(tmpdir(), 'conformance-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const flags = ['--url', url.href, '--requirements', revision, '--output-dir', directory];
  const suite = spawn(SUITE, ['server', ...flags], { stdio: 'ignore' });
  await once(suite, 'exit');
  return readdirSync(directory).sort().flatMap(folder => {
    const scenario = folder.replace(/-\d{4}-\d\d-\d\dT.*/, '');
    const checks = JSON.parse(readFileSync(join(directory, folder, 'checks.json'), 'utf8'));
    return checks.map(({ id, status, errorMessage }) => `${scenario} ${id}: ${status}, ${errorMessage}`);
  });
}

for (const [revision, required] of Object.entries(REQUIRED)) {
  test(`the conformance suite of ${revision} has the same results with the layer`, async t => {
    const [layer, without] = await both(endedBy => results(t, revision, endedBy));

    const passed = layer.filter(result => result.includes(': SUCCESS')).map(result => result.split(' ')[0]);
    t.diagnostic(`${passed.length} of ${layer.length} checks pass`);
    for (const scenario of required) {
      assert.ok(passed.includes(`server-${scenario}`), `${scenario} has to pass: ${passed}`);
    }
    assert.deepEqual(layer, without);
  });
}
