// One short answer in each dialect, as the blocks of its stream; and how a program of the dialect's SDK reads it.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

export const TEXT = "Schöne 🌊 Wellen";
const WORDS = ["Schöne", " 🌊", " Wellen"];

const chunk = (delta, finish_reason = null) =>
  `data: ${JSON.stringify({
    id: "stream-1",
    object: "chat.completion.chunk",
    created: 1,
    model: "m",
    choices: [{ index: 0, delta, finish_reason }],
  })}`;

const event = (value) => `event: ${value.type}\ndata: ${JSON.stringify(value)}`;

const response = { id: "stream-1", object: "response", created_at: 1, model: "m", error: null };
const place = { item_id: "item", output_index: 0, content_index: 0 };

export const CHAT = [
  chunk({ role: "assistant", content: "" }),
  ...WORDS.map((content) => chunk({ content })),
  chunk({}, "stop"),
  "data: [DONE]",
];

export const RESPONSES = [
  { type: "response.created", response: { ...response, status: "in_progress", output: [] } },
  ...WORDS.map((delta) => ({ type: "response.output_text.delta", ...place, delta, logprobs: [] })),
  { type: "response.completed", response: { ...response, status: "completed", output: [] } },
].map((value, sequence_number) => event({ ...value, sequence_number }));

export const MESSAGES = [
  {
    type: "message_start",
    message: {
      id: "stream-1",
      type: "message",
      role: "assistant",
      model: "m",
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: { input_tokens: 1, output_tokens: 1 },
    },
  },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  ...WORDS.map((text) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } })),
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 3 } },
  { type: "message_stop" },
].map(event);

const messages = [{ role: "user", content: "Hello" }];

async function readChat(url, fetch, options = {}) {
  const client = new OpenAI({ baseURL: url, apiKey: "secret", fetch, maxRetries: 0 });
  let text = "";
  const stream = await client.chat.completions.create({ model: "m", messages, stream: true }, options);
  for await (const { choices } of stream) text += choices[0].delta.content ?? "";
  return text;
}

async function readResponses(url, fetch, options = {}) {
  const client = new OpenAI({ baseURL: url, apiKey: "secret", fetch, maxRetries: 0 });
  let text = "";
  const stream = await client.responses.create({ model: "m", input: "Hello", stream: true }, options);
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  return text;
}

async function readMessages(url, fetch, options = {}) {
  const client = new Anthropic({ baseURL: url.replace(/\/v1$/, ""), apiKey: "secret", fetch, maxRetries: 0 });
  const stream = client.messages.stream({ model: "m", max_tokens: 100, messages }, options);
  return (await stream.finalMessage()).content[0].text;
}

export const DIALECTS = [
  { name: "chat completions", blocks: CHAT, read: readChat },
  { name: "responses", blocks: RESPONSES, read: readResponses },
  { name: "messages", blocks: MESSAGES, read: readMessages },
];
