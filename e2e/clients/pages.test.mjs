// Tests of the clients for web pages, in Chromium and, for `EventSource`, in Firefox, and of those for Node.js.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { EventSource } from "eventsource";
import { EventSource as LaunchDarkly } from "launchdarkly-eventsource";
import puppeteer from "puppeteer-core";
import { useServer } from "./server.mjs";

const server = useServer();

const browsers = {
  Chromium: { clients: /./, executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--no-first-run"] },
  // `EventSource` is part of the browser. The other clients are scripts, and run in Chromium only.
  Firefox: { clients: /^EventSource/, browser: "firefox", executablePath: "/usr/bin/firefox-esr" },
};

// The journal of a page lists the texts that its user sees, the reconnects, and the end. `run` is evaluated in the page after
// `scripts`. A stream that has been resumed stays open after its event.
const feed = {
  complete: ["one", "two", "closed"],
  silence: ["one", "two", "closed"],
  shutdown: ["one", "closed"],
  truncated: ["one", "reconnects", "two"],
};
const pages = {
  EventSource: { run: watch, situations: feed },
  "EventSource without a handler": {
    run(path, journal) {
      const source = new EventSource(path);
      source.onmessage = ({ data }) => journal.push(data);
      source.onerror = () => journal.push("reconnects");
    },
    situations: { complete: ["one", "two", "reconnects", "three"], shutdown: ["one", "reconnects", "two"] },
  },
  "event-source-polyfill": {
    scripts: [file("event-source-polyfill/src/eventsource.js")],
    run: watch.toString().replace("Source = EventSource", "Source = EventSourcePolyfill"),
    situations: feed,
  },
  "fetch-event-source": {
    // Both files export into the same object, and `require` returns that object.
    scripts: [
      { content: "var exports = {}, require = () => exports" },
      file("@microsoft/fetch-event-source/lib/cjs/parse.js"),
      file("@microsoft/fetch-event-source/lib/cjs/fetch.js"),
    ],
    run(path, journal) {
      let closed = false;
      const end = exports.fetchEventSource(path, {
        onmessage({ event, data }) {
          if (event === "close") closed = true;
          else if (data) journal.push(data);
        },
        onclose() {
          if (!closed) throw new Error("the stream was not closed");
        },
        onerror() {
          journal.push("reconnects");
        },
      });
      end.then(() => journal.push("closed"));
    },
    // The client resumes after the unfinished event, because it has read the ID of that event.
    situations: { ...feed, truncated: ["one", "reconnects", "three"] },
  },
  "htmx 2": {
    scripts: [file("htmx-2/dist/htmx.js"), file("htmx-ext-sse/sse.js")],
    run(path, journal) {
      document.body.innerHTML = `<div hx-ext="sse" sse-connect="${path}" sse-close="close"><p sse-swap="message"></p></div>`;
      document.addEventListener("htmx:sseMessage", () => journal.push(document.body.innerText));
      document.addEventListener("htmx:sseError", () => journal.push("reconnects"));
      document.addEventListener("htmx:sseClose", ({ detail: { source } }) => {
        // htmx closes the source after this event.
        setTimeout(() => journal.push(source.readyState === EventSource.CLOSED ? "closed" : "open"));
      });
      htmx.process(document.body);
    },
    situations: feed,
  },
  "htmx 4": {
    scripts: [file("htmx.org/dist/htmx.js"), file("htmx.org/dist/ext/hx-sse.js")],
    run(path, journal) {
      document.body.innerHTML = `<p hx-sse:connect="${path}" hx-sse:close="close"></p>`;
      document.addEventListener("htmx:sse:after:message", ({ detail: { message } }) => {
        if (!message.event) journal.push(document.body.innerText);
      });
      document.addEventListener("htmx:sse:before:connection", ({ detail: { connection } }) => {
        if (connection.attempt > 0) journal.push("reconnects");
      });
      document.addEventListener("htmx:sse:close", () => journal.push("closed"));
      htmx.process(document.body);
    },
    situations: feed,
  },
  Datastar: datastar("{}", {
    complete: ["one live", "two live", "two closed", "finished"],
    silence: ["one live", "two live", "two closed", "finished"],
    shutdown: ["one live", "one closed", "finished"],
    truncated: ["one live", "one closed", "finished"],
    default: ["one live", "finished"],
  }),
  "Datastar, always retrying": datastar("{retry: 'always'}", {
    default: ["one live", "two live"],
    shutdown: ["one live", "one closed", "two closed"],
    truncated: ["one live", "one closed", "two closed"],
  }),
};

function datastar(options, situations) {
  const body = `<div data-signals="{live: true}" data-init="@get('PATH', ${options})">
    <p id="text"></p> <p data-text="$live ? 'live' : 'closed'"></p></div>`;
  return {
    path: "datastar",
    scripts: [{ path: process.env.DATASTAR, type: "module" }],
    run: `(path, journal) => {
      document.addEventListener("datastar-fetch", ({ detail: { type } }) => {
        const text = () => document.body.innerText.trim().replace(/\\s+/, " ");
        if (type.startsWith("datastar")) journal.push(text());
        else if (type === "finished") journal.push(type);
      });
      document.body.innerHTML = \`${body}\`.replace("PATH", path);
    }`,
    situations,
  };
}

/** Writes the journal of an `EventSource`, by default that of the browser. */
function watch(path, journal, Source = EventSource) {
  const source = new Source(path);
  source.onmessage = ({ data }) => journal.push(data);
  source.onerror = () => journal.push("reconnects");
  source.addEventListener("close", () => {
    source.close();
    journal.push("closed");
  });
  return source;
}

function file(name) {
  return { path: new URL(`node_modules/${name}`, import.meta.url).pathname };
}

for (const [name, { clients, ...options }] of Object.entries(browsers)) {
  describe(name, () => {
    let browser, page;
    before(async () => {
      browser = await puppeteer.launch({ ...options, timeout: 120_000 });
      // One page for all tests, because some clients disconnect while their page is hidden.
      page = await browser.newPage();
      page.setDefaultTimeout(60_000);
    });
    after(() => browser?.close());
    for (const [client, { path = "event_source", run, scripts = [], situations }] of Object.entries(pages)) {
      if (!clients.test(client)) continue;
      for (const [situation, expected] of Object.entries(situations)) {
        test(`${client}, ${situation}`, async () => {
          await page.goto(server.url);
          for (const script of scripts) await page.addScriptTag(script);
          const source = run.toString().replace(/^run/, "function");
          await page.evaluate(`var journal = []; (${source})("/${path}/${situation}", journal)`);
          await page.waitForFunction((entries) => journal.length >= entries, {}, expected.length);
          assert.deepEqual(await page.evaluate(() => journal), expected);
        });
      }
    }
  });
}

for (const [client, Source] of Object.entries({ eventsource: EventSource, "launchdarkly-eventsource": LaunchDarkly })) {
  for (const [situation, expected] of Object.entries(feed)) {
    test(`${client}, ${situation}`, { timeout: 60_000 }, async (test) => {
      const journal = [];
      const source = watch(`${server.url}/event_source/${situation}`, journal, Source);
      // LaunchDarkly's client reports no error at the end of a response.
      source.addEventListener("retrying", () => journal.push("reconnects"));
      test.after(() => source.close());
      while (journal.length < expected.length) await pause(10);
      assert.deepEqual(journal, expected);
    });
  }
}

// A test does not wait that long.
test("event-source-polyfill reconnects after 45 s of silence", () => {
  const { path } = file("event-source-polyfill/src/eventsource.js");
  assert.match(readFileSync(path, "utf8"), /parseDuration\(options\.heartbeatTimeout, 45000\)/);
});
