from anthropic import Anthropic

client = Anthropic()

message = client.messages.create(
    model="claude-opus-4-1",
    max_tokens=1024,
    system="You are a helpful assistant.",
    messages=[{"role": "user", "content": "List 5 EU countries"}],
)
print(message.content[0].text)
print("stop_reason:", message.stop_reason)
print("tokens:", message.usage.input_tokens, message.usage.output_tokens)
