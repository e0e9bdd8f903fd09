"""The commands as processes: help that teaches, models, doctor, and mistakes."""

import re
import socket

import pytest

from unbroken import __version__
from unbroken.upstream.scripted import ScriptedUpstream, error, models

from .conftest import Ended, Run, configuration

pytestmark = pytest.mark.anyio

COMMANDS = ("serve", "chat", "models", "doctor", "reload", "streams")


@pytest.mark.parametrize("command", COMMANDS)
async def test_help_teaches_by_example(run: Run, command: str) -> None:
    shown = await run(command, "--help")
    assert shown.code == 0
    lines = [line.strip() for line in shown.output.splitlines()]
    examples = [line for line in lines if re.match(r"(\S+=\S+ |cat \S+ \| )?unbroken " + command, line)]
    assert examples  # each on a line of its own
    assert all(line.count("unbroken " + command) == 1 for line in examples)
    assert shown == await run(command, "-h")


@pytest.mark.parametrize("command", [*COMMANDS, "chaos"])
async def test_help_breaks_no_line_before_its_end(run: Run, command: str) -> None:
    shown = await run(command, "--help", env={"COLUMNS": "200"})
    said = [line.strip() for line in shown.output.partition("Usage:")[2].partition("Examples:")[0].splitlines()[1:]]
    assert [line for line in said if line]
    assert not [line for line in said if line and not line.endswith(".")]


async def test_help_shows_the_first_steps_and_every_command(run: Run) -> None:
    shown = await run("--help")
    assert shown.code == 0
    for step in ('unbroken chat "Hello"', "unbroken serve", "unbroken doctor"):
        assert [line for line in shown.output.splitlines() if line.strip().startswith(step)]
    for command in COMMANDS:
        assert re.search(rf"│ {command} ", shown.output)
    assert max(map(len, shown.output.splitlines())) <= 80


async def test_the_version_is_said(run: Run) -> None:
    assert await run("--version") == Ended(0, f"unbroken {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--prot", "80"], "No such option: --prot"),
        (["serve", "--port", "many"], "integer"),
        (["sreve"], "No such command 'sreve'"),
        (["doctor", "extra"], "unexpected extra argument"),
    ],
)
async def test_what_is_not_understood_is_named(run: Run, arguments: list[str], said: str) -> None:
    ended = await run(*arguments)
    assert ended.code == 2
    assert said in ended.errors
    assert "-h" in ended.errors


@pytest.mark.parametrize("command", [("serve",), ("models",), ("doctor",)])
async def test_a_configuration_that_is_not_there_is_said_to_be(run: Run, command: tuple[str, ...]) -> None:
    ended = await run(*command, "--config", "nowhere.toml")
    assert ended.code == 1
    assert ended.errors.startswith("unbroken: nowhere.toml: ")


async def test_flags_are_checked_like_the_file(run: Run) -> None:
    ended = await run("serve", "--port", "99999")
    assert ended.code == 1
    assert "port" in ended.errors


async def test_models_are_listed_a_line_each(run: Run, upstream: ScriptedUpstream) -> None:
    assert await run("models", "--base-url", upstream.base_url) == Ended(0, "small\nlarge\n", "")
    ended = await run("models", config=configuration(upstream.base_url, 'models = ["mine = small", "other"]'))
    assert ended == Ended(0, "mine\nother\n", "")


async def test_models_of_a_configuration_with_keys_are_listed(run: Run, upstream: ScriptedUpstream) -> None:
    keys = '[keys]\napp = "sk-app-secret"\n'
    ended = await run("models", config=configuration(upstream.base_url) + keys)
    assert ended == Ended(0, "small\nlarge\n", "")


async def test_models_say_what_is_wrong(run: Run, upstream: ScriptedUpstream) -> None:
    upstream.answer_with(lambda request: error(401, "Incorrect API key provided"))
    refused = await run("models", "--base-url", upstream.base_url)
    assert refused.code == 1
    assert refused.errors
    await upstream.stop()
    away = await run("models", "--base-url", upstream.base_url)
    assert away.code == 1
    assert upstream.base_url.split("/")[2] in away.errors
    upstream.answer_with(lambda request: models([]))
    none = await run("models", config=configuration(upstream.base_url))
    assert none.code == 1
    assert "unbroken doctor" in none.errors


