// The close event over HTTP/2, with many streams on one connection.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, numbersTo, until, useBrowser, watch } from "./support.mjs";

const browser = useBrowser();
const STREAMS = 20;

test("over HTTP/2 all streams of a connection end with the close event, and then the process", async (test) => {
  const server = await Server.start(test, "browser_server", { args: ["--tls"] });
  const page = await browser.open(test, server.url);
  const streams = [];
  for (let number = 0; number < STREAMS; number++) {
    streams.push(await watch(page, `/resume?stream=${number}`, { closes: true }));
  }
  for (const stream of streams) await stream.count("event", 3);

  assert.equal(await server.interrupt(), 0, "a clean exit");

  for (const stream of streams) {
    await stream.count("close", 1);
    const events = await stream.of("event");
    assert.deepEqual(events.map((event) => event.id), numbersTo(events.length));
    assert.deepEqual(await stream.of("error"), []);
  }
  const requests = server.lines.filter((line) => line.path?.startsWith("/resume"));
  assert.equal(requests.length, STREAMS, "no client reconnected");
  assert.deepEqual(new Set(requests.map((request) => request.version)), new Set(["HTTP/2.0"]));
  assert.equal(new Set(requests.map((request) => request.connection)).size, 1, "one connection");
  // The browser lists a stream after its end.
  const protocols = await until("the browser's list", async () => {
    const list = await page.evaluate(() =>
      performance
        .getEntriesByType("resource")
        .filter((entry) => entry.name.includes("/resume"))
        .map((entry) => entry.nextHopProtocol),
    );
    return list.length === STREAMS && list;
  });
  assert.deepEqual(new Set(protocols), new Set(["h2"]));
});
