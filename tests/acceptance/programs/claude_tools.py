import json

import anthropic

client = anthropic.Anthropic()

tools = [
    {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "input_schema": {
            "type": "object",
            "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
            "required": ["location"],
        },
    }
]
messages = [{"role": "user", "content": "What's the weather in Berlin?"}]

with client.messages.stream(model="claude-sonnet-5-5", max_tokens=1024, tools=tools, messages=messages) as stream:
    partial = "".join(event.partial_json for event in stream if event.type == "input_json")
response = stream.get_final_message()
print("stop_reason:", response.stop_reason)
messages.append({"role": "assistant", "content": response.content})

results = []
for block in response.content:
    if block.type == "tool_use":
        print("call:", json.dumps([block.name, block.input, json.loads(partial)]))
        result = {"location": block.input["location"], "temperature": 18, "unit": "celsius", "condition": "sunny"}
        results.append({"type": "tool_result", "tool_use_id": block.id, "content": json.dumps(result)})
messages.append({"role": "user", "content": results})

response = client.messages.create(model="claude-sonnet-5-5", max_tokens=1024, tools=tools, messages=messages)
print("answer:", response.content[0].text)
