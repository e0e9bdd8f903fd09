// A chat with the official SDK over a line that breaks every 1500 bytes, before a real gateway.
import { once } from "node:events";
import { connect, createServer } from "node:net";
import OpenAI from "openai";
import { unbrokenFetch } from "unbroken-fetch";

const gateway = new URL(process.env.OPENAI_BASE_URL);
const LONGEST_LINE = 1500; // bytes: a response's head and a few blocks

const proxy = createServer((client) => {
  const upstream = connect(Number(gateway.port), gateway.hostname);
  const hangUp = () => (client.destroy(), upstream.destroy());
  let passed = 0;
  client
    .on("data", (bytes) => upstream.write(bytes))
    .on("error", hangUp)
    .on("close", hangUp);
  upstream.on("error", hangUp).on("close", hangUp);
  upstream.on("data", (bytes) => {
    client.write(bytes.subarray(0, LONGEST_LINE - passed), () => passed >= LONGEST_LINE && hangUp());
    passed += bytes.length;
  });
}).listen(0, "127.0.0.1");
await once(proxy, "listening");

const resumptions = [];
const fetch = unbrokenFetch({ onResume: (resumption) => resumptions.push(resumption) });
const client = new OpenAI({ baseURL: `http://127.0.0.1:${proxy.address().port}/v1`, fetch, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];

let text = "";
for await (const chunk of await client.chat.completions.create({ model: "scripted", messages, stream: true })) {
  text += chunk.choices[0]?.delta.content ?? "";
}
console.log(JSON.stringify({ text, offsets: resumptions.map(({ offset }) => offset) }));

const whole = await client.chat.completions.create({ model: "scripted", messages });
console.log(JSON.stringify({ text: whole.choices[0].message.content }));

const left = await client.chat.completions.create({ model: "scripted", messages, stream: true });
for await (const _ of left) break;
proxy.close();
