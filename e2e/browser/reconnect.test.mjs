// Reconnects after a close event.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, until, useBrowser, watch } from "./support.mjs";

const browser = useBrowser();

test("the close event ends the reconnects of a page that closes its source, and delays those of the others", async (test) => {
  const server = await Server.start(test, "browser_server");
  const page = await browser.open(test, server.url);
  const done = await watch(page, "/resume?who=1", { closes: true });
  const open = await watch(page, "/resume?who=2");
  const late = await watch(page, "/in-an-hour");
  for (const stream of [done, late]) await stream.count("event", 1);

  // The reconnects of the other source show that the browser has had the time to reconnect.
  for (let round = 1; round <= 10; round++) {
    await open.count("open", round);
    await open.count("event", (await open.of("event")).length + 1);
    await server.command("close");
    await open.count("close", round);
  }
  await open.count("open", 11);
  await until("the last request", () => server.requests("/resume?who=2").length === 11);

  assert.equal(server.requests("/resume?who=1").length, 1);
  assert.equal((await done.of("close")).length, 1);
  assert.deepEqual(await done.of("error"), [], "the end of the stream is not an error");

  // Each of these streams begins with a reconnection time of 50 ms, which the close event replaces.
  assert.equal(server.requests("/in-an-hour").length, 1);
  assert.equal((await late.of("close")).length, 1);
  assert.equal((await late.of("error")).length, 1, "the browser waits to reconnect");
});
