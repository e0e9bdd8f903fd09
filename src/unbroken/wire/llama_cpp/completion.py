"""Reading: llama.cpp's `/completion` stream, which goes on from token ids, as events of the whole answer."""

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct

from unbroken.chat.events import Event, Failed, Finished, Started, TextDelta, UsageReported
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.usage import Usage
from unbroken.wire.llama_cpp.note import TokenNote
from unbroken.wire.openai_chat.errors import read_error_event
from unbroken.wire.sse import SseEvent

#: Why llama.cpp stops, in the words that its Chat Completions route has for it: a stop sequence is a stop.
_REASONS = {"eos": FinishReason.STOP, "word": FinishReason.STOP, "limit": FinishReason.LENGTH}


class _Chunk(Struct):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    error: Any = None
    prompt_progress: Any = None


_read = msgspec.json.Decoder(_Chunk).decode


class CompletionReader:
    """Gives the events of an answer's rest; its usage is of the whole answer, `known` tokens of which were said before.

    What the engine found in its cache is not told as cached: most of it is what the answer's beginning has left there.
    """

    def __init__(self, known: int) -> None:
        self.is_complete = False
        self.text_names: Collection[bytes] = ()
        self._known = known
        self._note = TokenNote()
        #: The note of what was read since it was last taken, as of a `TokenNotingRelay`.
        self.take_note = self._note.take
        self._has_begun = False

    def feed(self, event: SseEvent) -> list[Event]:
        """The events in one SSE event.

        Raises:
            UpstreamFailed: it is not a chunk of `/completion`.
        """
        if self.is_complete or not event.data or event.data.isspace():
            return []
        try:
            chunk = _read(event.data)
            if chunk.error is not None:
                return [self._failed(read_error_event(msgspec.json.decode(event.data)))]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f"not a chunk of a completion: {error}")) from None
        events: list[Event] = [] if self._has_begun else [Started("", "")]
        self._has_begun = True
        if chunk.content:
            self._take_tokens(chunk)
            events.append(TextDelta(chunk.content))
        if chunk.stop:
            events += self._end(chunk)
        return events

    def _take_tokens(self, chunk: _Chunk) -> None:
        if chunk.tokens:
            self._note.add(chunk.tokens[-1], chunk.tokens_predicted, chunk.content)
        else:
            self._note.spoil()

    def _end(self, chunk: _Chunk) -> list[Event]:
        self.is_complete = True
        reason = _REASONS.get(chunk.stop_type)
        if reason is None:
            problem = f'the completion ended with stop_type "{chunk.stop_type}"'
            raise UpstreamFailed(Failure(Fault.MALFORMED, problem))
        usage = Usage(input=chunk.tokens_evaluated - self._known, output=self._known + chunk.tokens_predicted)
        return [Finished(reason), UsageReported(usage)]

    def _failed(self, failure: Failure) -> Failed:
        self.is_complete = True
        return Failed(failure.message, failure.type, failure.fault.value)
