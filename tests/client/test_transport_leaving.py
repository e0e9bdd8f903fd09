"""Leaving a stream early is a cancel (D5); all other ends are none."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

import unbroken
from tests.client.durable_server import Answer, Cut, DurableServer

QUESTION: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def server() -> Iterator[DurableServer]:
    with DurableServer() as server:
        server.written = 4
        yield server


def test_closing_a_stream_cancels_it(server: DurableServer) -> None:
    with unbroken.http_client() as client:
        sdk = openai.OpenAI(base_url=f"{server.root}/v1", api_key="sk-1", http_client=client)
        with sdk.chat.completions.create(model="small", messages=QUESTION, stream=True) as stream:
            next(stream)
        (request,) = server.sent("DELETE")
        assert server.cancelled == ["stream_1"]
        assert request.path == "/v1/streams/stream_1"
        assert request.headers["authorization"] == "Bearer sk-1"


def test_breaking_out_of_a_stream_cancels_it(server: DurableServer) -> None:
    with unbroken.http_client() as client:
        sdk = anthropic.Anthropic(base_url=server.root, api_key="sk-1", http_client=client)
        with sdk.messages.stream(model="small", messages=QUESTION, max_tokens=9) as stream:
            for _ in stream.text_stream:
                break
        assert server.cancelled == ["stream_1"]


def test_closing_an_asynchronous_stream_cancels_it(server: DurableServer) -> None:
    async def leave() -> None:
        async with unbroken.async_http_client() as client:
            sdk = openai.AsyncOpenAI(base_url=f"{server.root}/v1", api_key="sk-1", http_client=client)
            stream = await sdk.responses.create(model="small", input="Hello", stream=True)
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(leave())
    assert server.cancelled == ["stream_1"]


def test_a_task_that_is_cancelled_cancels_its_stream(server: DurableServer) -> None:
    async def read(begun: asyncio.Event) -> None:
        async with unbroken.async_http_client() as client:
            sdk = openai.AsyncOpenAI(base_url=f"{server.root}/v1", api_key="sk-1", http_client=client)
            async for _ in await sdk.chat.completions.create(model="small", messages=QUESTION, stream=True):
                begun.set()

    async def cancel() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(read(begun))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancel())
    assert server.cancelled == ["stream_1"]


@pytest.mark.parametrize("met", [Cut(None, "silence"), Cut(None), Answer(500)], ids=["silence", "reset", "500"])
def test_a_cancel_that_fails_is_not_the_readers_concern(server: DurableServer, met: Cut | Answer) -> None:
    server.faults.extend([None, met])
    with unbroken.http_client() as client:
        sdk = openai.OpenAI(base_url=f"{server.root}/v1", api_key="sk-1", http_client=client)
        with sdk.chat.completions.create(model="small", messages=QUESTION, stream=True) as stream:
            next(stream)
    assert len(server.sent("DELETE")) == 1
    assert not server.cancelled


def test_a_background_response_goes_on_without_its_reader(server: DurableServer) -> None:
    with unbroken.http_client() as client:
        sdk = openai.OpenAI(base_url=f"{server.root}/v1", api_key="sk-1", http_client=client)
        with sdk.responses.create(model="small", input="Hello", stream=True, background=True) as stream:
            next(stream)
    assert not server.cancelled


def test_a_stream_that_was_read_to_its_end_is_not_cancelled(server: DurableServer) -> None:
    server.written = None
    with unbroken.http_client() as client:
        sdk = openai.OpenAI(base_url=f"{server.root}/v1", api_key="sk-1", http_client=client)
        with sdk.chat.completions.create(model="small", messages=QUESTION, stream=True) as stream:
            list(stream)
    assert len(server.requests) == 1
