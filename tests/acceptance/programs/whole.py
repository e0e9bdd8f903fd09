from openai import OpenAI

client = OpenAI()

completion = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[
        {"role": "developer", "content": "You are a helpful assistant."},
        {"role": "user", "content": "List 5 EU countries"},
    ],
)
print(completion.choices[0].message.content)
print("finish_reason:", completion.choices[0].finish_reason)
print("tokens:", completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens)
