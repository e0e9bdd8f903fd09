import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();

const tools = [
  {
    name: "get_weather",
    description: "Get the current weather in a given location",
    input_schema: {
      type: "object",
      properties: { location: { type: "string", description: "The city and state, e.g. San Francisco, CA" } },
      required: ["location"],
    },
  },
];
const messages = [{ role: "user", content: "What's the weather in Berlin?" }];

const question = { model: "claude-sonnet-5-5", max_tokens: 1024, temperature: 0, tools };
const response = await client.messages.stream({ ...question, messages }).finalMessage();
messages.push({ role: "assistant", content: response.content });

const call = response.content.find((block) => block.type === "tool_use");
console.log(JSON.stringify({ name: call.name, input: call.input, stopReason: response.stop_reason }));
const content = JSON.stringify({ ...call.input, temperature: 18, unit: "celsius", condition: "sunny" });
messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content }] });

const answer = await client.messages.create({ ...question, messages });
console.log("answer:", answer.content[0].text);
