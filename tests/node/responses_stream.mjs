import OpenAI from "openai";

const client = new OpenAI();

const stream = await client.responses.create({ model: "gpt-5", input: "Hello, how are you?", stream: true });
let text = "";
let numbers = [];
for await (const event of stream) {
  numbers.push(event.sequence_number);
  if (event.type === "response.output_text.delta") text += event.delta;
  if (event.type === "response.completed") {
    console.log(JSON.stringify({ text, last: event.response.output_text ?? event.response.output[0].content[0].text }));
    console.log(numbers.every((number, at) => number === at));
  }
}
