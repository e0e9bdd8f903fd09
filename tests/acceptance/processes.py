"""Real processes for the acceptance tests: the gateway, its engine, llama.cpp alone, and a user's programs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import httpx2
import msgspec
import pytest

from tests.conftest import NO_OLLAMA
from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine_child import EngineOrder, EngineReport
from unbroken.upstream.model_file import inspect_model_file

START_SECONDS = 60.0  # a machine of two busy cores, a cold disk
STOP_SECONDS = 10.0
PROGRAM_SECONDS = 90.0
PROGRAMS = Path(__file__).parent / "programs"

#: For what is asked beside the SDKs: no proxy between, and no connection that the other end may have closed by now.
http = httpx2.Client(trust_env=False, timeout=START_SECONDS, limits=httpx2.Limits(max_keepalive_connections=0))

_ANNOUNCED = re.compile(r"serves at (?P<url>http://\S+/v1)$")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS, *, every: float = 0.01) -> Any:
    """What `condition` gives once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return found


def bare_environment(**variables: str) -> dict[str, str]:
    """This process's environment without keys, base URLs, settings, proxies and an Ollama; and with `variables`."""
    ours = re.compile(r"OPENAI_.*|ANTHROPIC_.*|UNBROKEN_.*|PYTEST_.*|VIRTUAL_ENV|PYTHONPATH|.*_PROXY", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not ours.fullmatch(name)} | NO_OLLAMA | variables


def needed(program: str) -> str:
    """The path of a program that a test starts; without it the test is skipped, on CI it fails."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not installed")
    return path


def missing(what: str) -> NoReturn:
    """Skips the test; where all must be there, on CI, it fails instead."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and on CI it has to be")
    pytest.skip(what)


class GatewayProcess:
    """`unbroken serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        self.process = process
        self._lines: list[str] = []
        self._reading = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reading.start()
        self.base_url = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return "\n".join(self._lines)

    @property
    def engine_pid(self) -> int | None:
        """The process id of the engine's child, None while there is none."""
        return next((pid for pid in children(self.pid) if "engine_child" in command_line(pid)), None)

    @property
    def address(self) -> str:
        """The base URL without `/v1`."""
        return self.base_url.removesuffix("/v1")

    def environment(self, key: str = "none") -> dict[str, str]:
        """What a user sets, and nothing else."""
        return bare_environment(OPENAI_BASE_URL=self.base_url, OPENAI_API_KEY=key)

    def claude_environment(self, key: str = "none") -> dict[str, str]:
        """What a user of Anthropic's SDK sets, and nothing else."""
        return bare_environment(ANTHROPIC_BASE_URL=self.address, ANTHROPIC_API_KEY=key)

    def wait_until_announced(self) -> None:
        """Waits until it has said where it serves."""

        def announced() -> re.Match[str] | None:
            assert self.process.poll() is None, f"the gateway has ended: {self.log}"
            return next(filter(None, map(_ANNOUNCED.search, self._lines)), None)

        self.base_url = wait_for(announced, "the gateway says where it serves")["url"]

    def wait_until_ready(self) -> None:
        """Waits until its engines have loaded their models."""
        wait_for(lambda: http.get(f"{self.address}/readyz").status_code == 200, "the gateway is ready")

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, summed over all label sets that have `labels`."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        lines = http.get(f"{self.address}/metrics").text.splitlines()
        found = (re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line) for line in lines)
        return sum(float(match[2]) for match in found if match and wanted <= set((match[1] or "").split(",")))

    def stop(self) -> None:
        """Ends it, by force if it does not go by itself."""
        stop(self.process)
        self._reading.join(STOP_SECONDS)

    def _read(self, lines: Any) -> None:
        for line in lines:
            self._lines.append(line.rstrip("\n"))


@contextmanager
def gateway_process(
    config: Path | None = None,
    *arguments: str,
    cwd: Path | None = None,
    python: str = sys.executable,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[GatewayProcess]:
    """A gateway that serves at a free port until the context ends; it must not have written a traceback by then."""
    command = [python, "-m", "unbroken", "serve", "--port", "0", "--log-format", "json", *arguments]
    process = subprocess.Popen(
        [*command, *(("--config", str(config)) if config else ())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        cwd=cwd,
        env=bare_environment(**variables),
    )
    gateway = GatewayProcess(process)
    try:
        gateway.wait_until_announced()
        yield gateway
    finally:
        gateway.stop()
    assert "Traceback" not in gateway.log, gateway.log


class EngineAlone:
    """llama.cpp as the gateway starts it, at a loopback port, with nothing of ours between."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, key: str) -> None:
        self.process, self.key = process, key
        self.address = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.address}/v1"

    def slots(self) -> list[dict[str, Any]]:
        """llama.cpp's own account of what it is generating."""
        found = http.get(f"{self.address}/slots", headers={"authorization": f"Bearer {self.key}"})
        return list(found.raise_for_status().json())

    def is_idle(self) -> bool:
        """Whether nothing is being generated."""
        return not any(slot["is_processing"] for slot in self.slots())


@contextmanager
def engine_alone(model: Path, slots: int = 4) -> Iterator[EngineAlone]:
    """Runs the engine's child process by itself."""
    key = "acceptance-engine-key"
    order = EngineOrder(
        EngineSettings(path=str(model), slots=slots), inspect_model_file(str(model)), None, key, os.getpid()
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "unbroken.upstream.engine_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=bare_environment(GOMP_SPINCOUNT="0"),
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        process.stdin.flush()
        report = msgspec.json.decode(process.stdout.readline(), type=EngineReport)
        assert report.is_ready, report.failure
        yield EngineAlone(process, report.port, key)
    finally:
        stop(process)
        process.stdin.close()
        process.stdout.close()


@contextmanager
def scripted_process(*scripts: str, model: str = "scripted", words: int = 8) -> Iterator[str]:
    """A fake provider in a process that plays the scripts in order, the last for ever; gives its base URL."""
    command = [sys.executable, "-m", "unbroken.upstream.scripted", "--model", model, "--words", str(words)]
    process = subprocess.Popen(
        [*command, *(part for script in scripts for part in ("--script", script))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env=bare_environment(),
    )
    assert process.stdout
    try:
        base_url = process.stdout.readline().strip()
        assert base_url, "the scripted upstream did not start"
        yield base_url
    finally:
        stop(process)
        process.stdout.close()


def run_python(program: str, environment: Mapping[str, str], *arguments: str) -> str:
    """What a program of `programs/` prints."""
    return run([sys.executable, str(PROGRAMS / program), *arguments], environment)


def run(command: list[str], environment: Mapping[str, str], cwd: Path | None = None) -> str:
    """What a program prints; it has to end well."""
    done = subprocess.run(
        command,
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PROGRAM_SECONDS,
    )
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def read_text(chunks: Iterable[Any], pieces: list[str], then: Callable[[str], object] = lambda text: None) -> list[Any]:
    """Adds what the SDK's chunks say to `pieces`, and tells `then` the text so far; gives the chunks."""
    read = []
    for chunk in chunks:
        read.append(chunk)
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        then("".join(pieces))
    return read


def stop(process: subprocess.Popen[Any]) -> None:
    """Asks a process to end, and ends it by force if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, parent = _state_and_parent(int(entry.name))
            if parent == pid and state != "Z":
                found.append(int(entry.name))
    return found


def command_line(pid: int) -> str:
    """The arguments that a process was started with; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried does not."""
    return _state_and_parent(pid)[0] not in ("", "Z", "X")


def kill(pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to a process that has to be there."""
    assert pid is not None, "there is no such process"
    os.kill(pid, number)


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "", 0
    return state, int(parent)
