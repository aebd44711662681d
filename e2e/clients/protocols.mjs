// The clients of protocols. `run` reads a stream to the end, and calls `see` with each piece of the text that a program receives. Its
// promise rejects with the error that the client reports. `leave` does the same, and leaves at the end mark. SDKs that repeat failed
// requests do so only with the argument `maxRetries`.

import assert from "node:assert/strict";
import { HttpAgent } from "@ag-ui/client";
import { JsonRpcTransportFactory, RestTransportFactory } from "@a2a-js/sdk/client";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { AbstractChat, DefaultChatTransport } from "ai";
import { createClient } from "graphql-sse";
import OpenAI from "openai";

const question = { messages: [{ role: "user", content: "?" }], model: "m", stream: true };
const options = (baseURL, maxRetries = 0) => ({ baseURL, maxRetries, apiKey: "none", logLevel: "off" });

const openai = {
  run(baseURL, see, maxRetries) {
    const { chat } = new OpenAI(options(baseURL, maxRetries));
    return each(chat.completions.create(question), (chunk) => see(chunk.choices[0].delta.content));
  },
  /** The client itself leaves at the end mark. */
  leave: (baseURL, see) => openai.run(baseURL, see),
};

const openai_responses = {
  run(baseURL, see, maxRetries) {
    return each(openaiEvents(baseURL, maxRetries), (event) => see(event.delta));
  },
  async leave(baseURL, see) {
    for await (const event of await openaiEvents(baseURL)) {
      see(event.delta);
      if (event.type === "response.completed") break;
    }
  },
};

function openaiEvents(baseURL, maxRetries) {
  return new OpenAI(options(baseURL, maxRetries)).responses.create({ model: "m", input: "?", stream: true });
}

const anthropic = {
  run(baseURL, see, maxRetries) {
    const { messages } = new Anthropic(options(baseURL, maxRetries));
    return messages.stream({ ...question, max_tokens: 9 }).on("text", see).finalMessage();
  },
  async leave(baseURL, see) {
    const { messages } = new Anthropic(options(baseURL));
    for await (const event of await messages.create({ ...question, max_tokens: 9 })) {
      see(event.delta?.text);
      if (event.type === "message_stop") break;
    }
  },
};

/** The chat behind `useChat`, without React. */
const ai_sdk = {
  async run(api, see) {
    const state = {
      messages: [],
      pushMessage: (message) => state.messages.push(message),
      replaceMessage: (index, message) => (state.messages[index] = message),
      snapshot: structuredClone,
    };
    const chat = new (class extends AbstractChat {})({ state, transport: new DefaultChatTransport({ api }) });
    await chat.sendMessage({ text: "?" });
    for (const part of chat.lastMessage.parts) see(part.text);
    assert.equal(chat.status, chat.error ? "error" : "ready");
    if (chat.error) throw chat.error;
  },
  async leave(api, see) {
    const message = { id: "m", role: "user", parts: [{ type: "text", text: "?" }] };
    const request = { chatId: "c", trigger: "submit-message", messages: [message] };
    for await (const chunk of await new DefaultChatTransport({ api }).sendMessages(request)) {
      see(chunk.delta);
      if (chunk.type === "finish") break;
    }
  },
};

const ag_ui = {
  run(url, see) {
    return new HttpAgent({ url }).runAgent({}, agUiSubscriber(see));
  },
  leave(url, see) {
    const agent = new HttpAgent({ url });
    return agent.runAgent({}, { ...agUiSubscriber(see), onRunFinishedEvent: () => agent.abortRun() });
  },
};

function agUiSubscriber(see) {
  return {
    onTextMessageContentEvent: ({ event }) => see(event.delta),
    onRunErrorEvent: ({ event }) => see(`(${event.message})`),
  };
}

const graphql_sse = {
  run(url, see) {
    let connections = 0;
    const client = createClient({
      url,
      // The server resumes the subscription of a client with a last event ID. The protocol has none.
      headers: () => (connections++ ? { "last-event-id": "1" } : {}),
      retry: async () => see("(resumed) "),
    });
    return new Promise((complete, error) => {
      const next = ({ data }) => see(data.text);
      client.subscribe({ query: "subscription { text }" }, { next, error, complete });
    }).finally(client.dispose);
  },
  /** The client itself leaves at the end mark. */
  leave: (url, see) => graphql_sse.run(url, see),
};

const genai = {
  run(baseUrl, see) {
    const { models } = new GoogleGenAI({ apiKey: "none", httpOptions: { baseUrl } });
    return each(models.generateContentStream({ model: "m", contents: "?" }), (chunk) => see(chunk.text));
  },
};

const a2a = { run: sendMessages(new RestTransportFactory()) };
const a2a_json_rpc = { run: sendMessages(new JsonRpcTransportFactory()) };

function sendMessages(factory) {
  return async (url, see) => {
    const transport = await factory.create(url, { supportedInterfaces: [] });
    const message = { messageId: "m", role: 1, parts: [], extensions: [], referenceTaskIds: [] };
    await each(transport.sendMessageStream({ message }), ({ payload: { $case, value } }) => {
      if ($case === "artifactUpdate") see(value.artifact.parts[0].content.value);
    });
  };
}

async function each(stream, see) {
  for await (const event of await stream) see(event);
}

export const clients = {
  openai,
  openai_responses,
  anthropic,
  ai_sdk,
  ag_ui,
  graphql_sse,
  a2a,
  a2a_json_rpc,
  genai,
};

/** Returns the text and the error of a client that reads the stream at this URL. */
export async function read(run, url, maxRetries) {
  let text = "";
  const see = (piece = "") => (text += piece);
  const error = await run(url, see, maxRetries).then(() => undefined, describe);
  return { text, error };
}

function describe(error) {
  return `${error.constructor.name}: ${error.message}`;
}
