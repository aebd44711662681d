// docs/clients.md has the versions of the tested clients and the layers of the server.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const page = read("../../docs/clients.md");
const table = page
  .split("\n")
  .filter((line) => line.startsWith("|"))
  .join("\n");

test("the table has the version of every client", () => {
  const { dependencies } = JSON.parse(read("package.json"));
  const registries = {
    npm: Object.entries(dependencies).map(([name, version]) => `${name}@${version}`.replace(/.*@npm:/, "")),
    PyPI: pinned("requirements.txt", /^(?!pytest)(.+)==(.+)$/gm),
    "crates.io": pinned("../Cargo.toml", /^(\S+) = .*"=(.+?)"/gm),
  };
  for (const [registry, clients] of Object.entries(registries)) {
    assert.ok(clients.length > 0, registry);
    for (const client of clients) assert.ok(table.includes(`\`${client.replace(/(.)@/, "$1` ")}`), client);
  }
});

function pinned(path, dependency) {
  return Array.from(read(path).matchAll(dependency), ([, name, version]) => `${name}@${version}`);
}

test("the page has the layers of the server, no others, and a link to each", () => {
  const layers = (text) => Array.from(text.matchAll(/^fn \w+\(\) -> SseCompletionLayer \{\n[^]*?^\}/gm), ([layer]) => layer);
  const [, section] = page.match(/^## Layers\n([^]*?)^## /m);
  const expected = layers(read("../src/bin/clients/table.rs"));
  assert.ok(expected.length > 0);
  assert.deepEqual(layers(section), expected);

  const headings = Array.from(section.matchAll(/^### (.*)/gm), ([, heading]) => heading);
  assert.equal(headings.length, expected.length);
  const targets = headings.map((heading) => heading.toLowerCase().replace(/[^a-z0-9 -]/g, "").replaceAll(" ", "-"));
  const links = new Set(Array.from(table.matchAll(/\]\(#(.*?)\)/g), ([, target]) => target));
  assert.deepEqual([...links].sort(), targets.sort());
});
