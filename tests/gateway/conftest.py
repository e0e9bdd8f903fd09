"""A real gateway on a real socket, in front of scripted upstreams."""

import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec
import pytest

from unbroken.gateway.background import serve_in_background
from unbroken.gateway.app import Gateway
from unbroken.gateway.journal import Journal
from unbroken.settings.tree import Settings, UpstreamSettings
from unbroken.upstream.scripted import ScriptedUpstream
from unbroken.wire.sse import SseReader

Serve = Callable[..., Any]


@dataclass
class Answer:
    """What a client has read of one stream."""

    status: int
    headers: httpx2.Headers
    raw: bytes
    blocks: list[bytes] = field(default_factory=list)

    @property
    def chunks(self) -> list[Any]:
        return [msgspec.json.decode(block) for block in self.blocks if block != b"[DONE]"]

    @property
    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or ""
            for chunk in self.chunks
            for choice in chunk.get("choices", ())
        )

    @property
    def is_done(self) -> bool:
        return bool(self.blocks) and self.blocks[-1] == b"[DONE]"

    @property
    def error(self) -> dict[str, Any] | None:
        if self.status != 200:
            return msgspec.json.decode(self.raw)["error"]
        return next((chunk["error"] for chunk in self.chunks if "error" in chunk), None)


class Served:
    """A running gateway and a client of it."""

    def __init__(self, gateway: Gateway, base_url: str, client: httpx2.AsyncClient, out: io.StringIO) -> None:
        self.gateway, self.base_url, self.client, self._out = gateway, base_url, client, out
        self.port = int(base_url.rpartition(":")[2].partition("/")[0])

    @staticmethod
    def body(content: str = "hello", **fields: Any) -> dict[str, Any]:
        return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}

    async def ask(self, content: str = "hello", headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        """A whole answer."""
        return await self.client.post("/chat/completions", json=self.body(content, **fields), headers=headers)

    async def stream(self, content: str = "hello", headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """A stream, read to its end."""
        request = self.body(content, stream=True, **fields)
        async with self.client.stream("POST", "/chat/completions", json=request, headers=headers) as response:
            raw = await response.aread()
        answer = Answer(response.status_code, response.headers, raw)
        if response.status_code == 200:
            answer.blocks = [event.data for event in SseReader().feed(raw)]
        return answer

    def log_lines(self) -> list[dict[str, Any]]:
        """The lines of the log, once the journal has written what it was told."""
        self.gateway.journal.flush()
        return [msgspec.json.decode(line) for line in self._out.getvalue().splitlines()]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a gateway in front of the given upstreams; keyword arguments are settings by section."""
    async with AsyncExitStack() as stack:

        async def start(*upstreams: ScriptedUpstream | UpstreamSettings, **sections: Any) -> Served:
            named = tuple(
                u
                if isinstance(u, UpstreamSettings)
                else UpstreamSettings(name=f"up{n}", base_url=u.base_url, api_key="sk-upstream-secret", models=("m",))
                for n, u in enumerate(upstreams)
            )
            retries = {"backoff_first": 0.001, "backoff_most": 0.01, **sections.pop("retries", {})}
            settings = msgspec.convert({**sections, "retries": retries}, Settings)
            settings = msgspec.structs.replace(settings, upstream=named)
            out = io.StringIO()
            journal = Journal(out, format="json")
            gateway, base_url = await stack.enter_async_context(serve_in_background(settings, journal))
            key = next(iter(settings.keys.values()), "none")
            client = httpx2.AsyncClient(
                base_url=base_url, headers={"authorization": f"Bearer {key}"}, timeout=20, trust_env=False
            )
            await stack.enter_async_context(client)
            return Served(gateway, base_url, client, out)

        yield start
