"""`unbroken streams` and `unbroken chat --attach` as processes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.client.durable_scripts import SCRIPTS, TEXT
from tests.client.durable_server import DurableServer, Received, Stream

TIMEOUT = 60.0  # s; a Python process on a busy machine takes its time to start


@pytest.fixture
def server() -> Iterator[DurableServer]:
    with DurableServer() as server:
        yield server


def run(server: DurableServer, *arguments: str) -> tuple[int, str, str]:
    kept = {name: value for name, value in os.environ.items() if not re.match("UNBROKEN_|OPENAI_|NO_COLOR|TERM", name)}
    ended = subprocess.run(
        [sys.executable, "-m", "unbroken", *arguments],
        env={**kept, "UNBROKEN_BASE_URL": f"{server.root}/v1", "UNBROKEN_API_KEY": "sk-1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def begin(server: DurableServer) -> None:
    request = Received("POST", "/v1/chat/completions", {}, b"{}")
    server.streams["chatcmpl-1"] = Stream("chatcmpl-1", SCRIPTS["/chat/completions"], request)


def test_live_streams_are_listed(server: DurableServer) -> None:
    server.written = 3
    begin(server)
    code, output, errors = run(server, "streams")
    assert (code, errors) == (0, "")
    assert re.fullmatch(r"STREAM .*\nchatcmpl-1  small  only      3       \d+ s\n", output)
    assert server.requests[0].headers["authorization"] == "Bearer sk-1"


def test_where_there_is_none_it_says_so_beside_the_output(server: DurableServer) -> None:
    assert run(server, "streams") == (0, "", "No streams are going on.\n")


def test_a_stream_is_attached_to(server: DurableServer) -> None:
    begin(server)
    assert run(server, "chat", "--attach", "chatcmpl-1") == (0, f"{TEXT}\n", "")


def test_a_stream_that_is_not_there_is_an_error(server: DurableServer) -> None:
    code, output, errors = run(server, "chat", "--attach", "chatcmpl-1")
    assert (code, output) == (1, "")
    assert errors.startswith("unbroken: ")


def test_attaching_asks_nothing(server: DurableServer) -> None:
    code, _, errors = run(server, "chat", "--attach", "chatcmpl-1", "Hello")
    assert code == 2
    assert "--attach" in errors
    assert not server.requests
