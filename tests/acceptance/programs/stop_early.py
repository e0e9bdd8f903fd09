import sys

from openai import OpenAI

client = OpenAI()

stream = client.chat.completions.create(
    model="counter",
    messages=[{"role": "user", "content": "Count as far as you can: <count>"}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
    if "4" in (chunk.choices[0].delta.content or ""):
        break
stream.close()
print()

print("Press Enter to quit", flush=True)
sys.stdin.readline()
