"""The chat over lines that drop, and streams that are attached to."""

from collections.abc import Iterator
from io import StringIO

import pytest

from tests.client.durable_scripts import SCRIPTS, TEXT
from tests.client.durable_server import Answer, Cut, DurableServer, Received, Stream
from unbroken.client.api import ChatApi
from unbroken.client.attach import show_stream
from unbroken.client.failure import ChatFailed
from unbroken.client.models import Model
from unbroken.client.one_shot import RECONNECTED, answer_once
from unbroken.client.session import ChatSession
from unbroken.client.stream_list import StreamLine, stream_table
from unbroken.client.surface import PlainSurface

pytestmark = pytest.mark.anyio
IDS = {"/chat/completions": "chatcmpl-1", "/responses": "resp_1", "/messages": "msg_1"}


@pytest.fixture
def server() -> Iterator[DurableServer]:
    with DurableServer() as server:
        yield server


class Shown:
    def __init__(self) -> None:
        self.output, self.aside = StringIO(), StringIO()
        self.surface = PlainSurface(self.output, self.aside)
        self.beside = PlainSurface(self.aside, self.aside)


def begin(server: DurableServer, path_end: str) -> str:
    """An answer that somebody else has asked for."""
    name = IDS[path_end]
    server.streams[name] = Stream(name, SCRIPTS[path_end], Received("POST", f"/v1{path_end}", {}, b"{}"))
    return name


async def ask(server: DurableServer) -> Shown:
    shown = Shown()
    async with ChatApi(f"{server.root}/v1", "sk-1") as api:
        session = ChatSession(api, Model("small"), clock=lambda: 0.0)
        assert await answer_once(session, "Hello", shown.surface, shown.beside, stats=False) == 0
        assert session.conversation.turns[-1].answer is not None
    return shown


async def test_a_chat_whose_line_drops_goes_on_and_says_so_once(server: DurableServer) -> None:
    server.faults.extend([Cut(300), Cut(300), Cut(1)])
    shown = await ask(server)
    assert shown.output.getvalue() == f"{TEXT}\n"
    assert shown.aside.getvalue() == f"{RECONNECTED}\n"


async def test_a_chat_whose_line_holds_says_nothing(server: DurableServer) -> None:
    assert (await ask(server)).aside.getvalue() == ""


async def test_stopping_an_answer_cancels_its_stream(server: DurableServer) -> None:
    server.written = 3
    async with ChatApi(f"{server.root}/v1") as api:
        groups = api.stream_chat([{"role": "user", "content": "Hello"}], "small")
        await anext(groups)
        await groups.aclose()
    assert server.cancelled == ["stream_1"]


@pytest.mark.parametrize("path_end", SCRIPTS)
async def test_a_stream_of_any_dialect_is_shown_over_lines_that_drop(server: DurableServer, path_end: str) -> None:
    server.faults.extend([Cut(300), Answer(503), Cut(1)])
    shown = Shown()
    async with ChatApi(f"{server.root}/v1", "sk-1") as api:
        assert await show_stream(api, begin(server, path_end), shown.surface, shown.beside) == 0
    assert shown.output.getvalue() == f"{TEXT}\n"
    assert shown.aside.getvalue() == f"{RECONNECTED}\n"
    assert {request.path for request in server.requests} == {f"/v1/streams/{IDS[path_end]}"}
    assert all(request.headers["authorization"] == "Bearer sk-1" for request in server.requests)
    assert not any("idempotency-key" in request.headers for request in server.requests)


async def test_leaving_a_stream_that_one_is_attached_to_stops_nothing(server: DurableServer) -> None:
    server.written = 3
    async with ChatApi(f"{server.root}/v1") as api:
        groups = api.attach(begin(server, "/chat/completions"))
        await anext(groups)
        await groups.aclose()
    assert [request.method for request in server.requests] == ["GET"]


async def test_a_stream_that_is_not_there_is_an_error(server: DurableServer) -> None:
    shown = Shown()
    async with ChatApi(f"{server.root}/v1") as api:
        assert await show_stream(api, "chatcmpl-2", shown.surface, shown.beside) == 1
    assert "answered 404" in shown.aside.getvalue()


async def test_live_streams_are_listed(server: DurableServer) -> None:
    server.written = 4
    begin(server, "/messages")
    async with ChatApi(f"{server.root}/v1") as api:
        assert await api.streams() == [StreamLine("msg_1", "running", "small", 1, 4, "only")]


async def test_a_server_without_streams_says_so(server: DurableServer) -> None:
    server.faults.append(Answer(200))
    async with ChatApi(f"{server.root}/v1") as api:
        with pytest.raises(ChatFailed, match="no list of streams"):
            await api.streams()


def test_a_listing_is_a_table() -> None:
    lines = [StreamLine("chatcmpl-1", "running", "small", 40.0, 7, "only"), StreamLine("msg_2", "running", "large", 99)]
    assert stream_table(lines, 100.0).splitlines() == [
        "STREAM      MODEL  UPSTREAM  BLOCKS  AGE",
        "chatcmpl-1  small  only      7       60 s",
        "msg_2       large  -         0       1 s",
    ]
