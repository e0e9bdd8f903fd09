"""What a storage does when its Valkey or Redis server fails: a clear error, nothing twice, recovery by itself (D13)."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from tests.store.appends import append_of
from tests.store.valkey_server import ValkeyServer, own_server, skip_without_server
from unbroken.chat.stream import Block, Epoch, Offset, OwnerId, StreamId, StreamRecord
from unbroken.store.log import StoreUnavailable, StreamUnknown
from unbroken.store.storage import Append, Stored
from unbroken.store.valkey import ValkeyStorage

pytestmark = pytest.mark.anyio

ONE, TWO, THREE = StreamId("chatcmpl-one"), StreamId("chatcmpl-two"), StreamId("chatcmpl-three")
LONG = 3600.0


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    skip_without_server()
    with own_server() as server:
        yield server


def new_storage(url: str, *, timeout: float = 20.0) -> ValkeyStorage:
    return ValkeyStorage(url, lease=LONG, retention=LONG, max_live_bytes=1 << 20, timeout=timeout)


@asynccontextmanager
async def opened(url: str, owner: str = "here", *, timeout: float = 20.0) -> AsyncIterator[ValkeyStorage]:
    storage = new_storage(url, timeout=timeout)
    await storage.start(OwnerId(owner))
    yield storage
    await storage.close()


def append(stream: StreamId, first: int, *texts: str, epoch: int = 1, note: bytes = b"") -> Append:
    return append_of(stream, Epoch(epoch), Offset(first), [Block(text.encode()) for text in texts], note=note)


async def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    for url in (f"unix://user:secret@{tmp_path}/none", "valkey://user:secret@127.0.0.1:1/2"):
        with pytest.raises(StoreUnavailable) as raised:
            await new_storage(url).start(OwnerId("here"))
        assert "secret" not in str(raised.value)
        assert url.partition("@")[2] in str(raised.value)


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:6379", "redis:", "redis://user:secret#1@127.0.0.1", "valkey"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        new_storage(url)
    assert "secret" not in str(raised.value)


def test_without_the_client_library_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["redis"] = None  # as where it is not installed
from unbroken.store.log import StoreUnavailable
from unbroken.store.valkey import ValkeyStorage
try:
    ValkeyStorage("valkey://user:secret@127.0.0.1", lease=1, retention=1, max_live_bytes=1)
except StoreUnavailable as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "valkey://127.0.0.1 needs a client library: pip install 'unbroken[valkey]'\n"


async def test_a_dead_server_is_unavailable_and_a_new_one_knows_nothing_of_its_streams(server: ValkeyServer) -> None:
    async with opened(server.url) as storage:
        await storage.create(StreamRecord(id=ONE))
        await storage.commit([append(ONE, 1, "a")])
        server.kill()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await storage.commit([append(ONE, 2, "b")])
            with pytest.raises(StoreUnavailable):
                await storage.renew()
            with pytest.raises(StoreUnavailable):
                await storage.create(StreamRecord(id=TWO))
        server.start()
        refused = await storage.commit([append(ONE, 2, "b")])
        assert isinstance(refused[ONE], StreamUnknown)
        await storage.renew()
        await storage.create(StreamRecord(id=THREE))
        assert await storage.commit([append(THREE, 1, "a")]) == {}
        assert [status.record.id for status in await storage.live()] == [THREE]
        assert (await storage.status(THREE)).is_owned


async def test_followers_go_on_with_a_server_that_was_restarted(server: ValkeyServer) -> None:
    told: asyncio.Queue[Stored] = asyncio.Queue()
    async with opened(server.url, "writer") as writer, opened(server.url, "reader") as reader:
        await writer.create(StreamRecord(id=ONE))
        await reader.follow(ONE, Offset(0), lambda _, news: told.put_nowait(news))
        server.kill()
        with pytest.raises(StoreUnavailable):
            await reader.follow(ONE, Offset(0), lambda _, news: told.put_nowait(news))
        server.start()
        await writer.create(StreamRecord(id=TWO))
        await reader.follow(TWO, Offset(0), lambda _, news: told.put_nowait(news))
        await writer.commit([append(TWO, 1, "a")])
        assert (await told.get()).blocks == [b"a"]
        assert told.empty()


async def test_a_server_that_hangs_is_unavailable_until_it_wakes(server: ValkeyServer) -> None:
    async with opened(server.url, timeout=0.1) as storage:
        await storage.create(StreamRecord(id=ONE))
        server.hang()
        with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.1 s"):
            await storage.commit([append(ONE, 1, "a")])
        server.wake()
        while True:
            try:
                assert await storage.commit([append(ONE, 1, "a")]) == {}
                break
            except StoreUnavailable:
                continue  # it may be slow to wake
        assert (await storage.read(ONE, Offset(0))).blocks == [b"a"]


async def test_a_full_server_takes_nothing_of_a_commit_and_all_of_it_later(server: ValkeyServer) -> None:
    commit = [append(ONE, 1, "a", note=b"n"), append(TWO, 1, "a")]
    async with opened(server.url) as storage:
        for stream in (ONE, TWO):
            await storage.create(StreamRecord(id=stream))
        with server.control() as control:
            control.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await storage.commit(commit)
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await storage.create(StreamRecord(id=THREE))
            assert (await storage.status(ONE)).last == 0
            assert await storage.notes(ONE) == b""
            control.config_set("maxmemory", 0)
        assert await storage.commit(commit) == {}
        assert await storage.notes(ONE) == b"n"
        assert (await storage.status(TWO)).last == 1


async def test_a_full_server_still_takes_leases_and_forgets(server: ValkeyServer) -> None:
    async with opened(server.url) as storage:
        await storage.create(StreamRecord(id=ONE))
        with server.control() as control:
            control.config_set("maxmemory", 1)
            assert await storage.renew() == []
            await storage.forget(ONE)
            control.config_set("maxmemory", 0)
        assert await storage.live() == []


async def test_a_replica_is_unavailable_until_it_is_a_primary_again(server: ValkeyServer) -> None:
    async with opened(server.url) as storage:
        await storage.create(StreamRecord(id=ONE))
        with server.control() as control:
            control.execute_command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreUnavailable, match="replica"):
                await storage.commit([append(ONE, 1, "a")])
            with pytest.raises(StoreUnavailable, match="replica"):
                await storage.renew()
            with pytest.raises(StoreUnavailable):
                await new_storage(server.url).start(OwnerId("there"))
            control.execute_command("REPLICAOF", "NO", "ONE")
        assert await storage.commit([append(ONE, 1, "a")]) == {}


async def test_a_wrong_password_is_unavailable_and_told_without_it(server: ValkeyServer) -> None:
    with server.control() as control:
        control.config_set("requirepass", "right")
    with pytest.raises(StoreUnavailable, match="invalid username-password pair") as raised:
        await new_storage(f"unix://:wrong-secret@{server.socket}").start(OwnerId("here"))
    assert "wrong-secret" not in str(raised.value)
    with pytest.raises(StoreUnavailable, match="Authentication required"):
        await new_storage(server.url).start(OwnerId("here"))
    async with opened(f"unix://:right@{server.socket}") as storage:
        assert await storage.create(StreamRecord(id=ONE)) is None


async def test_scripts_that_the_server_has_forgotten_are_sent_again(server: ValkeyServer) -> None:
    async with opened(server.url) as storage:
        await storage.create(StreamRecord(id=ONE))
        await storage.commit([append(ONE, 1, "a")])
        with server.control() as control:
            control.script_flush()
        assert await storage.commit([append(ONE, 2, "b")]) == {}
        assert (await storage.read(ONE, Offset(0))).blocks == [b"a", b"b"]


async def test_connections_that_the_server_has_closed_are_replaced(server: ValkeyServer) -> None:
    async with opened(server.url) as storage:
        await storage.create(StreamRecord(id=ONE))
        for n in range(1, 6):
            with server.control() as control:
                control.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert await storage.commit([append(ONE, n, "a")]) == {}
        assert (await storage.status(ONE)).last == 5


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
async def test_a_server_that_drops_live_streams_is_refused(server: ValkeyServer, policy: str) -> None:
    with server.control() as control:
        control.config_set("maxmemory-policy", policy)
    with pytest.raises(StoreUnavailable, match=f"maxmemory-policy {policy}"):
        await new_storage(server.url).start(OwnerId("here"))


async def test_a_server_that_drops_only_what_has_ended_will_do(server: ValkeyServer) -> None:
    with server.control() as control:
        control.config_set("maxmemory-policy", "volatile-ttl")
    async with opened(server.url) as storage:
        assert await storage.create(StreamRecord(id=ONE)) is None


async def test_a_cluster_is_refused() -> None:
    skip_without_server()
    with own_server("--cluster-enabled", "yes") as server, pytest.raises(StoreUnavailable, match="cluster"):
        await new_storage(server.url).start(OwnerId("here"))


async def test_a_storage_closes_also_when_its_server_is_gone(server: ValkeyServer) -> None:
    storage = new_storage(server.url, timeout=0.1)
    await storage.start(OwnerId("here"))
    await storage.create(StreamRecord(id=ONE))
    await storage.follow(ONE, Offset(0), lambda *_: None)
    server.kill()
    before = asyncio.all_tasks()
    await storage.close()
    assert asyncio.all_tasks() < before


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_a_server_may_be_across_the_network(scheme: str) -> None:
    skip_without_server()
    port = free_port()
    with own_server("--port", str(port)):
        async with opened(f"{scheme}://127.0.0.1:{port}/3") as storage:
            assert await storage.create(StreamRecord(id=ONE)) is None


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
async def test_tls_is_spoken_only_with_a_server_that_proves_who_it_is(scheme: str, tmp_path: Path) -> None:
    skip_without_server()
    authority, port = trustme.CA(), free_port()
    certificate, key, trusted = tmp_path / "certificate", tmp_path / "key", tmp_path / "trusted"
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(trusted)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(trusted))
    with own_server("--tls-port", str(port), *files, "--tls-auth-clients", "no"):
        url = f"{scheme}://localhost:{port}"
        async with opened(f"{url}?ssl_ca_certs={trusted}") as storage:
            assert await storage.create(StreamRecord(id=ONE)) is None
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            await new_storage(url).start(OwnerId("here"))


class CutLine:
    """Between a storage and its server: hands on every request, and can cut the line instead of an answer."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.socket = server.folder / "cut"
        self.cuts_left = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    async def __aenter__(self) -> "CutLine":
        self._listening = await asyncio.start_unix_server(self._serve, self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._server.socket)
        self._writers |= {to_client, to_server}
        is_scripted = False

        async def up() -> None:
            nonlocal is_scripted
            while data := await from_client.read(1 << 16):
                is_scripted = b"EVAL" in data
                to_server.write(data)

        async def down() -> None:
            while data := await from_server.read(1 << 16):
                if is_scripted and self.cuts_left and b"NOSCRIPT" not in data:
                    self.cuts_left -= 1
                    break
                to_client.write(data)
            to_client.close()
            to_server.close()

        await asyncio.gather(up(), down(), return_exceptions=True)


