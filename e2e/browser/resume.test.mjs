// Resumption of a stream that ended inside an event. Every frame of these streams ends inside an event.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, numbersTo, until, useBrowser, watch } from "./support.mjs";

const SERVER = "browser_server";
const browser = useBrowser();

/** The ends of the streams. Each function resolves to the server that responds next. */
const ENDS = {
  "a cancellation": async (test, server) => {
    await server.command("close");
    return server;
  },
  "a restart": async (test, server) => {
    assert.equal(await server.interrupt(), 0);
    return Server.start(test, SERVER, { port: server.port });
  },
  "a crash": async (test, server) => {
    await server.kill();
    return Server.start(test, SERVER, { port: server.port });
  },
};
const CLOSED = ["a cancellation", "a restart"];

for (const [name, end] of Object.entries(ENDS)) {
  test(`after ${name} inside an event the browser resumes from the last event that it received`, async (test) => {
    const { servers, journal } = await endRepeatedly(test, "/resume", end, 10);
    const events = journal.filter(isEvent);
    assert.deepEqual(events.map(checked), numbersTo(events.length), "none lost, none twice");
    const closes = journal.filter((entry) => entry.kind === "close").length;
    assert.equal(closes, CLOSED.includes(name) ? 10 : 0);
    assert.deepEqual(await requestedIds(servers, "/resume", 11), receivedBeforeEachOpening(journal));
  });
}

test("a hand-written close event inside an event tears the event, and loses it", async (test) => {
  const { servers, journal } = await endRepeatedly(test, "/hand-written", ENDS["a cancellation"], 3);
  const torn = journal.filter(isEvent).filter((event) => event.data !== whole(event.id));
  assert.deepEqual(torn.map((event) => event.data), torn.map((event) => `first half of ${event.id}`));
  assert.equal(torn.length, 3);
  const requested = await requestedIds(servers, "/hand-written", 4);
  assert.deepEqual(requested.slice(1), torn.map((event) => event.id), "resumed after the torn event");
});

/** Ends a stream this many times, with three events before each end and after the last. */
async function endRepeatedly(test, path, end, times) {
  let server = await Server.start(test, SERVER);
  const page = await browser.open(test, server.url);
  const stream = await watch(page, path);
  const servers = [server];
  for (let time = 1; time <= times + 1; time++) {
    await stream.count("open", time);
    await stream.count("event", (await stream.of("event")).length + 3);
    if (time > times) break;
    server = await end(test, server);
    if (!servers.includes(server)) servers.push(server);
  }
  return { servers, journal: await stream.read() };
}

/** Waits for this many requests, and returns their `Last-Event-ID` in order. */
async function requestedIds(servers, path, times) {
  const requests = () => servers.flatMap((server) => server.requests(path));
  await until(`${times} requests for ${path}`, () => requests().length >= times);
  return requests().map((request) => request.lastEventId);
}

/** Returns the last ID that the page had received when each connection opened. */
function receivedBeforeEachOpening(journal) {
  return journal.flatMap((entry, index) =>
    entry.kind === "open" ? [journal.slice(0, index).findLast(isEvent)?.id ?? ""] : [],
  );
}

const isEvent = (entry) => entry.kind === "event";
const whole = (id) => `first half of ${id}, second half of ${id}`;

/** Returns the ID of a whole event. */
function checked(event) {
  assert.equal(event.data, whole(event.id), "not torn");
  return event.id;
}
