"""Messages as input items: what an upstream of this dialect is told of what was said so far."""

from collections.abc import Iterable
from typing import Any, assert_never

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
from unbroken.wire.openai_chat.data_url import write_data_url
from unbroken.wire.url_citations import flat

Item = dict[str, Any]


class _Kind(Struct):
    type: str | None = None


_read_kinds = msgspec.json.Decoder(list[_Kind]).decode
_read_list = msgspec.json.Decoder(list[Raw]).decode

_SOURCES = frozenset({"url_citation", "file_citation", "container_file_citation", "file_path"})

_ROLES = {Role.USER: "user", Role.ASSISTANT: "assistant", Role.SYSTEM: "developer"}


class InputWriter:
    """Writes the items of one request; `dropped` names what they do not say."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def write(self, messages: Iterable[Message]) -> list[Item]:
        """The items in their order: tool calls, their results and reasoning are items of their own here.

        Raises:
            RequestRefused: 400 that names a part for which there is no word.
        """
        items: list[Item] = []
        for at, message in enumerate(messages):
            self._write_message(message, f"messages[{at}]", items)
        return items

    def _write_message(self, message: Message, where: str, items: list[Item]) -> None:
        if message.name is not None:
            self.dropped.append("name")
        content: list[Item] = []  # of the message that is open
        parts = [item for part in message.parts if (item := self._write_part(part, message.role, where)) is not None]
        for is_content, said in parts:
            if is_content:
                content.append(said)
                continue
            self._end_message(message.role, content, items)
            content = []
            items.append(said)
        self._end_message(message.role, content, items)

    def _end_message(self, role: Role, content: list[Item], items: list[Item]) -> None:
        match content:
            case []:
                return
            case [{"type": "output_text", "text": str(text), "annotations": []}]:
                items.append({"type": "message", "role": _ROLES[role], "content": text})
            case _:
                item = {"type": "message", "role": _ROLES[role], "content": content}
                # Strict servers take what the model said only as it was given: with an id, and at an end.
                own = {"id": f"msg_{len(items)}", "status": "completed"} if role is Role.ASSISTANT else {}
                items.append({**item, **own})

    def _write_part(self, part: Part, role: Role, where: str) -> tuple[bool, Item] | None:
        """A part, and whether it is content of a message; None for one that is left out."""
        match part:
            case Text() | Image() | Document() | Audio():
                return True, self._write_content(part, role, where)
            case Refusal(text):
                return True, {"type": "refusal", "refusal": text}
            case ToolCall(id, name, arguments, cache):
                self._note_cache(cache)
                return False, {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}
            case ToolResult():
                return False, self._write_result(part, where)
            case Thinking(text, signature):
                if signature is None:
                    self.dropped.append("reasoning")  # without its seal it is not taken back
                    return None
                # Without an id: it would have to be the one under which the seal was made.
                summary = [{"type": "summary_text", "text": text}]
                return False, {"type": "reasoning", "summary": summary, "encrypted_content": signature}
            case SealedThinking(data):
                return False, {"type": "reasoning", "summary": [], "encrypted_content": data}
            case _:
                assert_never(part)

    def _write_result(self, result: ToolResult, where: str) -> Item:
        self._note_cache(result.cache)
        item: Item = {"type": "function_call_output", "call_id": result.call_id}
        match result.parts:
            case ():
                item["output"] = ""
            case (Text(text),):
                self._note_cache(result.parts[0].cache)
                item["output"] = text
            case parts:
                item["output"] = [self._write_content(part, Role.USER, where) for part in parts]
        # The one word that there is for a tool that did not do what it was called for.
        return {**item, "status": "incomplete"} if result.is_error else item

    def _write_content(self, part: Text | Image | Document | Audio, role: Role, where: str) -> Item:
        if role is Role.ASSISTANT and isinstance(part, Image | Document):
            raise _no_word(where, "pictures and files of the assistant")
        match part:
            case Text(text, cache, citations):
                self._note_cache(cache)
                if role is not Role.ASSISTANT:
                    return {"type": "input_text", "text": text}
                return {"type": "output_text", "text": text, "annotations": self._sources(citations)}
            case Image(url, data, media_type, detail, cache):
                self._note_cache(cache)
                address = url if data is None else write_data_url(media_type, data)
                return {"type": "input_image", "image_url": address, "detail": detail or "auto"}
            case Document():
                return self._write_document(part)
            case Audio():
                raise _no_word(where, "sound")
            case _:
                assert_never(part)

    def _write_document(self, document: Document) -> Item:
        self._note_cache(document.cache)
        if document.text is not None:
            if document.name is not None:
                self.dropped.append("title")
            return {"type": "input_text", "text": document.text}
        item: Item = {"type": "input_file"}
        if document.data is not None:
            # Data must have a name.
            item["filename"] = document.name or "document"
            item["file_data"] = write_data_url(document.media_type, document.data)
            return item
        said = {"file_url": document.url, "file_id": document.file_id, "filename": document.name}
        return {**item, **{name: value for name, value in said.items() if value is not None}}

    def _sources(self, citations: Raw | None) -> list[Raw]:
        """The text's sources where this dialect has a word for them; others are left out, for they change no answer."""
        if citations is None:
            return []
        if all(kind.type in _SOURCES for kind in _read_kinds(citations)):
            return [flat(source) for source in _read_list(citations)]
        self.dropped.append("citations")
        return []

    def _note_cache(self, cache: object) -> None:
        if cache is not None:
            self.dropped.append("cache_control")


def _no_word(field: str, what: str) -> RequestRefused:
    message = f"Invalid value for '{field}': the Responses API of this model's upstream has no word for {what}."
    return invalid(message, param=field, code="unsupported_parameter")
