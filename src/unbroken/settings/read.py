"""Reading settings: a TOML file, then the environment, then flags; the later wins."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from unbroken.settings.tree import Settings

PREFIX = "UNBROKEN_"
SECTIONS = ("server", "keep_alive", "timeouts", "retries", "log")

_AT = re.compile(r" - at `\$\.?(?P<path>.*?)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.+?)`")


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
    for section, name, value in _from_environment(environment):
        tree.setdefault(section, {})[name] = value
    for section, values in (flags or {}).items():
        tree.setdefault(section, {}).update({name: value for name, value in values.items() if value is not None})
    place = str(path) if path else "settings"
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsInvalid(f"{place}: {_explain(str(error))}") from None
    try:
        settings = _with_secrets(settings, environment)
        _check(settings)
    except SettingsInvalid as error:
        raise SettingsInvalid(f"{place}: {error}") from None
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsInvalid(f"{path}: cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{path}: is not TOML: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    """(section, name, value) of each variable that names a setting, such as `UNBROKEN_SERVER_PORT`."""
    found: list[tuple[str, str, Any]] = []
    types: dict[str, type[Struct]] = {field.name: field.type for field in fields(Settings) if field.name in SECTIONS}
    for section, struct in types.items():
        for setting in fields(struct):
            if (text := environment.get(f"{PREFIX}{section}_{setting.name}".upper())) is not None:
                is_list = isinstance(setting.default, tuple)
                found.append((section, setting.name, [p for p in text.split(",") if p] if is_list else text))
    start = f"{PREFIX}KEYS_"
    found += [
        ("keys", name.removeprefix(start).lower(), value)
        for name, value in environment.items()
        if name.startswith(start) and value
    ]
    return found


def _with_secrets(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings with every `env:NAME` replaced by what the variable holds."""

    def resolve(value: str, place: str) -> str:
        if not value.startswith("env:"):
            return value
        name = value.removeprefix("env:")
        if not (found := environment.get(name)):
            raise SettingsInvalid(f"{place} is `{value}`, but the environment variable {name} is not set")
        return found

    keys = {name: resolve(key, f"keys.{name}") for name, key in settings.keys.items()}
    upstreams = tuple(
        msgspec.structs.replace(
            upstream,
            api_key=resolve(upstream.api_key, f"upstream {upstream.name}: api_key"),
            headers={
                name: resolve(value, f"upstream {upstream.name}: headers.{name}")
                for name, value in upstream.headers.items()
            },
        )
        for upstream in settings.upstream
    )
    return msgspec.structs.replace(settings, keys=keys, upstream=upstreams)


def _check(settings: Settings) -> None:
    """What types cannot say: names that must exist, pairs that belong together."""
    names: set[str] = set()
    for upstream in settings.upstream:
        place = f'upstream "{upstream.name}"'
        if upstream.name in names:
            raise SettingsInvalid(f"{place}: there are two of this name")
        names.add(upstream.name)
        if upstream.engine and not upstream.path:
            raise SettingsInvalid(f"{place}: engine is set, but path (the GGUF file) is not")
        if not upstream.engine and not re.match(r"https?://[^/]", upstream.base_url):
            raise SettingsInvalid(
                f'{place}: base_url is "{upstream.base_url}", expected http:// or https:// and a host'
                " (or engine and path)"
            )
        for name, value in upstream.headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
                raise SettingsInvalid(f"{place}: header {name!r} cannot be sent")
    for route in settings.route:
        for choice in route.upstreams:
            for target in (choice,) if isinstance(choice, str) else choice:
                if (name := target.partition(":")[0]) not in names:
                    raise SettingsInvalid(f'route "{route.model}": no upstream is named "{name}"')
    for name, key in settings.keys.items():
        if len(key) < 8:
            raise SettingsInvalid(f"keys.{name} has {len(key)} characters, expected at least 8")


def _explain(problem: str) -> str:
    at = _AT.search(problem)
    place = at["path"] if at else ""
    if unknown := _UNKNOWN.search(problem):
        name = unknown["name"]
        close = difflib.get_close_matches(name, _names(place), n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known are {', '.join(sorted(_names(place)))}"
        return f"unknown setting `{place + '.' if place else ''}{name}`{hint}"
    reason = _AT.sub("", problem)
    return f"`{place}`: {reason[:1].lower()}{reason[1:]}" if place else reason


def _names(place: str) -> list[str]:
    """The settings that there are at `place`, a path such as `server` or `upstream[0]`."""
    struct: Any = Settings
    for part in filter(None, re.sub(r"\[\d+\]|\[\.\.\.\]", "", place).split(".")):
        struct = next((f.type for f in fields(struct) if f.name == part), Settings)
        struct = getattr(struct, "__args__", (struct,))[0]
        struct = getattr(struct, "__origin__", struct)
    return [field.name for field in fields(struct)] if isinstance(struct, type) and issubclass(struct, Struct) else []
