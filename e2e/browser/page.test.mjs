// The cards of the page of the axum example, used by keyboard.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, until, useBrowser } from "./support.mjs";

const CARDS = ["Empty", "Finite", "Closed by the server", "Chosen by the handler", "Maximum age"];
const browser = useBrowser();

async function openExample(test, options) {
  const server = await Server.start(test, "examples/axum");
  return { server, page: await browser.open(test, server.url, options) };
}

const card = (page, title) => page.getByRole("article").filter({ has: page.getByRole("heading", { name: title }) });
const status = (page, title) => card(page, title).getByRole("status");

async function waitForStatus(page, title, pattern) {
  await until(`${title} to show ${pattern}`, async () => pattern.test(await status(page, title).textContent()));
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
  for (const [index, title] of CARDS.entries()) {
    await tabTo(page, `Open: ${title}`);
    await page.keyboard.press(index % 2 ? "Enter" : "Space");
  }

  await waitForStatus(page, "Empty", /^closed: empty$/);
  await waitForStatus(page, "Finite", /^closed: completed$/);
  await waitForStatus(page, "Closed by the server", /^closed: cancelled$/);
  await waitForStatus(page, "Chosen by the handler", /^closed: lunch break$/);
  await waitForStatus(page, "Maximum age", /^closed: expired; reconnecting …$/);
  await card(page, "Maximum age").getByText(/^reconnected after \d+\.\d s$/).first().waitFor();

  // Only the card with the setting has reconnected; the others have closed their sources.
  const times = (path) => requests.filter((request) => request === path).length;
  assert.ok(times("/aged") > 1);
  assert.deepEqual(["/empty", "/finite", "/closed", "/chosen"].map(times), [1, 1, 1, 1]);
});

test("a stream can be stopped by keyboard, and opened again", async (test) => {
  const { page } = await openExample(test);
  await tabTo(page, "Open: EventSource");
  for (const state of [/^open$/, /^stopped by you$/, /^open$/]) {
    await page.keyboard.press("Enter");
    await waitForStatus(page, "EventSource", state);
  }
  await card(page, "EventSource").getByText("event 1").waitFor();
});

test("a card with the setting reconnects", async (test) => {
  const { page } = await openExample(test);
  await tabTo(page, "Reconnect after the close event: Empty");
  await page.keyboard.press("Space");
  await tabTo(page, "Open: Empty");
  await page.keyboard.press("Enter");
  await card(page, "Empty").getByText(/^reconnected after \d+\.\d s$/).first().waitFor();
});

test("no text is cut off on narrow screens", async (test) => {
  const { page } = await openExample(test);
  await page.getByRole("button", { name: "Open: Chosen by the handler" }).click();
  await waitForStatus(page, "Chosen by the handler", /^closed/);
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

for (const colorScheme of ["light", "dark"]) {
  test(`all text has contrast in the ${colorScheme} scheme`, async (test) => {
    const { page } = await openExample(test, { colorScheme });
    await page.getByRole("button", { name: "Open: Finite" }).click();
    await waitForStatus(page, "Finite", /^closed/);
    const contrasts = await page.evaluate(contrastsOfText);
    assert.ok(contrasts.length > 40, "there is text");
    assert.deepEqual(contrasts.filter(({ contrast }) => contrast < 4.5), []);
  });
}

/** Returns the contrast of each text by the formula of the WCAG. Runs in the page. */
function contrastsOfText() {
  const numbers = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [red, green, blue] = numbers(color).map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = (element) => {
    const { backgroundColor } = getComputedStyle(element);
    return numbers(backgroundColor)[3] === 0 ? background(element.parentElement) : backgroundColor;
  };
  const contrast = (element) => {
    const [dark, light] = [getComputedStyle(element).color, background(element)].map(luminance).sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const texts = [...document.querySelectorAll("h1, h2, p, code, kbd, label, button, output, li")];
  const measured = texts.map((element) => ({ text: element.textContent, contrast: contrast(element) }));
  const status = document.querySelector("output");
  for (const state of ["idle", "connecting", "open", "closed", "leaving", "lost"]) {
    status.dataset.state = state;
    measured.push({ text: state, contrast: contrast(status) });
  }
  return measured;
}
