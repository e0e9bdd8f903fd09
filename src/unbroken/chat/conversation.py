"""A conversation and what is wished of its next turn, in words that no dialect owns.

Every dialect reads its requests into a `Conversation` and writes them from one. What a dialect says beyond it is
kept by name in `extras`, so that the writer of another dialect can refuse it or warn of it (law 8).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from msgspec import Raw

_NO_EXTRAS: Mapping[str, Raw] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text; `cache` is the provider's mark to cache the prompt up to here, JSON as it came."""

    text: str
    cache: Raw | None = None
    #: Sources of the text as its provider gave them, JSON as it came.
    citations: Raw | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A picture, by `url` or as base64 `data` with its `media_type`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    cache: Raw | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A file to read, by `url`, as base64 `data`, as plain `text`, or by the provider's `file_id`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    text: str | None = None
    file_id: str | None = None
    name: str | None = None
    cache: Raw | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """Sound as base64 `data` in `format` (`wav`, `mp3`)."""

    data: str
    format: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """The model's reasoning; `signature` is the provider's seal, which must go back as it came."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class SealedThinking:
    """Reasoning that only its provider can read."""

    data: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a tool; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str
    cache: Raw | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave for the call `call_id`."""

    call_id: str
    parts: tuple["Text | Image | Document", ...]
    is_error: bool = False
    cache: Raw | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model's words on why it does not answer."""

    text: str


Part = Text | Image | Document | Audio | Thinking | SealedThinking | ToolCall | ToolResult | Refusal


class Role(Enum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn, or a piece of one; a tool's result is part of a user's message."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `schema` is the JSON Schema of its arguments, untouched."""

    name: str
    description: str | None = None
    schema: Raw | None = None
    strict: bool | None = None
    cache: Raw | None = None


class ToolUse(Enum):
    """Whether the model must call a tool."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The model must call this tool."""

    name: str


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The answer must be JSON; with a `schema`, JSON of that schema."""

    schema: Raw | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How much the model may think: by the word `effort`, or by a `budget` in tokens; `enabled` False is not at all."""

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None
    #: Whether and how a summary of it is shown, in the dialect's word.
    summary: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is said so far, and what is wished of the next turn. None is "not said": the provider's default."""

    #: System and developer messages are messages here; a dialect that wants them apart takes the leading ones.
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolUse | NamedTool | None = None
    parallel_tools: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    choices: int = 1
    #: None: no log probabilities; else how many alternatives for each token.
    top_logprobs: int | None = None
    format: JsonFormat | None = None
    reasoning: Reasoning | None = None
    #: Who the end user is, for the provider's abuse checks.
    user: str | None = None
    service_tier: str | None = None
    #: Fields of the caller's dialect that have no word here, by the name they have there.
    extras: Mapping[str, Raw] = field(default_factory=lambda: _NO_EXTRAS)
