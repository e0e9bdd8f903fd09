"""What is wrong with a setting, in words: its place, what was found, what was expected."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from unbroken.settings.catalogue import Setting, settings_of
from unbroken.settings.tree import Settings

MAX_SHOWN = 60  # characters of a wrong value

_AT = re.compile(r" - at `\$\.?(?P<path>.*?)`$")
_PART = re.compile(r"\[(?P<index>\d+|\.\.\.)\]|(?P<name>[^.\[\]]+)")
_UNKNOWN = re.compile(r"contains unknown field `(?P<name>.*)`")
_MISSING = re.compile(r"missing required field `(?P<name>.*)`")


def explain(problem: str, tree: Mapping[str, Any]) -> str:
    """A `msgspec.ValidationError` of `tree` as a sentence; what is secret is not repeated."""
    at = _AT.search(problem)
    place, setting, table, found = _walk(tree, at["path"] if at else "")
    reason = _AT.sub("", problem)
    if unknown := _UNKNOWN.search(reason):
        name, names = unknown["name"], [known.name for known in settings_of(table)]
        return f"{_joined(place, name)} is not a setting; {suggestion(name, names)}"
    if missing := _MISSING.search(reason):
        wanted = next(known for known in settings_of(table) if known.name == missing["name"])
        return f"{_joined(place, wanted.name)} is missing, expected {wanted.expected}: {wanted.description}"
    if setting is None:
        return problem
    return is_wrong(place, setting, found)


def is_wrong(place: str, setting: Setting, found: object) -> str:
    """The sentence for a value that a setting cannot take."""
    expected = setting.expected
    if setting.expected == "tables in double brackets":
        expected = f"[[{setting.name}]], with double brackets: there can be several"
    meaning = f" ({setting.description})" if setting.description else ""
    return f"{place} is {_shown(found, is_secret=setting.is_secret)}, expected {expected}{meaning}"


def suggestion(name: str, names: Iterable[str]) -> str:
    """What may have been meant by `name`, or what there is."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"


def _walk(tree: Any, path: str) -> tuple[str, Setting | None, type[Struct], object]:
    """Follows a path such as `upstream[0].weight`: its place in words, its setting, the innermost table, the value."""
    place, setting, found = "", None, tree
    table: type[Struct] = Settings
    for part in _PART.finditer(path):
        if name := part["name"]:
            setting = next(known for known in settings_of(table) if known.name == name)
            place, found = _joined(place, name), found[name]
            table = setting.table or table
        elif part["index"] == "...":  # a table of texts; msgspec does not say which of them
            name = next(key for key, value in found.items() if not isinstance(value, str))
            place, found = _joined(place, name), found[name]
        else:
            found = found[int(part["index"])]
            label = _name_of(found) if setting and setting.table else ""
            place = f"{place} {label}" if label else f"{place}[{part['index']}]"
    return place, setting, table, found


def _name_of(table: object) -> str:
    """How an upstream or a route is told from the others; empty where it has no name."""
    named = (table.get("name") or table.get("model")) if isinstance(table, dict) else None
    return f'"{named[:MAX_SHOWN]}"' if isinstance(named, str) else ""


def _joined(place: str, name: str) -> str:
    return f"{place}: {name}" if place.endswith('"') else f"{place}.{name}" if place else name


def _shown(value: object, *, is_secret: bool) -> str:
    match value:
        case bool():
            kind, text = "a truth value", str(value).lower()
        case int() | float():
            kind, text = "a number", str(value)
        case str():
            kind, text = "a text", f'"{value[:MAX_SHOWN]}…"' if len(value) > MAX_SHOWN else f'"{value}"'
        case list():
            kind, text = "a list", "a list"
        case dict():
            kind, text = "a table", "a table"
        case _:
            kind, text = "a date or time", str(value)
    return kind if is_secret else text
