// The server of the tests with published clients. The server ends when its input ends.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before } from "node:test";

/** Starts the server before the tests of a file, and ends it after them. Tests read `url` of the returned object. */
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
