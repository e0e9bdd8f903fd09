import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });

try {
  await client.chat.completions.create({
    model: "nobody-99",
    messages: [{ role: "user", content: "Hello, how are you?" }],
    stream: true,
  });
} catch (error) {
  console.log(error instanceof OpenAI.NotFoundError, error.status, error.code, Boolean(error.requestID));
}
