"""The official SDKs over lines that drop: they never see it (D3, D8)."""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import httpx
import httpx2
import openai
import pytest

import unbroken
from tests.client.durable_scripts import SCRIPTS, TEXT
from tests.client.durable_server import Answer, Cut, CuttingProxy, DurableServer, Received
from tests.client.sdk_readers import CHAT, READERS, Reader
from unbroken.client.transport_proxies import proxy_mounts

every_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
SYNC = Reader(CHAT, READERS["chat httpx2 sync"].library, is_async=False)
ASYNC = replace(SYNC, is_async=True)
both = pytest.mark.parametrize("reader", [SYNC, ASYNC], ids=["sync", "async"])


@pytest.fixture
def server() -> Iterator[DurableServer]:
    with DurableServer() as server:
        yield server


def resumes(request: Received) -> bool:
    return request.method == "GET"


@every_reader
def test_an_answer_over_a_whole_line_is_asked_for_once(server: DurableServer, reader: Reader) -> None:
    assert reader.read(server.root) == TEXT
    (request,) = server.requests
    assert request.headers["unbroken-durable"] == "true"
    assert 0 < len(request.headers["idempotency-key"]) <= 255
    assert request.headers["accept-encoding"] == "identity"


@every_reader
@pytest.mark.parametrize("how", ["reset", "eof", "end"])
@pytest.mark.parametrize("at", [0, 1, 150, 500])
def test_a_stream_that_is_cut_goes_on_where_it_was(server: DurableServer, reader: Reader, at: int, how: str) -> None:
    server.faults.extend([Cut(at, how), Cut(at + 1, how), Cut(400, how)])
    assert reader.read(server.root) == TEXT
    post, *gets = server.requests
    assert len(gets) == 3
    for get in gets:
        assert get.path == "/v1/streams/stream_1"
        assert get.headers["accept"] == "text/event-stream"
        assert get.headers["host"] == post.headers["host"]
        assert get.headers.get("authorization") == post.headers.get("authorization")
        assert get.headers.get("x-api-key") == post.headers.get("x-api-key")
        assert "idempotency-key" not in get.headers
        assert "content-type" not in get.headers
    offsets = [int(get.headers["last-event-id"]) for get in gets]
    assert offsets == sorted(offsets)


@every_reader
def test_a_proxy_that_cuts_all_the_time_is_not_seen(server: DurableServer, reader: Reader) -> None:
    sizes = random.Random(repr(reader))
    with CuttingProxy(server.port, lambda: sizes.randint(700, 1500)) as proxy:
        assert reader.read(proxy.root) == TEXT
        assert proxy.cuts > 0
    assert len(server.streams) == 1


@every_reader
def test_a_silent_line_is_a_drop(server: DurableServer, reader: Reader) -> None:
    server.faults.append(Cut(300, "silence"))
    hasty = replace(reader, settings={"max_retries": 0, "timeout": 0.3})
    assert hasty.read(server.root) == TEXT
    assert len(server.sent("GET")) == 1


@every_reader
def test_a_whole_answer_that_is_interrupted_is_asked_for_again_under_the_same_key(
    server: DurableServer, reader: Reader
) -> None:
    server.faults.extend([Cut(10), Cut(None), Cut(20, "eof"), Answer(503, {"Retry-After": "0"})])
    assert reader.read_whole(server.root) == TEXT
    assert len(server.requests) == 5
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1
    assert len(server.streams) == 1, "generated once"


@both
def test_whoever_cares_is_told_of_each_resume(
    server: DurableServer, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "unbroken.client")
    server.faults.extend([Cut(300), Answer(503), Cut(None), None])
    told: list[unbroken.Resumed] = []
    assert reader.read(server.root, on_resume=told.append) == TEXT
    (resumed,) = told
    assert (resumed.stream, resumed.attempts) == ("stream_1", 3)
    assert resumed.offset == int(server.requests[-1].headers["last-event-id"])
    assert isinstance(resumed.cause, reader.library.TransportError)
    assert resumed.waited > 0
    (record,) = caplog.records
    assert "stream stream_1 goes on behind block" in record.getMessage()


@both
def test_a_server_that_restarts_is_waited_for(server: DurableServer, reader: Reader) -> None:
    server.written = 3

    def restart() -> None:
        server.wait_until(lambda: len(server.requests) == 1)
        server.stop()
        server.listen()
        server.go_on()

    restarting = threading.Thread(target=restart)
    restarting.start()
    assert reader.read(server.root) == TEXT
    restarting.join()
    assert len(server.streams) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
@every_reader
def test_where_resuming_is_refused_the_drop_is_seen(server: DurableServer, reader: Reader, status: int) -> None:
    server.faults.extend([Cut(300), Answer(status)])
    with pytest.raises(Exception) as seen:
        reader.read(server.root)
    causes = [seen.value, seen.value.__cause__]
    (drop,) = [cause for cause in causes if isinstance(cause, reader.library.TransportError)]
    assert isinstance(drop, reader.library.ReadError | reader.library.RemoteProtocolError)
    assert f"answered {status}" in drop.__notes__[0]
    assert len(server.requests) == 2
    assert not server.cancelled


