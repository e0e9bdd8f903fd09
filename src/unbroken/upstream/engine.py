"""llama.cpp in a child process, seen from the gateway: an OpenAI-compatible server at a private address.

A crash of native code ends the child only, and it is started again. The child ends with its parent.
"""

import asyncio
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine_child import EngineOrder
from unbroken.upstream.engine_process import EngineProcess, LoadFailed
from unbroken.upstream.engine_state import EngineAddress, EngineFailed, EnginePhase, EngineState, RestartRecord
from unbroken.upstream.engine_view import EngineView
from unbroken.upstream.engine_watch import wait_until_hung
from unbroken.upstream.model_file import ModelFileInvalid, inspect_model_file

__all__ = ["DEMO_MODEL", "Engine", "EngineAddress", "EngineFailed", "EnginePhase", "EngineState"]

#: The model that comes with Unbroken.
DEMO_MODEL = Path(__file__).parent.parent / "models" / "unbroken-demo.gguf"

MAX_SOCKET_PATH_BYTES = 100  # kernels allow 103 or 107


class Engine(EngineView):
    """Runs a GGUF file in a child process, and keeps it running until it is stopped.

    `on_state` hears each change; `on_log` gets llama.cpp's log as it comes, where `settings.verbose` asks for it
    (None: it goes to standard error).
    """

    def __init__(
        self,
        name: str,
        settings: EngineSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        on_state: Callable[[EngineState], None] = lambda state: None,
        on_log: Callable[[bytes], object] | None = None,
        use_unix_socket: bool = sys.platform != "win32",
    ) -> None:
        super().__init__(EngineState(EnginePhase.STARTING, f'engine "{name}" has not been started'))
        self.name = name
        self.settings = settings
        self._clock, self._chance = clock, chance
        self._on_state = on_state
        self._on_log = (on_log or _write_to_stderr) if settings.verbose else None
        self._use_unix_socket = use_unix_socket
        self._key = secrets.token_urlsafe(32)
        self._directory: str | None = None
        self._lives = 0
        self._process: EngineProcess | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Begins to load the model, in the background; another call changes nothing."""
        if self._running is None and self.state.phase is not EnginePhase.STOPPED:
            self._tell(EnginePhase.STARTING, "is starting")
            self._running = asyncio.create_task(self._run(), name=f"engine {self.name}")

    async def stop(self) -> None:
        """Ends the child and removes its socket; answers that are still open are cut."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        self._tell(EnginePhase.STOPPED, "is stopped")

    async def _run(self) -> None:
        record = RestartRecord()
        try:
            while True:
                is_hopeless, reason, ready_seconds = await self._live()
                record = record.after_death(ready_seconds)
                if (delay := record.restart_delay(self._chance(), is_hopeless=is_hopeless)) is None:
                    return self._tell(EnginePhase.FAILED, f"has failed: {reason}")
                self._tell(EnginePhase.RESTARTING, f"is started again in {delay:.1f} s: {reason}")
                await asyncio.sleep(delay)
        except Exception as error:  # nobody awaits this task: what went wrong must show in the state
            self._tell(EnginePhase.FAILED, f"has failed: {error!r}")
        finally:
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)

    async def _live(self) -> tuple[bool, str, float | None]:
        """One life of the child: whether its end is hopeless, why it ended, and how many seconds it had been ready."""
        process = None
        try:
            model = await asyncio.to_thread(inspect_model_file, self.settings.path)
            order = EngineOrder(self.settings, model, self._socket_path(), self._key, os.getpid())
            process = self._process = await EngineProcess.spawn(os.environ, self._on_log)
            report = await process.load(order, lambda share: self._tell_progress(model.name, share))
            ready = self._clock()
            host = "engine" if order.socket_path else "127.0.0.1"
            self._lives += 1
            self.address = EngineAddress(order.socket_path, host, report.port, self._key, self._lives)
            self.context_length = report.context_size
            self._tell(EnginePhase.READY, f'runs "{model.name}"', 1.0)
            reason = await self._watch(process, self.address)
            return False, reason, self._clock() - ready
        except ModelFileInvalid as error:
            return True, str(error), None
        except LoadFailed as error:
            return error.is_hopeless, str(error), None
        finally:
            self.address = None
            if process is not None:
                await process.end()

    async def _watch(self, process: EngineProcess, address: EngineAddress) -> str:
        """Waits for the child's death, and sees to it where it hangs; gives the reason."""
        dying = asyncio.ensure_future(process.wait_for_death())
        limit = self.settings.hang_timeout
        watching = {dying}
        try:
            if limit and process.pid is not None:
                watching.add(asyncio.ensure_future(_hanging(process, address, limit)))
            ended, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return (dying if dying in ended else ended.pop()).result()
        finally:
            for task in watching:
                task.cancel()

    def _socket_path(self) -> str | None:
        """A path in a directory that only this user may enter; None where sockets with a path cannot be had."""
        if not self._use_unix_socket:
            return None
        if self._directory is None or not os.path.isdir(self._directory):  # a child that was told to end removes it
            self._directory = tempfile.mkdtemp(prefix="unbroken-")
        path = os.path.join(self._directory, "engine.sock")
        return path if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES else None

    def _tell_progress(self, model: str, share: float | None) -> None:
        percent = "" if share is None else f": {share:.0%}"
        self._tell(EnginePhase.LOADING, f'loads "{model}"{percent}', share)

    def _tell(self, phase: EnginePhase, sentence: str, progress: float | None = None) -> None:
        state = EngineState(phase, f'engine "{self.name}" {sentence}', progress)
        if state == self.state:
            return
        self.state = state
        self._on_state(state)
        self._wake()


async def _hanging(process: EngineProcess, address: EngineAddress, limit: float) -> str:
    assert process.pid is not None
    await wait_until_hung(process.pid, address, limit)
    process.kill()
    return f"the engine hung: for {limit:g} s (hang_timeout) it neither answered nor computed, and so was killed"


def _write_to_stderr(log: bytes) -> None:
    sys.stderr.buffer.write(log)
    sys.stderr.buffer.flush()
