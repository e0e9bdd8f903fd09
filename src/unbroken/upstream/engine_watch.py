"""Watches a child that may hang: a frozen process keeps its connections open, and answers nobody for ever."""

import asyncio

from unbroken.chat.fault import UpstreamFailed
from unbroken.upstream.engine_state import LOOKS, EngineAddress, SignsOfLife
from unbroken.upstream.http import HttpClient
from unbroken.upstream.machine import cpu_spent

LONGEST_LOOKS = LOOKS + 2  # the pause, the look that notes what it has spent, and those that find it has spent no more


async def wait_until_hung(pid: int, address: EngineAddress, seconds: float) -> None:
    """Returns when the child has shown no sign of life for about so many seconds.

    One look for all answers, however many wait; llama.cpp answers it from a thread of its own while it computes.
    """
    step = seconds / LONGEST_LOOKS
    client = HttpClient(
        address.base_url,
        headers={"authorization": f"Bearer {address.key}"},
        unix_path=address.path,
        connect_timeout=step,
    )
    signs = SignsOfLife()
    while not signs.is_hung:
        started = asyncio.get_running_loop().time()
        answers = await _answers(client, step)
        signs = signs.after_look(answers, None if answers else await asyncio.to_thread(cpu_spent, pid))
        await asyncio.sleep(max(0.0, started + step - asyncio.get_running_loop().time()))


async def _answers(client: HttpClient, seconds: float) -> bool:
    try:
        await client.get("/health", timeout=seconds)
    except UpstreamFailed:
        return False
    return True
