// The axum example in Chromium.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, numbersTo, until, useBrowser, watch } from "./support.mjs";

const EXAMPLE = "examples/axum";
const browser = useBrowser();

async function receiveCloseEvent(test, path) {
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
  // These are all connections that a browser opens to one host.
  for (let number = 0; number < 6; number++) streams.push(await watch(page, "/events?interval_ms=50"));
  for (const stream of streams) await stream.count("event", 3);

  assert.equal(await server.interrupt(), 0, "a clean exit");

  for (const stream of streams) {
    const [close] = await stream.count("close", 1);
    assert.deepEqual(JSON.parse(close.data), { reason: "cancelled" });
    const journal = await stream.read();
    const last = journal.findLast((entry) => entry.kind === "event");
    assert.equal(close.id, last.id, "the close event has not moved the ID to resume from");
    assert.equal(journal[journal.indexOf(last) + 1].kind, "close", "the close event is the last event");
  }
});

test("the close event of an empty stream has the reason", async (test) => {
  const { reason, events } = await receiveCloseEvent(test, "/empty");
  assert.equal(reason, "empty");
  assert.deepEqual(events, []);
});

test("the close event of a completed stream has the reason", async (test) => {
  const { reason, events } = await receiveCloseEvent(test, "/finite?count=7");
  assert.equal(reason, "completed");
  assert.deepEqual(events.map((event) => event.id), numbersTo(7));
});

test("the close event of a stream that the layer of its route cancelled has the reason", async (test) => {
  const { reason } = await receiveCloseEvent(test, "/closed");
  assert.equal(reason, "cancelled");
});

test("a handler chooses its close event", async (test) => {
  const { reason, back } = await receiveCloseEvent(test, "/chosen");
  assert.deepEqual({ reason, back }, { reason: "lunch break", back: "13:00" });
});

test("the close event of a stream at its maximum age has the reason, and the browser resumes", async (test) => {
  const server = await Server.start(test, EXAMPLE);
  const page = await browser.open(test, server.url);
  const stream = await watch(page, "/aged?interval_ms=50");
  const [close] = await stream.count("close", 1);
  assert.deepEqual(JSON.parse(close.data), { reason: "expired" });

  await stream.count("open", 2);
  const events = await stream.count("event", (await stream.of("event")).length + 10);
  assert.deepEqual(events.map((event) => event.id), numbersTo(events.length), "none lost, none twice");
});

test("a page that leaves its source open resumes with the next process", async (test) => {
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

const CLIENTS = ["EventSource", "htmx", "Datastar"];

/** Returns the card of the page with this heading. */
function card(page, title) {
  const article = page.locator("article").filter({ has: page.locator("h3", { hasText: title }) });
  const lines = () => article.locator("li").allTextContents();
  return {
    lines,
    /** Waits for this state. */
    hasState: (state) =>
      until(`"${state}" of ${title}`, async () => (await article.getByRole("status").textContent()) === state),
    /** Waits for this many events, and resolves to their IDs. */
    events: (count) =>
      until(`${count} events of ${title}`, async () => {
        const events = (await lines()).filter((line) => /^\d+  event \d+$/.test(line));
        return events.length >= count && events.map((event) => event.split(" ")[0]);
      }),
  };
}

/** Opens the page, and collects the errors of its scripts. */
async function openPage(test, server) {
  const page = await browser.open(test, server.url);
  page.errors = [];
  page.on("pageerror", (error) => page.errors.push(error.message));
  return page;
}

test("every client closes or reconnects after Ctrl-C, as its setting requires", async (test) => {
  const first = await Server.start(test, EXAMPLE);
  const closing = await openPage(test, first);
  const returning = await openPage(test, first);
  for (const client of CLIENTS) await returning.getByLabel(`Reconnect after the close event: ${client}`).check();
  for (const page of [closing, returning]) {
    await page.getByRole("button", { name: "Open all three" }).click();
    for (const client of CLIENTS) {
      await card(page, client).hasState("open");
      await card(page, client).events(2);
    }
  }

  assert.equal(await first.interrupt(), 0, "a clean exit with all streams open");

  for (const client of CLIENTS) {
    await card(closing, client).hasState("closed: cancelled");
    await card(returning, client).hasState("closed: cancelled; reconnecting …");
    const event = client === "Datastar" ? "datastar-patch-signals" : "close";
    assert.equal((await card(closing, client).lines()).at(-1), `event: ${event}  {"reason":"cancelled"}`);
  }

  await Server.start(test, EXAMPLE, { port: first.port });
  for (const client of CLIENTS) {
    await card(returning, client).hasState("open");
    const seen = (await card(returning, client).events(1)).length;
    const events = await card(returning, client).events(seen + 2);
    assert.deepEqual(events, numbersTo(events.length), `${client}: none lost, none twice`);
  }
  for (const client of CLIENTS) await card(closing, client).hasState("closed: cancelled");
  assert.deepEqual([...closing.errors, ...returning.errors], []);
});

test("every client reports a stream that was cut as lost", async (test) => {
  const server = await Server.start(test, EXAMPLE);
  const page = await openPage(test, server);
  await page.getByRole("button", { name: "Open all three" }).click();
  for (const client of CLIENTS) await card(page, client).events(1);
  await server.kill();
  for (const client of CLIENTS) await card(page, client).hasState("lost; reconnecting …");
});

test("the page can be used by keyboard", async (test) => {
  const server = await Server.start(test, EXAMPLE);
  const page = await openPage(test, server);
  const focused = () =>
    page.evaluate(() => {
      const { ariaLabel, textContent } = document.activeElement;
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return [ariaLabel ?? textContent, `${outlineStyle} ${outlineWidth}`];
    });
  // The page has loaded the scripts.
  await page.getByRole("button", { name: "Open: Maximum age" }).waitFor();
  const expected = ["Open all three"];
  for (const client of CLIENTS) {
    expected.push(`Reconnect after the close event: ${client}`, `Open: ${client}`, `Events: ${client}`);
  }
  for (const name of expected) {
    await page.keyboard.press("Tab");
    assert.deepEqual(await focused(), [name, "solid 3px"]);
  }

  const code = page.locator("pre").nth(1);
  assert.match(await code.textContent(), /hx-sse:close="close"/);
  await page.getByLabel("Reconnect after the close event: htmx").focus();
  await page.keyboard.press("Space");
  assert.doesNotMatch(await code.textContent(), /hx-sse:close/);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await card(page, "htmx").events(1);
  assert.equal((await focused())[0], "Stop: htmx", "the button keeps the focus");
  await page.keyboard.press("Enter");
  await card(page, "htmx").hasState("stopped by you");
  assert.deepEqual(page.errors, []);
});

test("without the scripts, the page shows how to install them, and EventSource works", async (test) => {
  const server = await Server.start(test, EXAMPLE);
  const page = await openPage(test, server);
  await page.route("**/scripts/*", (route) => route.fulfill({ status: 404 }));
  await page.reload();
  for (const client of ["htmx", "Datastar"]) {
    await card(page, client).hasState(`${client} is not installed`);
    assert.match((await card(page, client).lines()).join(), /e2e\/browser\/scripts/);
  }
  await page.getByRole("button", { name: "Open all three" }).click();
  await card(page, "EventSource").events(1);
  assert.deepEqual(page.errors, []);
});