@both
def test_patience_has_an_end(server: DurableServer, reader: Reader) -> None:
    server.faults.append(Cut(300))
    server.befalls = lambda request: Answer(503) if resumes(request) else None
    with pytest.raises(Exception) as seen:
        replace(reader, patience=0.3).read(server.root)
    drop = seen.value.__cause__
    assert isinstance(drop, reader.library.ReadError | reader.library.RemoteProtocolError)
    assert len(server.sent("GET")) >= 1


@both
def test_an_end_without_the_answers_end_is_never_taken_for_one(server: DurableServer, reader: Reader) -> None:
    server.faults.extend([Cut(300, "end"), Answer(404)])
    with pytest.raises(Exception, match="Connection error") as seen:
        reader.read(server.root)
    assert "without the end of its answer" in str(seen.value.__cause__)


@pytest.mark.parametrize("path_end", SCRIPTS)
def test_bytes_are_those_of_a_plain_stream(server: DurableServer, path_end: str) -> None:
    server.faults.extend([Cut(at) for at in range(1, 600, 97)])
    with unbroken.http_client() as client:
        answer = client.post(f"{server.root}/v1{path_end}", json={"model": "small", "stream": True})
    assert answer.content == b"".join(SCRIPTS[path_end].blocks)


def test_a_known_server_that_drops_the_line_before_its_head_is_asked_again(server: DurableServer) -> None:
    with unbroken.http_client() as client:
        assert SYNC.read_with(client, server.root) == TEXT
        server.faults.extend([Cut(None), Cut(None, "eof")])
        assert SYNC.read_with(client, server.root) == TEXT
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(keys) == 4
    assert len(set(keys)) == len(server.streams) == 2


def test_a_known_server_that_restarts_is_waited_for_by_questions_too(server: DurableServer) -> None:
    with unbroken.http_client() as client:
        assert SYNC.read_with(client, server.root) == TEXT
        server.stop()
        listening = threading.Timer(0.2, server.listen)
        listening.start()
        assert SYNC.read_whole_with(client, server.root) == TEXT
        listening.join()


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_a_transport_of_ones_own_is_kept(server: DurableServer, library: ModuleType) -> None:
    sent = []

    class Counted(library.HTTPTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            sent.append(request.method)
            return super().handle_request(request)

    server.faults.append(Cut(300))
    with library.Client(transport=unbroken.ResumingTransport(Counted())) as client:
        answer = client.post(f"{server.root}/v1/messages", json={"model": "small", "stream": True})
    assert answer.content == b"".join(SCRIPTS["/messages"].blocks)
    assert sent == ["POST", "GET"]


def test_proxies_of_the_environment_are_used(server: DurableServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.root)
    monkeypatch.setenv("no_proxy", "")
    server.faults.append(Cut(300))
    with unbroken.http_client() as client:
        answer = client.post("http://gateway.invalid/v1/responses", json={"model": "small", "stream": True})
    assert answer.content == b"".join(SCRIPTS["/responses"].blocks)
    assert [request.path for request in server.requests] == [
        "http://gateway.invalid/v1/responses",
        "http://gateway.invalid/v1/streams/stream_1",
    ]


@pytest.mark.parametrize(
    ("proxies", "mounts"),
    [
        ({}, {}),
        ({"no": "example.com"}, {}),
        ({"http": "proxy:3128", "no": "*"}, {}),
        (
            {"http": "proxy:3128", "all": "socks5://p:1", "no": "localhost, 10.0.0.1,::1,.example.com"},
            {
                "http://": "http://proxy:3128",
                "all://": "socks5://p:1",
                "all://localhost": None,
                "all://10.0.0.1": None,
                "all://[::1]": None,
                "all://*.example.com": None,
            },
        ),
    ],
)
def test_the_environments_proxies_are_read_as_httpx_reads_them(
    proxies: dict[str, str], mounts: dict[str, str | None]
) -> None:
    assert proxy_mounts(proxies) == mounts


def test_an_answer_that_is_an_error_is_not_asked_for_again(server: DurableServer) -> None:
    server.faults.extend([Cut(10), Answer(502, {"Unbroken-Stream": "stream_1"})])
    with pytest.raises(openai.InternalServerError):
        SYNC.read_whole(server.root)
    assert len(server.requests) == 2


def test_the_sdks_own_retries_share_key_and_patience(server: DurableServer) -> None:
    with unbroken.http_client(patience=0.3) as client:
        SYNC.read_with(client, server.root)
        server.befalls = lambda _: Cut(None)
        with pytest.raises(openai.APIConnectionError):
            replace(SYNC, settings={"max_retries": 2}).read_with(client, server.root)
    asked = server.requests[1:]
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    retries = [request.headers["x-stainless-retry-count"] for request in asked]
    assert retries.count("0") > 1
    assert retries[-2:] == ["1", "2"], "patience is at its end: each is tried once"
    assert set(retries[:-2]) == {"0"}
