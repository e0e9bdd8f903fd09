import asyncio

from anthropic import AsyncAnthropic

client = AsyncAnthropic()


async def main():
    async with client.messages.stream(
        max_tokens=1024,
        messages=[{"role": "user", "content": "Tell me a joke about programmers."}],
        model="claude-sonnet-5-5",
    ) as stream:
        async for text in stream.text_stream:
            print(text, end="", flush=True)
        print()

    message = await stream.get_final_message()
    print("final:", message.content[0].text)

    stream = await client.messages.create(
        max_tokens=1024,
        messages=[{"role": "user", "content": "Hello, how are you?"}],
        model="claude-sonnet-5-5",
        stream=True,
    )
    print("events:", [event.type async for event in stream])


asyncio.run(main())
