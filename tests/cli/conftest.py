"""`unbroken` as a process, in a folder of its own, and a provider that it asks."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import NO_OLLAMA
from unbroken.upstream.scripted import ScriptedUpstream

TIMEOUT = 60.0  # s; a Python process on a busy machine takes its time to start


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    errors: str


Run = Callable[..., Awaitable[Ended]]
Serving = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(models=["small", "large"]) as upstream:
        yield upstream


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not re.match("UNBROKEN_|OPENAI_|NO_COLOR|TERM", name)}
    return {**kept, **NO_OLLAMA, "XDG_RUNTIME_DIR": str(tmp_path), "COLUMNS": "80"}


async def start(
    folder: Path, config: str, environment: dict[str, str], *arguments: str, stdout: int | None = None
) -> asyncio.subprocess.Process:
    if config:
        (folder / "unbroken.toml").write_text(config)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "unbroken", *arguments),
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.fixture
def run(tmp_path: Path, bare_environment: dict[str, str]) -> Run:
    """Runs `unbroken` in a folder of its own; `config` becomes its `unbroken.toml`."""

    async def run_command(
        *arguments: str, config: str = "", env: dict[str, str] | None = None, folder: Path = tmp_path
    ) -> Ended:
        environment = {**bare_environment, **(env or {})}
        process = await start(folder, config, environment, *arguments, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in errors, errors.decode()
        return Ended(process.returncode, output.decode(), errors.decode())

    return run_command


@pytest.fixture
def serving(tmp_path: Path, bare_environment: dict[str, str]) -> Serving:
    """Runs `unbroken serve` at a free port as long as the context lasts; gives its base URL."""

    @asynccontextmanager
    async def serve(
        *arguments: str, config: str = "", env: dict[str, str] | None = None, folder: Path = tmp_path
    ) -> AsyncIterator[str]:
        environment = {**bare_environment, **(env or {})}
        process = await start(folder, config, environment, "serve", "--port", "0", *arguments)
        assert process.stderr is not None
        said = b""
        try:
            async with asyncio.timeout(TIMEOUT):
                while b"Try it" not in said:
                    line = await process.stderr.readline()
                    assert line, said.decode()
                    said += line
            yield said.decode().partition("serves at ")[2].split()[0]
        finally:
            process.kill()
            await process.communicate()

    return serve


def configuration(base_url: str, more: str = "", port: int = 0) -> str:
    """A configuration with one upstream, at a port that is free."""
    return f'[server]\nport = {port}\n[[upstream]]\nname = "up"\nbase_url = "{base_url}"\n{more}\n'
