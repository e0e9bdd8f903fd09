import OpenAI from "openai";

const client = new OpenAI();

const runner = client.chat.completions.runTools({
  model: "gpt-4o",
  messages: [{ role: "user", content: "What's the weather in Berlin?" }],
  temperature: 0,
  stream: true,
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "Get current temperature for a given location.",
        parse: JSON.parse,
        function: ({ location }) => {
          console.log("asked for:", location);
          return { location, temperature: 18, unit: "celsius", condition: "sunny" };
        },
        parameters: {
          type: "object",
          properties: { location: { type: "string", description: "City and country e.g. Bogotá, Colombia" } },
          required: ["location"],
        },
      },
    },
  ],
});
console.log("answer:", await runner.finalContent());
