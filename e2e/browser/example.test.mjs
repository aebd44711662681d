// The axum example in Chromium.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, numbersTo, useBrowser, watch } from "./support.mjs";

const EXAMPLE = "examples/axum";
const browser = useBrowser();

async function closeEventOf(test, path) {
  const server = await Server.start(test, EXAMPLE);
  const page = await browser.open(test, server.url);
  const stream = await watch(page, path, { closes: true });
  const [close] = await stream.count("close", 1);
  return { ...JSON.parse(close.data), events: await stream.of("event") };
}

test("events arrive in order, with their IDs and data", async (test) => {
  const server = await Server.start(test, EXAMPLE);
  const page = await browser.open(test, server.url);
  const stream = await watch(page, "/events?interval_ms=5");
  const events = await stream.count("event", 100);
  const ids = numbersTo(events.length);
  assert.deepEqual(events.map((event) => event.id), ids);
  assert.deepEqual(events.map((event) => event.data), ids.map((id) => `event ${id}`));
});

test("Ctrl-C ends every open stream with a close event, and the process with all of them open", async (test) => {
  const server = await Server.start(test, EXAMPLE);
  const page = await browser.open(test, server.url);
  const streams = [];
  // With the connection of the page, these are all connections that a browser opens to one host.
  for (let number = 0; number < 5; number++) streams.push(await watch(page, "/events?interval_ms=50"));
  for (const stream of streams) await stream.count("event", 3);

  assert.equal(await server.interrupt(), 0, "a clean exit");

  for (const stream of streams) {
    const [close] = await stream.count("close", 1);
    assert.deepEqual(JSON.parse(close.data), { reason: "cancelled" });
    const journal = await stream.read();
    const last = journal.findLast((entry) => entry.kind === "event");
    assert.equal(close.id, last.id, "the close event has not moved the ID to resume from");
    assert.equal(journal[journal.indexOf(last) + 1].kind, "close", "the close event is the last one");
  }
});

test("the close event of an empty stream says so", async (test) => {
  const { reason, events } = await closeEventOf(test, "/empty");
  assert.equal(reason, "empty");
  assert.deepEqual(events, []);
});

test("the close event of a completed stream says so", async (test) => {
  const { reason, events } = await closeEventOf(test, "/finite?count=7");
  assert.equal(reason, "completed");
  assert.deepEqual(events.map((event) => event.id), numbersTo(7));
});

test("the close event of a stream that the layer of its route cancelled says so", async (test) => {
  const { reason } = await closeEventOf(test, "/closed");
  assert.equal(reason, "cancelled");
});

test("a handler chooses its close event", async (test) => {
  const { reason, back } = await closeEventOf(test, "/chosen");
  assert.deepEqual({ reason, back }, { reason: "lunch break", back: "13:00" });
});

test("the close event of a stream at its maximum age says so, and the browser resumes after it", async (test) => {
  const server = await Server.start(test, EXAMPLE);
  const page = await browser.open(test, server.url);
  const stream = await watch(page, "/aged?interval_ms=50");
  const [close] = await stream.count("close", 1);
  assert.deepEqual(JSON.parse(close.data), { reason: "expired" });

  await stream.count("open", 2);
  const events = await stream.count("event", (await stream.of("event")).length + 10);
  assert.deepEqual(events.map((event) => event.id), numbersTo(events.length), "none lost, none twice");
});

test("a page that left its source open resumes with the next process", async (test) => {
  const first = await Server.start(test, EXAMPLE);
  const page = await browser.open(test, first.url);
  const stream = await watch(page, "/events?interval_ms=20");
  await stream.count("event", 20);
  assert.equal(await first.interrupt(), 0);
  await stream.count("close", 1);

  await Server.start(test, EXAMPLE, { port: first.port });
  await stream.count("open", 2);
  const events = await stream.count("event", (await stream.of("event")).length + 10);
  assert.deepEqual(events.map((event) => event.id), numbersTo(events.length), "none lost, none twice");
});
