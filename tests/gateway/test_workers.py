"""`unbroken serve --workers 2`: several processes at one port, and what is left when one of them dies."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from tests.acceptance.processes import children, command_line, is_alive
from unbroken.upstream.scripted import Gate, ScriptedUpstream, hold_after, text

from .conftest import Process
from .test_serving import QUESTION, Reader

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]

PATIENCE = 60.0  # s
AT_ONCE = 8  # requests, so that no worker takes them all for ever
DEMO = '[[upstream]]\nname = "demo"\nengine = "llama.cpp"\npath = "demo"\nmodels = ["m = unbroken-demo"]\n'


class Workers:
    """A supervisor with two workers."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process, self._log = process, log

    @property
    def pid(self) -> int:
        return self.process.process.pid

    @property
    def engines(self) -> list[int]:
        return [pid for pid in children(self.pid) if "engine_child" in command_line(pid)]

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def lines(self) -> list[dict[str, Any]]:
        whole = self._log.read_bytes().rpartition(b"\n")[0]
        return [msgspec.json.decode(line) for line in whole.split(b"\n") if line]

    def pids(self) -> dict[int, int]:
        """The process id of each worker, as the log has it."""
        return {line["number"]: line["pid"] for line in self.lines() if line["event"] == "worker" and "pid" in line}

    async def wait_until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                await asyncio.sleep(0.01)

    async def wait_until_noted(self, words: str, times: int = 1) -> None:
        await self.wait_until(lambda: self._log.read_text().count(words) >= times)

    async def wait_until_all_ended(self, pids: list[int]) -> None:
        await self.wait_until(lambda: not any(map(is_alive, pids)))

    async def ask(self, **headers: str) -> httpx2.Response:
        """An answer over a connection of its own."""
        async with self.process.client() as client:
            return await client.post("/chat/completions", json=QUESTION, headers=headers)

    async def ask_each(self, **headers: str) -> list[httpx2.Response]:
        """Asks until each worker has answered since; gives all answers."""
        before, answers = len(self.lines()), list[httpx2.Response]()
        async with asyncio.timeout(PATIENCE):
            while {line.get("worker") for line in self.lines()[before:] if "status" in line} != {1, 2}:
                answers += await asyncio.gather(*(self.ask(**headers) for _ in range(AT_ONCE)))
        return answers

    async def metrics(self) -> dict[str, float]:
        async with self.process.client() as client:
            text = (await client.get(self.process.base_url.removesuffix("/v1") + "/metrics")).text
        rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    async def readiness(self) -> int:
        async with self.process.client() as client:
            return (await client.get(self.process.base_url.removesuffix("/v1") + "/readyz")).status_code

    async def wait_until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.readiness() != 200:
                await asyncio.sleep(0.01)

    async def wait_until_refused(self) -> None:
        """Returns when the port is closed; who comes before is told that the workers drain."""
        with suppress(httpx2.ConnectError, httpx2.ReadError):
            while True:
                assert await self.readiness() == 503

    async def read_at_each(self, stack: AsyncExitStack) -> list[Reader]:
        """Streams that are being read, at least one at each worker."""
        readers: list[Reader] = []
        async with asyncio.timeout(PATIENCE):
            while True:
                readers.append(await stack.enter_async_context(Reader(self.process)))
                found = await self.metrics()
                if all(found.get(f'unbroken_open_streams{{worker="{number}"}}') for number in (1, 2)):
                    return readers


@pytest.fixture
def start_workers(start, tmp_path: Path):
    """Starts two workers in front of a scripted upstream, or with the demo model; all have started to serve."""

    async def run(upstream: ScriptedUpstream | None = None, more: str = "") -> Workers:
        if upstream is None:
            (tmp_path / "unbroken.toml").write_text(f"{more}\n{DEMO}")
        log = tmp_path / "log"
        arguments = ("serve", "--port", "0", "--workers", "2", "--log-file", str(log), "--log-format", "json")
        workers = Workers(await start(*arguments, upstream=upstream, more=more), log)
        await workers.process.wait_until_serving()
        assert workers.process.said.count("serves at") == 1
        return workers

    return run


