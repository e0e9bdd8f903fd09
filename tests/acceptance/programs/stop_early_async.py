import asyncio
import sys

from openai import AsyncOpenAI


async def main():
    async with AsyncOpenAI() as client:
        async with await client.chat.completions.create(
            model="counter",
            messages=[{"role": "user", "content": "Count as far as you can: <count>"}],
            stream=True,
        ) as stream:
            async for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
                if "4" in (chunk.choices[0].delta.content or ""):
                    break
        print("\nPress Enter to quit", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main())
