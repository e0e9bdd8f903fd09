import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();

let streamed = "";
const stream = client.messages
  .stream({
    model: "claude-sonnet-5-5",
    max_tokens: 1024,
    messages: [{ role: "user", content: "Tell me a joke about programmers." }],
  })
  .on("text", (text) => (streamed += text));
const message = await stream.finalMessage();
console.log(JSON.stringify([streamed, message.content[0].text, message.stop_reason]));

try {
  await client.messages.create({ model: "nobody-99", max_tokens: 8, messages: [{ role: "user", content: "Hello" }] });
} catch (error) {
  console.log(error instanceof Anthropic.NotFoundError, error.status, error.error.error.type, Boolean(error.requestID));
}
