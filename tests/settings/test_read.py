"""Settings are read from file, environment and flags; what is wrong is told with place, found and expected."""

import io
import re
import traceback
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.pretty import Pretty

from unbroken.settings.catalogue import sections, settings_of, variable
from unbroken.settings.explain import explain
from unbroken.settings.read import SettingsInvalid, read_settings
from unbroken.settings.tree import Settings, UpstreamSettings

SECRET = "sk-this-is-never-shown"
SERVER = '[[upstream]]\nname = "a"\nbase_url = "http://a/v1"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "unbroken.toml"


def refusal(file: Path, text: str, environment: dict[str, str] | None = None) -> str:
    """What is said of a file that cannot be used, without the file's name that it begins with."""
    file.write_text(text, "utf-8")
    with pytest.raises(SettingsInvalid) as caught:
        read_settings(file, environment or {})
    assert str(caught.value).startswith(f"{file}: ")
    return str(caught.value).removeprefix(f"{file}: ")


def test_without_anything_there_are_the_defaults() -> None:
    assert read_settings(None, {}) == Settings()


def test_flags_win_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text('[server]\nhost = "::1"\nport = 1\ndrain = 5\n', "utf-8")
    environment = {"UNBROKEN_SERVER_PORT": "2", "UNBROKEN_SERVER_DRAIN": "6.5"}
    server = read_settings(file, environment, {"server": {"port": 3, "host": None}}).server
    assert (server.host, server.port, server.drain) == ("::1", 3, 6.5)


