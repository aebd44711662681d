// Reconnects after a close event.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, until, useBrowser, watch } from "./support.mjs";

const SERVER = "browser_server";
const browser = useBrowser();

test("source.close() in the handler of the close event ends the reconnects", async (test) => {
  const server = await Server.start(test, SERVER);
  const page = await browser.open(test, server.url);
  const done = await watch(page, "/resume?who=1", { closes: true });
  const open = await watch(page, "/resume?who=2");
  await done.count("event", 1);

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
});

test("retry_between spreads the reconnects of many streams, and a single retry time does not", async (test) => {
  const server = await Server.start(test, SERVER, { args: ["--tls"] });
  const paths = { spread: "/spread?interval_ms=60000", fixed: "/fixed?interval_ms=60000" };
  for (const path of Object.values(paths)) await openStreams(test, server, path);
  const closedAt = await server.command("close");

  const shares = {};
  for (const [name, path] of Object.entries(paths)) {
    await until(`reconnects to ${path}`, () => server.requests(path).length >= 2 * STREAMS);
    const delays = server.requests(path).slice(STREAMS).map((request) => request.at - closedAt);
    shares[name] = shareOut(delays);
    const range = `${Math.min(...delays)} to ${Math.max(...delays)} ms`;
    const table = shares[name].join(" ");
    test.diagnostic(`${name}: ${delays.length} streams reconnected after ${range}, in every 3 s: ${table}`);
  }
  // 50 of 200 streams are expected in each quarter. Fewer than 12 occur by chance once in 10^10 runs.
  assert.ok(Math.min(...shares.spread) >= 12, "a fair share in every quarter of the range");
  assert.ok(Math.min(...shares.fixed) < 12, "the same time for all fails the check");
});

const STREAMS = 200;

/** Opens the streams over HTTP/2, because a browser opens at most six HTTP/1.1 connections to a host. */
async function openStreams(test, server, path) {
  const page = await browser.open(test, server.url);
  const opened = await page.evaluateHandle(
    ([path, streams]) => {
      const opened = { count: 0 };
      for (let number = 0; number < streams; number++) {
        new EventSource(path).addEventListener("open", () => opened.count++, { once: true });
      }
      return opened;
    },
    [path, STREAMS],
  );
  await until(`${STREAMS} streams of ${path}`, async () => (await opened.jsonValue()).count === STREAMS);
}

/** Counts the times in each quarter of the range from 1 to 13 seconds. Times outside count in the nearest quarter. */
function shareOut(delays) {
  const shares = [0, 0, 0, 0];
  for (const delay of delays) shares[Math.max(0, Math.min(3, Math.floor((delay - 1000) / 3000)))]++;
  return shares;
}