async def test_doctor_finds_all_well(run: Run, upstream: ScriptedUpstream) -> None:
    keys = '[keys]\napp = "sk-app-secret"\n'
    ended = await run("doctor", config=configuration(upstream.base_url, 'models = ["small"]') + keys)
    assert ended.code == 0
    assert "✗" not in ended.output
    for found in (f"unbroken {__version__}", "keys  app", 'upstream "up"', "models  small"):
        assert found in ended.output
    assert "secret" not in ended.output


async def test_doctor_finds_an_upstream_that_is_not_there(run: Run, upstream: ScriptedUpstream) -> None:
    await upstream.stop()
    ended = await run("doctor", config=configuration(upstream.base_url))
    assert ended.code == 1
    assert '✗ upstream "up"' in ended.output
    assert "→ is it running, and is base_url right?" in ended.output


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "set api_key to a valid key"), (404, "/v1"), (500, "log of that server")]
)
async def test_doctor_finds_what_an_upstream_says(
    run: Run, upstream: ScriptedUpstream, status: int, advice: str
) -> None:
    upstream.answer_with(lambda request: error(status, "no"))
    ended = await run("doctor", config=configuration(upstream.base_url, 'api_key = "sk-upstream-secret"'))
    assert ended.code == 1
    assert str(status) in ended.output
    assert advice in ended.output
    assert "secret" not in ended.output


async def test_doctor_finds_a_model_file_that_is_missing(run: Run) -> None:
    engine = (
        '[server]\nport = 0\n[[upstream]]\nname = "own"\nengine = "llama.cpp"\npath = "no.gguf"\nmodels = ["own"]\n'
    )
    ended = await run("doctor", config=engine)
    assert ended.code == 1
    assert '✗ upstream "own"' in ended.output
    assert "no.gguf" in ended.output
    assert "→ set path to a GGUF file" in ended.output


async def test_doctor_finds_a_port_in_use(run: Run, upstream: ScriptedUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configuration(upstream.base_url).replace("port = 0", f"port = {port}")
        ended = await run("doctor", config=config)
    assert ended.code == 1
    assert f"✗ address 127.0.0.1:{port}" in ended.output


async def test_doctor_finds_an_address_without_a_key(run: Run, upstream: ScriptedUpstream) -> None:
    config = configuration(upstream.base_url).replace("[server]", '[server]\nhost = "0.0.0.0"')
    ended = await run("doctor", config=config)
    assert ended.code == 1
    assert "UNBROKEN_KEYS_APP" in ended.output


async def test_doctor_finds_authorities_that_cannot_be_read(run: Run) -> None:
    ended = await run("doctor", config=configuration("https://up.invalid/v1", 'ca_file = "unbroken.toml"'))
    assert ended.code == 1
    assert '✗ upstreams  upstream "up": ca_file unbroken.toml' in ended.output


async def test_doctor_finds_variables_that_change_nothing(run: Run, upstream: ScriptedUpstream) -> None:
    config = configuration(upstream.base_url) + '[keys]\napp = "env:UNBROKEN_KEY_APP"\n'
    ended = await run("doctor", config=config, env={"UNBROKEN_KEY_APP": "sk-app-secret", "UNBROKEN_FOO": "1"})
    assert ended.code == 1
    assert ended.output.count("✗") == 1
    assert "✗ environment  UNBROKEN_FOO is not a setting and changes nothing" in ended.output


async def test_doctor_finds_a_log_that_cannot_be_written(run: Run, upstream: ScriptedUpstream) -> None:
    ended = await run("doctor", config=configuration(upstream.base_url) + '[log]\nfile = "no/such/folder/log"\n')
    assert ended.code == 1
    assert "no/such/folder/log" in ended.output
