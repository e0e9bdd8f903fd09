"""Messages of this dialect into words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.conversation import (
    Audio,
    Document,
    Image,
    Message,
    Part,
    Refusal,
    Role,
    SealedThinking,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from unbroken.chat.error import RequestRefused, invalid
from unbroken.wire.openai_chat.data_url import read_data_url
from unbroken.wire.openai_chat.envelope import NULL
from unbroken.wire.openai_chat.events import ThinkingBlock


class _ImageUrl(Struct, forbid_unknown_fields=True):
    url: str
    detail: str | None = None


class _Audio(Struct, forbid_unknown_fields=True):
    data: str
    format: str


class _File(Struct, forbid_unknown_fields=True):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | None = None
    input_audio: _Audio | None = None
    file: _File | None = None
    cache_control: Raw = NULL


class _Function(Struct):
    name: str
    arguments: str = ""


class _ToolCall(Struct):
    id: str | None = None
    type: str = "function"
    function: _Function | None = None


class WireMessage(Struct):
    """A message as it is on the wire; what stands beside these members is looked at by name."""

    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[ThinkingBlock] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: _Function | None = None
    annotations: Raw = NULL
    citations: Raw = NULL
    cache_control: Raw = NULL


_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.USER,
    "function": Role.USER,
}

_ALWAYS = {"role", "content", "name", "cache_control"}
_ONLY_ASSISTANT = {
    *("refusal", "reasoning_content", "reasoning", "thinking_blocks", "tool_calls", "function_call"),
    *("annotations", "citations"),
}
_MEMBERS = {
    **dict.fromkeys(("system", "developer", "user", "function"), _ALWAYS),
    "assistant": _ALWAYS | _ONLY_ASSISTANT,
    "tool": _ALWAYS | {"tool_call_id"},
}
_PART_MEMBERS = {
    "text": {"text"},
    "image_url": {"image_url"},
    "input_audio": {"input_audio"},
    "file": {"file"},
    "refusal": {"refusal"},
}
_MAY_SAY = {
    Role.SYSTEM: {"text"},
    Role.USER: {"text", "image_url", "input_audio", "file"},
    Role.ASSISTANT: {"text", "refusal"},
}
_TOOL_MAY_SAY = {"text", "image_url", "file"}

_EMPTY = (NULL, Raw(b"[]"), Raw(b"{}"), Raw(b'""'))

_read_members = msgspec.json.Decoder(list[dict[str, Raw]]).decode


def read_messages(messages: Sequence[WireMessage], raw: Raw) -> tuple[Message, ...]:
    """The messages in words; results of tools that follow each other are one message, as their calls were.

    `raw` is the same messages as JSON, for what `WireMessage` has no member for.

    Raises:
        RequestRefused: one says what no word of ours says; it is named.
    """
    return tuple(_joined(_Reader().read(messages, _read_members(raw))))


def _joined(messages: Iterator[tuple[Message, bool]]) -> Iterator[Message]:
    results: tuple[Part, ...] = ()
    for message, is_result in messages:
        if is_result:
            results += message.parts
            continue
        if results:
            yield Message(Role.USER, results)
            results = ()
        yield message
    if results:
        yield Message(Role.USER, results)


def said(raw: Raw) -> Raw | None:
    """A member's JSON, None where it is absent or null."""
    return None if raw == NULL else raw


class _Reader:
    """Reads messages in their order; keeps the ids that it made for calls of functions, which have none."""

    def __init__(self) -> None:
        self._called: dict[str, str] = {}

    def read(
        self, messages: Sequence[WireMessage], members: Sequence[Mapping[str, Raw]]
    ) -> Iterator[tuple[Message, bool]]:
        for at, (message, raw) in enumerate(zip(messages, members, strict=True)):
            path = f"messages[{at}]"
            role = _ROLES.get(message.role)
            if role is None:
                raise _wrong(f"{path}.role", f'"{message.role}" is no role; expected one of {_listed(_ROLES)}')
            _check_members(raw, _MEMBERS[message.role], path)
            _check_parts(raw.get("content", NULL), path)
            if message.role in ("tool", "function"):
                yield Message(role, (self._result(message, path),)), True
            elif role is Role.ASSISTANT:
                yield Message(role, tuple(self._assistant_parts(message, at, path)), message.name), False
            else:
                parts = _content(message, _MAY_SAY[role], path)
                yield Message(role, tuple(_marked(parts, message.cache_control, path)), message.name), False

    def _result(self, message: WireMessage, path: str) -> ToolResult:
        call_id = message.tool_call_id
        if message.role == "function":
            call_id = self._called.get(message.name or "")
            if call_id is None:
                raise _wrong(f"{path}.name", f'no function_call of "{message.name}" stands before its result')
        if not call_id:
            problem = f"Missing required parameter: '{path}.tool_call_id'."
            raise invalid(problem, param=f"{path}.tool_call_id", code="missing_required_parameter")
        parts = tuple(part for part in _content(message, _TOOL_MAY_SAY, path) if isinstance(part, _RESULT_PARTS))
        return ToolResult(call_id, parts, cache=said(message.cache_control))

    def _assistant_parts(self, message: WireMessage, at: int, path: str) -> Iterator[Part]:
        yield from _thinking(message, path)
        parts = _content(message, _MAY_SAY[Role.ASSISTANT], path)
        yield from _marked(_cited(parts, message), message.cache_control, path)
        if message.refusal:
            yield Refusal(message.refusal)
        for number, call in enumerate(message.tool_calls or ()):
            where = f"{path}.tool_calls[{number}]"
            if call.type != "function" or call.function is None:
                raise _wrong(f"{where}.type", f'"{call.type}" cannot be translated; expected "function"')
            if not call.id:
                raise invalid(f"Missing required parameter: '{where}.id'.", param=f"{where}.id")
            yield ToolCall(call.id, call.function.name, call.function.arguments or "{}")
        if message.function_call is not None:
            function = message.function_call
            self._called[function.name] = f"call_{at}"
            yield ToolCall(f"call_{at}", function.name, function.arguments or "{}")


