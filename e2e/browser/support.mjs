// The browser, the servers, and waits with a timeout.

import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { chromium } from "playwright-core";

const BOUND = 30_000;

/** Starts a browser for the tests of one file. Each page has its own context, and therefore its own connections. */
export function useBrowser() {
  let browser;
  before(async () => {
    browser = await chromium.launch({
      executablePath: "/usr/bin/chromium",
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
  });
  after(() => browser?.close());
  return {
    /** Opens a page of this server until the test ends. */
    async open(test, url, options) {
      const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
      test.after(() => context.close());
      const page = await context.newPage();
      page.setDefaultTimeout(BOUND);
      await page.goto(url);
      return page;
    },
  };
}

/** A server of this project, which runs until the test ends. Its first line begins with its URL. Lines of JSON follow. */
export class Server {
  static async start(test, path, { port = 0, args = [] } = {}) {
    const server = new Server(path, port, args);
    test.after(() => server.kill());
    server.url = await until(`the URL of ${path}`, () => server.#url);
    return server;
  }

  /** The lines of the server, in order. */
  lines = [];
  #url;
  #process;
  #ended;

  constructor(path, port, args) {
    this.#process = spawn(join(process.env.CARGO_TARGET_DIR, "debug", path), args, {
      env: { ...process.env, PORT: String(port) },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#ended = new Promise((resolve, reject) => {
      this.#process.once("error", reject);
      this.#process.once("close", (code, signal) => resolve(signal ?? code));
    });
    createInterface({ input: this.#process.stdout }).on("line", (line) => {
      if (!this.#url) this.#url = line.split(" ")[0];
      else if (line.startsWith("{")) this.lines.push(JSON.parse(line));
    });
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  requests(path) {
    return this.lines.filter((line) => line.path === path);
  }

  /** Sends a command. Resolves to the time at which the server executed it. */
  async command(command) {
    const before = this.lines.length;
    this.#process.stdin.write(`${command}\n`);
    const executed = () => this.lines.slice(before).find((line) => line.command === command);
    return (await until(`the command ${command}`, executed)).at;
  }

  /** Sends SIGINT. Resolves to the exit code, and fails if the process does not end. */
  async interrupt() {
    this.#process.kill("SIGINT");
    return within("the end of the process", this.#ended);
  }

  async kill() {
    this.#process.kill("SIGKILL");
    return within("the end of the process", this.#ended);
  }
}

/**
 * Opens an EventSource in the page. With `closes`, the handler of the close event calls `source.close()`. Resolves to
 * functions that read the journal of the source.
 */
export async function watch(page, path, { closes = false } = {}) {
  const journal = await page.evaluateHandle(
    ([path, closes]) => {
      const journal = [];
      const source = new EventSource(path);
      const note = (kind) => (event) => journal.push({ kind, id: event.lastEventId, data: event.data });
      source.onopen = note("open");
      source.onmessage = note("event");
      source.onerror = note("error");
      source.addEventListener("close", note("close"));
      if (closes) source.addEventListener("close", () => source.close());
      return journal;
    },
    [path, closes],
  );
  const read = () => journal.jsonValue();
  return {
    read,
    of: async (kind) => (await read()).filter((entry) => entry.kind === kind),
    /** Waits for this many entries of this kind. */
    count: (kind, number) =>
      until(`${number} × ${kind} on ${path}`, async () => {
        const entries = (await read()).filter((entry) => entry.kind === kind);
        return entries.length >= number && entries;
      }),
  };
}

/** Calls `condition` until its result is true, and resolves to the result. */
export async function until(event, condition) {
  const end = Date.now() + BOUND;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > end) throw new Error(`timed out waiting for ${event}`);
    await pause(10);
  }
}

export async function within(event, promise) {
  const bound = new AbortController();
  const late = pause(BOUND, undefined, { signal: bound.signal }).then(() => {
    throw new Error(`timed out waiting for ${event}`);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    bound.abort();
    late.catch(() => {});
  }
}

/** Returns "1", "2", "3" … as event IDs. */
export const numbersTo = (last) => Array.from({ length: last }, (_, index) => String(index + 1));
