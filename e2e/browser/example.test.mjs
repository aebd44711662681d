// The axum example in Chromium: its streams, and its page, used by keyboard.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, numbersTo, until, useBrowser, watch } from "./support.mjs";

const EXAMPLE = "examples/axum";
const browser = useBrowser();

async function openExample(test) {
  const server = await Server.start(test, EXAMPLE);
  const page = await browser.open(test, server.url);
  return { server, page };
}

test("Ctrl-C ends every open stream with a close event, and the process with all of them open", async (test) => {
  const { server, page } = await openExample(test);
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

/** Returns the card of the page with this heading. */
function card(page, title) {
  const article = page.getByRole("article").filter({ has: page.getByRole("heading", { name: title }) });
  return {
    lines: () => article.locator("li").allTextContents(),
    /** Waits for a state of the card. */
    shows: (state) => until(`${title} to show ${state}`, async () => (await article.getByRole("status").textContent()) === state),
    /** Waits for a line of the card. */
    waitFor: (text) => article.getByText(text).first().waitFor(),
  };
}

/** Presses the Tab key until the control of this name has the focus. */
async function tabTo(page, name) {
  for (let presses = 0; presses < 40; presses++) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return { name: document.activeElement.getAttribute("aria-label"), outline: `${outlineStyle} ${outlineWidth}` };
    });
    if (focused.name === name) {
      assert.equal(focused.outline, "solid 3px", `the focus of ${name} is visible`);
      return;
    }
  }
  throw new Error(`Tab does not reach ${name}`);
}

test("every stream can be opened by keyboard, and its card shows why it was closed", async (test) => {
  const { page } = await openExample(test);
  const requests = [];
  page.on("request", (request) => requests.push(new URL(request.url()).pathname));
  for (const [index, title] of ["Empty", "Finite", "Closed by the server", "Chosen by the handler", "Maximum age"].entries()) {
    await tabTo(page, `Open: ${title}`);
    await page.keyboard.press(index % 2 ? "Enter" : "Space");
  }

  await card(page, "Empty").shows("closed: empty");
  await card(page, "Finite").shows("closed: completed");
  await card(page, "Closed by the server").shows("closed: cancelled");
  await card(page, "Chosen by the handler").shows("closed: lunch break");
  await card(page, "Maximum age").shows("closed: expired; reconnecting …");
  await card(page, "Maximum age").waitFor(/^reconnected after \d+\.\d s$/);

  assert.deepEqual(await card(page, "Empty").lines(), ['event: close  {"reason":"empty"}']);
  const numbered = numbersTo(5).map((number) => `${number}  event ${number}`);
  assert.deepEqual(await card(page, "Finite").lines(), [...numbered, 'event: close  {"reason":"completed"}']);
  // Only the card with the setting has reconnected; the others have closed their sources.
  const times = (path) => requests.filter((request) => request === path).length;
  assert.ok(times("/aged") > 1);
  assert.deepEqual(["/empty", "/finite", "/closed", "/chosen"].map(times), [1, 1, 1, 1]);
});

test("a stream can be stopped by keyboard, and opened again", async (test) => {
  const { page } = await openExample(test);
  await tabTo(page, "Open: Endless");
  for (const state of ["open", "stopped by you", "open"]) {
    await page.keyboard.press("Enter");
    await card(page, "Endless").shows(state);
  }
  await card(page, "Endless").waitFor("event 1");
});

test("a card closes or reconnects after Ctrl-C as its setting requires, and resumes with the next process", async (test) => {
  const { server, page: closing } = await openExample(test);
  const returning = await browser.open(test, server.url);
  await tabTo(returning, "Reconnect after the close event: Endless");
  await returning.keyboard.press("Space");
  for (const page of [closing, returning]) {
    await page.getByRole("button", { name: "Open: Endless" }).click();
    await card(page, "Endless").waitFor("event 2");
  }

  assert.equal(await server.interrupt(), 0, "a clean exit with both streams open");

  await card(closing, "Endless").shows("closed: cancelled");
  await card(returning, "Endless").shows("closed: cancelled; reconnecting …");
  assert.equal((await card(closing, "Endless").lines()).at(-1), 'event: close  {"reason":"cancelled"}');

  const next = await Server.start(test, EXAMPLE, { port: server.port });
  await card(returning, "Endless").shows("open");
  const events = async () => (await card(returning, "Endless").lines()).filter((line) => /^\d+  event \d+$/.test(line));
  const seen = (await events()).length;
  await until("two more events", async () => (await events()).length >= seen + 2);
  const received = await events();
  assert.deepEqual(received, numbersTo(received.length).map((id) => `${id}  event ${id}`), "none lost, none twice");
  await card(closing, "Endless").shows("closed: cancelled");

  await next.kill();
  await card(returning, "Endless").shows("lost; reconnecting …");
});

test("no text is cut off on narrow screens", async (test) => {
  const { page } = await openExample(test);
  await page.getByRole("button", { name: "Open: Chosen by the handler" }).click();
  await card(page, "Chosen by the handler").shows("closed: lunch break");
  for (const width of [320, 400, 800, 1280]) {
    await page.setViewportSize({ width, height: 800 });
    const cutOff = await page.evaluate(() =>
      [...document.querySelectorAll("html, ol")]
        .filter((element) => element.scrollWidth > element.clientWidth)
        .map((element) => element.tagName),
    );
    assert.deepEqual(cutOff, [], `no sideways scrolling at ${width} pixels`);
  }
});
