"""By which files other commands know of a gateway that runs."""

import fcntl
import os
from pathlib import Path

import pytest

from unbroken.gateway.running import Running, places_of, remembered, root_of, running_gateways
from unbroken.settings.tree import ServerSettings

HERE = "http://127.0.0.1:"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "unbroken"


def test_a_gateway_is_known_as_long_as_it_runs(folder: Path, tmp_path: Path) -> None:
    with remembered(tmp_path / "unbroken.toml") as gateway:
        assert running_gateways() == []
        gateway.note("0.0.0.0", 9000)
        assert running_gateways() == [Running(os.getpid(), 9000, f"{HERE}9000", str(tmp_path / "unbroken.toml"))]
        gateway.reloaded(True, "")
    assert list(folder.iterdir()) == []


def test_a_gateway_that_starts_is_not_taken_for_one_that_was_killed(folder: Path) -> None:
    folder.mkdir()
    left_behind = folder / "9000.pid"
    left_behind.write_text("1")
    with left_behind.open() as reader, remembered(None) as gateway:
        fcntl.flock(reader, fcntl.LOCK_SH)  # another command looks whether anybody holds it
        gateway.note("127.0.0.1", 9000)
        assert [running.port for running in running_gateways()] == [9000]


@pytest.mark.parametrize(
    ("host", "root"),
    [("127.0.0.1", f"{HERE}80"), ("::", f"{HERE}80"), ("", f"{HERE}80"), ("::1", "http://[::1]:80"), ("x", "http://x:80")],
)  # fmt: skip
def test_where_a_gateway_is_reached_from_here(host: str, root: str) -> None:
    assert root_of(host, 80) == root


@pytest.mark.parametrize(
    ("config", "port", "own", "others"),
    [
        (None, 8080, f"{HERE}8080", [f"{HERE}9000", f"{HERE}9001"]),
        (None, 9000, f"{HERE}9000", [f"{HERE}9001"]),
        (None, 0, None, [f"{HERE}9000", f"{HERE}9001"]),
        ("a.toml", 8080, None, [f"{HERE}9000"]),  # it is known to run, and elsewhere than the file says
        ("c.toml", 8080, f"{HERE}8080", []),
        ("a.toml", 9000, f"{HERE}9000", []),
        ("a.toml", 9001, None, [f"{HERE}9000"]),
        ("b.toml", 9000, None, []),
    ],
)
def test_a_gateway_of_another_configuration_is_not_meant(
    tmp_path: Path, config: str | None, port: int, own: str | None, others: list[str]
) -> None:
    with remembered(tmp_path / "a.toml") as ours, remembered(None) as without:
        ours.note("127.0.0.1", 9000)
        without.note("127.0.0.1", 9001)
        places = places_of(ServerSettings(port=port), tmp_path / config if config else None)
    assert places == (own, others)


def test_no_other_machine_is_asked_for_the_gateway_of_this_one(folder: Path) -> None:
    """What is asked there may hold a key, and goes over the network as it is."""
    assert places_of(ServerSettings(host="192.0.2.1", port=8080), None) == (None, [])
    assert places_of(ServerSettings(host="0.0.0.0", port=8080), None) == (f"{HERE}8080", [])
