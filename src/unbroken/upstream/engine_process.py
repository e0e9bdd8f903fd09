"""One life of the engine's child process: started, loaded, watched, ended."""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from unbroken.upstream.engine_child import EngineOrder, EngineReport
from unbroken.upstream.machine import resident_bytes

MAX_LOG_BYTES = 16 << 10  # llama.cpp's last words, to explain a failure
PROGRESS_SECONDS = 0.2
OWN_BYTES = 64 << 20  # of the child without a model, about
STOP_SECONDS = 3.0  # from SIGTERM to SIGKILL

_ERROR_LINE = re.compile(r"^[\d.]+ E (?P<text>.+)$", re.MULTILINE)
# The only words of a process that served which are none of a request's: exceptions quote what they could not parse.
_ASSERTION = re.compile(r"^(?P<text>[^\s\"]+:\d+: GGML_ASSERT\(.*\) failed)$", re.MULTILINE)
_CRASH_LINE = re.compile(r"^(?P<text>.*(?:GGML_ASSERT|GGML_ABORT|what\(\):|\wError:).*)$", re.MULTILINE)


class LoadFailed(Exception):
    """The child did not become ready; `is_hopeless` where another try would end the same way."""

    def __init__(self, reason: str, *, is_hopeless: bool) -> None:
        super().__init__(reason)
        self.is_hopeless = is_hopeless


class EngineProcess:
    """A child process that runs `unbroken.upstream.engine_child`."""

    def __init__(self, process: Process, on_log: Callable[[bytes], object] | None) -> None:
        assert process.stderr
        self._process = process
        self._log = bytearray()
        self._on_log = on_log
        self._has_served = False
        self._reading_log = asyncio.create_task(self._read_log(process.stderr), name="engine log")

    @classmethod
    async def spawn(cls, environment: Mapping[str, str], on_log: Callable[[bytes], object] | None) -> "EngineProcess":
        """Starts the process; it waits for its order."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "unbroken.upstream.engine_child"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=_child_environment(environment),
            start_new_session=True,  # Ctrl-C is for the gateway, which lets answers finish first
        )
        return cls(process, on_log)

    @property
    def pid(self) -> int | None:
        """The process id; None once it has ended."""
        return self._process.pid if self._process.returncode is None else None

    async def load(self, order: EngineOrder, on_progress: Callable[[float | None], None]) -> EngineReport:
        """Has the child load the model; `on_progress` hears the share that is loaded, None where it cannot be told.

        Raises:
            LoadFailed: it did not become ready.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        reading = asyncio.create_task(self._process.stdout.readline(), name="engine report")
        try:
            async with asyncio.timeout(order.settings.load_timeout):
                while not reading.done():
                    await asyncio.wait({reading}, timeout=PROGRESS_SECONDS)
                    on_progress(self._progress(order.model.size_bytes))
        except TimeoutError:
            reason = (
                f'model "{order.model.path}" was not loaded within {order.settings.load_timeout:g} s (load_timeout)'
            )
            raise LoadFailed(reason, is_hopeless=True) from None
        finally:
            reading.cancel()
        if not (line := reading.result()):
            raise LoadFailed(f'model "{order.model.path}": {await self.wait_for_death()}', is_hopeless=False)
        report = msgspec.json.decode(line, type=EngineReport)
        if not report.is_ready:
            await self.wait_for_death()
            reason = report.failure or f'model "{order.model.path}" cannot be loaded by llama.cpp: {self._last_words()}'
            raise LoadFailed(reason, is_hopeless=True)
        self._has_served = True
        return report

    async def wait_for_death(self) -> str:
        """Waits until the process has ended; gives the reason, as far as it is known."""
        code = await self._process.wait()
        await asyncio.wait({self._reading_log}, timeout=STOP_SECONDS)
        if code == -getattr(signal, "SIGKILL", 9):
            return "the engine was killed (SIGKILL); if nobody did it, the system ran out of memory"
        ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        words = self._last_words()
        return f"the engine ended with {ending}" + (f": {words}" if words else "")

    def kill(self) -> None:
        """Ends it by force, whatever it does."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Ends the process, by force if it takes its time."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self.kill()
                await self._process.wait()
        self._reading_log.cancel()
        assert self._process.stdin
        self._process.stdin.close()

    def _progress(self, size: int) -> float | None:
        resident = resident_bytes(self._process.pid)
        return None if resident is None else min(0.99, max(0, resident - OWN_BYTES) / max(size, 1))

    async def _read_log(self, log: asyncio.StreamReader) -> None:
        while piece := await log.read(MAX_LOG_BYTES):
            self._log = (self._log + piece)[-MAX_LOG_BYTES:]
            if self._on_log is not None:
                self._on_log(piece)

    def _last_words(self) -> str:
        """The first error that llama.cpp logged (the later ones are its consequences), or what it crashed with.

        Everybody whom the engine's death concerns is told, and the log: there must be nothing of a request in it.
        """
        text = self._log.decode("utf-8", "replace")
        if self._has_served:
            found = _ASSERTION.search(text)
        else:
            found = _CRASH_LINE.search(text) or _ERROR_LINE.search(text)
        return found["text"].strip()[:500] if found else ""


def _child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The gateway's environment, with llama.cpp's threads sleeping while they wait, and no debugger when it crashes.

    Threads that spin make a busy machine fifty times slower: each waits for one that is not given a core.
    """
    waits = {} if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys() else {"GOMP_SPINCOUNT": "0"}
    return {**environment, **waits, "GGML_NO_BACKTRACE": "1"}
