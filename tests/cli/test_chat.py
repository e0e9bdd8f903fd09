"""`unbroken chat` as a process: pipes, exit codes, and a real pseudo-terminal."""

import asyncio
import os
import pty
import re
import signal
import sys
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import NO_OLLAMA
from unbroken.upstream.scripted import (
    Answer,
    Gate,
    Received,
    ScriptedUpstream,
    body,
    cut_after,
    error,
    hold_after,
    models,
    text,
)

pytestmark = pytest.mark.anyio
TIMEOUT = 60.0  # s; a Python process on a busy machine takes its time to start
PROMPT = "\x1b[?2004h"  # bracketed paste is switched on: it waits for a line
COMMAND = (sys.executable, "-m", "unbroken", "chat")


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    errors: str


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(models=["small", "large"]) as upstream:
        yield upstream


@pytest.fixture
def environment(upstream: ScriptedUpstream, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not re.match("UNBROKEN_|OPENAI_|NO_COLOR|TERM", name)}
    return {
        **kept,
        **NO_OLLAMA,
        "UNBROKEN_BASE_URL": upstream.base_url,
        "XDG_STATE_HOME": str(tmp_path),
        "TERM": "xterm",
    }


async def start(environment: dict[str, str], *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
    )


async def run(environment: dict[str, str], *arguments: str, stdin: str = "") -> Ended:
    process = await start(environment, *arguments)
    async with asyncio.timeout(TIMEOUT):
        output, errors = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())


def question(upstream: ScriptedUpstream) -> str:
    content = upstream.requests[-1].json()["messages"][-1]["content"]
    assert isinstance(content, str)
    return content


