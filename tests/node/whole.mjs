import OpenAI from "openai";

const client = new OpenAI();

const completion = await client.chat.completions.create({
  model: "gpt-4o",
  messages: [
    { role: "developer", content: "You are a helpful assistant." },
    { role: "user", content: "List 5 EU countries" },
  ],
});
console.log(JSON.stringify(completion.choices[0].message.content));
console.log(completion.choices[0].finish_reason, completion.usage.total_tokens);