_RESULT_PARTS = (Text, Image, Document)


def _thinking(message: WireMessage, path: str) -> Iterator[Part]:
    """The blocks where there are any: `reasoning_content` then says the same, without the seals."""
    for at, block in enumerate(message.thinking_blocks or ()):
        if block.type == "thinking" and block.thinking is not None:
            yield Thinking(block.thinking, block.signature)
        elif block.type == "redacted_thinking" and block.data is not None:
            yield SealedThinking(block.data)
        else:
            where = f"{path}.thinking_blocks[{at}]"
            raise _wrong(where, 'expected "thinking" with its text, or "redacted_thinking" with its data')
    reasoning = message.reasoning_content or message.reasoning
    if reasoning and not message.thinking_blocks:
        yield Thinking(reasoning)


def _content(message: WireMessage, allowed: set[str], path: str) -> list[Part]:
    if message.content is None or message.content == "":
        return []
    if isinstance(message.content, str):
        return [Text(message.content)]
    return [_part(part, allowed, f"{path}.content[{at}]") for at, part in enumerate(message.content)]


def _part(part: _Part, allowed: set[str], path: str) -> Part:
    if part.type not in allowed:
        raise _wrong(f"{path}.type", f'"{part.type}" cannot be translated here; expected one of {_listed(allowed)}')
    match part:
        case _Part(type="text", text=str(text)):
            return Text(text, said(part.cache_control))
        case _Part(type="refusal", refusal=str(text)):
            return Refusal(text)
        case _Part(type="image_url", image_url=_ImageUrl(url, detail)):
            if (found := read_data_url(url)) is not None:
                return Image(data=found[1], media_type=found[0], detail=detail, cache=said(part.cache_control))
            return Image(url=url, detail=detail, cache=said(part.cache_control))
        case _Part(type="input_audio", input_audio=_Audio(data, format)):
            return Audio(data, format)
        case _Part(type="file", file=_File() as file):
            return _document(file, said(part.cache_control), path)
    raise invalid(f"Missing required parameter: '{path}.{part.type}'.", param=f"{path}.{part.type}")


def _document(file: _File, cache: Raw | None, path: str) -> Document:
    if (file.file_data is None) == (file.file_id is None):
        raise _wrong(f"{path}.file", "expected either file_data or file_id")
    if file.file_data is None:
        return Document(file_id=file.file_id, name=file.filename, cache=cache)
    media_type, data = read_data_url(file.file_data) or (None, file.file_data)
    return Document(data=data, media_type=media_type, name=file.filename, cache=cache)


def _cited(parts: list[Part], message: WireMessage) -> list[Part]:
    """The parts with the message's sources at its last text."""
    sources = next((raw for raw in (message.annotations, message.citations) if raw not in _EMPTY), None)
    for at in range(len(parts) - 1, -1, -1):
        if sources is not None and isinstance(part := parts[at], Text):
            return [*parts[:at], replace(part, citations=sources), *parts[at + 1 :]]
    return parts


def _marked(parts: list[Part], cache: Raw, path: str) -> list[Part]:
    """The parts with the message's own cache mark at its last part."""
    if cache == NULL:
        return parts
    if parts and isinstance(last := parts[-1], Text | Image | Document) and last.cache is None:
        return [*parts[:-1], replace(last, cache=cache)]
    raise _wrong(f"{path}.cache_control", "there is no part that it could mark")


def _check_parts(content: Raw, path: str) -> None:
    if not bytes(content).startswith(b"["):
        return
    for at, members in enumerate(_read_members(content)):
        kind = bytes(members.get("type", NULL)).strip(b'"').decode()
        _check_members(members, {"type", "cache_control", *_PART_MEMBERS.get(kind, ())}, f"{path}.content[{at}]")


def _check_members(members: Mapping[str, Raw], known: set[str], path: str) -> None:
    for name, value in members.items():
        if name not in known and value not in _EMPTY:
            raise _wrong(f"{path}.{name}", "it cannot be translated for the upstream of this model")


def _listed(words: Mapping[str, object] | set[str]) -> str:
    return ", ".join(f'"{word}"' for word in sorted(words))


def _wrong(path: str, problem: str) -> RequestRefused:
    return invalid(f"Invalid value for '{path}': {problem}.", param=path, code="invalid_value")
