"""Lanes through real sockets, with uvloop and asyncio, and with TLS."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.gateway.lane_answers import read_events
from tests.gateway.lane_stores import CountingLog
from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.chunked import LONGEST
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    ScriptedUpstream,
    cut_after,
    eof_after,
    hold_after,
    malformed_after,
    reset_after,
    text,
)

from .conftest import Dial, Line, Reading, Serve, Served, upstream_settings

WORDS = "The quick brown fox jumps over the lazy dog and runs away."
COUNT = len(WORDS.split())


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def with_counted_lanes(
    serve: Serve, upstream: ScriptedUpstream | UpstreamSettings, **sections: Any
) -> tuple[Served, CountingLog]:
    """A gateway in front of the upstream, and the log that it has."""
    served: Served = await serve(upstream, **sections)
    log = served.gateway.log = CountingLog(spare_bytes=1 << 20, has_lanes=True)
    served.gateway.apply(served.gateway.settings)
    return served, log


def word_by_word(gates: list[Gate], words: str = WORDS) -> Answer:
    """Each word but the first waits for its gate, so that it is read by itself."""
    answer = text(words)
    gates[0].open()
    for number, gate in enumerate(gates, 1):
        answer |= hold_after(number, gate)
    return answer


def script_words(upstream: ScriptedUpstream) -> list[Gate]:
    """The gates of all words, which the upstream says next."""
    gates = [Gate() for _ in range(COUNT)]
    upstream.script(word_by_word(gates))
    return gates


async def read_words(reading: Reading, gates: Sequence[Gate]) -> None:
    for number, gate in enumerate(gates):
        gate.open()
        await reading.read_text(" ".join(WORDS.split()[: number + 1]))


@pytest.mark.anyio
async def test_a_stream_comes_whole_through_a_lane(serve: Serve, upstream: ScriptedUpstream) -> None:
    gates = script_words(upstream)
    served, log = await with_counted_lanes(serve, upstream)
    async with served.reading() as reading:
        await read_words(reading, gates)
        answer = await reading.read_to_end()
    assert (answer.text, answer.is_done) == (WORDS, True)
    assert sum(map(len, log.runs)) >= COUNT - 4
    line = await served.wait_for_line()
    assert (line["outcome"], line["output_tokens"]) == ("finished", COUNT)
    assert upstream.connections == 1
    assert (await served.stream()).is_done
    assert upstream.connections == 1, "the connection is used again"


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [cut_after, reset_after, eof_after, malformed_after])
async def test_an_answer_that_breaks_off_in_a_lane_goes_on(
    serve: Serve, upstream: ScriptedUpstream, fault: Callable[[int], Any]
) -> None:
    gates = [Gate() for _ in range(COUNT - 2)]
    upstream.script(word_by_word(gates) | fault(COUNT - 2))
    upstream.always(text(WORDS))
    served, log = await with_counted_lanes(serve, upstream_settings("up0", upstream, continuation="match"))
    async with served.reading() as reading:
        await read_words(reading, gates[:-1])
        taken = sum(map(len, log.runs))
        gates[-1].open()
        answer = await reading.read_to_end()
    assert taken > 4
    assert (answer.text, answer.is_done) == (WORDS, True)
    assert len({one["id"] for one in answer.chunks}) == 1
    line = await served.wait_for_line()
    assert (line["outcome"], line["continued"], line["output_tokens"]) == ("finished", 1, COUNT)


@pytest.mark.anyio
async def test_comments_come_into_the_silence_behind_a_lane(serve: Serve, upstream: ScriptedUpstream) -> None:
    gates = script_words(upstream)
    served, log = await with_counted_lanes(serve, upstream, keep_alive={"first": 0.2, "every": 0.05})
    async with served.reading() as reading:
        await read_words(reading, gates[:-2])
        taken = sum(map(len, log.runs))
        assert taken > 4
        seen = reading.answer.raw.count(b": keep-alive\n")
        await reading.read_until(lambda answer: answer.raw.count(b": keep-alive\n") > seen + 2)
        await read_words(reading, gates)
        answer = await reading.read_to_end()
    assert sum(map(len, log.runs)) > taken, "the lane goes on behind them"
    assert (answer.text, answer.is_done) == (WORDS, True)


@pytest.fixture
async def secure_upstream(tmp_path: Path) -> AsyncIterator[ScriptedUpstream]:
    """One that speaks TLS; its authority is in `ca.pem`."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with ScriptedUpstream(ssl_context=context) as upstream:
        yield upstream


