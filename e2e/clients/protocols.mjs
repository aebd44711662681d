// What a program sees of a stream with each client of a protocol: the text, and how the stream ends.

import { HttpAgent } from "@ag-ui/client";
import { RestTransportFactory } from "@a2a-js/sdk/client";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { AbstractChat, DefaultChatTransport } from "ai";
import OpenAI from "openai";

const question = { messages: [{ role: "user", content: "?" }], model: "m" };
const options = { apiKey: "none", logLevel: "off", maxRetries: 0 };

/** Collects the text of a stream. Resolves to the text and the error, if there is one. */
async function collect(stream, textOf) {
  const seen = { text: "" };
  try {
    for await (const event of await stream()) seen.text += textOf(event) ?? "";
  } catch (error) {
    seen.error = `${error.constructor.name}: ${error.message}`;
  }
  return seen;
}

export const clients = {
  openai(url) {
    const { chat } = new OpenAI({ ...options, baseURL: url });
    return collect(
      () => chat.completions.create({ ...question, stream: true }),
      (chunk) => chunk.choices[0].delta.content,
    );
  },

  openai_responses(url) {
    const { responses } = new OpenAI({ ...options, baseURL: url });
    return collect(
      () => responses.create({ model: "m", input: "?", stream: true }),
      (event) => event.delta,
    );
  },

  async anthropic(url) {
    const { messages } = new Anthropic({ ...options, baseURL: url });
    let text = "";
    const stream = messages.stream({ ...question, max_tokens: 9 }).on("text", (delta) => (text += delta));
    return stream.finalText().then(
      () => ({ text }),
      (error) => ({ text, error: `${error.constructor.name}: ${error.message}` }),
    );
  },

  /** `useChat` of React, without React. */
  async ai_sdk(url) {
    const state = {
      messages: [],
      pushMessage: (message) => state.messages.push(message),
      replaceMessage: (index, message) => (state.messages[index] = message),
      snapshot: structuredClone,
    };
    class Chat extends AbstractChat {}
    const chat = new Chat({ state, transport: new DefaultChatTransport({ api: url }) });
    await chat.sendMessage({ text: "?" });
    const text = chat.lastMessage.parts.map((part) => part.text).join("");
    return { text, ...(chat.error && { error: `${chat.status}: ${chat.error.message}` }) };
  },

  async ag_ui(url) {
    const agent = new HttpAgent({ url, threadId: "t" });
    const seen = { text: "" };
    const subscriber = {
      onTextMessageContentEvent: ({ event }) => void (seen.text += event.delta),
      onRunErrorEvent: ({ event }) => void (seen.error = `RUN_ERROR: ${event.message}`),
    };
    await agent.runAgent({ runId: "r" }, subscriber).catch((error) => {
      seen.error = `${error.constructor.name}: ${error.message}`;
    });
    return seen;
  },

  async a2a(url) {
    const transport = await new RestTransportFactory().create(url, { supportedInterfaces: [] });
    const message = { messageId: "m", role: 1, parts: [], extensions: [], referenceTaskIds: [] };
    return collect(
      () => transport.sendMessageStream({ message }),
      ({ payload: { $case, value } }) =>
        $case === "artifactUpdate" ? value.artifact.parts[0].content.value : `(${value.status.state})`,
    );
  },

  genai(url) {
    const { models } = new GoogleGenAI({ apiKey: "none", httpOptions: { baseUrl: url } });
    return collect(
      () => models.generateContentStream({ model: "m", contents: "?" }),
      (chunk) => chunk.text,
    );
  },
};
