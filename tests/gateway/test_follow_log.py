"""What a follower of the log writes: the same bytes whether pieces come as texts of a run or as blocks."""

from types import SimpleNamespace
from typing import Any

import pytest

from unbroken.chat.stream import Offset, StreamId
from unbroken.gateway.follow_log import FEW, LogFollower
from unbroken.settings.tree import KeepAliveSettings
from unbroken.store.held import Run
from unbroken.store.memory import MemoryStreamLog

pytestmark = pytest.mark.anyio


class Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def follower(*, wants_ids: bool, is_chunked: bool, is_paused: bool = False) -> tuple[LogFollower, Transport]:
    transport = Transport()
    connection: Any = SimpleNamespace(
        transport=transport, is_chunked=is_chunked, is_lost=False, flow=SimpleNamespace(write_paused=is_paused)
    )
    made = LogFollower(
        connection,
        MemoryStreamLog(),
        StreamId("chatcmpl-1"),
        Offset(4),
        wants_ids=wants_ids,
        keep_alive=KeepAliveSettings(),
        comment=b":\n\n",
        is_late=False,
    )
    return made, transport


def unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        body, data = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("count", [1, 2, FEW, FEW + 1])
@pytest.mark.parametrize("wants_ids", [False, True])
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("ends", [False, True])
async def test_texts_of_a_commit_are_written_as_their_blocks(
    count: int, wants_ids: bool, is_chunked: bool, ends: bool
) -> None:
    """D7: each with its own id, if they are asked for."""
    run = Run(b"data: <", b">\n\n", [b"%d" % number for number in range(count)])
    made, transport = follower(wants_ids=wants_ids, is_chunked=is_chunked)
    made.feed(Offset(5), run, ends)
    ids = [b"id: %d\n" % (5 + number) if wants_ids else b"" for number in range(count)]
    expected = b"".join(id + block for id, block in zip(ids, run.blocks(), strict=True))
    assert (unchunked(transport.written) if is_chunked else transport.written) == expected
    assert (made.at, made.ended.done()) == (4 + count, ends)
    made.close()


async def test_nothing_is_written_to_a_client_that_does_not_read() -> None:
    """L9."""
    made, transport = follower(wants_ids=False, is_chunked=True, is_paused=True)
    made.feed(Offset(5), Run(b"<", b">", [b"a", b"b"]), False)
    assert (transport.written, made.at) == (b"", 4)
    made.close()
