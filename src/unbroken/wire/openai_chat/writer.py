"""Writing: events that no dialect owns as a stream of chunks.

Beyond the API's own words the chunks and messages have three of others, where they have to say what it cannot:
`reasoning_content` (DeepSeek, vLLM), `thinking_blocks` (LiteLLM: reasoning with its seal, sent back by the client as
it came) and `stop_reason` (vLLM: the stop sequence that ended the answer).
"""

from typing import Any, assert_never

import msgspec

from unbroken.chat.error import ApiError
from unbroken.chat.events import (
    Cited,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.chunks import DONE
from unbroken.wire.openai_chat.errors import write_error_event
from unbroken.wire.openai_chat.finish import write_finish_reason
from unbroken.wire.openai_chat.spoken import Spoken, placed, with_index
from unbroken.wire.openai_chat.usage import write_usage
from unbroken.wire.sse import in_one_line

_write = msgspec.json.Encoder().encode

#: The members of a delta whose chunks are made of bytes that are written once.
_TEXTS: dict[type, bytes] = {
    TextDelta: b'"content":',
    ReasoningDelta: b'"reasoning_content":',
    RefusalDelta: b'"refusal":',
}


class EventWriter:
    """Writes one stream of chunks."""

    def __init__(self, answering: Answering) -> None:
        self._seed = answering.stream_id
        self._include_usage = answering.include_usage
        envelope = _write(
            {
                "id": answering.stream_id,
                "object": "chat.completion.chunk",
                "created": answering.created,
                "model": answering.model,
            }
        )
        self._head = b"data: %b,%b" % (envelope[:-1], b'"choices":')
        self._tail = b',"usage":null}\n\n' if answering.include_usage else b"}\n\n"
        self._before = b'%b[{"index":' % self._head
        self._after = b'},"logprobs":null,"finish_reason":null}]%b' % self._tail
        self._texts: dict[tuple[type, int], bytes] = {}
        self._choices: dict[int, Spoken] = {}
        self._usage: Usage | None = None
        self._is_over = False

    def write(self, event: Event) -> list[Block]:
        """The blocks of one event; none of its own for usage, which `end` says last.

        Raises:
            UpstreamFailed: it is beyond a bound, or no event that may come here.
        """
        kind = type(event)
        if kind is TextDelta and (head := self._texts.get((kind, event.choice))) is not None:  # type: ignore[union-attr]
            return [Block(b"%b%b%b" % (head, _write(event.text), self._after))]  # type: ignore[union-attr]
        if self._is_over:
            return []
        blocks: list[Block] = []
        match event:
            case Started():
                self._choice(0, blocks)
            case TextDelta(text, index) | ReasoningDelta(text, index) | RefusalDelta(text, index):
                self._write_text(event, text, self._choice(index, blocks), blocks)
            case ReasoningSigned(signature, index):
                choice = self._choice(index, blocks)
                blocks.append(self._thinking(choice, choice.seal(signature)))
            case ReasoningSealed(data, index):
                choice = self._choice(index, blocks)
                if choice.has_unsealed:
                    blocks.append(self._thinking(choice, choice.seal(None)))
                blocks.append(self._thinking(choice, {"type": "redacted_thinking", "data": data}))
            case Cited(citation, index):
                choice = self._choice(index, blocks)
                name, source = placed(in_one_line(citation))
                blocks.append(self._delta(choice, {name: [with_index(source, choice.sources)]}))
                choice.sources += 1
            case ToolCallStarted(choice=index):
                choice = self._choice(index, blocks)
                call = choice.begin_call(event)
                function = {"name": call.name, "arguments": ""}
                piece = {"index": call.at, "id": call.id, "type": "function", "function": function}
                blocks.append(self._delta(choice, {"tool_calls": [piece]}))
            case ToolCallDelta(at, arguments, index):
                choice = self._choice(index, blocks)
                call = choice.call(at)
                call.has_arguments = call.has_arguments or bool(arguments)
                blocks.append(self._arguments(choice, call.at, arguments))
            case UsageReported(usage):
                self._usage = usage
            case Finished(choice=index):
                self._finish(self._choice(index, blocks), event, blocks)
            case Failed(message, kind_of_error, code):
                self._is_over = True
                self._texts.clear()
                error = ApiError(502, message, kind_of_error or "server_error", code)
                blocks.append(write_error_event(error))
            case _:
                assert_never(event)
        return blocks

    def around_text(self, choice: int) -> tuple[bytes, bytes] | None:
        """What stands around the JSON string in the chunk of a text."""
        head = self._texts.get((TextDelta, choice))
        return None if head is None else (head, self._after)

    def end(self) -> list[Block]:
        """Usage, if the client asked for it and the upstream said it, and `[DONE]`; nothing after a failure."""
        if self._is_over:
            return []
        self._is_over = True
        self._texts.clear()
        if self._usage is None or not self._include_usage:
            return [DONE]
        return [Block(b'%b[],"usage":%b}\n\n' % (self._head, _write(write_usage(self._usage)))), DONE]

    def _choice(self, index: int, blocks: list[Block]) -> Spoken:
        """What the choice has said; its role first, if that was nothing."""
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = Spoken(index, self._seed)
            blocks.append(self._delta(choice, {"role": "assistant", "content": ""}))
        return choice

    def _write_text(
        self, event: TextDelta | ReasoningDelta | RefusalDelta, text: str, choice: Spoken, blocks: list[Block]
    ) -> None:
        if type(event) is ReasoningDelta:
            choice.reason_on(text)
        elif type(event) is RefusalDelta:
            choice.has_refused = True
        key = (type(event), choice.index)
        head = self._texts.get(key)
        if head is None:
            head = self._texts[key] = b'%b%d,"delta":{%b' % (self._before, choice.index, _TEXTS[type(event)])
        blocks.append(Block(b"%b%b%b" % (head, _write(text), self._after)))

    def _delta(self, choice: Spoken, delta: dict[str, Any]) -> Block:
        return Block(b'%b%d,"delta":%b%b' % (self._before, choice.index, _write(delta)[:-1], self._after))

    def _thinking(self, choice: Spoken, block: dict[str, object]) -> Block:
        entry = {"index": choice.blocks, **block}
        choice.blocks += 1
        return self._delta(choice, {"thinking_blocks": [entry]})

    def _arguments(self, choice: Spoken, at: int, arguments: str) -> Block:
        piece = b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (at, _write(arguments))
        return Block(b'%b%d,"delta":{%b%b' % (self._before, choice.index, piece, self._after))

    def _finish(self, choice: Spoken, event: Finished, blocks: list[Block]) -> None:
        for call in choice.calls_without_arguments():
            call.has_arguments = True
            blocks.append(self._arguments(choice, call.at, "{}"))
        if choice.blocks and choice.has_unsealed:
            blocks.append(self._thinking(choice, choice.seal(None)))
        word = write_finish_reason(event.reason, has_refused=choice.has_refused)
        members: dict[str, Any] = {"index": choice.index, "delta": {}, "logprobs": None, "finish_reason": word}
        if event.stop_sequence is not None:
            members["stop_reason"] = event.stop_sequence
        blocks.append(Block(b"%b%b%b" % (self._head, _write([members]), self._tail)))
