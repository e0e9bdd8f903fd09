from anthropic import Anthropic

client = Anthropic()

messages = []
for question in ["Hello, how are you?", "Tell me a joke about programmers.", "List 5 EU countries"]:
    messages.append({"role": "user", "content": question})
    response = client.messages.create(model="claude-sonnet-5-5", max_tokens=300, messages=messages)
    messages.append({"role": "assistant", "content": response.content})
    tokens = response.usage.input_tokens + response.usage.cache_read_input_tokens
    print(f"{tokens}: {response.content[0].text!r}")
