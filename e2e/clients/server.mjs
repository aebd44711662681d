// The server of these tests.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before } from "node:test";

/** Starts the server for the tests of one file. Its `url` is set before they run. */
export function useServer() {
  const server = {};
  let input;
  before(async () => {
    const path = join(process.env.CARGO_TARGET_DIR, "debug/clients");
    const { stdin, stdout } = spawn(path, { stdio: ["pipe", "pipe", "inherit"] });
    input = stdin;
    [server.url] = await once(createInterface({ input: stdout }), "line");
  });
  after(() => input.end());
  return server;
}
