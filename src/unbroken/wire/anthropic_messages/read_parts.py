"""The content blocks of a request, in words."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.conversation import (
    Document,
    Image,
    Part,
    SealedThinking,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from unbroken.wire.anthropic_messages.blocks import NULL, Members
from unbroken.wire.anthropic_messages.request import explain, wrong


class _Text(Struct):
    text: str
    citations: list[Raw] | None = None


class _Source(Struct):
    type: str
    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    file_id: str | None = None


class _Image(Struct):
    source: _Source


class _CitationsConfig(Struct):
    enabled: bool | None = None


class _Document(Struct):
    source: _Source
    title: str | None = None
    context: str | None = None
    citations: _CitationsConfig | None = None


class _Thinking(Struct):
    thinking: str
    signature: str | None = None


class _Redacted(Struct):
    data: str


class _Caller(Struct):
    type: str | None = None


class _ToolUse(Struct):
    id: str
    name: str
    input: dict[str, Raw]
    caller: _Caller | None = None
    toolset_name: str | None = None


class _ToolResult(Struct):
    tool_use_id: str
    content: str | list[Members] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


_Kind = TypeVar("_Kind")

_write = msgspec.json.Encoder().encode
_read_type = msgspec.json.Decoder(str).decode
_SPACES = re.compile(rb"\s*")


def read_content(content: str | list[Members], path: str) -> tuple[Part, ...]:
    """The parts of a message; a string is one text, an empty one none.

    Raises:
        RequestRefused: a block is not right, or is one that only Anthropic's own servers know what to do with.
    """
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(_read_block(block, f"{path}.{at}") for at, block in enumerate(content))


def decoded(raw: bytes, kind: type[_Kind], path: str) -> _Kind:
    """A value of the request by its type; raises RequestRefused naming what in it is wrong."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise explain(str(error), path) from None


def type_of(block: Members, path: str) -> str:
    """The `type` of a block; raises RequestRefused where it has none."""
    try:
        return _read_type(block.get("type", NULL))
    except msgspec.DecodeError:
        raise wrong(f"{path}.type", "Field required") from None


def cache_of(block: Members) -> Raw | None:
    """The block's `cache_control`, as it came."""
    raw = block.get("cache_control", NULL)
    return None if raw == NULL else raw


def _read_block(block: Members, path: str) -> Part:
    kind = type_of(block, path)
    if (read := _READERS.get(kind)) is None:
        problem = (
            f'blocks of the type "{kind}" cannot be sent on: the model that is asked is not behind Anthropic\'s API'
        )
        raise wrong(f"{path}.type", problem)
    return read(block, path)


def _read_text(block: Members, path: str) -> Text:
    known = decoded(_write(block), _Text, path)
    return Text(known.text, cache_of(block), block["citations"] if known.citations else None)


def _read_image(block: Members, path: str) -> Image:
    source = decoded(_write(block), _Image, path).source
    _refuse(block, path, "transformations")
    cache = cache_of(block)
    match source:
        case _Source(type="url", url=str(url)):
            return Image(url=url, cache=cache)
        case _Source(type="base64", data=str(data), media_type=str(media_type)):
            return Image(data=data, media_type=media_type, cache=cache)
    raise _wrong_source(source, path)


def _read_document(block: Members, path: str) -> Document:
    known = decoded(_write(block), _Document, path)
    if known.context is not None:
        _refuse(block, path, "context")
    if known.citations is not None and known.citations.enabled:
        _refuse(block, path, "citations")
    title, cache = known.title, cache_of(block)
    match known.source:
        case _Source(type="url", url=str(url)):
            return Document(url=url, name=title, cache=cache)
        case _Source(type="base64", data=str(data), media_type=str(media_type)):
            return Document(data=data, media_type=media_type, name=title, cache=cache)
        case _Source(type="text", data=str(text)):
            return Document(text=text, name=title, cache=cache)
        case _Source(type="file", file_id=str(file_id)):
            return Document(file_id=file_id, name=title, cache=cache)
    raise _wrong_source(known.source, path)


def _read_thinking(block: Members, path: str) -> Thinking:
    known = decoded(_write(block), _Thinking, path)
    return Thinking(known.thinking, known.signature)


def _read_redacted(block: Members, path: str) -> SealedThinking:
    return SealedThinking(decoded(_write(block), _Redacted, path).data)


def _read_tool_use(block: Members, path: str) -> ToolCall:
    known = decoded(_write(block), _ToolUse, path)
    if known.toolset_name is not None:
        _refuse(block, path, "toolset_name")
    if known.caller is not None and known.caller.type != "direct":
        _refuse(block, path, "caller")
    return ToolCall(known.id, known.name, bytes(block["input"]).strip().decode(), cache_of(block))


def _read_tool_result(block: Members, path: str) -> ToolResult:
    known = decoded(_write(block), _ToolResult, path)
    if known.toolset_name is not None:
        _refuse(block, path, "toolset_name")
    parts: list[Text | Image | Document] = []
    for at, part in enumerate(read_content(known.content or "", f"{path}.content")):
        if not isinstance(part, Text | Image | Document):
            raise wrong(f"{path}.content.{at}.type", "Input should be 'text', 'image' or 'document'")
        parts.append(part)
    return ToolResult(known.tool_use_id, tuple(parts), bool(known.is_error), cache_of(block))


def _refuse(block: Mapping[str, Raw], path: str, name: str) -> None:
    if block.get(name, NULL) != NULL:
        raise wrong(f"{path}.{name}", "cannot be said to the model that is asked: it is not behind Anthropic's API")


def _wrong_source(source: _Source, path: str) -> Any:
    needs = {"url": "url", "base64": "data and media_type", "text": "data", "file": "file_id"}
    if source.type in needs and source.type != "file":
        return wrong(f"{path}.source", f'a source of the type "{source.type}" needs {needs[source.type]}')
    return wrong(f"{path}.source.type", f'"{source.type}" cannot be sent on to the model that is asked')


_READERS: Mapping[str, Callable[[Members, str], Part]] = {
    "text": _read_text,
    "image": _read_image,
    "document": _read_document,
    "thinking": _read_thinking,
    "redacted_thinking": _read_redacted,
    "tool_use": _read_tool_use,
    "tool_result": _read_tool_result,
}