@pytest.mark.anyio
async def test_a_lane_of_an_upstream_with_tls(serve: Serve, secure_upstream: ScriptedUpstream, tmp_path: Path) -> None:
    gates = script_words(secure_upstream)
    served, log = await with_counted_lanes(
        serve, upstream_settings("up0", secure_upstream, ca_file=str(tmp_path / "ca.pem"))
    )
    async with served.reading() as reading:
        await read_words(reading, gates)
        answer = await reading.read_to_end()
    assert (answer.text, answer.is_done) == (WORDS, True)
    assert sum(map(len, log.runs)) >= COUNT - 4
    assert (await served.stream()).is_done
    assert secure_upstream.connections == 1, "the connection is used again"


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [cut_after, reset_after])
async def test_a_cut_in_a_lane_with_tls_is_a_cut(
    serve: Serve, secure_upstream: ScriptedUpstream, tmp_path: Path, fault: Callable[[int], Any]
) -> None:
    gates = [Gate() for _ in range(COUNT - 2)]
    secure_upstream.script(word_by_word(gates) | fault(COUNT - 2))
    served, log = await with_counted_lanes(
        serve, upstream_settings("up0", secure_upstream, ca_file=str(tmp_path / "ca.pem"))
    )
    async with served.reading() as reading:
        await read_words(reading, gates[:-1])
        assert sum(map(len, log.runs)) > 4
        gates[-1].open()
        answer = await reading.read_to_end()
    assert not answer.is_done
    assert answer.error is not None
    assert f"after {COUNT - 3} chunks" in (await served.wait_for_line())["message"]


@pytest.mark.anyio
async def test_a_client_that_leaves_a_lane_ends_the_upstreams_answer(serve: Serve, upstream: ScriptedUpstream) -> None:
    gates = script_words(upstream)
    served, log = await with_counted_lanes(serve, upstream)
    async with served.reading() as reading:
        await read_words(reading, gates[:-2])
    line = await served.wait_for_line()
    assert sum(map(len, log.runs)) > 4
    assert line["outcome"] == "client_left"
    assert line["output_tokens"] == COUNT - 2
    assert len(log) == 0


@pytest.mark.anyio
async def test_a_client_of_http_1_0_reads_no_chunks(serve: Serve, upstream: ScriptedUpstream, dial: Dial) -> None:
    gates = script_words(upstream)
    served, log = await with_counted_lanes(serve, upstream)
    line = await dial(served)
    line.post(served.body(stream=True), version="1.0")
    head = await line.read_head()
    assert head.header("transfer-encoding") is None
    for gate in gates:
        gate.open()
        await served.turn()
    body = await line.read_to_end()
    said = [json.loads(data)["choices"][0]["delta"] for _, data in read_events(body)[:-1]]
    assert "".join(delta.get("content", "") for delta in said) == WORDS
    assert not log.runs


@pytest.mark.anyio
async def test_a_slow_client_of_a_lane_slows_the_upstream(serve: Serve, upstream: ScriptedUpstream) -> None:
    word = "x" * (LONGEST - 500)
    gates = [Gate() for _ in range(500)]
    upstream.script(word_by_word(gates, " ".join([word] * len(gates))))
    served, log = await with_counted_lanes(serve, upstream)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", served.port))
    line = Line(*await asyncio.open_connection(sock=slow, limit=1 << 14))
    line.post(served.body(stream=True))
    await gates[0].wait_until_reached()
    transports = [connection.transport for connection in served.connections]
    (transport,) = [one for one in transports if one.get_extra_info("peername") == slow.getsockname()]
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for gate in gates:
        await gate.wait_until_reached()
        gate.open()
        await served.turn()
        if transport.get_write_buffer_size() > 64 << 10:  # where asyncio and uvloop say that it is full
            break
    assert 10 < sum(map(len, log.runs)) < len(gates) // 2
    for gate in gates:
        gate.open()
    for _ in range(20):
        await served.turn()
    assert transport.get_write_buffer_size() < len(gates) * len(word) // 2, "it is not read on"
    events = read_events((await line.read_response()).body)
    assert events[-1].data == b"[DONE]"
    assert sum(data.count(word.encode()) for _, data in events) == len(gates)
    await line.close()
