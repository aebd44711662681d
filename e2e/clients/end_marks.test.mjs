// Tests of end marks: the text and the error of each client, and the ending in the report of the server, without end marks and with.

import assert from "node:assert/strict";
import { test } from "node:test";
import { clients, read } from "./protocols.mjs";
import { useServer } from "./server.mjs";

const server = useServer();

// With the end marks of the protocol, every stream that has its end mark is complete, and every other has the error of the protocol.
const whole = "one two, completed";
const withEndMarks = (error) => ({
  complete: whole,
  unfinished_mark: whole,
  failed_after_mark: whole,
  shutdown_after_mark: whole,
  hang: whole,
  leave: whole,
  unmarked: `one ${error}, truncated`,
  shutdown: `one ${error}, cancelled`,
});

// Without end marks, an error of the protocol may follow a complete response, and a response without its end mark is complete.
const withoutEndMarks = (error, failure) => ({
  complete: whole,
  unfinished_mark: `one two${error}, truncated`,
  failed_after_mark: `one two(${failure}), failed`,
  shutdown_after_mark: `one two${error}, cancelled`,
  hang: `one two${error}, idle`,
  leave: "one two, dropped",
  unmarked: "one , completed",
  shutdown: `one ${error}, cancelled`,
});

const apiError = "(APIError: restart)";
const anthropicError = '(APIError: {"type":"error","error":{"type":"overloaded_error","message":"restart"}})';
const terminated = "TypeError: terminated";
const aborted = "one two(This operation was aborted)";
const invalid = '(Error: Invalid stream event "close")';

const results = {
  openai: {
    with: withEndMarks(apiError),
    // The client itself ends at its end mark, and leaves.
    without: {
      ...withoutEndMarks(apiError),
      failed_after_mark: "one two, failed",
      shutdown_after_mark: "one two, cancelled",
      hang: "one two, dropped",
    },
  },
  openai_responses: { with: withEndMarks(apiError), without: withoutEndMarks(apiError, terminated) },
  anthropic: {
    with: withEndMarks(anthropicError),
    without: {
      ...withoutEndMarks(anthropicError, "AnthropicError: terminated"),
      unmarked: "one (AnthropicError: stream ended without producing a Message with role=assistant), completed",
    },
  },
  ai_sdk: { with: withEndMarks("(Error: restart)"), without: withoutEndMarks("(Error: restart)", terminated) },
  // The client reports its own departure as an error of the run.
  ag_ui: {
    with: { ...withEndMarks("(restart)"), leave: `${aborted}, completed` },
    without: { ...withoutEndMarks("(restart)", terminated), leave: `${aborted}, dropped` },
  },
  // Without end marks, the layer has its default close event, which ends the subscription.
  graphql_sse: {
    with: withEndMarks("(resumed) two"),
    without: {
      ...withoutEndMarks(invalid),
      unfinished_mark: "one two(resumed) two, truncated",
      failed_after_mark: "one two, failed",
      hang: "one two, dropped",
      unmarked: "one (resumed) two, completed",
      shutdown_after_mark: `${invalid}, cancelled`,
      shutdown: `${invalid}, cancelled`,
    },
  },
};

/**
 * Returns the errors that are thrown during a test where no program can catch them. AG-UI throws that of a failed connection a second
 * time, which ends the process of a program without a handler.
 */
function collectUnhandled(test) {
  const messages = [];
  const listeners = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  process.on("unhandledRejection", ({ message }) => messages.push(message));
  test.after(() => {
    process.removeAllListeners("unhandledRejection");
    for (const listener of listeners) process.on("unhandledRejection", listener);
  });
  return messages;
}

for (const [name, variants] of Object.entries(results)) {
  for (const [variant, expected] of Object.entries(variants)) {
    for (const [situation, result] of Object.entries(expected)) {
      test(`${name} ${variant} end marks, ${situation}`, { timeout: 60_000 }, async (test) => {
        test.mock.method(console, "error", () => {});
        const unhandled = collectUnhandled(test);
        const path = `${variant === "with" ? "" : "without_end_marks/"}${name}/${situation}`;
        const { run, leave } = clients[name];
        const { text, error } = await read(situation === "leave" ? leave : run, `${server.url}/${path}`);
        const ending = await (await fetch(`${server.url}/endings/${path}`)).text();
        const throwsTwice = name === "ag_ui" && error === terminated;
        assert.deepEqual(unhandled, throwsTwice ? ["terminated"] : []);
        assert.equal(`${text}${error ? `(${error})` : ""}, ${ending}`, result);
      });
    }
  }
}
