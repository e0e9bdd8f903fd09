"""Which server a chat talks to, and which key goes there."""

import pytest

from unbroken.client.failure import ChatFailed
from unbroken.client.server import Server, find_local_server, local_key, named_server
from unbroken.upstream.scripted import ScriptedUpstream, body

OURS = {"UNBROKEN_BASE_URL": "http://ours/v1", "UNBROKEN_API_KEY": "ours"}
OPENAI = {"OPENAI_BASE_URL": "http://openai/v1", "OPENAI_API_KEY": "openai"}


def test_the_option_goes_before_our_variables_and_these_before_openais() -> None:
    assert named_server(None, None, {}) is None
    assert named_server(None, None, OPENAI) == Server("http://openai/v1", "openai")
    assert named_server(None, None, OURS | OPENAI) == Server("http://ours/v1", "ours")
    assert named_server("http://option/v1", "option", OURS | OPENAI) == Server("http://option/v1", "option")


def test_a_key_alone_names_no_server() -> None:
    assert named_server(None, None, {"OPENAI_API_KEY": "openai"}) is None


def test_a_server_that_was_only_found_never_gets_openais_key() -> None:
    assert local_key(None, OPENAI) is None
    assert local_key(None, OURS) == "ours"
    assert local_key("option", OURS) == "option"


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("localhost:11434", "http://localhost:11434/v1"),
        ("https://host/", "https://host/v1"),
        ("http://host/v1/", "http://host/v1"),
        ("http://host/api/v2", "http://host/api/v2"),
    ],
)
def test_an_address_is_made_whole(given: str, whole: str) -> None:
    assert named_server(given, None, {}) == Server(whole)


@pytest.mark.anyio
async def test_only_an_unbroken_server_is_found(upstream: ScriptedUpstream) -> None:
    root = upstream.base_url.removesuffix("/v1")
    assert await find_local_server(root) is None
    upstream.answer_with(lambda request: body(b"<html>") if request.path == "/healthz" else None)
    assert await find_local_server(root) is None
    upstream.answer_with(lambda request: body(b'{"status":"ok"}') if request.path == "/healthz" else None)
    assert await find_local_server(root) == upstream.base_url
    assert await find_local_server(None, ["http://127.0.0.1:1", root]) == upstream.base_url
    with pytest.raises(ChatFailed, match="--base-url"):
        await find_local_server("http://127.0.0.1:1", [root, root])
    await upstream.stop()
    assert await find_local_server(root) is None
