import OpenAI from "openai";

const client = new OpenAI();

const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get current temperature for a given location.",
      parameters: {
        type: "object",
        properties: { location: { type: "string", description: "City and country e.g. Bogotá, Colombia" } },
        required: ["location"],
        additionalProperties: false,
      },
      strict: true,
    },
  },
];

const stream = await client.chat.completions.create({
  model: "gpt-4o",
  messages: [{ role: "user", content: "What's the weather in Berlin?" }],
  tools,
  stream: true,
});

const finalToolCalls = {};
let finishReason = null;
for await (const chunk of stream) {
  finishReason = chunk.choices[0].finish_reason ?? finishReason;
  for (const toolCall of chunk.choices[0].delta.tool_calls || []) {
    const { index } = toolCall;
    if (!finalToolCalls[index]) {
      finalToolCalls[index] = toolCall;
    } else {
      finalToolCalls[index].function.arguments += toolCall.function.arguments;
    }
  }
}

for (const call of Object.values(finalToolCalls)) {
  console.log(JSON.stringify({ name: call.function.name, arguments: JSON.parse(call.function.arguments), finishReason }));
}
