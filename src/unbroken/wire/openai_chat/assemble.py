"""A stream's chunks put together to the whole answer that they are the pieces of."""

from collections.abc import Iterable
from typing import Any

import msgspec

from unbroken.chat.stream import Block
from unbroken.wire.openai_chat.chunks import DONE
from unbroken.wire.sse import SseReader

_read = msgspec.json.Decoder(dict[str, Any]).decode
_write = msgspec.json.Encoder().encode


class AnswerAssembler:
    """Feeds on the blocks of one stream, as `ChunkRelay` gives them; `whole` is the answer."""

    def __init__(self) -> None:
        self._reader = SseReader()
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def feed(self, blocks: Iterable[Block]) -> None:
        """Takes more blocks of the stream."""
        for block in blocks:
            if block != DONE:
                for event in self._reader.feed(block):
                    self._add(_read(event.data))

    def whole(self) -> bytes:
        """The body of a response without streaming."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for message in (choice["message"] for choice in choices):
            if message.get("content") == "" and (message.get("tool_calls") or message.get("refusal")):
                message["content"] = None  # as one says it who was not asked for pieces
        return _write({**self._fields, "object": "chat.completion", "choices": choices})

    def _add(self, chunk: dict[str, Any]) -> None:
        for piece in chunk.pop("choices", None) or ():
            index = piece.get("index", 0)
            empty = {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
            choice = self._choices.setdefault(index, empty)
            _merge(choice["message"], piece.pop("delta", None) or {})
            _merge(choice, {name: value for name, value in piece.items() if name != "index"})
        self._fields.update({name: value for name, value in chunk.items() if value is not None})


def _merge(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Adds a piece: text to text, list to list, an object's members each; what else there is replaces what was."""
    for name, value in piece.items():
        former: Any = whole.get(name)
        if name == "tool_calls":
            whole[name] = _with_calls(former or [], value or ())
        elif value is None:
            whole.setdefault(name, None)
        elif type(value) in (str, list) and type(former) is type(value) and name not in _SAID_ONCE:
            whole[name] = former + value
        elif isinstance(value, dict) and isinstance(former, dict):
            _merge(former, value)
        else:
            whole[name] = value


_SAID_ONCE = ("role", "id", "type", "finish_reason")


def _with_calls(calls: list[dict[str, Any]], pieces: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tool calls with more pieces, found by their index, which a whole answer does not show."""
    for piece in pieces:
        index = piece.get("index", len(calls))
        while len(calls) <= index:
            calls.append({})
        _merge(calls[index], {name: value for name, value in piece.items() if name != "index"})
    return calls
