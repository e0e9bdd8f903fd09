"""Variables that look like ours and are none."""

import pytest

from unbroken.settings.catalogue import sections, settings_of, variable
from unbroken.settings.strangers import OURS, strangers

PLATFORM = {
    "UNBROKEN_SERVICE_HOST": "10.0.0.1",
    "UNBROKEN_SERVICE_PORT": "8080",
    "UNBROKEN_SERVICE_PORT_HTTP": "8080",
    "UNBROKEN_PORT": "tcp://10.0.0.1:8080",
    "UNBROKEN_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "UNBROKEN_PORT_8080_TCP_PROTO": "tcp",
    "UNBROKEN_PORT_8080_TCP_ADDR": "10.0.0.1",
    "UNBROKEN_GATEWAY_SERVICE_HOST": "10.0.0.1",
}


def test_what_is_ours_or_the_platforms_is_no_stranger() -> None:
    settings = {variable(section, setting.name) for section, table in sections() for setting in settings_of(table)}
    known = dict.fromkeys([*settings, *OURS, "UNBROKEN_KEYS_APP", "PATH", "OPENAI_API_KEY"], "1")
    assert list(strangers({**known, **PLATFORM, "UNBROKEN_EMPTY": ""})) == []


def test_what_the_configuration_names_is_no_stranger() -> None:
    assert list(strangers({"UNBROKEN_KEY_APP": "x"}, 'app = "env:UNBROKEN_KEY_APP"')) == []
    assert list(strangers({"UNBROKEN_KEY_APP": "x"}))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UNBROKEN_FOO", ""),
        ("UNBROKEN_PORT", "UNBROKEN_SERVER_PORT"),
        ("UNBROKEN_SERVR_PORT", "UNBROKEN_SERVER_PORT"),
        ("UNBROKEN_WORKERS", "UNBROKEN_SERVER_WORKERS"),
        ("UNBROKEN_BASEURL", "UNBROKEN_BASE_URL"),
        ("UNBROKEN_APIKEY", "UNBROKEN_API_KEY"),
        ("UNBROKEN_KEY_APP", "UNBROKEN_KEYS_APP"),
    ],
)
def test_a_stranger_is_told_with_what_may_have_been_meant(name: str, meant: str) -> None:
    ending = f"; did you mean {meant}?" if meant else ""
    assert list(strangers({name: "secret"})) == [f"{name} is not a setting and changes nothing{ending}"]
