"""The official SDKs, as a user has them, over the resuming clients: what each of them reads of an answer."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import anthropic
import httpx
import httpx2
import openai

import unbroken

QUESTION = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True)
class Dialect:
    """How one dialect is asked for by its SDK, and how its text is read."""

    sdk: ModuleType
    name: str
    base: str
    asked: Mapping[str, Any]
    call: Callable[[Any], Callable[..., Any]]
    piece: Callable[[Any], str]
    text: Callable[[Any], str]


def _chat_piece(chunk: Any) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


CHAT = Dialect(
    openai,
    "OpenAI",
    "/v1",
    {"model": "small", "messages": QUESTION},
    lambda sdk: sdk.chat.completions.create,
    _chat_piece,
    lambda answer: answer.choices[0].message.content,
)
RESPONSES = Dialect(
    openai,
    "OpenAI",
    "/v1",
    {"model": "small", "input": "Hello"},
    lambda sdk: sdk.responses.create,
    lambda event: event.delta if event.type == "response.output_text.delta" else "",
    lambda answer: answer.output_text,
)
MESSAGES = Dialect(
    anthropic,
    "Anthropic",
    "",
    {"model": "small", "messages": QUESTION, "max_tokens": 99},
    lambda sdk: sdk.messages.create,
    lambda event: event.delta.text if event.type == "content_block_delta" else "",
    lambda answer: answer.content[0].text,
)


@dataclass(frozen=True)
class Reader:
    """One SDK over one HTTP library, with or without `await`."""

    dialect: Dialect
    library: ModuleType
    is_async: bool
    settings: Mapping[str, Any] = field(default_factory=lambda: {"max_retries": 0})
    patience: float = 20.0

    def read(self, root: str, *, on_resume: Callable[[unbroken.Resumed], None] | None = None) -> str:
        """The text of a streamed answer."""
        if self.is_async:
            return asyncio.run(self._read_async(root, on_resume))
        with unbroken.http_client(self.library, patience=self.patience, on_resume=on_resume) as client:
            return self.read_with(client, root)

    def read_with(self, client: Any, root: str) -> str:
        """The text of a streamed answer, over a client that is not asynchronous."""
        stream = self._ask(client, root, stream=True)
        return "".join([self.dialect.piece(event) for event in stream])

    def read_whole(self, root: str) -> str:
        """The text of an answer that is not streamed."""
        if self.is_async:
            return asyncio.run(self._read_whole_async(root))
        with unbroken.http_client(self.library, patience=self.patience) as client:
            return self.read_whole_with(client, root)

    def read_whole_with(self, client: Any, root: str) -> str:
        """The text of an answer that is not streamed, over a client that is not asynchronous."""
        return self.dialect.text(self._ask(client, root))

    def _ask(self, client: Any, root: str, **asked: Any) -> Any:
        prefix = "Async" if self.is_async else ""
        make = getattr(self.dialect.sdk, prefix + self.dialect.name)
        sdk = make(base_url=root + self.dialect.base, api_key="sk-1", http_client=client, **self.settings)
        return self.dialect.call(sdk)(**self.dialect.asked, **asked)

    async def _read_async(self, root: str, on_resume: Callable[[unbroken.Resumed], None] | None) -> str:
        client = unbroken.async_http_client(self.library, patience=self.patience, on_resume=on_resume)
        async with client:
            stream = await self._ask(client, root, stream=True)
            return "".join([self.dialect.piece(event) async for event in stream])

    async def _read_whole_async(self, root: str) -> str:
        async with unbroken.async_http_client(self.library, patience=self.patience) as client:
            return self.dialect.text(await self._ask(client, root))


#: Anthropic's SDK takes no client of httpx.
READERS = {
    f"{name} {library.__name__} {'async' if is_async else 'sync'}": Reader(dialect, library, is_async)
    for name, dialect, libraries in (
        ("chat", CHAT, (httpx2, httpx)),
        ("responses", RESPONSES, (httpx2, httpx)),
        ("messages", MESSAGES, (httpx2,)),
    )
    for library in libraries
    for is_async in (False, True)
}
