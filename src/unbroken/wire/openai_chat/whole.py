"""Writing: all the events of one answer as the body of a response without streaming."""

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec
from msgspec import Raw

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
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.finish import write_finish_reason
from unbroken.wire.openai_chat.spoken import Spoken, placed
from unbroken.wire.openai_chat.usage import write_usage

_write = msgspec.json.Encoder().encode


def write_answer(events: Sequence[Event], answering: Answering) -> bytes:
    """The whole answer.

    Raises:
        UpstreamFailed: the events end with an error, or without saying that the answer is finished.
    """
    choices: dict[int, _Choice] = {}
    usage: Usage | None = None
    for event in events:
        match event:
            case Started():
                pass
            case UsageReported(reported):
                usage = reported
            case Failed(message, kind, code):
                raise UpstreamFailed(Failure(Fault.ERROR_EVENT, message, type=kind, code=code, is_quoted=True))
            case _:
                if event.choice not in choices:
                    choices[event.choice] = _Choice(event.choice, answering.stream_id)
                choices[event.choice].take(event)
    if not choices or any(choice.finish is None for choice in choices.values()):
        raise UpstreamFailed(Failure(Fault.CUT, "the answer ended without saying that it is finished"))
    answer: dict[str, object] = {
        "id": answering.stream_id,
        "object": "chat.completion",
        "created": answering.created,
        "model": answering.model,
        "choices": [choices[index].members() for index in sorted(choices)],
    }
    if usage is not None:
        answer["usage"] = write_usage(usage)
    return _write(answer)


class _Choice:
    """One choice of the answer, put together from its pieces."""

    def __init__(self, index: int, seed: str) -> None:
        self.finish: Finished | None = None
        self._index = index
        self._spoken = Spoken(index, seed)
        self._pieces: dict[str, list[str]] = {}
        self._blocks: list[dict[str, object]] = []
        self._sources: dict[str, list[Raw]] = {}
        self._calls: list[dict[str, Any]] = []

    def take(
        self,
        event: TextDelta
        | ReasoningDelta
        | ReasoningSigned
        | ReasoningSealed
        | RefusalDelta
        | Cited
        | ToolCallStarted
        | ToolCallDelta
        | Finished,
    ) -> None:
        match event:
            case TextDelta(text):
                self._pieces.setdefault("content", []).append(text)
            case RefusalDelta(text):
                self._pieces.setdefault("refusal", []).append(text)
            case ReasoningDelta(text):
                self._pieces.setdefault("reasoning_content", []).append(text)
                self._spoken.reason_on(text)
            case ReasoningSigned(signature):
                self._blocks.append(self._spoken.seal(signature))
            case ReasoningSealed(data):
                self._end_unsealed()
                self._blocks.append({"type": "redacted_thinking", "data": data})
            case Cited(citation):
                name, source = placed(citation)
                self._sources.setdefault(name, []).append(source)
            case ToolCallStarted():
                call = self._spoken.begin_call(event)
                function = {"name": call.name, "arguments": []}
                self._calls.append({"id": call.id, "type": "function", "function": function})
            case ToolCallDelta(at, arguments):
                self._calls[self._spoken.call(at).at]["function"]["arguments"].append(arguments)
            case Finished():
                self.finish = event
            case _:
                assert_never(event)

    def members(self) -> dict[str, object]:
        assert self.finish is not None
        if self._blocks:
            self._end_unsealed()
        said = {name: "".join(pieces) for name, pieces in self._pieces.items()}
        message: dict[str, object] = {"role": "assistant", "content": None, "refusal": None, **said, **self._sources}
        if self._blocks:
            message["thinking_blocks"] = self._blocks
        if self._calls:
            message["tool_calls"] = [_whole_call(call) for call in self._calls]
        reason = write_finish_reason(self.finish.reason, has_refused="refusal" in said)
        choice = {"index": self._index, "message": message, "logprobs": None, "finish_reason": reason}
        if self.finish.stop_sequence is not None:
            choice["stop_reason"] = self.finish.stop_sequence
        return choice

    def _end_unsealed(self) -> None:
        if self._spoken.has_unsealed:
            self._blocks.append(self._spoken.seal(None))


def _whole_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": "".join(function["arguments"]) or "{}"}}
