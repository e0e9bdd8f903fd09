from openai import OpenAI

client = OpenAI()

response = client.responses.create(
    model="gpt-5", instructions="You are a helpful assistant.", input="List 5 EU countries"
)
print(response.output_text)
print("status:", response.status)
print("tokens:", response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens)
