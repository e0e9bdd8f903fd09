// A program as users write it; it has to pass the TypeScript compiler, it is not run.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { CutError, unbrokenFetch, type Resumption } from "unbroken-fetch";

const told: string[] = [];
const onResume = ({ stream, offset, attempt, waited, cause }: Resumption): void => {
  told.push(`${stream} goes on behind ${offset} after ${waited} ms at attempt ${attempt}: ${cause}`);
};

const client = new OpenAI({ fetch: unbrokenFetch({ patience: 60_000, silence: 30_000, onResume }) });
const claude = new Anthropic({ fetch: unbrokenFetch({ fetch: globalThis.fetch }) });
const plain: typeof globalThis.fetch = unbrokenFetch();

try {
  for await (const chunk of await client.chat.completions.create({ model: "m", messages: [], stream: true })) {
    told.push(chunk.choices[0]?.delta.content ?? "");
  }
  await claude.messages.create({ model: "m", max_tokens: 1, messages: [] });
  await plain(new URL("http://127.0.0.1:8080/v1/models"));
} catch (error) {
  if (error instanceof CutError) told.push(error.message);
}

// @ts-expect-error patience is a number of milliseconds
unbrokenFetch({ patience: "2m" });
