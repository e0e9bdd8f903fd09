"""What is measured: gateways as processes, started, asked and ended."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kernel import tree

HERE = Path(__file__).parent
WORK = HERE / "work"
UPSTREAM_PORT = 9100
VALKEY_PORT = 8190
KEY = "sk-bench"
DURABLE = ["--header", "Unbroken-Durable: true"]
CORE_OF_GATEWAYS, CORE_OF_THE_REST = "0", "1"
PROBE = [
    "--model",
    "bench-n2",
    "--connections",
    "1",
    "--requests",
    "1",
    "--warmup",
    "0.2",
    "--seconds",
    "2",
    "--stream",
]


@dataclass
class Target:
    """A gateway to measure; without a command it is the upstream itself."""

    name: str
    url: str
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = 30.0
    #: What its requests have beside those of the scenario.
    flags: list[str] = field(default_factory=list)
    #: Begins the names of its models, in place of `bench`.
    models: str = "bench"
    #: The core that it may use; empty is any.
    core: str = CORE_OF_GATEWAYS
    #: A store that it needs, whose CPU is told apart.
    store: list[str] = field(default_factory=list)
    #: An engine says where it is, and its key, when it is ready.
    tells_address: bool = False
    key: str = KEY
    process: subprocess.Popen[bytes] | None = None
    store_process: subprocess.Popen[bytes] | None = None
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it may write."""
        return WORK / self.name.replace(" ", "-")

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        if not self.command:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.store:
            self.store_process = self._spawn(self.store, CORE_OF_THE_REST, "store.txt")
        self.process = self._spawn(self.command, self.core, "log.txt")
        if self.tells_address:
            return self._read_address()
        has_shape = self.models != "unbroken-demo"
        self._wait(lambda: bool(self.load(PROBE).get("completed_in_all")) if has_shape else self.is_ready(), 0.3)

    def start_and_measure(self) -> float:
        """Seconds from its start until `/readyz` says that it is ready."""
        self.stop()
        began = time.monotonic()
        self.process = self._spawn(self.command, self.core, "log.txt")
        self._wait(self.is_ready, 0.005)
        return time.monotonic() - began

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def load(self, flags: list[str], upstream: int = 0) -> dict[str, Any]:
        """One run of the load generator."""
        flags = [flag.replace("bench-", f"{self.models}-", 1) if flag.startswith("bench-") else flag for flag in flags]
        command = [sys.executable, str(HERE / "load.py"), "--url", self.url, "--key", self.key, *flags, *self.flags]
        if self.core:
            command = ["taskset", "-c", CORE_OF_THE_REST, *command]
        for flag, pid in (("--pid", self.process), ("--beside-pid", self.store_process)):
            command += [flag, str(pid.pid)] if pid else []
        if upstream:
            command += ["--bench-pid", str(upstream)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-500:]}

    def make_stream(self, model: str) -> str:
        """The id of a durable stream that has come to its end."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        headers["unbroken-durable"] = "true"
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        return str(response.headers["unbroken-stream"])

    def stop(self) -> None:
        """Ends it and what it started."""
        for process in (self.process, self.store_process):
            if process is not None:
                _end(process)
        self.process = self.store_process = None

    def _spawn(self, command: list[str], core: str, log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("w") as out:
            return subprocess.Popen(
                ["taskset", "-c", core, *command] if core else command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE if self.tells_address else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.tells_address else out,
                stderr=out,
            )

    def _wait(self, is_there: Callable[[], bool], pause: float) -> None:
        assert self.process is not None
        end = time.monotonic() + self.patience
        while time.monotonic() < end and self.process.poll() is None:
            if is_there():
                return
            time.sleep(pause)
        raise SystemExit(f"{self.name} did not answer; see {self.folder / 'log.txt'}")

    def _read_address(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.url, self.key = f"unix:{told['socket']}", told["key"]


def _end(process: subprocess.Popen[bytes]) -> None:
    for pid in reversed(tree(process.pid)):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def targets() -> tuple[dict[str, Target], dict[str, str]]:
    """What can be measured on this machine, by name; and of what cannot, why."""
    absent: dict[str, str] = {}
    found = [Target("direct", f"http://127.0.0.1:{UPSTREAM_PORT}")]
    if shutil.which("nginx"):
        nginx = ["nginx", "-p", ".", "-c", str(HERE / "configs" / "nginx.conf")]
        found.append(Target("nginx", "http://127.0.0.1:8101", nginx))
    else:
        absent["nginx"] = "it is not on the PATH (Debian: apt-get install nginx-light)"
    found.append(unbroken("unbroken", 8102))
    found.append(unbroken("sqlite", 8103, flags=DURABLE))
    if program := shutil.which("valkey-server") or shutil.which("redis-server"):
        found.append(_with_valkey(program))
    else:
        absent["valkey"] = "neither valkey-server nor redis-server is on the PATH"
    found.append(unbroken("translated", 8105, models="messages"))
    found.append(_engine_alone())
    found.append(unbroken("engine", 8106, config="engine.toml", models="unbroken-demo", core=""))
    litellm = WORK / "litellm-venv" / "bin" / "litellm"
    if litellm.exists():
        found.append(_litellm(litellm))
    else:
        absent["litellm"] = "it is not installed"
    return {target.name: target for target in found}, absent


def unbroken(name: str, port: int, *, config: str = "unbroken.toml", streams: str = "", **more: Any) -> Target:
    """A gateway of ours; where `streams` says nothing else its durable streams are in a file of its own."""
    command = [sys.executable, "-m", "unbroken", "serve", "--config", str(HERE / "configs" / config)]
    environment = {
        "UNBROKEN_SERVER_PORT": str(port),
        "UNBROKEN_STORE_STREAMS": streams or f"sqlite:///{WORK / name / 'streams.db'}",
        "XDG_STATE_HOME": str(WORK / name),
    }
    return Target(name, f"http://127.0.0.1:{port}", command, environment, **more)


def _with_valkey(program: str) -> Target:
    store = [program, "--port", str(VALKEY_PORT), "--bind", "127.0.0.1", "--save", ""]
    store += ["--appendonly", "yes", "--appendfsync", "everysec"]
    streams = f"redis://127.0.0.1:{VALKEY_PORT}/0"
    return unbroken("valkey", 8104, streams=streams, flags=DURABLE, store=store)


def _engine_alone() -> Target:
    command = [sys.executable, str(HERE / "engine_alone.py")]
    # It closes after each stream, which it says only where it is asked to: so no request meets a closed line.
    flags = ["--header", "connection: close"]
    return Target("llama.cpp", "", command, flags=flags, models="unbroken-demo", core="", tells_address=True)


def _litellm(program: Path) -> Target:
    command = [str(program), "--config", str(HERE / "configs" / "litellm.yaml"), "--host", "127.0.0.1"]
    command += ["--port", "8107", "--num_workers", "1"]
    environment = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment |= {"NO_DOCS": "True", "DISABLE_ADMIN_UI": "True"}
    return Target("litellm", "http://127.0.0.1:8107", command, environment, 180)


def install_litellm() -> None:
    """LiteLLM in a virtual environment of its own, if it is not there."""
    venv = WORK / "litellm-venv"
    if not (venv / "bin" / "litellm").exists():
        print("installing LiteLLM beside the project, once …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"], check=True)
