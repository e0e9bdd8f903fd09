from openai import OpenAI

client = OpenAI()

stream = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[{"role": "user", "content": "List 5 EU countries"}],
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    print("choices:", len(chunk.choices), "usage:", chunk.usage.to_json(indent=None) if chunk.usage else None)
