"""Against a server that is not Unbroken the transport changes nothing but three headers."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

import unbroken
from tests.client.durable_server import Answer, Cut, DurableServer

BODY = {"model": "small", "stream": True}
FAULTS: dict[str, Cut | Answer] = {
    "cut": Cut(300),
    "end of file": Cut(300, "eof"),
    "an end without the answer's": Cut(300, "end"),
    "cut before the head": Cut(None),
    "overloaded": Answer(503),
    "rate limited": Answer(429, {"Retry-After": "1"}),
    "refused": Answer(400),
}


@pytest.fixture
def foreign() -> Iterator[DurableServer]:
    with DurableServer(is_foreign=True) as server:
        yield server


def outcome(client: Any, server: DurableServer) -> object:
    """All that a caller sees of an answer."""
    came = b""
    try:
        with client.stream("POST", f"{server.root}/v1/chat/completions", json=BODY) as response:
            for piece in response.iter_raw():
                came += piece
            return response.status_code, sorted(response.headers.items()), came
    except httpx2.HTTPError as error:
        return type(error), came


@pytest.mark.parametrize("name", FAULTS)
def test_failures_are_as_they_are(foreign: DurableServer, name: str) -> None:
    foreign.faults.extend([FAULTS[name], FAULTS[name]])
    with unbroken.http_client() as ours, httpx2.Client() as plain:
        assert outcome(ours, foreign) == outcome(plain, foreign)
    assert len(foreign.requests) == 2


def test_answers_are_as_they_are(foreign: DurableServer) -> None:
    with unbroken.http_client() as ours, httpx2.Client() as plain:
        seen = outcome(ours, foreign)
        assert seen == outcome(plain, foreign)
        assert b": keep-alive\n" in seen[2]  # type: ignore[index]


def test_a_reader_who_leaves_sends_nothing(foreign: DurableServer) -> None:
    foreign.written = 3
    with (
        unbroken.http_client() as client,
        client.stream("POST", f"{foreign.root}/v1/chat/completions", json=BODY) as response,
    ):
        next(response.iter_raw())
    assert [request.method for request in foreign.requests] == ["POST"]


def test_an_asynchronous_client_sees_a_drop_as_it_is(foreign: DurableServer) -> None:
    foreign.faults.append(Cut(300))

    async def ask() -> None:
        async with unbroken.async_http_client() as client:
            await client.post(f"{foreign.root}/v1/messages", json=BODY)

    with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
        asyncio.run(ask())
    assert len(foreign.requests) == 1


OTHER_REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "another path": ("POST", "/v1/embeddings/chat/completions/x/y", {"json": BODY}),
    "another method": ("GET", "/v1/streams/unknown", {}),
    "no model": ("POST", "/v1/threads/1/messages", {"json": {"role": "user"}}),
    "no JSON": ("POST", "/v1/chat/completions", {"content": b"{", "headers": {"content-type": "application/json"}}),
    "a form": ("POST", "/v1/chat/completions", {"data": {"model": "small"}}),
    "a body that can be sent once": (
        "POST",
        "/v1/chat/completions",
        {
            "content": iter([b'{"model": "small"}']),
            "headers": {"content-type": "application/json", "content-length": "18"},
        },
    ),
    "a question that is to be plain": (
        "POST",
        "/v1/chat/completions",
        {"json": BODY, "headers": {"unbroken-durable": "false"}},
    ),
}


@pytest.mark.parametrize("name", OTHER_REQUESTS)
def test_other_requests_pass_untouched(name: str) -> None:
    method, path, options = OTHER_REQUESTS[name]
    with DurableServer() as server, unbroken.http_client() as client:
        server.faults.append(Answer(200))
        client.request(method, server.root + path, **options)
        (request,) = server.requests
        assert "idempotency-key" not in request.headers
        assert request.headers.get("unbroken-durable") != "true"


def test_a_callers_own_key_is_kept() -> None:
    with DurableServer() as server, unbroken.http_client() as client:
        client.post(f"{server.root}/v1/messages", json=BODY, headers={"Idempotency-Key": "mine"})
        assert server.requests[0].headers["idempotency-key"] == "mine"


def test_a_server_that_is_not_known_yet_is_asked_again_by_the_sdk_under_the_same_key() -> None:
    with DurableServer() as server, unbroken.http_client() as client:
        server.faults.append(Cut(None))
        sdk = openai.OpenAI(base_url=f"{server.root}/v1", api_key="sk-1", http_client=client)
        sdk.chat.completions.create(model="small", messages=[{"role": "user", "content": "Hello"}])
        assert [request.headers["x-stainless-retry-count"] for request in server.requests] == ["0", "1"]
        assert len(server.streams) == 1, "generated once"


def test_two_questions_have_two_keys() -> None:
    with DurableServer() as server, unbroken.http_client() as client:
        for _ in range(2):
            client.post(f"{server.root}/v1/chat/completions", json=BODY)
        assert len(server.streams) == 2
