"""Small pieces of a stream are acknowledged later, where the kernel knows how to."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
import uvloop

from unbroken.upstream.acknowledging import acknowledge_later
from unbroken.upstream.http import Connection, HttpClient

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="this system acknowledges as it likes")


class Over(asyncio.Transport):
    """A transport over a socket, that reads and writes nothing."""

    def __init__(self, connection: socket.socket | None) -> None:
        super().__init__({"socket": connection})

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with client, accepted:
            yield client


def acknowledges_at_once(connection: socket.socket) -> bool:
    return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))


def test_a_connection_that_is_lent_to_a_lane_acknowledges_later(tcp: socket.socket) -> None:
    assert acknowledges_at_once(tcp)
    connection = Connection(HttpClient("http://127.0.0.1"))
    connection.connection_made(Over(tcp))
    connection.lend(asyncio.Protocol())
    assert not acknowledges_at_once(tcp)


def test_other_sockets_are_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        acknowledge_later(Over(one))
    acknowledge_later(Over(None))
    with socket.socket() as closed:
        pass
    acknowledge_later(Over(closed))


def test_a_connection_that_is_closed_is_left_alone_by_the_loop_that_serves() -> None:
    async def close_and_ask() -> None:
        async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
            assert transport.get_extra_info("socket") is not None
            transport.abort()
            await asyncio.sleep(0)
            acknowledge_later(transport)

    uvloop.run(close_and_ask())