async def test_one_question_gives_the_answer_and_nothing_else(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    upstream.script(text("**one** two\x1b[31m"))
    assert await run(environment, "Count") == Ended(0, "**one** two\x1b[31m\n", "")
    assert upstream.requests[-1].json()["model"] == "small"


async def test_options_are_sent(environment: dict[str, str], upstream: ScriptedUpstream) -> None:
    ended = await run(
        environment, "-m", "large", "-s", "Be brief.", "--max-tokens", "5", "--temperature", "0", "--stats", "Hi"
    )
    assert ended.errors.startswith("3 tokens · ")
    sent = upstream.requests[-1].json()
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("large", 5, 0)
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert [request.path for request in upstream.requests] == ["/v1/chat/completions"]


async def test_only_a_model_that_nobody_chose_is_remarked_on(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    assert (await run(environment, "--stats", "Hi")).errors.endswith(" · small (--model chooses among 2)\n")
    assert (await run(environment, "--stats", "-m", "small", "Hi")).errors.endswith(" · small\n")
    assert (await run(environment, "Hi")).errors == ""
    upstream.answer_with(lambda request: models(["small"]) if request.path == "/v1/models" else None)
    assert (await run(environment, "--stats", "Hi")).errors.endswith(" · small\n")


async def test_what_is_piped_in_belongs_to_the_question(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    await run(environment, "Summarise", stdin="line 1\nline 2\n")
    assert question(upstream) == "Summarise\n\nline 1\nline 2"
    await run(environment, stdin="hi\n")
    assert question(upstream) == "hi"
    assert (await run(environment)).code == 2


async def test_the_first_word_is_out_before_the_second_exists(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.script(text("one two") | hold_after(2, gate))
    process = await start(environment, "Count")
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    async with asyncio.timeout(TIMEOUT):
        assert await process.stdout.readexactly(3) == b"one"
        gate.open()
        assert await process.stdout.read() == b" two\n"
        assert await process.wait() == 0


async def test_a_broken_answer_is_an_error(environment: dict[str, str], upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two") | cut_after(2))
    ended = await run(environment, "Count")
    assert (ended.code, ended.output) == (1, "one\n")
    assert ended.errors == (
        "unbroken: The answer broke off after 3 characters and is not complete: the connection was cut.\n"
    )


async def test_a_refusal_is_an_error(environment: dict[str, str], upstream: ScriptedUpstream) -> None:
    upstream.script(error(401, "No key", code="invalid_api_key"))
    ended = await run(environment, "Count")
    assert (ended.code, ended.output) == (1, "")
    assert "refused the API key: No key." in ended.errors


async def test_an_answer_cut_short_by_its_limit_is_said(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    upstream.script(text("one", finish_reason="length"))
    ended = await run(environment, "Count")
    assert (ended.code, ended.output) == (0, "one\n")
    assert "limit of tokens" in ended.errors


async def test_ctrl_c_ends_with_130_and_closes_the_upstream(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    upstream.script(text("one two") | hold_after(2, Gate()))
    process = await start(environment, "Count")
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    async with asyncio.timeout(TIMEOUT):
        assert await process.stdout.readexactly(3) == b"one"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    await upstream.wait_until_left()


async def test_a_reader_who_closes_the_pipe_gets_no_traceback(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.script(text("one two") | hold_after(2, gate))
    process = await start(environment, "Count")
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.close()
    async with asyncio.timeout(TIMEOUT):
        await process.stdout.readexactly(3)
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        gate.open()
        assert await process.stderr.read() == b""
        assert await process.wait() == 141


class Terminal:
    """The other side of a pseudo-terminal in which a chat runs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = ""
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    @property
    def unread(self) -> str:
        """What was shown since."""
        return self._seen

    async def wait_for(self, said: str) -> str:
        """All that was shown up to where `said` ends; it will not be seen again."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while said not in self._seen:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"waited for {said!r}, saw {self._seen!r}") from None
        before, _, self._seen = self._seen.partition(said)
        return before + said

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # the process has ended
            asyncio.get_running_loop().remove_reader(self._descriptor)
            return
        self._seen += data.decode(errors="replace")
        if "\x1b[6n" in self._seen:  # it asks where the cursor is
            self._seen = self._seen.replace("\x1b[6n", "")
            self.type("\x1b[1;1R")
        self._changed.set()


@asynccontextmanager
async def chatting(environment: dict[str, str], *arguments: str) -> AsyncIterator[tuple[Terminal, Process]]:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        preexec_fn=lambda: os.login_tty(os.dup(0)),
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(ours), process
        async with asyncio.timeout(TIMEOUT):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)


async def test_a_chat_on_a_terminal(environment: dict[str, str], upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("**bold** and more") | hold_after(2, gate), text("one two") | hold_after(2, Gate()))
    async with chatting(environment) as (terminal, _):
        await terminal.wait_for("small at ")
        await terminal.wait_for("/model chooses among 2")
        await terminal.wait_for(PROMPT)
        terminal.type("Hello\r")
        await terminal.wait_for("bold")  # before the rest exists
        gate.open()
        await terminal.wait_for("and more")
        assert (await terminal.wait_for("tokens")).endswith("\x1b[2m3 tokens")  # dim
        await terminal.wait_for(PROMPT)
        terminal.type("Count\r")
        await terminal.wait_for("one")
        terminal.type("\x03")
        await terminal.wait_for("Stopped")
        await upstream.wait_until_left()
        await terminal.wait_for(PROMPT)
        terminal.type("\x04")


async def test_ctrl_c_twice_leaves(environment: dict[str, str], upstream: ScriptedUpstream) -> None:
    upstream.script(text("one two") | hold_after(2, Gate()))
    async with chatting(environment, "-m", "large") as (terminal, _):
        await terminal.wait_for(PROMPT)
        terminal.type("Count\r")
        await terminal.wait_for("one")
        terminal.type("\x03")
        await terminal.wait_for("Stopped")
        await terminal.wait_for(PROMPT)
        terminal.type("\x03")


async def test_ctrl_c_twice_leaves_a_chat_that_is_its_own_server(
    environment: dict[str, str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script(text("one two") | hold_after(2, Gate()))
    config = tmp_path / "unbroken.toml"
    config.write_text(f'[server]\nport = 0\n[[upstream]]\nname = "up"\nbase_url = "{upstream.base_url}"\n')
    environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    async with chatting(environment, "--config", str(config)) as (terminal, _):
        await terminal.wait_for("small at http://127.0.0.1:")
        await terminal.wait_for(PROMPT)
        terminal.type("Count\r")
        await terminal.wait_for("one")
        terminal.type("\x03")
        await terminal.wait_for("Stopped")
        await upstream.wait_until_left()
        await terminal.wait_for(PROMPT)
        terminal.type("\x03")
    assert not re.search("Traceback|Task |Exception", terminal.unread)


async def test_what_no_longer_fits_into_the_servers_context_is_not_sent(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    def tell(request: Received) -> Answer | None:
        return body(b'{"id":"small","context_length":110}') if request.path == "/v1/models/small" else None

    upstream.answer_with(tell)
    upstream.always(text("y" * 100, usage=False))
    async with chatting(environment, "--max-tokens", "20") as (terminal, _):
        for letter in "abc":
            await terminal.wait_for(PROMPT)
            terminal.type(letter * 100 + "\r")
        await terminal.wait_for("The oldest turn is no longer sent")
        await terminal.wait_for(PROMPT)
        terminal.type("\x04")
    asked = [request.json()["messages"] for request in upstream.requests if request.path == "/v1/chat/completions"]
    assert [len(messages) for messages in asked] == [1, 3, 3]


async def test_arrow_up_brings_back_what_was_asked_in_the_last_chat(
    environment: dict[str, str], upstream: ScriptedUpstream
) -> None:
    for keys in ("remember me\r", "\x1b[A\r"):
        async with chatting(environment) as (terminal, _):
            await terminal.wait_for(PROMPT)
            terminal.type(keys)
            await terminal.wait_for("tokens")
            await terminal.wait_for(PROMPT)
            terminal.type("\x04")
        assert question(upstream) == "remember me"
    assert len([request for request in upstream.requests if request.path == "/v1/chat/completions"]) == 2


async def test_one_question_on_a_terminal_is_rendered(environment: dict[str, str], upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.script(text("**bold**\x1b]0;title\x07") | hold_after(1, gate))
    async with chatting(environment, "Hello") as (terminal, _):
        await terminal.wait_for("\x1b[2mwaiting…")
        gate.open()
        shown = await terminal.wait_for(" · small (--model chooses among 2)")
    assert "\x1b[1mbold\x1b[0m" in shown
    assert "\x1b]" not in shown
