from openai import OpenAI

client = OpenAI()

with client.responses.stream(model="gpt-5", input="Tell me a joke about programmers.") as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    response = stream.get_final_response()

print("\nfinal:", response.output_text)
