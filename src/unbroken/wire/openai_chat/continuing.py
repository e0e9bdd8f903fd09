"""Going on with a stream of this dialect behind the chunks that were sent."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.error import invalid
from unbroken.chat.events import Event, Finished, Started, UsageReported
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.wire.continuing_blocks import events_in
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.chunks import DONE
from unbroken.wire.openai_chat.events import EventReader
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_chat.writer import EventWriter


class _Delta(Struct):
    role: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None


class _Chunk(Struct):
    """What the chunks that were sent have in common, and whether one of them has said the role, or usage by itself."""

    id: str | None = None
    model: str | None = None
    created: Any = None
    usage: Any = None
    choices: list[_Choice] | None = None


_read_chunk = msgspec.json.Decoder(_Chunk).decode
_read_messages = msgspec.json.Decoder(list[Raw]).decode
_read_message = msgspec.json.Decoder(dict[str, Raw]).decode
_read_content = msgspec.json.Decoder(str | list[Raw] | None).decode
_write = msgspec.json.Encoder().encode

_NULL = Raw(b"null")


class ContinuingWriter(EventWriter):
    """Writes the chunks behind those that were sent: the role, usage and `[DONE]` that were said are not said again."""

    def __init__(self, answering: Answering, said: Sequence[Event], *, has_role: bool, has_usage: bool) -> None:
        super().__init__(answering)
        for event in said:
            if not isinstance(event, Started | UsageReported | Finished) or (has_role and isinstance(event, Started)):
                super().write(event)
        self._has_usage = has_usage

    def end(self) -> list[Block]:
        """Usage, if the client asked for it, it is known and was not sent; and `[DONE]`."""
        blocks = super().end()
        return blocks[-1:] if self._has_usage else blocks


def continuing_writer(answering: Answering, blocks: Sequence[Block]) -> EventWriter:
    """A writer that goes on where `blocks` end.

    Raises:
        UpstreamFailed: something in them has no word outside of this dialect.
    """
    reader = EventReader(refusals_as_text=False)
    said: list[Event] = []
    first: _Chunk | None = None
    has_role = has_usage = False
    for event in events_in(blocks):
        said += reader.feed(event)
        if event.data == b"[DONE]" or event.type:
            continue
        chunk = _read_chunk(without_halves(event.data))
        first = first or chunk
        has_role = has_role or any(choice.delta and choice.delta.role for choice in chunk.choices or ())
        has_usage = has_usage or (chunk.choices == [] and chunk.usage is not None)
    if first is not None:
        created = first.created if isinstance(first.created, int) else answering.created
        model = answering.model if first.model is None else first.model
        id = first.id or answering.stream_id
        answering = msgspec.structs.replace(answering, stream_id=id, created=created, model=model)
    writer = ContinuingWriter(answering, said, has_role=has_role, has_usage=has_usage)
    if DONE in blocks[-1:]:
        writer.end()
    return writer


def with_partial(request: ChatRequest, text: str) -> ChatRequest:
    """The request with `text` as the assistant's last words, behind those that the caller itself has put there.

    Raises:
        RequestRefused: the caller's own last message is one that no text can be added to.
    """
    messages = [*_read_messages(request.fields["messages"])]
    last = _read_message(messages[-1])
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if last.get("role") == Raw(b'"assistant"'):
        before = _read_content(last.get("content", _NULL))
        if not isinstance(before, str) or last.get("tool_calls", _NULL) != _NULL:
            raise invalid("The last message is the assistant's, and not a text that could be gone on with.")
        message = {**last, "content": before + text}
        messages.pop()
    return replace(request, fields={**request.fields, "messages": Raw(_write([*messages, message]))})
