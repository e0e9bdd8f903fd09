"""Who may call: keys, and web pages where there are no keys."""

import socket

import pytest

from unbroken.gateway.admission import Keyring, allows_origin, is_loopback
from unbroken.gateway.listening import check_address
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import ServerSettings, Settings
from unbroken.upstream.scripted import ScriptedUpstream, error

pytestmark = pytest.mark.anyio

KEYS = {"app": "sk-app-secret", "büro": "schlüssel-für-alle", "cyrillic": "ключ-который-подходит"}


async def status_with(line, gateway, authorization: bytes | None) -> int:
    line.send(b"GET /v1/models HTTP/1.1\r\nhost: gateway\r\n")
    line.send((b"authorization: " + authorization + b"\r\n\r\n") if authorization is not None else b"\r\n")
    response = await line.read_response()
    if response.status == 401:
        assert response.error["code"] == "invalid_api_key"
        assert response.header("www-authenticate") == "Bearer"
    return response.status


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer sk-app-secret",
        b"bearer sk-app-secret",
        b"BEARER   sk-app-secret  ",
        b"Bearer \tsk-app-secret",
        "Bearer schlüssel-für-alle".encode(),
        "Bearer schlüssel-für-alle".encode("latin-1"),
        "Bearer ключ-который-подходит".encode(),
    ],
)
async def test_a_key_opens(serve, upstream: ScriptedUpstream, dial, authorization: bytes) -> None:
    gateway = await serve(upstream, keys=KEYS)
    assert await status_with(await dial(gateway), gateway, authorization) == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"sk-app-secret",
        b"Basic sk-app-secret",
        b"Bearersk-app-secret",
        b"Bearer sk-app-secre",
        b"Bearer sk-app-secret2",
        b"Bearer SK-APP-SECRET",
        b"Bearer app",
        b"Bearer sk-app-secret sk-app-secret",
        b"Bearer " + b"x" * 60_000,
        b"Bearer \xff\xfe\xfd",
        b"Bearer none",
    ],
)
async def test_anything_else_does_not(serve, upstream: ScriptedUpstream, dial, authorization: bytes | None) -> None:
    """H5, H7."""
    gateway = await serve(upstream, keys=KEYS)
    assert await status_with(await dial(gateway), gateway, authorization) == 401


async def test_what_was_sent_as_a_key_is_repeated_nowhere(serve, upstream: ScriptedUpstream) -> None:
    """L10, H6."""
    gateway = await serve(upstream, keys=KEYS)
    upstream.always(error(401, "Incorrect API key provided: sk-upstream-secret", code="invalid_api_key"))
    good = {"authorization": "Bearer sk-app-secret"}
    bad = {"authorization": "Bearer sk-wrong-secret"}
    told = [(await gateway.ask(headers=headers)).text for headers in (good, bad)]
    told.append((await gateway.client.get(f"http://127.0.0.1:{gateway.port}/metrics", headers=good)).text)
    told.append(str(gateway.log_lines()))
    assert not [text for text in told if "secret" in text]
    assert all(request.header("authorization") == "Bearer sk-upstream-secret" for request in upstream.requests)


async def test_the_log_names_the_key(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, keys={"app": "sk-app-secret", "batch": "sk-batch-secret"})
    for key in ("sk-app-secret", "sk-batch-secret"):
        await gateway.ask(headers={"authorization": f"Bearer {key}"})
        await gateway.stream(headers={"authorization": f"Bearer {key}"})
    assert [line["key"] for line in gateway.log_lines()] == ["app", "app", "batch", "batch"]


async def test_without_keys_any_key_is_fine(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream)
    assert (await gateway.ask(headers={"authorization": "Bearer whatever"})).status_code == 200
    assert "key" not in gateway.log_lines()[0]


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/metrics", 401), ("/v1/models", 401), ("/x", 404)]
)
async def test_what_is_open(serve, upstream: ScriptedUpstream, dial, path: str, status: int) -> None:
    """H7."""
    gateway = await serve(upstream, keys=KEYS)
    line = await dial(gateway)
    line.get(path)
    assert (await line.read_response()).status == status


def test_a_key_is_held_as_a_hash_only() -> None:
    keyring = Keyring({"app": "sk-app-secret"})
    assert "sk-app-secret" not in repr(vars(keyring))


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("http://127.8.9.1:80", True),
        ("http://[::1]:5173", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://evil.example/localhost", False),
        ("http://localhost@evil.example", False),
        ("http://192.168.1.2", False),
        ("null", False),
        ("http://[", False),
        ("file://", False),
        ("localhost", False),
        ("https://app.example", True),
    ],
)
async def test_without_keys_only_known_pages_cause_answers(
    serve, upstream: ScriptedUpstream, origin: str, is_allowed: bool
) -> None:
    """H8."""
    gateway = await serve(upstream, server={"cors_origins": ["https://app.example"]})
    response = await gateway.ask(headers={"origin": origin})
    assert response.status_code == (200 if is_allowed else 403)
    if not is_allowed:
        assert response.json()["error"]["code"] == "origin_not_allowed"
        assert not upstream.requests


async def test_with_keys_a_page_that_has_one_may_call(serve, upstream: ScriptedUpstream) -> None:
    gateway = await serve(upstream, keys={"app": "sk-app-secret"})
    assert (await gateway.ask(headers={"origin": "https://evil.example"})).status_code == 200
    assert allows_origin("https://any.example", (), has_keys=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_address(Settings(server=ServerSettings(host=host)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_beyond_loopback_a_key_is_needed(host: str) -> None:
    with pytest.raises(SettingsInvalid, match="UNBROKEN_KEYS_APP"):
        check_address(Settings(server=ServerSettings(host=host)))
    check_address(Settings(server=ServerSettings(host=host), keys={"app": "sk-app-secret"}))


def test_a_name_is_judged_by_its_addresses() -> None:
    name = socket.gethostname()
    try:
        found = {address[0] for *_, address in socket.getaddrinfo(name, 0)}
    except OSError:
        pytest.skip("this machine's own name has no address")
    assert is_loopback(name) == all(str(address).startswith("127.") or address == "::1" for address in found)


def test_a_name_that_begins_like_loopback_is_not() -> None:
    with pytest.raises(SettingsInvalid, match="stands for no address"):
        check_address(Settings(server=ServerSettings(host="127.0.0.1.invalid")))
