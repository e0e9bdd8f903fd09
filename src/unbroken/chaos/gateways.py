"""The gateways of a run: real processes at fixed ports, which are killed, frozen, restarted and ended."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import msgspec

from unbroken.chaos.processes import Seen, descendants, is_alive, send

START_SECONDS = 60.0  # a machine of two busy cores, an engine to load
STOP_SECONDS = 20.0  # its drain, and its engines'
LOOK_EVERY = 0.05  # s
RETRY_SECONDS = 0.3  # workers of one that was killed may hold the port for a moment

ENVIRONMENT_OF_OTHERS = re.compile(r"OPENAI_.*|ANTHROPIC_.*|UNBROKEN_.*|.*_PROXY", re.IGNORECASE)


class GatewayFailed(Exception):
    """A gateway does not start, or does not get ready."""


class GatewayProcess:
    """`unbroken serve` at one port, in one process after the other."""

    def __init__(self, number: int, config: Path, folder: Path, workers: int) -> None:
        self.number = number
        self.port = free_port()
        self.kills = 0
        self.log = folder / f"gateway-{number}.log"
        self._command = [
            *(sys.executable, "-m", "unbroken", "serve", "--config", str(config), "--port", str(self.port)),
            *("--workers", str(workers), "--log-format", "json"),
        ]
        self._process: asyncio.subprocess.Process | None = None
        self._seen: set[Seen] = set()
        #: One change at a time.
        self._changing = asyncio.Lock()

    @property
    def root(self) -> str:
        """Its address, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it, and waits until it is ready; raises GatewayFailed."""
        async with self._changing:
            await self._start()

    async def kill(self, down: float) -> None:
        """SIGKILL; after `down` seconds it is there again."""
        async with self._changing:
            await self._end(signal.SIGKILL)
            await asyncio.sleep(down)
            await self._start()

    async def restart(self) -> None:
        """SIGTERM, and once it has drained it is there again."""
        async with self._changing:
            await self._end(signal.SIGTERM)
            await self._start()

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP for it and its workers, and SIGCONT after `seconds`; its engine runs on."""
        async with self._changing:
            frozen = [self._pid, *(seen.pid for seen in self._workers())]
            for pid in frozen:
                send(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                for pid in frozen:
                    send(pid, signal.SIGCONT)

    async def kill_worker(self, chance: float) -> bool:
        """SIGKILL for one of its workers; whether there was one."""
        async with self._changing:
            workers = self._workers()
            return self._kill_one(workers, int(chance * len(workers)))

    async def kill_engine(self) -> bool:
        """SIGKILL for its engine; whether there was one."""
        async with self._changing:
            return self._kill_one([seen for seen in descendants(self._pid) if "engine_child" in seen.command], 0)

    async def stop(self) -> list[str]:
        """Ends it for good; gives what was still running after that, and is not any more."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            await self._end(signal.SIGTERM)
        for _ in range(int(STOP_SECONDS / LOOK_EVERY)):
            if not any(is_alive(seen) for seen in self._seen):
                return []
            await asyncio.sleep(LOOK_EVERY)
        left = [seen for seen in self._seen if is_alive(seen)]
        for seen in left:
            send(seen.pid, signal.SIGKILL)
        return [f"gateway {self.number}: {seen.command}" for seen in left]

    def notes(self, event: str) -> Iterator[dict[str, object]]:
        """The lines of its log that tell of such an event."""
        if not self.log.exists():
            return
        for line in self.log.read_bytes().splitlines():
            if b'"event":"%b"' % event.encode() in line:
                yield msgspec.json.decode(line)

    @property
    def tracebacks(self) -> int:
        """How often it has failed in a way that nobody planned."""
        return self.log.read_bytes().count(b"Traceback (most") if self.log.exists() else 0

    @property
    def _pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def _workers(self) -> list[Seen]:
        return [seen for seen in descendants(self._pid) if "unbroken.gateway.worker" in seen.command]

    def _kill_one(self, which: list[Seen], place: int) -> bool:
        if not which:
            return False
        self.kills += 1
        self._seen.update(which)
        send(which[place].pid, signal.SIGKILL)
        return True

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        latest = loop.time() + START_SECONDS
        while loop.time() < latest:
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=log,
                    env=bare_environment(),
                    start_new_session=True,  # Ctrl-C is for us, who end it
                )
            if await self._is_ready(latest):
                self._seen.update(descendants(self._pid))
                return
            await asyncio.sleep(RETRY_SECONDS)
        raise GatewayFailed(f"gateway {self.number} is not ready after {START_SECONDS:g} s; its log is {self.log}")

    async def _is_ready(self, latest: float) -> bool:
        """Whether it gets ready; False if it ends."""
        assert self._process is not None
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            while asyncio.get_running_loop().time() < latest:
                if self._process.returncode is not None:
                    return False
                with suppress(httpx2.TransportError):
                    if (await client.get(f"{self.root}/readyz")).status_code == 200:
                        return self._process.returncode is None
                await asyncio.sleep(LOOK_EVERY)
        return False

    async def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        self._seen.update(descendants(process.pid))
        self.kills += number is signal.SIGKILL
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            problem = f"gateway {self.number} did not end within {STOP_SECONDS:g} s of {number.name}"
            raise GatewayFailed(problem) from None
        finally:
            self._process = None


def bare_environment() -> dict[str, str]:
    """The environment without what would set up the gateways in another way."""
    return {name: value for name, value in os.environ.items() if not ENVIRONMENT_OF_OTHERS.fullmatch(name)}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
