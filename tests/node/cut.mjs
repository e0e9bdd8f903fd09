import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });

let text = "";
try {
  const stream = await client.chat.completions.create({
    model: "fragile",
    messages: [{ role: "user", content: "Hello, how are you?" }],
    stream: true,
  });
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content || "";
  console.log("finished:", text);
} catch (error) {
  console.log(error instanceof OpenAI.APIError, JSON.stringify(text), error.message);
}
