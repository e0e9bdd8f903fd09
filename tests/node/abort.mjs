import { createInterface } from "node:readline/promises";
import OpenAI from "openai";

const client = new OpenAI();

const stream = await client.chat.completions.create({
  model: "counter",
  messages: [{ role: "user", content: "Count as far as you can: <count>" }],
  stream: true,
});
let text = "";
for await (const chunk of stream) {
  text += chunk.choices[0].delta.content ?? "";
  if (text === " 1 2 3 4") stream.controller.abort();
}
console.log(text);

console.log("Press Enter to quit");
const lines = createInterface({ input: process.stdin });
await lines.question("");
lines.close();
