import json

from openai import OpenAI

client = OpenAI()

tools = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Get current temperature for a given location.",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string", "description": "City and country e.g. Bogotá, Colombia"}},
            "required": ["location"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]
items = [{"role": "user", "content": "What's the weather in Berlin?"}]

stream = client.responses.create(model="gpt-5", input=items, tools=tools, stream=True)
calls = {}
for event in stream:
    if event.type == "response.output_item.added" and event.item.type == "function_call":
        calls[event.output_index] = event.item
    elif event.type == "response.function_call_arguments.delta":
        calls[event.output_index].arguments += event.delta

for call in calls.values():
    items.append(call)
    print("call:", json.dumps([call.name, json.loads(call.arguments)]))
    result = json.dumps({"temperature": 18, "unit": "celsius", "condition": "sunny"})
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})

response = client.responses.create(model="gpt-5", input=items, tools=tools)
print("answer:", response.output_text)
