import anthropic

client = anthropic.Anthropic()

with client.messages.stream(
    max_tokens=1024,
    messages=[{"role": "user", "content": "Tell me a joke about programmers."}],
    model="claude-sonnet-5-5",
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)

message = stream.get_final_message()
print("\nfinal:", message.content[0].text)
print("stop_reason:", message.stop_reason)
print("tokens:", message.usage.input_tokens, message.usage.output_tokens)
