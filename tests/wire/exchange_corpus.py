"""The corpus of requests and errors: its cases of every dialect, and words as JSON."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.conversation import Conversation
from unbroken.chat.error import ApiError
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES

CORPUS = Path(__file__).parent.parent / "corpus"

DIALECTS: tuple[Dialect, ...] = (OPENAI_CHAT, ANTHROPIC_MESSAGES, OPENAI_RESPONSES)

UPSTREAM_MODELS: Mapping[str, str] = {
    OPENAI_CHAT.name: "gpt-4.1",
    ANTHROPIC_MESSAGES.name: "claude-sonnet-4-5",
    OPENAI_RESPONSES.name: "gpt-5.1",
}
"""The model that is asked of an upstream; what is written depends on it here and there."""

SECRET = "upstream-secret-123"
"""Our key, as far as the cases are concerned; it stands in some of the bodies."""


@dataclass(frozen=True)
class RequestCase:
    """A body as a client of the dialect sends it, and what is expected to be read and written of it."""

    dialect: Dialect
    name: str
    body: bytes
    expected: dict[str, Any]


@dataclass(frozen=True)
class ErrorCase:
    """An error response as an upstream of the dialect sends it, and the failure that it is."""

    dialect: Dialect
    name: str
    body: bytes
    expected: dict[str, Any]


@dataclass(frozen=True)
class OwnErrorCase:
    """An error of ours, and how a client of the dialect is told."""

    dialect: Dialect
    name: str
    error: ApiError
    expected: dict[str, Any]


def folder_of(dialect: Dialect) -> Path:
    """Where the dialect's cases are."""
    return CORPUS / dialect.name.replace("-", "_")


def request_cases() -> list[RequestCase]:
    return [
        RequestCase(dialect, path.name, (path / "body.json").read_bytes(), read_json(path / "case.json"))
        for dialect in DIALECTS
        for path in sorted((folder_of(dialect) / "requests").iterdir())
    ]


def error_cases() -> list[ErrorCase]:
    return [
        ErrorCase(dialect, path.name, (path / "body").read_bytes(), read_json(path / "case.json"))
        for dialect in DIALECTS
        for path in sorted((folder_of(dialect) / "errors").iterdir())
    ]


def own_error_cases() -> list[OwnErrorCase]:
    return [
        OwnErrorCase(dialect, path.stem, ApiError(**expected["error"]), expected)
        for dialect in DIALECTS
        for path in sorted((folder_of(dialect) / "own_errors").iterdir())
        for expected in [read_json(path)]
    ]


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def label(case: RequestCase | ErrorCase | OwnErrorCase) -> str:
    return f"{case.dialect.name}-{case.name}"


def spelled(value: Conversation | ApiError) -> dict[str, Any]:
    """Words as JSON: members that say no more than their default are left out, a part says what it `is`."""
    plain: dict[str, Any] = _plain(value)
    return plain


#: Values that are nothing but themselves wherever they stand; all others are one of several that could stand there.
_NEEDS_NO_NAME = frozenset({"ApiError", "Conversation", "JsonFormat", "Message", "Reasoning", "Tool"})


def _plain(value: Any) -> Any:
    if isinstance(value, Raw):
        return msgspec.json.decode(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        name = type(value).__name__
        named = {} if name in _NEEDS_NO_NAME else {"is": name}
        given = {field.name: getattr(value, field.name) for field in fields(value) if not _is_default(value, field)}
        return named | {name: _plain(member) for name, member in given.items()}
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, tuple) else value


def _is_default(value: Any, field: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return bool(getattr(value, field.name) == default)
