"""`docs/configuration.md`, written from the tree: `python -m unbroken.settings.document > docs/configuration.md`."""

import json
import sys
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from msgspec import Struct

from unbroken.settings.catalogue import SECTIONS, settings_of, variable
from unbroken.settings.engine import EngineOptions
from unbroken.settings.tree import RouteSettings, Settings, UpstreamSettings

INTRODUCTION = """\
# Configuration

*Written from the sources by `python -m unbroken.settings.document`; do not edit.*

`unbroken serve --config unbroken.toml` reads a TOML file; without `--config` it takes `unbroken.toml` in the current
directory, if there is one. Then the environment, then the flags of the command line: the later wins. Every setting has
a default, so that a file needs only what is different. `unbroken doctor` checks it all and says what to do; SIGHUP, or
`unbroken reload`, takes a changed file without dropping a stream. What is marked *restart* needs one: the log, and
`unbroken reload`, say which of these have changed.

* **Environment.** A setting of a table that is there once has a variable, named below. A list is written with commas.
  An empty variable is none. `UNBROKEN_KEYS_APP` is the key `app` of `[keys]`. One that begins with `UNBROKEN_` and
  means nothing here is told at the start, and by `unbroken doctor`; one that is nearly a setting stops the start.
* **Secrets.** A key or a header's value may be written `env:NAME`: it is then read from that variable. Secrets are
  never shown, in no log line and no error.
* **Without upstreams** in the file they are looked for: OpenAI where `OPENAI_API_KEY` is set
  and Anthropic where `ANTHROPIC_API_KEY` is (`UNBROKEN_OPENAI_BASE_URL` and `UNBROKEN_ANTHROPIC_BASE_URL` change their
  addresses), an Ollama on its usual port (or at `UNBROKEN_OLLAMA_BASE_URL`), and the demo model.
* **`unbroken chat`, `models` and `streams`** ask the server at `--base-url`, else at `UNBROKEN_BASE_URL`, else at
  `OPENAI_BASE_URL`, with the key of `--api-key`, `UNBROKEN_API_KEY` or `OPENAI_API_KEY`. Where none is named, or
  `--config` is given, the configuration decides: see [the client](client.md#in-the-terminal).
* **Wrong settings** stop the start (a reload changes nothing then), with a message that says where, what was found,
  and what was expected.
"""

#: The tables that there can be several of, and the name under which the file has them.
LISTS: Mapping[str, type[Struct]] = {
    "[[upstream]]": UpstreamSettings,
    "[upstream.engine_options]": EngineOptions,
    "[[route]]": RouteSettings,
}

EXAMPLE_SERVER = {
    "name": "openai",
    "base_url": "https://api.openai.com/v1",
    "api_key": "env:OPENAI_API_KEY",
    "models": ["gpt-*", "fast = gpt-4.1-mini", "openai/* = *"],
    "headers": {"x-team": "search"},
}
EXAMPLE_ENGINE = {
    "name": "local",
    "engine": "llama.cpp",
    "path": "demo",
    "models": ["unbroken-demo", "small = unbroken-demo"],
}
EXAMPLE_ROUTE = {"model": "fast", "upstreams": ["openai", "local:small"]}

WIDTH = 118


def document() -> str:
    """The page, as Markdown."""
    parts = [INTRODUCTION]
    for name, table in _tables():
        if table is UpstreamSettings:
            parts.append(f"## `[keys]`\n\n{_sentence(_keys())}\n")
        parts += [f"## `{name}`\n\n{table.__doc__ or ''}\n", _rows(name, table)]
    parts += ["## A complete file\n\nEvery setting, with its default where it has one.\n", f"```toml\n{example()}```\n"]
    return "\n".join(parts)


def example() -> str:
    """A complete `unbroken.toml`, with what each setting means."""
    tables = dict(_tables())
    parts = [_example_table(f"[{name}]", tables[f"[{name}]"], {}) for name in SECTIONS]
    parts.append(f'{_comment(_keys())}[keys]\napp = "env:UNBROKEN_KEY_APP"\n')
    parts.append(_example_table("[[upstream]]", UpstreamSettings, EXAMPLE_SERVER, leave_out=("engine", "path")))
    engine = dict.fromkeys(
        setting.name for setting in settings_of(UpstreamSettings) if setting.name not in EXAMPLE_ENGINE
    )
    parts.append(_example_table("[[upstream]]", UpstreamSettings, EXAMPLE_ENGINE, leave_out=tuple(engine)))
    parts.append(_example_table("[upstream.engine_options]", EngineOptions, {}))
    parts.append(_example_table("[[route]]", RouteSettings, EXAMPLE_ROUTE))
    return "\n".join(parts)


def _tables() -> Iterator[tuple[str, type[Struct]]]:
    for setting in settings_of(Settings):
        if setting.name in SECTIONS and setting.table is not None:
            yield f"[{setting.name}]", setting.table
    yield from LISTS.items()


def _keys() -> str:
    return next(setting.description for setting in settings_of(Settings) if setting.name == "keys")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _rows(name: str, table: type[Struct]) -> str:
    section = name.strip("[]")
    has_variables = section in SECTIONS
    lines = ["| setting | default | may be | meaning |", "|---|---|---|---|"]
    for setting in settings_of(table):
        if setting.table is None:
            default = "must be given" if setting.default is None else f"`{_toml(setting.default)}`"
            meaning = f"{setting.description} (*restart*)" if setting.needs_restart else setting.description
            by_variable = f"<br>`{variable(section, setting.name)}`" if has_variables else ""
            lines.append(f"| `{setting.name}`{by_variable} | {default} | {setting.expected} | {meaning} |")
    return "\n".join(lines) + "\n"


def _example_table(
    name: str, table: type[Struct], values: Mapping[str, Any], *, leave_out: tuple[str, ...] = ()
) -> str:
    lines = [_comment(table.__doc__ or ""), f"{name}\n"]
    for setting in settings_of(table):
        if setting.name not in leave_out and setting.table is None:
            value = values.get(setting.name, setting.default)
            lines.append(f"{_comment(setting.description)}{setting.name} = {_toml(value)}\n")
    return "".join(lines)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in wrap(text, WIDTH))


def _toml(value: object) -> str:
    match value:
        case dict():
            return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }" if value else "{}"
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return json.dumps(value, ensure_ascii=False)  # of texts, numbers and truth values TOML says the same


if __name__ == "__main__":
    sys.stdout.write(document())
