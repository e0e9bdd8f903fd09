"""`unbroken serve` as a process: how it starts, reloads, drains and ends."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import httpx2
import msgspec
import pytest

from unbroken.upstream.scripted import Gate, ScriptedUpstream, hold_after, text
from unbroken.wire.sse import SseReader

pytestmark = pytest.mark.anyio

PATIENCE = 30.0  # s
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Reader:
    """A client in the middle of a stream."""

    def __init__(self, served) -> None:
        self._served = served
        self._reader = SseReader()
        self.blocks: list[bytes] = []

    async def __aenter__(self) -> "Reader":
        self._client = self._served.client()
        request = self._client.build_request("POST", "/chat/completions", json={**QUESTION, "stream": True})
        self._response = await self._client.send(request, stream=True)
        assert self._response.status_code == 200
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._response.aclose()
        await self._client.aclose()

    async def read_to_end(self) -> None:
        async for piece in self._response.aiter_raw():
            self.blocks += [event.data for event in self._reader.feed(piece)]

    @property
    def text(self) -> str:
        chunks = [msgspec.json.decode(block) for block in self.blocks if block != b"[DONE]"]
        deltas = (choice["delta"] for chunk in chunks for choice in chunk.get("choices", ()))
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def last(self) -> dict[str, object]:
        return msgspec.json.decode(self.blocks[-1])  # type: ignore[no-any-return]


async def test_it_says_where_it_serves_and_what(start, upstream: ScriptedUpstream) -> None:
    served = await start("serve", "--port", "0", upstream=upstream)
    await served.wait_until_serving()
    assert f"up: m  ({upstream.base_url})" in served.said
    assert "only this machine is served" in served.said
    assert f'\n  unbroken chat --base-url {served.base_url} "Hello"' in served.said
    async with served.client() as client:
        response = await client.post("/chat/completions", json=QUESTION)
    assert response.json()["choices"][0]["message"]["content"] == "one two three"
    served.process.terminate()
    assert await served.wait_until_ended() == 0


async def test_a_store_that_cannot_be_used_is_said_and_nothing_is_served(start, upstream: ScriptedUpstream) -> None:
    """D13: so a supervisor starts it again, until the store is back."""
    store = '[server]\nport = 0\n[store]\nstreams = "sqlite:////proc/no/such/folder/streams.db"'
    served = await start("serve", upstream=upstream, more=store)
    assert await served.wait_until_ended() == 1
    assert "/proc/no/such/folder/streams.db" in served.said
    assert "serves at" not in served.said
    assert "Traceback" not in served.said


async def test_it_tells_of_variables_that_change_nothing(start, upstream: ScriptedUpstream) -> None:
    served = await start("serve", "--port", "0", upstream=upstream, env={"UNBROKEN_PORT": "9000"})
    await served.wait_until_serving()
    said = "unbroken: UNBROKEN_PORT is not a setting and changes nothing; did you mean UNBROKEN_SERVER_PORT?"
    assert served.said.startswith(said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_gateway_ends_at_once_and_well(start, upstream: ScriptedUpstream, number: int) -> None:
    served = await start("serve", "--port", "0", upstream=upstream, more="[server]\ndrain = 600")
    await served.wait_until_serving()
    async with served.client() as client:
        assert (await client.get("/models")).status_code == 200
        served.process.send_signal(number)  # while this client's connection is kept
        assert await served.wait_until_ended() == 0
    assert '"event":"stopped"' in served.said


async def test_a_running_stream_may_finish_while_new_callers_are_refused(start, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    served = await start("serve", "--port", "0", upstream=upstream, more="[server]\ndrain = 600")
    await served.wait_until_serving()
    async with Reader(served) as reader:
        await gate.wait_until_reached()
        served.process.terminate()
        await served.wait_until_said('"event":"draining"')
        async with served.client() as client:
            while True:
                try:
                    response = await client.get(served.base_url.removesuffix("/v1") + "/readyz")
                except httpx2.ConnectError:
                    break
                assert response.status_code == 503
        gate.open()
        await reader.read_to_end()
    assert reader.text == "one two three"
    assert reader.blocks[-1] == b"[DONE]"
    assert await served.wait_until_ended() == 0


async def test_a_stream_that_does_not_finish_in_time_says_so(start, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.always(text("one two three") | hold_after(2, gate))
    served = await start("serve", "--port", "0", upstream=upstream, more="[server]\ndrain = 0.1")
    await served.wait_until_serving()
    async with Reader(served) as reader, Reader(served) as another:
        await gate.wait_until_reached()
        served.process.terminate()
        for one in (reader, another):
            await one.read_to_end()
            assert one.last["error"]["code"] == "shutting_down"  # type: ignore[index]
            assert b"[DONE]" not in one.blocks
    assert await served.wait_until_ended() == 0
    assert served.said.count('"outcome":"shutting_down"') == 2


async def test_the_second_signal_ends_it_at_once(start, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    served = await start("serve", "--port", "0", upstream=upstream, more="[server]\ndrain = 600")
    await served.wait_until_serving()
    async with Reader(served) as reader:
        await gate.wait_until_reached()
        served.process.send_signal(signal.SIGINT)
        await served.wait_until_said('"event":"draining"')
        served.process.send_signal(signal.SIGINT)
        await reader.read_to_end()
    assert reader.last["error"]["code"] == "shutting_down"  # type: ignore[index]
    assert await served.wait_until_ended() == 128 + signal.SIGINT
    assert "Traceback" not in served.said


async def test_a_client_that_does_not_read_holds_up_no_end(start, upstream: ScriptedUpstream) -> None:
    upstream.script(text(["x" * 100_000] * 300))  # more than the buffers of two connections hold
    served = await start("serve", "--port", "0", upstream=upstream, more="[server]\ndrain = 0.1")
    await served.wait_until_serving()
    async with Reader(served):
        await upstream.wait_until_blocked()
        served.process.terminate()
        assert await served.wait_until_ended() == 0
    assert "Traceback" not in served.said


async def test_a_reload_takes_what_changed_and_drops_no_stream(start, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("one two three") | hold_after(2, gate))
    served = await start("serve", "--port", "0", upstream=upstream)
    await served.wait_until_serving()
    async with Reader(served) as reader, served.client() as client, ScriptedUpstream() as other:
        other.always(text("from the other"))
        await gate.wait_until_reached()
        served.configure(other, '[keys]\napp = "sk-app-secret"', '["m", "new"]')
        reloaded = await start("reload", *served.port_option)
        assert await reloaded.wait_until_ended() == 0
        await served.wait_until_said("the configuration has been taken")
        key = {"authorization": "Bearer sk-app-secret"}
        assert (await client.get("/models")).status_code == 401
        models = (await client.get("/models", headers=key)).json()
        assert [model["id"] for model in models["data"]] == ["m", "new"]
        answer = (await client.post("/chat/completions", json=QUESTION, headers=key)).json()
        assert answer["choices"][0]["message"]["content"] == "from the other"
        gate.open()
        await reader.read_to_end()
    assert reader.text == "one two three"
    assert reader.blocks[-1] == b"[DONE]"


async def test_a_reload_takes_the_limits_of_connections_and_bodies_at_once(start, upstream: ScriptedUpstream) -> None:
    served = await start("serve", "--port", "0", upstream=upstream)
    await served.wait_until_serving()
    long_header, origin = {"x-long": "y" * 2000}, {"origin": "https://app.example"}
    async with served.client() as client:
        assert (await client.get("/models", headers=long_header)).status_code == 200
        assert (await client.post("/chat/completions", json=QUESTION)).status_code == 200
        assert "access-control-allow-origin" not in (await client.get("/models", headers=origin)).headers
        changed = '[server]\nheader_limit = 1000\nbody_limit = 10\nconnections = 1\ncors_origins = ["*"]\ndrain = 1'
        served.configure(upstream, changed)
        reloaded = await start("reload", *served.port_option)
        assert await reloaded.wait_until_ended() == 0
        assert "access-control-allow-origin" in (await client.get("/models", headers=origin)).headers
        assert (await client.post("/chat/completions", json=QUESTION)).status_code == 413
    async with served.client() as client:
        assert (await client.get("/models", headers=long_header)).status_code == 431
    async with served.client() as one, served.client() as another:
        assert (await one.get("/models")).status_code == 200
        assert (await another.get("/models")).status_code == 503
    served.process.terminate()
    assert await served.wait_until_ended() == 0
    assert "restart" not in served.said


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_reload_says_what_only_a_restart_changes(start, upstream: ScriptedUpstream, workers: int) -> None:
    store = '[store]\nstreams = "sqlite:///one.db"\n'
    served = await start("serve", "--workers", str(workers), upstream=upstream, more=f"[server]\nport = 0\n{store}")
    await served.wait_until_serving()
    changed = '[server]\nhost = "localhost"\n[store]\nstreams = "sqlite:///two.db"\nretention = 1\norphan_grace = 1'
    served.configure(upstream, changed)
    reloaded = await start("reload")
    assert await reloaded.wait_until_ended() == 0
    said = "server.host, server.port, store.streams, store.retention have changed, which needs a restart"
    assert said in reloaded.said
    await served.wait_until_said(said)
    await served.wait_until_said("the configuration has been taken")


@pytest.mark.parametrize("workers", [1, 2])
async def test_reload_tells_that_a_configuration_is_broken(start, upstream: ScriptedUpstream, workers: int) -> None:
    served = await start("serve", "--port", "0", "--workers", str(workers), upstream=upstream)
    await served.wait_until_serving()
    for broken, said in (("[server]\nprot = 80", "did you mean port?"), ("[[upstream]]", "upstream")):
        served.configure(upstream, broken)
        reloaded = await start("reload")
        assert await reloaded.wait_until_ended() == 1
        assert said in reloaded.said
        assert "goes on with the configuration that it has" in reloaded.said
    served.configure(upstream)
    reloaded = await start("reload")
    assert await reloaded.wait_until_ended() == 0
    assert reloaded.said == ""


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("this is not TOML", "is not TOML"),
        ("[server]\nprot = 80", "prot"),
        ('[keys]\napp = "env:NOT_THERE"', "NOT_THERE"),
        ('[[upstream]]\nname = "up"\nbase_url = "https://x/v1"\nca_file = "unbroken.toml"', "ca_file"),
        ('[log]\nfile = "no/such/folder/log"', "no/such/folder/log"),
    ],
)
async def test_a_broken_configuration_changes_nothing_and_says_so(
    start, upstream: ScriptedUpstream, tmp_path: Path, broken: str, said: str
) -> None:
    served = await start("serve", "--port", "0", upstream=upstream)
    await served.wait_until_serving()
    (tmp_path / "unbroken.toml").write_text(broken)
    served.process.send_signal(signal.SIGHUP)
    await served.wait_until_said("nothing was changed")
    assert said in served.said.replace('\\"', '"')
    async with served.client() as client:
        assert (await client.post("/chat/completions", json=QUESTION)).status_code == 200
        served.configure(upstream, models='["m", "new"]')
        served.process.send_signal(signal.SIGHUP)
        await served.wait_until_said("has been taken")
        assert len((await client.get("/models")).json()["data"]) == 2
    assert "Traceback" not in served.said


async def test_a_reload_never_opens_a_bound_address_to_strangers(start, upstream: ScriptedUpstream) -> None:
    key = '[keys]\napp = "sk-app-secret"'
    served = await start("serve", "--port", "0", upstream=upstream, more=f'[server]\nhost = "0.0.0.0"\n{key}')
    await served.wait_until_serving()
    served.configure(upstream, '[server]\nhost = "127.0.0.1"')
    served.process.send_signal(signal.SIGHUP)
    await served.wait_until_said("nothing was changed: host is 0.0.0.0, but no key is configured")
    async with served.client() as client:
        assert (await client.get("/models")).status_code == 401


async def test_a_reload_opens_the_log_anew(start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    log = tmp_path / "unbroken.log"
    served = await start("serve", "--port", "0", "--log-file", str(log), upstream=upstream)
    await served.wait_until_serving()
    async with served.client() as client:
        assert (await client.get("/models", headers={"x-request-id": "before"})).status_code == 200
        log.rename(tmp_path / "unbroken.log.1")
        served.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE):
            while not log.exists() or b"has been taken" not in log.read_bytes():
                await asyncio.sleep(0.01)
        assert (await client.get("/models", headers={"x-request-id": "after"})).status_code == 200
    served.process.terminate()
    assert await served.wait_until_ended() == 0
    assert b'"before"' in (tmp_path / "unbroken.log.1").read_bytes()
    assert b'"after"' in log.read_bytes()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_without_a_key_it_serves_nobody_else_and_says_how_to_make_one(start, host: str) -> None:
    served = await start("serve", "--host", host, "--port", "0")
    assert await served.wait_until_ended() == 1
    assert f"host is {host}, but no key is configured" in served.said
    assert 'export UNBROKEN_KEYS_APP="$(openssl rand -hex 24)"' in served.said
    assert "Traceback" not in served.said


async def test_the_key_that_it_asks_for_opens_it(start, upstream: ScriptedUpstream) -> None:
    served = await start(
        "serve", "--host", "0.0.0.0", "--port", "0",
        upstream=upstream, env={"UNBROKEN_KEYS_APP": "sk-app-secret"},
    )  # fmt: skip
    await served.wait_until_serving()
    assert "OPENAI_BASE_URL=http://127.0.0.1:" in served.said
    assert "  A key is asked for: that named app, where KEY stands below." in served.said
    assert "\n  UNBROKEN_API_KEY=KEY unbroken chat --base-url http://127.0.0.1:" in served.said
    assert "sk-app-secret" not in served.said
    async with served.client() as client:
        assert (await client.get("/models")).status_code == 401
        assert (await client.get("/models", headers={"authorization": "Bearer sk-app-secret"})).status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("nope.gguf", None, "does not exist; check the path"), ("page.gguf", "<html>", "GGUF"), (".", None, "directory")],
)
async def test_a_model_that_is_none_is_refused_at_the_start(
    start, tmp_path: Path, name: str, content: str | None, said: str, workers: int
) -> None:
    if content:
        (tmp_path / name).write_text(content)
    served = await start("serve", "--port", "0", "--workers", str(workers), "--model", name)
    assert await served.wait_until_ended() == 1
    assert served.said.startswith(f'unbroken: --model: model "{name}" ')
    assert said in served.said
    assert "Traceback" not in served.said


async def test_a_port_in_use_is_said_to_be(start, upstream: ScriptedUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = await start("serve", "--port", str(port), upstream=upstream)
        assert await served.wait_until_ended() == 1
    assert f"cannot listen at 127.0.0.1:{port}" in served.said
    assert "--port 0" in served.said
    assert "Traceback" not in served.said


async def test_an_address_of_another_machine_is_said_to_be(start, upstream: ScriptedUpstream) -> None:
    served = await start(
        "serve", "--host", "192.0.2.1", "--port", "0",
        upstream=upstream, env={"UNBROKEN_KEYS_APP": "sk-app-secret"},
    )  # fmt: skip
    assert await served.wait_until_ended() == 1
    assert "no address of this machine" in served.said


async def test_reload_without_a_gateway_says_so(start, tmp_path: Path) -> None:
    left_behind = tmp_path / "unbroken" / "8080.pid"
    left_behind.parent.mkdir()
    left_behind.write_text(str(os.getpid()))  # a process that is no gateway must not be sent a signal
    reloaded = await start("reload")
    assert await reloaded.wait_until_ended() == 1
    assert "no gateway of yours runs" in reloaded.said
    assert not left_behind.exists()
