"""Words into messages of this dialect."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Raw

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
from unbroken.wire.openai_chat.data_url import write_data_url
from unbroken.wire.openai_chat.spoken import is_annotation
from unbroken.wire.url_citations import nested

_read_list = msgspec.json.Decoder(list[Raw]).decode


class MessageWriter:
    """Writes messages; `dropped` are the words that this dialect has no place for and that change no answer."""

    def __init__(self) -> None:
        self.dropped: dict[str, None] = {}  # as an ordered set

    def write(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages in their order; a user's message with tools' results becomes one for each of them.

        Raises:
            RequestRefused: a part has no word here; it is named.
        """
        return [written for at, message in enumerate(messages) for written in self._message(message, f"messages[{at}]")]

    def note_cache(self, cache: Raw | None) -> None:
        """Notes a mark to cache the prompt, which has no place here: servers of this dialect cache by themselves."""
        if cache is not None:
            self.dropped["cache_control"] = None

    def _message(self, message: Message, path: str) -> Iterable[dict[str, Any]]:
        name = {} if message.name is None else {"name": message.name}
        if message.role is Role.ASSISTANT:
            return [{"role": "assistant", **name, **self._answer(message.parts, path)}]
        role = message.role.value
        written: list[dict[str, Any]] = []
        for is_result, parts in groupby(message.parts, lambda part: isinstance(part, ToolResult)):
            if is_result:
                written += [self._result(part, path) for part in parts if isinstance(part, ToolResult)]
            else:
                written.append({"role": role, **name, "content": self._content(list(parts), message.role, path)})
        return written or [{"role": role, **name, "content": ""}]

    def _answer(self, parts: Sequence[Part], path: str) -> dict[str, Any]:
        members: dict[str, Any] = {}
        said = [part for part in parts if isinstance(part, Text)]
        refusals = [part.text for part in parts if isinstance(part, Refusal)]
        calls = [self._call(part) for part in parts if isinstance(part, ToolCall)]
        for part in parts:
            if not isinstance(part, Text | Refusal | ToolCall | Thinking | SealedThinking):
                raise _no_word(part, "an assistant's message", path)
        members["content"] = self._content(said, Role.ASSISTANT, path) if said or not (refusals or calls) else None
        if refusals:
            members["refusal"] = "".join(refusals)
        members |= _thinking(parts)
        if calls:
            members["tool_calls"] = calls
        if sources := self._sources(said):
            members["annotations"] = sources
        return members

    def _call(self, call: ToolCall) -> dict[str, Any]:
        self.note_cache(call.cache)
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

    def _result(self, result: ToolResult, path: str) -> dict[str, Any]:
        self.note_cache(result.cache)
        if result.is_error:
            self.dropped["is_error"] = None
        parts: list[Part] = [self._as_text(part) for part in result.parts]
        for part in parts:
            if not isinstance(part, Text):
                raise _no_word(part, "a tool's result", path)
        content = self._content(parts, Role.USER, path)
        return {"role": "tool", "tool_call_id": result.call_id, "content": content}

    def _content(self, parts: Sequence[Part], role: Role, path: str) -> str | list[dict[str, Any]]:
        if not parts:
            return ""
        written = [self._part(part, role, path) for part in parts]
        if len(parts) == 1 and isinstance(parts[0], Text):
            return parts[0].text
        return written

    def _part(self, part: Part, role: Role, path: str) -> dict[str, Any]:
        if role is Role.USER:
            part = self._as_text(part)
        if isinstance(part, Text | Image | Document):
            self.note_cache(part.cache)
        match part:
            case Text(text):
                return {"type": "text", "text": text}
            case Image(url, data, media_type, detail) if role is Role.USER:
                if url is None and data is not None:
                    url = write_data_url(media_type, data)
                image = {"url": url} if detail is None else {"url": url, "detail": detail}
                return {"type": "image_url", "image_url": image}
            case Audio(data, format) if role is Role.USER:
                return {"type": "input_audio", "input_audio": {"data": data, "format": format}}
            case Document() if role is Role.USER and part.url is None:
                return {"type": "file", "file": _file(part)}
        raise _no_word(part, f"a {role.value}'s message", path)

    def _as_text(self, part: Part) -> Part:
        """A document that is text as text, which is all that this dialect can say of it."""
        if not isinstance(part, Document) or part.text is None:
            return part
        if part.name is not None:
            self.dropped["title"] = None
        return Text(part.text, part.cache)

    def _sources(self, said: Sequence[Text]) -> list[Raw]:
        """The texts' sources where they are this dialect's own; others are left out, for they change no answer."""
        sources = [source for text in said if text.citations is not None for source in _read_list(text.citations)]
        if all(is_annotation(source) for source in sources):
            return [nested(source) for source in sources]
        self.dropped["citations"] = None
        return []


def _thinking(parts: Sequence[Part]) -> dict[str, Any]:
    """Reasoning: as text that any server reads, and as blocks where there is more to it than text."""
    thoughts = [part for part in parts if isinstance(part, Thinking | SealedThinking)]
    members: dict[str, Any] = {}
    if text := "".join(part.text for part in thoughts if isinstance(part, Thinking)):
        members["reasoning_content"] = text
    if len(thoughts) > 1 or any(isinstance(part, SealedThinking) or part.signature is not None for part in thoughts):
        members["thinking_blocks"] = [_thinking_block(part) for part in thoughts]
    return members


def _thinking_block(part: Thinking | SealedThinking) -> dict[str, str]:
    if isinstance(part, SealedThinking):
        return {"type": "redacted_thinking", "data": part.data}
    block = {"type": "thinking", "thinking": part.text}
    return block if part.signature is None else {**block, "signature": part.signature}


def _file(document: Document) -> dict[str, Any]:
    if document.data is None:
        named = {} if document.name is None else {"filename": document.name}
        return {"file_id": document.file_id, **named}
    is_typed = document.media_type is not None
    data = write_data_url(document.media_type, document.data) if is_typed else document.data
    # The API wants a name beside the data, and others have documents without one.
    return {"file_data": data, "filename": document.name or "document.pdf"}


_WORDS = {
    Image: "an image",
    Audio: "sound",
    Document: "a document",
    Thinking: "thinking",
    SealedThinking: "thinking",
    ToolCall: "a tool call",
    ToolResult: "a tool's result",
    Refusal: "a refusal",
}


def _no_word(part: Part, place: str, path: str) -> RequestRefused:
    what = _WORDS.get(type(part), "text")
    by_url = ' given by its "url"' if isinstance(part, Document) and part.url is not None else ""
    message = (
        f"Invalid value for '{path}': {what}{by_url} in {place} has no word in the OpenAI Chat Completions API,"
        " which the upstream of this model speaks."
    )
    return invalid(message, param=path, code="unsupported_content")
