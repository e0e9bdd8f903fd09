import json

from openai import OpenAI

client = OpenAI()

tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string"}},
                "required": ["location"],
            },
        },
    }
]
messages = [{"role": "user", "content": "What's the weather in Berlin?"}]

response = client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools, tool_choice="auto")
message = response.choices[0].message
messages.append(message)
print("finish_reason:", response.choices[0].finish_reason)

for tool_call in message.tool_calls:
    arguments = json.loads(tool_call.function.arguments)
    print("call:", json.dumps([tool_call.function.name, arguments]))
    messages.append(
        {
            "role": "tool",
            "tool_call_id": tool_call.id,
            "name": tool_call.function.name,
            "content": json.dumps({"temperature": 18, "unit": "celsius", "condition": "sunny"}),
        }
    )

response = client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools)
print("answer:", response.choices[0].message.content)
