import OpenAI from "openai";

const client = new OpenAI();

const tools = [
  {
    type: "function",
    name: "get_weather",
    parameters: {
      type: "object",
      properties: { location: { type: "string", description: "City and country e.g. Bogotá, Colombia" } },
      required: ["location"],
      additionalProperties: false,
    },
    strict: true,
  },
];

const question = { model: "gpt-5", temperature: 0, tools };
const stream = client.responses.stream({ ...question, input: "What's the weather in Berlin?" });
const response = await stream.finalResponse();
const call = response.output.find((item) => item.type === "function_call");
console.log(JSON.stringify({ name: call.name, arguments: JSON.parse(call.arguments) }));

const output = JSON.stringify({ temperature: 18, unit: "celsius", condition: "sunny" });
const answer = await client.responses.create({
  ...question,
  previous_response_id: response.id,
  input: [{ type: "function_call_output", call_id: call.call_id, output }],
});
console.log("answer:", answer.output_text);
