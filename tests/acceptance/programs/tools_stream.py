import json

from openai import OpenAI

client = OpenAI()

tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get current temperature for a given location.",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string", "description": "City and country e.g. Bogotá, Colombia"}},
                "required": ["location"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
]


def get_weather(location):
    return {"location": location, "temperature": 18, "unit": "celsius", "condition": "sunny"}


messages = [{"role": "user", "content": "What's the weather in Berlin?"}]
stream = client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools, stream=True)

final_tool_calls = {}
finish_reason = None
for chunk in stream:
    finish_reason = chunk.choices[0].finish_reason or finish_reason
    for tool_call in chunk.choices[0].delta.tool_calls or []:
        index = tool_call.index
        if index not in final_tool_calls:
            final_tool_calls[index] = tool_call
        else:
            final_tool_calls[index].function.arguments += tool_call.function.arguments

print("finish_reason:", finish_reason)
messages.append(
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in final_tool_calls.values()
        ],
    }
)
for index, call in final_tool_calls.items():
    arguments = json.loads(call.function.arguments)
    print("call:", json.dumps([index, call.type, call.function.name, arguments]))
    result = get_weather(**arguments)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})

stream = client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools, stream=True)
print("answer: ", end="")
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")
print()