@pytest.fixture
async def line(server: ValkeyServer) -> AsyncIterator[CutLine]:
    async with CutLine(server) as line:
        yield line


@pytest.mark.parametrize("cuts", [1, 2])
async def test_a_commit_whose_answer_is_lost_is_written_once(line: CutLine, cuts: int) -> None:
    async with opened(line.url) as storage:
        for stream in (ONE, TWO):
            await storage.create(StreamRecord(id=stream))
        line.cuts_left = cuts
        commit = [append(ONE, 1, "a", "b", note=b"n"), append(TWO, 1, note=b"n")]
        if cuts == 1:
            assert await storage.commit(commit) == {}
        else:
            with pytest.raises(StoreUnavailable):
                await storage.commit(commit)
            assert await storage.commit(commit) == {}
        assert line.cuts_left == 0
        assert (await storage.read(ONE, Offset(0))).blocks == [b"a", b"b"]
        assert await storage.notes(ONE) == await storage.notes(TWO) == b"n"


async def test_a_stream_whose_creation_was_answered_late_is_created_once(line: CutLine) -> None:
    record = StreamRecord(id=ONE, claim="alice/key")
    async with opened(line.url) as storage:
        line.cuts_left = 1
        assert await storage.create(record) is None
        assert line.cuts_left == 0
        assert await storage.renew() == []
        assert (await storage.status(ONE)).epoch == 1