def test_a_byte_order_mark_is_no_error(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    assert read_settings(file, {}).server.port == 1


#: What a list may hold, where it is not an address.
SOME = {"orphan_grace_of": "app = 300"}


@pytest.mark.parametrize("section", dict(sections()))
def test_every_setting_of_a_section_has_its_variable(section: str) -> None:
    for setting in settings_of(dict(sections())[section]):
        some = SOME.get(setting.name, "https://a.example")
        text = some if isinstance(setting.default, tuple) else str(setting.default)
        settings = read_settings(None, {variable(section, setting.name): text, "UNBROKEN_KEYS_APP": "a-key-of-the-app"})
        expected = (text,) if isinstance(setting.default, tuple) else setting.default
        assert getattr(getattr(settings, section), setting.name) == expected


def test_a_list_in_the_environment_is_written_with_commas() -> None:
    settings = read_settings(None, {"UNBROKEN_SERVER_CORS_ORIGINS": "https://a.example, https://b.example,"})
    assert settings.server.cors_origins == ("https://a.example", "https://b.example")


def test_an_empty_variable_is_none() -> None:
    assert read_settings(None, {"UNBROKEN_SERVER_PORT": "", "UNBROKEN_KEYS_APP": ""}) == Settings()


def test_keys_come_from_the_environment_too() -> None:
    assert read_settings(None, {"UNBROKEN_KEYS_APP": SECRET}).keys == {"app": SECRET}


def test_secrets_are_read_from_the_environment(file: Path) -> None:
    file.write_text(f'[keys]\napp = "env:K"\n{SERVER}api_key = "env:A"\nheaders = {{ x-a = "env:B" }}\n', "utf-8")
    settings = read_settings(file, {"K": SECRET, "A": "sk-a", "B": "b"})
    assert (settings.keys, settings.upstream[0].api_key) == ({"app": SECRET}, "sk-a")
    assert settings.upstream[0].headers == {"x-a": "b"}


# name: (the file, what is said of it, in its order)
WRONG: dict[str, tuple[str, list[str]]] = {
    "unknown setting": ("[server]\nprot = 1\n", ["server.prot is not a setting", "did you mean port?"]),
    "unknown table": ("[timeout]\nconnect = 1\n", ["timeout is not a setting", "did you mean timeouts?"]),
    "unknown without a likeness": ("[log]\nxyzzy = 1\n", ["log.xyzzy is not a setting", "there are: file, format"]),
    "unknown in an upstream": (f"{SERVER}modles = []\n", ['upstream "a": modles is not', "did you mean models?"]),
    "unknown of an engine": (
        f'{SERVER}[upstream.engine_options]\npath = "x"\n',
        ['upstream "a": engine_options.path is not a setting'],
    ),
    "wrong type": ('[server]\nport = "eighty"\n', ['server.port is "eighty"', "a whole number from 0 to 65535"]),
    "number as text": ('[timeouts]\ntotal = "5"\n', ['timeouts.total is "5"', "a number from"]),
    "truth value": (f'{SERVER}ask_usage = "yes"\n', ['upstream "a": ask_usage is "yes"', "true or false"]),
    "date": ("[server]\nport = 2026-01-01\n", ["server.port is 2026-01-01", "a whole number"]),
    "out of bounds": ("[server]\nport = 65536\n", ["server.port is 65536", "from 0 to 65535", "TCP port"]),
    "no time at all": ("[timeouts]\ntotal = 0\n", ["timeouts.total is 0", "from 0.05"]),
    "endless": ("[timeouts]\ntotal = inf\n", ["timeouts.total is inf", "to 86400"]),
    "not a number": ("[timeouts]\ntotal = nan\n", ["timeouts.total is nan", "a number"]),
    "not one of": ('[log]\nformat = "xml"\n', ['log.format is "xml"', 'one of "auto", "human", "json"']),
    "list": (f'{SERVER}models = "gpt-4o"\n', ['upstream "a": models is "gpt-4o"', "a list of texts"]),
    "item of a list": (f"{SERVER}models = [1]\n", ['upstream "a": models[0] is 1', "texts"]),
    "section": ("server = 5\n", ["server is 5", "a table"]),
    "single brackets": ('[upstream]\nname = "a"\n', ["upstream is a table", "[[upstream]], with double brackets"]),
    "missing": ('[[upstream]]\nbase_url = "http://a"\n', ["upstream[0].name is missing", "unique name"]),
    "empty name": ('[[upstream]]\nname = ""\n', ['upstream[0].name is ""', "1 to 100 characters"]),
    "broken TOML": ('[server]\nhost = "::1\n', ["is not TOML", "line 2"]),
    "the same twice": ("[server]\nport = 1\nport = 2\n", ["is not TOML", "line 3"]),
    "two of a name": (SERVER + SERVER, ['upstream "a" is there twice']),
    "colon in a name": (SERVER.replace('"a"', '"a:b"', 1), ['upstream "a:b"', "colon"]),
    "engine without a file": ('[[upstream]]\nname = "e"\nengine = "llama.cpp"\n', ['upstream "e": path is missing']),
    "engine with an address": (
        '[[upstream]]\nname = "e"\nengine = "llama.cpp"\npath = "demo"\nbase_url = "http://a"\n',
        ['upstream "e": base_url is for a server', "remove one"],
    ),
    "file without an engine": (SERVER + 'path = "x.gguf"\n', ["path is set", 'add engine = "llama.cpp"']),
    "options without an engine": (
        SERVER + "[upstream.engine_options]\nslots = 2\n",
        ["engine_options are set", 'add engine = "llama.cpp"'],
    ),
    "no address": ('[[upstream]]\nname = "a"\n', ["base_url is missing", "https://api.openai.com/v1"]),
    "address without scheme": (SERVER.replace("http://", ""), ['base_url is "a/v1"', "http:// or https://"]),
    "address of another kind": (SERVER.replace("http", "ftp"), ['base_url is "ftp://a/v1"', "http:// or https://"]),
    "address without host": (SERVER.replace("a/v1", "/v1"), ['base_url is "http:///v1"', "a host"]),
    "wrong port": (SERVER.replace("//a", "//a:http"), ["expected http:// or https:// and a host"]),
    "address with a query": (SERVER.replace("/v1", "/v1?a=b"), ["base_url has a query"]),
    "address of the route": (SERVER.replace("/v1", "/v1/chat/completions"), ["what stands before /chat/completions"]),
    "missing certificates": (SERVER + 'ca_file = "no.pem"\n', ['upstream "a": ca_file is "no.pem"', "no file"]),
    "header's name": (SERVER + 'headers = { "x y" = "b" }\n', ['upstream "a": header "x y" cannot be sent']),
    "header's value": (SERVER + 'headers = { x = "b\\r\\nc: d" }\n', ['header "x" cannot be sent']),
    "empty model": (SERVER + 'models = ["ours ="]\n', ['models has "ours ="', "a pair"]),
    "empty name of a pair": (SERVER + 'models = ["= theirs"]\n', ['models has "= theirs"', "a pair"]),
    "route to nowhere": (
        SERVER + '[[route]]\nmodel = "m"\nupstreams = ["aa:x"]\n',
        ['route "m": no upstream is named "aa"', "did you mean a?"],
    ),
    "route without upstreams": (
        '[[route]]\nmodel = "m"\nupstreams = []\n',
        ['route "m": upstreams is a list', "names"],
    ),
    "route with an empty tier": (
        SERVER + '[[route]]\nmodel = "m"\nupstreams = ["a", []]\n',
        ['route "m": upstreams[1] is a list', "names"],
    ),
    "route twice": (SERVER + '[[route]]\nmodel = "m"\nupstreams = ["a"]\n' * 2, ['route "m" is there twice']),
    "origin with a path": ('[server]\ncors_origins = ["https://a.example/"]\n', ['"https://a.example/"', "no slash"]),
    "limit beyond the total": (
        "[timeouts]\nfirst_token = 900\n",
        ["timeouts.first_token is 900 s", "timeouts.total ends every answer after 600 s", "lower"],
    ),
    "waiting beyond the total": (
        "[timeouts]\ntotal = 5\n[retries]\nretry_after_most = 6\n",
        ["retries.retry_after_most is 6 s", "after 5 s"],
    ),
    "backoff upside down": (
        "[retries]\nbackoff_first = 5\n",
        ["retries.backoff_first is 5 s, more than retries.backoff_most (4 s)"],
    ),
    "variable not set": (f'{SERVER}api_key = "env:NONE"\n', ['upstream "a": api_key is "env:NONE"', "set it"]),
    "key not set": ('[keys]\napp = "env:NONE"\n', ['keys.app is "env:NONE"', "no environment variable NONE"]),
    "short key": ('[keys]\napp = "abc"\n', ["keys.app has 3 characters", "at least 8", "openssl"]),
    "key with a space": ('[keys]\napp = "abcd efgh"\n', ["keys.app has a space"]),
    "the same key twice": ('[keys]\na = "abcdefgh"\nb = "abcdefgh"\n', ["keys.a and keys.b are the same key"]),
    "nested too deep": ("a = " + "[" * 10_000, ["nested too deep"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(file: Path, name: str) -> None:
    text, expected = WRONG[name]
    said = refusal(file, text)
    for part in expected:
        before, found, said = said.partition(part)
        assert found, f"{part!r} is not in {before!r}"


# name: the file, with a secret where none is expected
SECRETS_IN_WRONG_PLACES = {
    "key of a wrong type": f'[keys]\napp = ["{SECRET}"]\n',
    "keys as text": f'keys = "{SECRET}"\n',
    "api_key as list": f'{SERVER}api_key = ["{SECRET}"]\n',
    "headers as text": f'{SERVER}headers = "{SECRET}"\n',
    "header of a wrong type": f'{SERVER}headers = {{ a = ["{SECRET}"] }}\n',
    "header that cannot be sent": f'{SERVER}headers = {{ a = "{SECRET}\\n" }}\n',
    "api_key with a line end": f'{SERVER}api_key = "{SECRET}\\n"\n',
    "two keys": f'[keys]\na = "{SECRET}"\nb = "{SECRET}"\n',
    "key that no client can send": f'[keys]\na = "{SECRET} ü"\n',
    "password in the address": SERVER.replace("//a", f"//user:{SECRET}@a"),
    "key of an engine": f'[[upstream]]\nname = "e"\nengine = "llama.cpp"\npath = "demo"\napi_key = "{SECRET}"\n',
    "broken TOML behind it": f'[keys]\napp = "{SECRET}',
}


@pytest.mark.parametrize("name", SECRETS_IN_WRONG_PLACES)
def test_an_error_does_not_repeat_a_secret(file: Path, name: str) -> None:
    file.write_text(SECRETS_IN_WRONG_PLACES[name], "utf-8")
    with pytest.raises(SettingsInvalid) as caught:
        read_settings(file, {})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_settings_do_not_show_their_secrets() -> None:
    upstream = UpstreamSettings(name="a", base_url="http://a", api_key=SECRET, headers={"x-key": SECRET})
    settings = Settings(keys={"app": SECRET}, upstream=(upstream,))
    shown = io.StringIO()
    Console(file=shown, width=10_000).print(Pretty(settings))
    for text in (repr(settings), str(settings), f"{settings}", f"{settings.upstream}", shown.getvalue()):
        assert SECRET not in text
        assert "x-key" in text
        assert "***" in text
    assert "api_key=''" in repr(UpstreamSettings(name="a"))


# name: (variables, what is said)
WRONG_VARIABLES: dict[str, tuple[dict[str, str], str]] = {
    "no number": (
        {"UNBROKEN_SERVER_PORT": "tcp://10.0.0.1:80"},
        'UNBROKEN_SERVER_PORT is "tcp://10.0.0.1:80", expected a whole number from 0 to 65535',
    ),
    "out of bounds": ({"UNBROKEN_RETRIES_ATTEMPTS": "0"}, 'UNBROKEN_RETRIES_ATTEMPTS is "0", expected a whole number'),
    "not a number": ({"UNBROKEN_TIMEOUTS_TOTAL": "nan"}, 'UNBROKEN_TIMEOUTS_TOTAL is "nan", expected a number'),
    "not one of": ({"UNBROKEN_LOG_FORMAT": "xml"}, 'UNBROKEN_LOG_FORMAT is "xml", expected one of "auto"'),
    "misspelt": (
        {"UNBROKEN_SERVER_PROT": "1"},
        "UNBROKEN_SERVER_PROT is not a setting; did you mean UNBROKEN_SERVER_PORT?",
    ),
}


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_a_wrong_variable_is_named(name: str) -> None:
    environment, expected = WRONG_VARIABLES[name]
    with pytest.raises(SettingsInvalid) as caught:
        read_settings(None, environment)
    assert str(caught.value).startswith(f"environment: {expected}")


def test_what_a_container_platform_sets_is_let_be() -> None:
    others = {"UNBROKEN_SERVER_SERVICE_HOST": "10.0.0.1", "UNBROKEN_SERVER_PORT_80_TCP_ADDR": "10.0.0.1"}
    assert read_settings(None, {**others, "UNBROKEN_PORT": "tcp://10.0.0.1:80", "UNBROKEN_KEY_APP": "x"}) == Settings()


def test_a_wrong_flag_is_told() -> None:
    with pytest.raises(SettingsInvalid, match=r'command line: log\.format is "xml", expected one of "auto"'):
        read_settings(None, {}, {"log": {"format": "xml"}, "server": {"port": None}})


def test_a_section_that_is_none_is_told_although_a_variable_adds_to_it(file: Path) -> None:
    assert refusal(file, "server = 5\n", {"UNBROKEN_SERVER_PORT": "1"}).startswith("server is 5, expected a table")


def test_a_shorter_total_alone_is_no_contradiction(file: Path) -> None:
    file.write_text("[timeouts]\ntotal = 5\n[retries]\nbackoff_most = 0.1\n", "utf-8")
    assert read_settings(file, {}).timeouts.total == 5


def test_a_file_that_cannot_be_read_is_told(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="there is no such file"):
        read_settings(file, {})
    with pytest.raises(SettingsInvalid, match="cannot be read: Is a directory"):
        read_settings(tmp_path, {})
    file.write_bytes(b"[server]\n\nhost = '\xff'\n")
    with pytest.raises(SettingsInvalid, match="is not UTF-8 at line 3"):
        read_settings(file, {})


NAMES = [setting.name for table in (Settings, UpstreamSettings) for setting in settings_of(table)]
NAMES += ["x", "port", "a.b"]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(NAMES), TREES, max_size=5))
def test_any_tree_is_read_or_refused_in_words(tree: dict[str, object]) -> None:
    try:
        msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        said = explain(str(error), tree)
        assert "expected" in said or "is not a setting" in said, said
        assert "`$" not in said


@pytest.mark.parametrize(
    ("streams", "problem"),
    [
        ("postgresql://x", "`sqlite:///PATH`"),
        ("sqlite://", "names no file"),
        ("redis", "the address of a server"),
        ("memory:x", "the address of a server"),
    ],
)
def test_a_store_that_is_none_is_refused_without_its_password(streams: str, problem: str) -> None:
    with pytest.raises(SettingsInvalid, match=re.escape(problem)):
        read_settings(None, {"UNBROKEN_STORE_STREAMS": streams})
    assert "secret" not in repr(read_settings(None, {"UNBROKEN_STORE_STREAMS": "redis://:secret@host/0"}))


@pytest.mark.parametrize("pair", ["nobody = 3", "app", "app = soon", "app = -1"])
def test_a_grace_of_no_key_or_no_time_is_refused(pair: str) -> None:
    with pytest.raises(SettingsInvalid, match="ORPHAN_GRACE_OF"):
        read_settings(None, {"UNBROKEN_STORE_ORPHAN_GRACE_OF": pair, "UNBROKEN_KEYS_APP": "a-key-of-the-app"})


@pytest.mark.parametrize(
    ("path", "models", "names"),
    [
        ("demo", "", ("unbroken-demo",)),
        ("models/llama-3.2-3b.Q4_K_M.gguf", "", ("llama-3.2-3b.Q4_K_M",)),
        ("models/llama.gguf", 'models = ["ours"]', ("ours",)),
    ],
)
def test_an_engines_model_is_called_as_its_file(file: Path, path: str, models: str, names: tuple[str, ...]) -> None:
    file.write_text(f'[[upstream]]\nname = "e"\nengine = "llama.cpp"\npath = "{path}"\n{models}\n', "utf-8")
    assert read_settings(file, {}).upstream[0].models == names


def test_a_server_without_names_is_asked_for_its_list(file: Path) -> None:
    file.write_text(SERVER, "utf-8")
    assert read_settings(file, {}).upstream[0].models == ()


# name: (variables, the file, what is said)
CONTRADICTIONS: dict[str, tuple[dict[str, str], str, str]] = {
    "key": (
        {"UNBROKEN_KEYS_APP": "abcdef"},
        "",
        "environment: UNBROKEN_KEYS_APP has 6 characters, expected at least 8",
    ),
    "key in the file": ({}, '[keys]\napp = "abcdef"\n', "{file}: keys.app has 6 characters"),
    "secret": (
        {"UNBROKEN_KEYS_APP": "env:NOWHERE"},
        "",
        'environment: UNBROKEN_KEYS_APP is "env:NOWHERE", but there is no environment variable NOWHERE',
    ),
    "the same key": (
        {"UNBROKEN_KEYS_WEB": "long-enough"},
        '[keys]\napp = "long-enough"\n',
        "{file}: keys.app and UNBROKEN_KEYS_WEB are the same key",
    ),
    "limits": (
        {"UNBROKEN_TIMEOUTS_HEADERS": "20"},
        "[timeouts]\ntotal = 10\n",
        "environment: UNBROKEN_TIMEOUTS_HEADERS is 20 s, but timeouts.total ends every answer after 10 s",
    ),
    "a setting whose name begins with another": (
        {"UNBROKEN_KEYS_APP": "long-enough"},
        '[keys]\napp2 = "abcdef"\n',
        "{file}: keys.app2 has 6 characters",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_a_variable_says_is_not_told_of_the_file(file: Path, name: str) -> None:
    environment, text, expected = CONTRADICTIONS[name]
    file.write_text(f"{SERVER}{text}", "utf-8")
    with pytest.raises(SettingsInvalid) as caught:
        read_settings(file, environment)
    assert str(caught.value).startswith(expected.format(file=file))


def test_a_flag_is_told_as_the_setting_that_it_gives(file: Path) -> None:
    """It has won over the variable, which is not to blame."""
    environment = {"UNBROKEN_SERVER_WORKERS": "3", "UNBROKEN_STORE_STREAMS": "memory"}
    with pytest.raises(SettingsInvalid, match=r"settings: server\.workers is more than 1, but in UNBROKEN_STORE_"):
        read_settings(None, environment, {"server": {"workers": 2}})
