"""What is known of each setting, read from the tree: for messages, for the environment and for the documentation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct, inspect
from msgspec.structs import fields

from unbroken.settings.tree import Settings

PREFIX = "UNBROKEN_"
#: The tables whose settings can be given by the environment: those that there is one of.
SECTIONS = ("server", "keep_alive", "timeouts", "retries", "store", "log")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of one table."""

    name: str
    #: As written in the tree, bounds included; what a value is converted to.
    annotation: Any
    kind: inspect.Type
    description: str
    is_secret: bool
    #: Whether a gateway that runs goes on with what it was started with.
    needs_restart: bool
    #: None where it has to be given.
    default: object | None

    @property
    def expected(self) -> str:
        """What it may be, in words: `a whole number from 0 to 65535`."""
        return _in_words(self.kind)

    @property
    def table(self) -> type[Struct] | None:
        """The table that this setting is, or is a list of; None for a value."""
        kind = self.kind.item_type if isinstance(self.kind, inspect.VarTupleType) else self.kind
        return kind.cls if isinstance(kind, inspect.StructType) else None


def settings_of(table: type[Struct]) -> tuple[Setting, ...]:
    """The settings of a table, in the order of the tree."""
    info = inspect.type_info(table)
    assert isinstance(info, inspect.StructType)
    found = []
    for field, known in zip(fields(table), info.fields, strict=True):
        kind, description, extra = known.type, "", dict[str, Any]()
        if isinstance(kind, inspect.Metadata):
            description = (kind.extra_json_schema or {}).get("description", "")
            extra = kind.extra or {}
            kind = kind.type
        default = field.default_factory() if callable(field.default_factory) else field.default
        found.append(
            Setting(
                field.name,
                field.type,
                kind,
                description,
                is_secret=extra.get("secret", False),
                needs_restart=extra.get("restart", False),
                default=None if default is msgspec.NODEFAULT else default,
            )
        )
    return tuple(found)


def sections() -> Iterator[tuple[str, type[Struct]]]:
    """Name and type of each table that the environment can change."""
    for setting in settings_of(Settings):
        if setting.name in SECTIONS and setting.table is not None:
            yield setting.name, setting.table


def variable(section: str, name: str) -> str:
    """The environment variable of a setting, such as `UNBROKEN_SERVER_PORT`."""
    return f"{PREFIX}{section}_{name}".upper()


def _in_words(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case inspect.FloatType(ge=least, le=most):
            return f"a number from {least:g} to {most:.0f}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType(max_length=int(most)):
            return f"text of 1 to {most} characters"
        case inspect.StrType(min_length=least):
            return "text that is not empty" if least else "text"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(f'"{value}"' for value in values)
        case inspect.DictType():
            return 'a table of texts, such as { name = "text" }'
        case inspect.VarTupleType(item_type=inspect.StructType()):
            return "tables in double brackets"
        case inspect.VarTupleType(item_type=inspect.UnionType()):
            return 'a list of names or lists of names, such as ["a", ["b", "c"]]'
        case inspect.VarTupleType():
            return 'a list of texts, such as ["a", "b"]'
        case inspect.StructType():
            return "a table"
        case _:
            raise AssertionError(f"a setting of a type that has no words yet: {kind}")