async def test_all_workers_answer_at_one_port(start_workers, upstream: ScriptedUpstream) -> None:
    workers = await start_workers(upstream)
    assert {answer.status_code for answer in await workers.ask_each()} == {200}
    pids = workers.pids()
    assert len({*pids.values(), workers.pid}) == 3
    workers.process.process.terminate()
    assert await workers.process.wait_until_ended() == 0
    assert workers.lines()[-1]["event"] == "stopped"
    assert not any(map(is_alive, pids.values()))


async def test_a_worker_that_is_killed_is_replaced_while_the_others_serve(
    start_workers, upstream: ScriptedUpstream
) -> None:
    workers = await start_workers(upstream)
    await workers.ask_each()
    killed, files = workers.pids()[1], workers.open_files()
    os.kill(killed, signal.SIGKILL)
    await workers.wait_until_noted(f"process {killed}: SIGKILL")
    assert (await workers.ask()).status_code == 200
    await workers.wait_until_noted("has been started", times=3)
    assert workers.pids()[1] != killed
    assert {answer.status_code for answer in await workers.ask_each()} == {200}
    assert workers.open_files() == files


async def test_a_worker_that_is_told_to_end_finishes_its_answer_and_is_replaced(
    start_workers, upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.always(text("one two three") | hold_after(2, gate))
    workers = await start_workers(upstream, "[server]\ndrain = 600")
    async with AsyncExitStack() as stack:
        readers = await workers.read_at_each(stack)
        os.kill(workers.pids()[1], signal.SIGTERM)
        await workers.wait_until_noted('"event":"draining"')
        gate.open()
        await asyncio.gather(*(reader.read_to_end() for reader in readers))
    assert {reader.text for reader in readers} == {"one two three"}
    await workers.wait_until_noted("exit code 0")
    await workers.ask_each()


async def test_connections_wait_while_no_worker_lives(start_workers, upstream: ScriptedUpstream) -> None:
    workers = await start_workers(upstream)
    await workers.ask_each()
    for pid in workers.pids().values():
        os.kill(pid, signal.SIGKILL)
    await workers.wait_until_noted("SIGKILL", times=2)
    assert (await workers.ask()).status_code == 200


async def test_workers_end_when_their_supervisor_is_killed(start_workers, upstream: ScriptedUpstream) -> None:
    """A running answer is finished first: its reader has nothing to do with it."""
    gate = Gate()
    upstream.always(text("one two three") | hold_after(2, gate))
    workers = await start_workers(upstream, "[server]\ndrain = 600")
    async with AsyncExitStack() as stack:
        readers = await workers.read_at_each(stack)
        pids = workers.pids()
        workers.process.process.kill()
        await workers.wait_until_noted("the supervisor is gone", times=2)
        gate.open()
        await asyncio.gather(*(reader.read_to_end() for reader in readers))
    assert {reader.text for reader in readers} == {"one two three"}
    await workers.wait_until_all_ended(list(pids.values()))


async def test_nothing_is_left_of_a_supervisor_that_is_killed_with_an_engine(start_workers) -> None:
    workers = await start_workers()
    await workers.wait_until_ready()
    pids = [*workers.pids().values(), *workers.engines]
    assert len(pids) == 3
    workers.process.process.kill()
    await workers.wait_until_all_ended(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_every_worker(start_workers, upstream: ScriptedUpstream, number: int) -> None:
    gate = Gate()
    upstream.always(text("one two three") | hold_after(2, gate))
    workers = await start_workers(upstream, "[server]\ndrain = 600")
    groups = {os.getpgid(pid) for pid in workers.pids().values()}
    assert os.getpgid(workers.pid) not in groups, "a terminal's Ctrl-C would reach them beside the supervisor"
    async with AsyncExitStack() as stack:
        readers = await workers.read_at_each(stack)
        workers.process.process.send_signal(number)
        await workers.wait_until_noted('"event":"draining"', times=2)
        await workers.wait_until_refused()
        gate.open()
        await asyncio.gather(*(reader.read_to_end() for reader in readers))
    assert {reader.text for reader in readers} == {"one two three"}
    assert {reader.blocks[-1] for reader in readers} == {b"[DONE]"}
    assert await workers.process.wait_until_ended() == 0


async def test_the_second_signal_ends_every_worker_at_once(start_workers, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.always(text("one two three") | hold_after(2, gate))
    workers = await start_workers(upstream, "[server]\ndrain = 600")
    async with AsyncExitStack() as stack:
        readers = await workers.read_at_each(stack)
        workers.process.process.send_signal(signal.SIGINT)
        await workers.wait_until_noted('"event":"draining"', times=2)
        workers.process.process.send_signal(signal.SIGINT)
        await asyncio.gather(*(reader.read_to_end() for reader in readers))
    assert {reader.last["error"]["code"] for reader in readers} == {"shutting_down"}  # type: ignore[index]
    assert await workers.process.wait_until_ended() == 128 + signal.SIGINT
    assert "Traceback" not in workers.process.said


async def test_a_stopped_worker_holds_up_nobody_for_ever(start_workers, upstream: ScriptedUpstream) -> None:
    """One that hangs neither tells its metrics nor ends, and is ended by force."""
    workers = await start_workers(upstream)
    await workers.ask_each()
    hanging = workers.pids()[1]
    os.kill(hanging, signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE):
        while 'unbroken_open_streams{worker="2"}' not in (found := await workers.metrics()):
            pass  # the connection was the stopped one's
    assert 'unbroken_open_streams{worker="1"}' not in found
    os.kill(hanging, signal.SIGKILL)
    workers.process.process.terminate()
    assert await workers.process.wait_until_ended() == 0


async def test_a_reload_reaches_every_worker_and_those_that_come_later(
    start, start_workers, upstream: ScriptedUpstream
) -> None:
    workers = await start_workers(upstream)
    workers.process.configure(upstream, '[keys]\napp = "sk-app-secret"')
    reloaded = await start("reload", *workers.process.port_option)
    assert await reloaded.wait_until_ended() == 0
    await workers.wait_until_noted("the configuration has been taken")
    assert {answer.status_code for answer in await workers.ask_each()} == {401}
    os.kill(workers.pids()[1], signal.SIGKILL)
    await workers.wait_until_noted("has been started", times=3)
    assert {answer.status_code for answer in await workers.ask_each()} == {401}
    answers = await workers.ask_each(authorization="Bearer sk-app-secret")
    assert {answer.status_code for answer in answers} == {200}
    assert sum(line.get("message") == "the configuration has been taken" for line in workers.lines()) == 1


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("this is not TOML", "is not TOML"),
        ('[[upstream]]\nname = "up"\nbase_url = "https://x/v1"\nca_file = "unbroken.toml"', "ca_file"),
    ],
)
async def test_a_broken_configuration_changes_nothing_at_any_worker(
    start_workers, upstream: ScriptedUpstream, tmp_path: Path, broken: str, said: str
) -> None:
    workers = await start_workers(upstream)
    (tmp_path / "unbroken.toml").write_text(broken)
    os.kill(workers.pid, signal.SIGHUP)
    await workers.wait_until_noted("nothing was changed")
    assert said in workers.lines()[-1]["message"]
    assert {answer.status_code for answer in await workers.ask_each()} == {200}


async def test_a_reload_says_that_more_workers_need_a_restart(start, upstream: ScriptedUpstream) -> None:
    served = await start("serve", "--port", "0", upstream=upstream, more="[server]\nworkers = 2")
    await served.wait_until_serving()
    served.configure(upstream, "[server]\nworkers = 3")
    served.process.send_signal(signal.SIGHUP)
    await served.wait_until_said("server.workers has changed, which needs a restart")
    await served.wait_until_said("the configuration has been taken")


async def test_an_engine_runs_once_for_all_workers(start_workers) -> None:
    workers = await start_workers()
    await workers.wait_until_ready()
    assert len(workers.engines) == 1
    assert {answer.status_code for answer in await workers.ask_each()} == {200}
    assert len(workers.engines) == 1
    assert [line["phase"] for line in workers.lines() if line["event"] == "engine"].count("ready") == 1


async def test_an_engine_that_is_killed_is_started_again_for_all_workers(start_workers) -> None:
    workers = await start_workers()
    await workers.wait_until_ready()
    await workers.ask_each()
    (killed,) = workers.engines
    os.kill(killed, signal.SIGKILL)
    await workers.wait_until_noted('"phase":"restarting"')
    assert {answer.status_code for answer in await workers.ask_each()} == {200}
    assert killed not in workers.engines
    assert len(workers.engines) == 1


async def test_an_engine_outlives_all_workers(start_workers) -> None:
    workers = await start_workers()
    await workers.wait_until_ready()
    before = workers.engines
    for pid in workers.pids().values():
        os.kill(pid, signal.SIGKILL)
    await workers.wait_until_noted("has been started", times=4)
    assert {answer.status_code for answer in await workers.ask_each()} == {200}
    assert workers.engines == before


async def test_a_reload_that_leaves_the_engine_as_it_is_does_not_load_it_again(start_workers, tmp_path: Path) -> None:
    workers = await start_workers()
    await workers.wait_until_ready()
    before = workers.engines
    (tmp_path / "unbroken.toml").write_text(DEMO.replace("m = ", "new = "))
    os.kill(workers.pid, signal.SIGHUP)
    await workers.wait_until_noted("the configuration has been taken")
    assert {answer.status_code for answer in await workers.ask_each()} == {404}
    async with workers.process.client() as client:
        answer = await client.post("/chat/completions", json={**QUESTION, "model": "new"})
    assert answer.status_code == 200
    assert workers.engines == before


async def test_an_engine_that_no_configuration_names_any_more_ends(start_workers, upstream: ScriptedUpstream) -> None:
    workers = await start_workers()
    await workers.wait_until_ready()
    engines = workers.engines
    workers.process.configure(upstream)
    os.kill(workers.pid, signal.SIGHUP)
    await workers.wait_until_noted("the configuration has been taken")
    await workers.wait_until_all_ended(engines)
    assert {answer.json()["choices"][0]["message"]["content"] for answer in await workers.ask_each()} == {
        "one two three"
    }


async def test_metrics_are_those_of_all_workers(start_workers, upstream: ScriptedUpstream) -> None:
    workers = await start_workers(upstream)
    answers = await workers.ask_each()
    found = await workers.metrics()
    counted = [
        found[f'unbroken_responses_total{{route="/v1/chat/completions",status="200",worker="{number}"}}']
        for number in (1, 2)
    ]
    assert all(counted)
    assert sum(counted) == len(answers)
    assert not [name for name in found if "worker=" not in name]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", 'upstream "up": ca_file unbroken.toml'),
        ('[server]\nhost = "0.0.0.0"', "host is 0.0.0.0, but no key is configured"),
        ('[log]\nfile = "no/such/folder/log"', "no/such/folder/log"),
        ("[server]\nprot = 80", "prot"),
        ('[store]\nstreams = "sqlite:////proc/no/such/folder/streams.db"', "/proc/no/such/folder/streams.db"),
    ],
)
async def test_a_bad_configuration_is_told_once_and_as_by_one_process(
    start, tmp_path: Path, more: str, said: str
) -> None:
    ca_file = "" if "store" in more else 'ca_file = "unbroken.toml"'
    upstream = f'[[upstream]]\nname = "up"\nbase_url = "https://x/v1"\n{ca_file}\n'
    (tmp_path / "unbroken.toml").write_text(f"{more}\n{upstream}")
    alone = await start("serve", "--port", "0")
    several = await start("serve", "--port", "0", "--workers", "2")
    assert await alone.wait_until_ended() == await several.wait_until_ended() == 1
    words = [line for line in several.said.splitlines() if not line.startswith("{")]
    assert words == alone.said.splitlines()
    assert said in several.said
    assert "Traceback" not in several.said


async def test_workers_that_could_not_see_each_others_streams_are_refused(start) -> None:
    served = await start("serve", "--port", "0", "--workers", "2", env={"UNBROKEN_STORE_STREAMS": "memory"})
    assert await served.wait_until_ended() == 1
    assert 'in UNBROKEN_STORE_STREAMS = "memory" each would have its own streams' in served.said


async def test_lines_of_all_workers_are_whole(start_workers, upstream: ScriptedUpstream) -> None:
    """Long ones at the same time; a line that another one cuts is no JSON."""
    workers = await start_workers(upstream)
    async with workers.process.client() as client:
        for _ in range(20):
            paths = [f"/{number}{'x' * 190}" for number in range(50)]
            await asyncio.gather(*(client.get(path) for path in paths))
    await workers.wait_until(lambda: sum("path" in line for line in workers.lines()) == 1000)
