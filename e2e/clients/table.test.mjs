// The table of docs/clients.md has the versions of the tested clients and the layers of the server.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const table = read("../../docs/clients.md")
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

test("the table has the layers of the server, and no others", () => {
  const functions = read("../src/bin/clients/table.rs").matchAll(/^fn .*\{\n([^]*?)^\}/gm);
  const layers = Array.from(functions, ([, body]) => body.replace(/\s/g, "").replaceAll(",)", ")"));
  assert.ok(layers.length > 0);
  const quoted = Array.from(table.matchAll(/`(layer\..*?)`/g), ([, layer]) => layer.replace(/\s/g, ""));
  assert.deepEqual(quoted.sort(), layers.sort());
});
