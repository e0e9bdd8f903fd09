from openai import OpenAI

client = OpenAI()

collected_messages = []
stream = client.chat.completions.create(
    model="gpt-3.5-turbo",
    messages=[{"role": "user", "content": "Explain quantum computing in simple terms."}],
    temperature=0,
    stream=True,
)
for chunk in stream:
    chunk_message = chunk.choices[0].delta.content
    collected_messages.append(chunk_message)

collected_messages = [m for m in collected_messages if m is not None]
full_reply = "".join(collected_messages)
print(f"Chunks: {len(collected_messages)}")
print(f"Full reply: {full_reply}")
