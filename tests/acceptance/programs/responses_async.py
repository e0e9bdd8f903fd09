import asyncio

from openai import AsyncOpenAI

client = AsyncOpenAI()


async def main():
    stream = await client.responses.create(model="gpt-5", input="Tell me a joke about programmers.", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    print()


asyncio.run(main())
