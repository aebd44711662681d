// The table of docs/clients.md names the versions of these tests and the layers of the server.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const table = read("../../docs/clients.md")
  .split("\n")
  .filter((line) => line.startsWith("|"))
  .join("\n");

test("the table has the version of every client", () => {
  for (const [name, version] of Object.entries(JSON.parse(read("package.json")).dependencies)) {
    const client = `${name}@${version}`.replace(/.*@npm:/, "").replace(/(.)@(.*)/, "$1` $2");
    assert.ok(table.includes(`\`${client}`), client);
  }
});

test("the table has the layers of the server, and no others", () => {
  const functions = read("../src/bin/clients/table.rs").matchAll(/^fn .*\{\n([^]*?)^\}/gm);
  const layers = Array.from(functions, ([, body]) => body.replace(/\s/g, "").replaceAll(",)", ")"));
  assert.ok(layers.length > 0);
  const quoted = Array.from(table.matchAll(/`(layer\..*?)`/g), ([, layer]) => layer.replace(/\s/g, ""));
  assert.deepEqual(quoted.sort(), layers.sort());
});
