"""The engine's life: real child processes that load, answer, crash, come back and end."""

import asyncio
import os
import re
import select
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine import Engine, EngineAddress, EngineFailed, EnginePhase, EngineState
from unbroken.upstream.engine_child import HTTP_THREADS

pytestmark = pytest.mark.anyio

SECONDS = 60.0  # for what takes a fraction of one on a quiet machine


def new_engine(path: Path, *, states: list[EngineState] | None = None, settings: Any = None, **wishes: Any) -> Engine:
    """An engine with short pauses between restarts."""
    on_state = (lambda state: None) if states is None else states.append
    wanted = EngineSettings(path=str(path), **(settings or {}))
    return Engine("local", wanted, chance=lambda: 1.0, on_state=on_state, **wishes)


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[EngineAddress]:
    """The started engine's address; stopped at the end."""
    await engine.start()
    try:
        yield await engine.wait_until_ready(SECONDS)
    finally:
        await engine.stop()


@asynccontextmanager
async def caller(address: EngineAddress, key: str | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client for the engine."""
    transport = httpx2.AsyncHTTPTransport(uds=address.path) if address.path else None
    headers = {"authorization": f"Bearer {address.key if key is None else key}"}
    async with httpx2.AsyncClient(
        transport=transport, base_url=address.base_url, headers=headers, timeout=SECONDS
    ) as client:
        yield client


async def say(address: EngineAddress, text: str) -> str:
    """The whole answer to a message."""
    async with caller(address) as client:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0}
        reply = await client.post("/chat/completions", json=body)
        return str(reply.json()["choices"][0]["message"]["content"])


async def failure_of(engine: Engine) -> str:
    """The message with which the engine gives up."""
    await engine.start()
    try:
        with pytest.raises(EngineFailed) as caught:
            await engine.wait_until_ready(SECONDS)
        return str(caught.value)
    finally:
        await engine.stop()


def is_gone(process: int) -> bool:
    """Waits until a process that is not our child has ended."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], SECONDS)[0])
    finally:
        os.close(handle)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition that is asked over the network."""
    async with asyncio.timeout(SECONDS):
        while not await condition():
            pass


async def test_engine_loads_and_answers(model: Path) -> None:
    states: list[EngineState] = []
    async with running(new_engine(model, states=states)) as address:
        assert await say(address, "<greet>") == "he é 🌊 ok"
    phases = [state.phase for state in states]
    assert phases[0] is EnginePhase.STARTING
    assert phases[-2:] == [EnginePhase.READY, EnginePhase.STOPPED]
    assert set(phases[1:-2]) <= {EnginePhase.LOADING}
    assert states[-2].sentence == 'engine "local" runs "successor"'


async def test_engine_does_not_burden_the_gateway_with_native_code() -> None:
    code = "import sys, unbroken.upstream.engine; sys.exit('xllamacpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_killed_engine_comes_back_at_the_same_path(model: Path) -> None:
    states: list[EngineState] = []
    engine = new_engine(model, states=states)
    async with running(engine) as address:
        for life in (2, 3):
            killed = engine.pid
            assert killed
            os.kill(killed, signal.SIGKILL)
            assert is_gone(killed)
            await wait_for(engine, EnginePhase.RESTARTING, states)
            assert await engine.wait_until_ready(SECONDS) == replace(address, life=life)
            assert engine.pid != killed
            assert await say(address, "<greet>") == "he é 🌊 ok"
            states.clear()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM])
async def test_death_by_a_signal_is_not_blamed_on_what_went_wrong_before(model: Path, number: signal.Signals) -> None:
    """llama.cpp logs as errors what it could not answer, hours before perhaps."""
    states: list[EngineState] = []
    log = bytearray()
    engine = new_engine(model, states=states, settings={"verbose": True}, on_log=log.extend)
    async with running(engine) as address, caller(address) as client:
        broken = {"messages": [{"role": "user", "content": "<greet>"}], "grammar": 'root ::= "a'}
        assert (await client.post("/chat/completions", json=broken)).status_code == 400
        assert engine.pid
        os.kill(engine.pid, number)
        sentence = (await wait_for(engine, EnginePhase.RESTARTING, states)).sentence
    assert re.search(rb"(?m)^[\d.]+ E ", log), "it had logged an error"
    ending = "SIGSEGV" if number is signal.SIGSEGV else "exit code 0"
    assert sentence.endswith(f": the engine ended with {ending}")


async def test_engine_in_doubt_is_waited_for_before_its_death_is_known(model: Path) -> None:
    engine = new_engine(model)
    async with running(engine) as address:
        assert engine.pid
        os.kill(engine.pid, signal.SIGKILL)
        engine.doubt(address)
        assert engine.address == address
        assert await engine.wait_until_ready(SECONDS) == replace(address, life=2)


async def test_frozen_engine_is_noticed_and_comes_back(model: Path) -> None:
    """Its answers are cut by that, and go on as behind any death."""
    states: list[EngineState] = []
    engine = new_engine(model, states=states, settings={"hang_timeout": 1.0})
    async with running(engine) as address:
        frozen = engine.pid
        assert frozen
        os.kill(frozen, signal.SIGSTOP)
        waiting = asyncio.ensure_future(say(address, "<greet>"))
        state = await wait_for(engine, EnginePhase.RESTARTING, states)
        assert "hung: for 1 s (hang_timeout) it neither answered nor computed" in state.sentence
        with pytest.raises(httpx2.HTTPError):
            await waiting
        assert await say(await engine.wait_until_ready(SECONDS), "<greet>") == "he é 🌊 ok"
        assert engine.pid != frozen


async def test_engine_that_computes_is_not_taken_for_hung(slow_model: Path) -> None:
    """All slots busy, long prompts, and more connections than llama.cpp has threads for: nothing answers a question."""
    engine = new_engine(slow_model, settings={"hang_timeout": 0.5, "context_size": 8192})
    body = {"messages": [{"role": "user", "content": "<count>" * 1500}], "max_tokens": 8}
    async with running(engine) as address, caller(address) as client:
        child = engine.pid
        asked = [asyncio.ensure_future(client.post("/chat/completions", json=body)) for _ in range(8)]

        async def is_busy() -> bool:
            return all(slot["is_processing"] for slot in (await client.get("/../slots")).json())

        await until(is_busy)
        crowd = [await asyncio.open_unix_connection(address.path) for _ in range(HTTP_THREADS)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert {answer.result().status_code for answer in done} == {200}
        assert engine.pid == child
        for _, writer in crowd:
            writer.close()
        for answer in asked:
            answer.cancel()


async def wait_for(engine: Engine, phase: EnginePhase, states: list[EngineState]) -> EngineState:
    """Waits until the engine has told of a phase."""

    async def has_told() -> bool:
        await asyncio.sleep(0)
        return any(state.phase is phase for state in states)

    await until(has_told)
    return next(state for state in states if state.phase is phase)


async def test_child_that_was_told_to_end_is_started_again(model: Path) -> None:
    states: list[EngineState] = []
    engine = new_engine(model, states=states)
    async with running(engine):
        assert engine.pid
        os.kill(engine.pid, signal.SIGTERM)
        await wait_for(engine, EnginePhase.RESTARTING, states)
        assert await say(await engine.wait_until_ready(SECONDS), "<greet>") == "he é 🌊 ok"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r'model ".*model\.gguf" does not exist; check the path'),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory, expected a GGUF file"),
        (lambda path: path.write_bytes(b""), "is not a GGUF file"),
        (lambda path: path.write_text("<html>404</html>"), "is not a GGUF file: it begins with b'<htm'"),
        (lambda path: os.truncate(path, 9_000), "is incomplete: it has 9,000 bytes, its tensors need"),
        (lambda path: os.truncate(path, 900), "goes beyond its 900 bytes"),
    ],
)
async def test_unusable_file_is_refused_without_a_process(model: Path, spoil: Any, message: str) -> None:
    spoil(model)
    states: list[EngineState] = []
    assert re.search(message, await failure_of(new_engine(model, states=states)))
    assert [state.phase for state in states] == [EnginePhase.STARTING, EnginePhase.FAILED, EnginePhase.STOPPED]


async def test_model_that_llama_cpp_refuses_is_refused_with_its_words(write_model: Callable[..., Path]) -> None:
    model = write_model(**{"general.architecture": "fantasy"})
    message = await failure_of(new_engine(model))
    assert "cannot be loaded by llama.cpp" in message
    assert "unknown model architecture: 'fantasy'" in message


async def test_model_that_does_not_fit_is_refused_with_the_numbers(model: Path) -> None:
    message = await failure_of(new_engine(model, settings={"context_size": 16_000_000, "slots": 256}))
    assert "GB of memory" in message
    assert "lower context_size or slots" in message


async def test_crash_while_loading_is_tried_again_a_few_times(write_model: Callable[..., Path]) -> None:
    model = write_model(**{"tokenizer.ggml.tokens": ["a"] * 269})  # native code aborts on it
    states: list[EngineState] = []
    message = await failure_of(new_engine(model, states=states))
    assert "SIGABRT: " in message
    assert "GGML_ASSERT(id_to_token.size() == token_to_id.size()) failed" in message
    assert sum(state.phase is EnginePhase.RESTARTING for state in states) == 4


async def test_nothing_of_a_request_is_in_what_an_engine_dies_of(model: Path) -> None:
    """llama.cpp logs what it could not parse, and everybody who waits for the engine is told why it died."""
    states: list[EngineState] = []
    engine = new_engine(model, states=states)
    async with running(engine) as address, caller(address) as client:
        body = {"messages": [{"content": "TypeError: a secret"}]}
        assert "a secret" in (await client.post("/chat/completions", json=body)).text
        assert engine.pid
        os.kill(engine.pid, signal.SIGABRT)
        async with asyncio.timeout(SECONDS):
            while engine.state.phase is not EnginePhase.RESTARTING:
                await asyncio.sleep(0.01)
    assert any("SIGABRT" in state.sentence for state in states)
    assert not any("secret" in state.sentence for state in states)


async def test_broken_chat_template_is_refused(model: Path) -> None:
    assert "Parser Error" in await failure_of(new_engine(model, settings={"chat_template": "{% for"}))
    missing = {"chat_template": "nowhere.jinja"}
    assert '"nowhere.jinja": No such file' in await failure_of(new_engine(model, settings=missing))


async def test_chat_template_of_a_file_replaces_the_models(model: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("<greet>")
    async with running(new_engine(model, settings={"chat_template": str(template)})) as address:
        assert await say(address, "<count>") == "he é 🌊 ok"


async def test_load_that_takes_too_long_is_given_up(model: Path) -> None:
    assert "was not loaded within 0 s" in await failure_of(new_engine(model, settings={"load_timeout": 0}))


async def test_waiting_has_an_end(model: Path) -> None:
    engine = new_engine(model)
    with pytest.raises(EngineFailed, match=r"has not been started; not ready within 0\.01 s"):
        await engine.wait_until_ready(0.01)


async def test_only_the_key_opens_the_engine(model: Path) -> None:
    async with running(new_engine(model)) as address:
        assert address.path
        assert stat.S_IMODE(Path(address.path).parent.stat().st_mode) == 0o700
        assert address.key not in repr(address)
        for key in ("wrong", address.key[:-1]):
            async with caller(address, key) as client:
                assert (await client.get("/models")).status_code == 401
                assert (await client.post("/chat/completions", json={"messages": []})).status_code == 401
                assert (await client.get("/../props")).status_code == 401


async def test_key_is_in_no_argument_and_no_variable(model: Path) -> None:
    engine = new_engine(model)
    async with running(engine) as address:
        for file in ("cmdline", "environ"):
            assert address.key.encode() not in Path(f"/proc/{engine.pid}/{file}").read_bytes()


async def test_loopback_port_where_there_are_no_unix_sockets(model: Path) -> None:
    async with running(new_engine(model, use_unix_socket=False)) as address:
        assert address.path is None
        assert address.port
        assert await say(address, "<greet>") == "he é 🌊 ok"
        async with caller(address, "wrong") as client:
            assert (await client.get("/models")).status_code == 401


async def test_stop_leaves_no_process_and_no_socket(model: Path) -> None:
    engine = new_engine(model)
    async with running(engine) as address:
        child = engine.pid
    assert child
    assert is_gone(child)
    assert address.path
    assert not Path(address.path).parent.exists()
    assert engine.address is None
    with pytest.raises(EngineFailed, match="is stopped"):
        await engine.wait_until_ready(SECONDS)
    await engine.stop()


async def test_stop_while_loading_leaves_no_process(slow_model: Path) -> None:
    states: list[EngineState] = []
    engine = new_engine(slow_model, states=states)
    await engine.start()
    await wait_for(engine, EnginePhase.LOADING, states)
    child = engine.pid
    assert child
    await engine.stop()
    assert is_gone(child)


@pytest.mark.parametrize("phase", ["loading", "ready"])
async def test_child_ends_when_its_parent_is_killed(slow_model: Path, phase: str) -> None:
    code = """
import asyncio, os, signal, sys
from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine import Engine

def end(state):
    if state.phase.value == sys.argv[2]:
        print(engine.pid, engine.address.path if engine.address else "", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    await engine.start()
    await engine.wait_until_ready()

engine = Engine("local", EngineSettings(path=sys.argv[1]), on_state=end)
asyncio.run(main())
"""
    environment = {**os.environ, "TMPDIR": str(slow_model.parent)}
    command = [sys.executable, "-c", code, str(slow_model), phase]
    parent = subprocess.run(command, check=False, capture_output=True, env=environment)
    assert parent.returncode == -signal.SIGKILL
    child, path = parent.stdout.decode().rstrip("\n").split(" ", 1)
    assert is_gone(int(child))
    if phase == "ready":
        assert not Path(path).parent.exists()


@pytest.mark.parametrize(("wish", "given"), [(0, 4096), (600, 768), (9000, 4096)])
async def test_engine_says_what_a_conversation_may_hold(model: Path, wish: int, given: int) -> None:
    engine = new_engine(model, settings={"context_size": wish})
    assert engine.context_length is None
    async with running(engine) as address, caller(address) as client:
        slots = (await client.get("/../slots")).json()
        assert engine.context_length == slots[0]["n_ctx"] == given


async def test_interrupt_at_the_terminal_does_not_reach_the_child(model: Path) -> None:
    engine = new_engine(model)
    async with running(engine):
        assert engine.pid
        assert os.getpgid(engine.pid) != os.getpgid(0)


async def test_log_of_llama_cpp_comes_when_it_is_asked_for(model: Path) -> None:
    loud, quiet = bytearray(), bytearray()
    async with running(new_engine(model, settings={"verbose": True}, on_log=loud.extend)):
        pass
    async with running(new_engine(model, on_log=quiet.extend)):
        pass
    assert b"load_model" in loud
    assert not quiet
