import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();

const message = await client.beta.messages.toolRunner({
  model: "claude-sonnet-5-5",
  max_tokens: 1024,
  temperature: 0,
  messages: [{ role: "user", content: "What's the weather in Berlin?" }],
  tools: [
    {
      type: "custom",
      name: "get_weather",
      description: "Get the current weather in a given location",
      input_schema: { type: "object", properties: { location: { type: "string" } }, required: ["location"] },
      parse: (input) => input,
      run: ({ location }) => {
        console.log("asked for:", location);
        return JSON.stringify({ location, temperature: 18, unit: "celsius", condition: "sunny" });
      },
    },
  ],
});
console.log("answer:", message.content[0].text);
