from openai import OpenAI

client = OpenAI()

previous = None
for question in ["Hello, how are you?", "Tell me a joke about programmers.", "List 5 EU countries"]:
    response = client.responses.create(model="gpt-5", input=question, previous_response_id=previous)
    previous = response.id
    print(f"{response.usage.input_tokens}: {response.output_text!r}")
