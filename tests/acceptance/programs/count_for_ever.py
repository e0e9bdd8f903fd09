from openai import OpenAI

client = OpenAI()

stream = client.chat.completions.create(
    model="counter",
    messages=[{"role": "user", "content": "Count as far as you can: <count>"}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", flush=True)
