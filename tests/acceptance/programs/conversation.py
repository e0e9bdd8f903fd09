from openai import OpenAI

client = OpenAI()

messages = [{"role": "system", "content": "You are a helpful assistant."}]
for question in ["Hello, how are you?", "Tell me a joke about programmers.", "List 5 EU countries"]:
    messages.append({"role": "user", "content": question})
    response = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    answer = response.choices[0].message
    messages.append(answer)
    print(f"{response.usage.prompt_tokens}: {answer.content!r}")
