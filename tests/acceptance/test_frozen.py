"""A gateway that was held up, as by a laptop's sleep, does not blame its upstream for that (R7, D12)."""

import signal

import httpx2
import pytest

from tests.acceptance.conftest import WriteConfig
from tests.acceptance.processes import gateway_process, kill
from unbroken.upstream.scripted import ScriptedUpstream, gap, text
from unbroken.wire.sse import SseReader

pytestmark = pytest.mark.anyio

WORDS = " ".join(f"word{number}" for number in range(60))
CONFIG = """
[timeouts]
between_tokens = 0.2
[[upstream]]
name = "only"
base_url = "{base_url}"
models = ["m"]
continuation = "match"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_came_while_the_gateway_was_held_up_is_read(write_config: WriteConfig) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.always(text(WORDS) | gap(0.03))
        with gateway_process(write_config(CONFIG.format(base_url=upstream.base_url))) as gateway:
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
            async with (
                httpx2.AsyncClient(trust_env=False, timeout=60) as client,
                client.stream("POST", f"{gateway.base_url}/chat/completions", json=body) as answer,
            ):
                pieces = answer.aiter_raw()
                read = [await anext(pieces)]
                kill(gateway.pid, signal.SIGSTOP)
                try:
                    await upstream.wait_until_idle()  # far longer than the limit between two tokens
                finally:
                    kill(gateway.pid, signal.SIGCONT)
                read += [piece async for piece in pieces]
    assert SseReader().feed(b"".join(read))[-1].data == b"[DONE]"
    assert len(upstream.requests) == 1
