import json

from anthropic import Anthropic, beta_tool

client = Anthropic()


@beta_tool
def get_weather(location: str) -> str:
    """Get the current weather in a given location.

    Args:
        location: The city and state, e.g. San Francisco, CA
    """
    print("asked for:", location)
    return json.dumps({"location": location, "temperature": 18, "unit": "celsius", "condition": "sunny"})


runner = client.beta.messages.tool_runner(
    model="claude-sonnet-5-5",
    max_tokens=1024,
    tools=[get_weather],
    messages=[{"role": "user", "content": "What's the weather in Berlin?"}],
)
message = runner.until_done()
print("answer:", message.content[0].text)