async def test_a_stream_whose_creation_failed_is_gone_with_the_next_renewal(line: CutLine) -> None:
    async with opened(line.url) as storage:
        line.cuts_left = 2
        with pytest.raises(StoreUnavailable):
            await storage.create(StreamRecord(id=ONE, claim="alice/key"))
        await storage.renew()
        with pytest.raises(StreamUnknown):
            await storage.status(ONE)
        assert await storage.create(StreamRecord(id=TWO, claim="alice/key")) is None


async def test_a_takeover_whose_answer_was_lost_can_be_tried_again_here(line: CutLine) -> None:
    async with opened(line.url, "former") as former:
        await former.create(StreamRecord(id=ONE))
    async with opened(line.url) as storage:
        line.cuts_left = 2
        with pytest.raises(StoreUnavailable):
            await storage.claim(ONE, only_lapsed=True)
        claimed = await storage.claim(ONE, only_lapsed=True)
        assert claimed is not None
        await storage.renew()
        assert await storage.commit([append(ONE, 1, "a", epoch=claimed[0])]) == {}
        assert (await storage.status(ONE)).is_owned


async def test_a_takeover_whose_answer_was_lost_is_given_up_with_the_next_renewal(line: CutLine) -> None:
    async with opened(line.url, "former") as former:
        await former.create(StreamRecord(id=ONE))
        await former.commit([append(ONE, 1, "a")])
    async with opened(line.url, "here") as here, opened(line.url, "there") as there:
        line.cuts_left = 2
        with pytest.raises(StoreUnavailable):
            await here.claim(ONE, only_lapsed=True)
        assert await there.claim(ONE, only_lapsed=True) is None
        await here.renew()
        assert await there.claim(ONE, only_lapsed=True) is not None
