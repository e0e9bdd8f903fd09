"""Reading settings: a TOML file, then the environment, then flags; the later wins."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from unbroken.settings.catalogue import PREFIX, Setting, sections, settings_of, variable
from unbroken.settings.engine import model_name
from unbroken.settings.explain import explain, is_wrong
from unbroken.settings.sense import objections
from unbroken.settings.tree import Settings

MISSPELT = 0.7  # how alike a variable and a setting are that mean the same


class SettingsInvalid(Exception):
    """The settings cannot be used; the message names the place, what was found and what was expected."""


def read_settings(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """The settings from `path` (None: defaults), then `UNBROKEN_SECTION_NAME` variables, then `flags` by section.

    Raises:
        SettingsInvalid: the file cannot be read, or a setting is unknown or wrong.
    """
    tree = _read_file(path) if path else {}
    place = str(path) if path else "settings"
    from_environment, from_flags = _from_environment(environment), _from_flags(flags or {})
    _add(tree, from_environment)
    _add(tree, from_flags)
    by_flags = {(section, name) for section, name, _ in from_flags}
    by_variable = [(section, name) for section, name, _ in from_environment if (section, name) not in by_flags]
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise SettingsInvalid(f"{place}: {explain(str(error), tree)}") from None
    try:
        settings = _with_secrets(settings, environment)
        for objection in objections(settings, tree):
            raise SettingsInvalid(objection)
        for upstream in settings.upstream:
            if upstream.ca_file and not Path(upstream.ca_file).is_file():
                raise SettingsInvalid(f'upstream "{upstream.name}": ca_file is "{upstream.ca_file}", which is no file')
    except SettingsInvalid as error:
        raise SettingsInvalid(_placed(str(error), place, by_variable)) from None
    return _with_names(settings)


def _placed(problem: str, place: str, by_variable: Iterable[tuple[str, str]]) -> str:
    """What is wrong, and where: a setting that a variable gave is called by that, for the file says nothing of it."""
    for section, name in by_variable:
        setting = rf"(?<![\w.]){re.escape(f'{section}.{name}')}(?![\w.-]*\w)"
        if re.match(setting, problem):
            place = "environment"
        problem = variable(section, name).join(re.split(setting, problem))
    return f"{place}: {problem}"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SettingsInvalid(f"{path}: there is no such file; without one the defaults are used") from None
    except OSError as error:
        raise SettingsInvalid(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return tomllib.loads(data.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsInvalid(f"{path}: is not UTF-8 at line {line}: save it in that encoding") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(f"{path}: is not TOML: {error}") from None
    except RecursionError:
        raise SettingsInvalid(f"{path}: is not a configuration: its lists or tables are nested too deep") from None


def _add(tree: dict[str, Any], values: list[tuple[str, str, Any]]) -> None:
    for section, name, value in values:
        if isinstance(table := tree.setdefault(section, {}), dict):  # what it is otherwise is refused later
            table[name] = value


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    """(section, name, value) of each variable that names a setting, such as `UNBROKEN_SERVER_PORT`."""
    found: list[tuple[str, str, Any]] = []
    for section, table in sections():
        settings = {variable(section, setting.name): setting for setting in settings_of(table)}
        for name, setting in settings.items():
            if text := environment.get(name):
                found.append((section, setting.name, _value_of(name, setting, text)))
        _refuse_misspelt(environment, f"{PREFIX}{section}_".upper(), settings)
    start = f"{PREFIX}KEYS_"
    found += [
        ("keys", name.removeprefix(start).lower(), value)
        for name, value in environment.items()
        if name.startswith(start) and value
    ]
    return found


def _value_of(name: str, setting: Setting, text: str) -> Any:
    """What a variable's text says; a list is written with commas."""
    value = [part.strip() for part in text.split(",") if part.strip()] if isinstance(setting.default, tuple) else text
    try:
        return msgspec.to_builtins(msgspec.convert(value, setting.annotation, strict=False))
    except msgspec.ValidationError:
        raise SettingsInvalid(f"environment: {is_wrong(name, setting, text)}") from None


def _refuse_misspelt(environment: Mapping[str, str], start: str, settings: Mapping[str, Setting]) -> None:
    """A variable that is nearly a setting is a mistake; others are let be, for container platforms add their own."""
    known = [name.removeprefix(start) for name in settings]
    for name in environment:
        is_other = name.startswith(start) and name not in settings
        if is_other and (close := difflib.get_close_matches(name.removeprefix(start), known, n=1, cutoff=MISSPELT)):
            raise SettingsInvalid(f"environment: {name} is not a setting; did you mean {start}{close[0]}?")


def _from_flags(flags: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    tables = dict(sections())
    for section, values in flags.items():
        for setting in settings_of(tables[section]):
            if (value := values.get(setting.name)) is not None:
                try:
                    msgspec.convert(value, setting.annotation)
                except msgspec.ValidationError:
                    said = is_wrong(f"{section}.{setting.name}", setting, value)
                    raise SettingsInvalid(f"command line: {said}") from None
                found.append((section, setting.name, value))
    return found


def _with_secrets(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings with every `env:NAME` replaced by what the variable holds."""

    def resolve(value: str, place: str) -> str:
        if not value.startswith("env:"):
            return value
        name = value.removeprefix("env:")
        if not (found := environment.get(name)):
            raise SettingsInvalid(f'{place} is "env:{name}", but there is no environment variable {name}: set it')
        return found

    keys = {name: resolve(key, f"keys.{name}") for name, key in settings.keys.items()}
    upstreams = tuple(
        msgspec.structs.replace(
            upstream,
            api_key=resolve(upstream.api_key, f'upstream "{upstream.name}": api_key'),
            headers={
                name: resolve(value, f'upstream "{upstream.name}": headers.{name}')
                for name, value in upstream.headers.items()
            },
        )
        for upstream in settings.upstream
    )
    store = msgspec.structs.replace(settings.store, streams=resolve(settings.store.streams, "store.streams"))
    return msgspec.structs.replace(settings, keys=keys, upstream=upstreams, store=store)


def _with_names(settings: Settings) -> Settings:
    """The settings with a name for each engine's model: nobody can be asked for a list of what a file is called."""
    upstreams = tuple(
        msgspec.structs.replace(upstream, models=(model_name(upstream.path),))
        if upstream.engine and not upstream.models
        else upstream
        for upstream in settings.upstream
    )
    return msgspec.structs.replace(settings, upstream=upstreams)
