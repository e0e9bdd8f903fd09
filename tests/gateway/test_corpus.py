"""The corpus of requests and errors through real sockets: in pieces, and cut."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.wire.exchange_corpus import (
    DIALECTS,
    SECRET,
    UPSTREAM_MODELS,
    ErrorCase,
    RequestCase,
    error_cases,
    label,
    request_cases,
)
from unbroken.chat.events import Finished, Started, TextDelta
from unbroken.chat.finish import FinishReason
from unbroken.upstream.scripted import ScriptedUpstream, blocks, body, in_pieces_of, with_headers
from unbroken.wire.dialects import Answering, Dialect

from .conftest import Served, upstream_settings

pytestmark = pytest.mark.anyio

PATHS = tuple(f"/v1{dialect.path}" for dialect in DIALECTS)

REQUESTS = [case for case in request_cases() if case.name in ("odd_spelling", "parallel_calls", "image_in_the_request")]
WRONG = [case for case in request_cases() if case.name in ("invalid_utf8", "wrong_type", "no_object")]
ERRORS = [
    case
    for case in error_cases()
    if case.name in ("our_key_refused", "bad_request", "rate_limited", "html", "empty", "truncated_json")
]


@pytest.fixture
async def anything() -> AsyncIterator[ScriptedUpstream]:
    """An upstream that has every dialect's route."""
    async with ScriptedUpstream(paths=PATHS) as scripted:
        yield scripted


def upstream_of(dialect: Dialect, scripted: ScriptedUpstream) -> Any:
    models = (f"m = {UPSTREAM_MODELS[dialect.name]}",)
    return upstream_settings("up0", scripted, dialect=dialect.name, models=models, api_key=SECRET)


def answer_of(dialect: Dialect) -> Any:
    writer = dialect.event_writer(Answering(f"{dialect.id_prefix}1", "theirs", 1))
    events = (Started("1", "theirs"), TextDelta("Sun."), Finished(FinishReason.STOP))
    return blocks(*(block for event in events for block in writer.write(event)), *writer.end())


async def send(gateway: Served, dialect: Dialect, pieces: list[bytes], *, length: int) -> tuple[int, bytes]:
    """Posts a body in pieces, each on its way before the next is written; gives the status and the answer's body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"POST /v1{dialect.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {length}\r\n\r\n".encode())
    for piece in pieces:
        await writer.drain()
        await gateway.turn()
        writer.write(piece)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    start, _, rest = answer.partition(b"\r\n\r\n")
    return int(start.split(b" ")[1]), rest


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("upstream", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("case", REQUESTS, ids=label)
async def test_a_request_in_pieces_is_asked_as_the_corpus_says(
    serve, anything: ScriptedUpstream, case: RequestCase, upstream: Dialect
) -> None:
    gateway = await serve(upstream_of(upstream, anything))
    expected = case.expected.get("written", {}).get(upstream.name, {})
    if upstream is case.dialect:
        asked = msgspec.json.decode(case.body) | {"model": UPSTREAM_MODELS[upstream.name], "stream": True}
        sent = case.body.replace(b"{", b'{"stream":true,', 1)
    else:
        asked, sent = expected.get("body"), case.body
    anything.always(answer_of(upstream))
    status, said = await send(gateway, case.dialect, in_pieces(sent, 97), length=len(sent))
    if "refused" in expected:
        assert status == 400
        assert msgspec.json.decode(said)["error"]["message"].endswith(expected["refused"]["message"])
        assert not anything.requests
        return
    assert status == 200, said
    assert b"Sun." in said
    received = anything.requests[-1].json()
    received.pop("stream_options", None)
    asked.pop("stream_options", None)
    assert received == asked


@pytest.mark.parametrize("case", REQUESTS[:1] + WRONG, ids=label)
async def test_a_body_that_is_wrong_or_cut_is_refused_over_the_socket(
    serve, anything: ScriptedUpstream, case: RequestCase
) -> None:
    gateway = await serve(upstream_of(case.dialect, anything))
    wrong = case.body if case in WRONG else case.body[: len(case.body) // 2]
    status, said = await send(gateway, case.dialect, in_pieces(wrong, 16), length=len(wrong))
    assert status == 400
    assert msgspec.json.decode(said)["error"]["type"] == "invalid_request_error"
    assert not anything.requests


@pytest.mark.parametrize("case", ERRORS, ids=label)
async def test_an_error_in_pieces_is_told_to_every_client(serve, anything: ScriptedUpstream, case: ErrorCase) -> None:
    gateway = await serve(upstream_of(case.dialect, anything), retries={"attempts": 1})
    kind = case.expected["headers"].get("content-type", "")
    others = {name: value for name, value in case.expected["headers"].items() if name != "content-type"}
    answer = body(case.body, status=case.expected["status"], content_type=kind)
    anything.always(answer | with_headers(others) | in_pieces_of(7))
    for client in DIALECTS:
        question = next(one for one in request_cases() if one.dialect is client and one.name == "text_streamed")
        status, said = await send(gateway, client, [question.body], length=len(question.body))
        error = msgspec.json.decode(said)["error"]
        assert status >= 400
        assert case.expected["failure"]["message"] in error["message"]
        assert SECRET[:9] not in said.decode()
