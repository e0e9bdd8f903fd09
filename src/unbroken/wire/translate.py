"""From one dialect to another: an upstream's stream read into words, the words written in the client's dialect."""

from collections.abc import Mapping

import msgspec

from unbroken.chat.counted import counted
from unbroken.chat.error import invalid
from unbroken.chat.events import (
    Cited,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering, Dialect, EventReader, EventWriter, Written
from unbroken.wire.openai_chat.errors import BY_CODE, without_secrets
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent
from unbroken.wire.template import Lessons, Shortcut, template_of

#: Faults that no upstream can have: a word of its own that sounds like one of them means something else.
_OURS_ALONE = frozenset(
    {
        Fault.CLIENT_LEFT,
        Fault.CANCELLED,
        Fault.STORE_UNAVAILABLE,
        Fault.SHUTTING_DOWN,
        Fault.INTERNAL,
        Fault.NO_UPSTREAM,
        Fault.UNTRANSLATABLE,
        Fault.DIFFERS,
    }
)

#: What an error in a stream means, by the word that any dialect has for it; our own words stand for themselves.
FAULT_OF_WORD: Mapping[str, Fault] = {
    **{fault.value: fault for fault in Fault if fault not in _OURS_ALONE},
    **BY_CODE,
    "api_error": Fault.SERVER_ERROR,
    "timeout_error": Fault.SERVER_ERROR,
    "not_found_error": Fault.MODEL_NOT_FOUND,
    "permission_error": Fault.UNAUTHORIZED,
    "billing_error": Fault.UNAUTHORIZED,
    "request_too_large": Fault.TOO_LARGE,
}

_PIECES = (
    TextDelta,
    ReasoningDelta,
    ReasoningSigned,
    ReasoningSealed,
    RefusalDelta,
    Cited,
    ToolCallStarted,
    ToolCallDelta,
)
_write_text = msgspec.json.Encoder().encode

_PLAIN = frozenset({TextDelta, ReasoningDelta, ToolCallDelta})
_OPEN, _ENDED = Progress.OPEN, Progress.ENDED


class TranslatingRelay:
    """A `Relay` between two dialects; a failure is told as the diagonal's relays tell it."""

    def __init__(self, reader: EventReader, writer: EventWriter, *, choices: int = 1, secret: str = "") -> None:
        self.progress = Progress.WAITING
        self.usage: Usage | None = None
        #: Chunks that carried a piece of the answer.
        self.deltas = 0
        #: Events that came after the end, or that said nothing.
        self.ignored = 0
        #: Why each choice ended, in our words where there is one.
        self.finish_reasons: dict[int, str] = {}
        self._reader = reader
        self._read = reader.feed
        self._write = writer.write
        self._around_text = writer.around_text
        self.shortcut: Shortcut | None = None
        self._lessons = Lessons()
        self._end = writer.end
        self._expected = choices
        self._secret = secret
        self._seen: set[int] = set()
        self._failure: Failure | None = None

    def feed(self, event: SseEvent) -> list[Block]:
        """The blocks that one event of the upstream makes.

        Raises:
            UpstreamFailed: the event is an error, is not of the dialect, or ends an answer that is not whole; from
                then on every call raises it again.
        """
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        if self.progress is _ENDED:
            self.ignored += 1
            return []
        try:
            said = self._read(event)
            if len(said) == 1 and self.progress is _OPEN and not self.finish_reasons:
                one = said[0]
                if type(one) in _PLAIN and one.choice in self._seen:  # type: ignore[union-attr]
                    self.deltas += 1
                    self._note_piece(one, event)
                    return self._write(one)
            self.shortcut = None  # what the next event means may have changed
            return self._feed_slowly(said)
        except UpstreamFailed as failed:
            raise UpstreamFailed(self._fail(failed.failure)) from None

    def finish(self) -> list[Block]:
        """The blocks that end the stream.

        Raises:
            UpstreamFailed: the upstream's answer is not whole; nothing may be made up (FAULTS.md 1, 2).
        """
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        if self.progress is Progress.ENDED:
            return []
        if self.progress is not Progress.FINISHED:
            missing = "before the first token" if self.progress is Progress.WAITING else "without its finish"
            problem = f"stream ended {missing} after {counted(self.deltas, 'chunk')}"
            raise UpstreamFailed(self._fail(Failure(Fault.CUT, problem)))
        blocks = self._end()
        self.progress = Progress.ENDED
        return blocks

    def _fail(self, failure: Failure) -> Failure:
        # The progress stays what it was: it tells whether another upstream may be asked.
        self.shortcut = None
        if self._failure is None:
            self._failure = failure
        return self._failure

    def _note_piece(self, said: Event, event: SseEvent) -> None:
        """Learns how to translate events like this one without parsing them, if it is text."""
        if type(said) is not TextDelta:
            self.shortcut = None
        elif (around := self._around_text(said.choice)) is not None and b"\n" not in event.data:
            self._lessons.missed += 1
            if self._lessons.is_due(self.deltas):
                self.shortcut = self._learned(said, event, around)

    def _learned(self, said: TextDelta, event: SseEvent, around: tuple[bytes, bytes]) -> Shortcut | None:
        template = template_of(event.data, self._reader.text_names, around)
        if template is None:
            return None
        # The proof that the text stands there: another one in its place is what is read.
        other = TextDelta(said.text + "?", said.choice)
        if self._read(SseEvent(event.type, template.before + _write_text(other.text) + template.after)) != [other]:
            return None
        return template.within(b"event: %b\ndata: " % event.type if event.type else b"data: ", b"\n\n")

    def _feed_slowly(self, said: list[Event]) -> list[Block]:
        blocks: list[Block] = []
        has_piece = False
        for event in said:
            if isinstance(event, _PIECES):
                has_piece = True
                self._take_piece(event.choice)
            elif isinstance(event, Failed):
                raise UpstreamFailed(self._told(event))
            elif isinstance(event, UsageReported):
                self.usage = event.usage
            elif isinstance(event, Finished) and not self._take_finish(event):
                continue  # said already
            blocks += self._write(event)
        self.deltas += has_piece
        self._note_progress()
        if self._reader.is_complete:
            # A server that knows no `n` gives one choice and says that it is done: then that was all.
            if self.finish_reasons and self._seen == self.finish_reasons.keys():
                self.progress = Progress.FINISHED
            blocks += self.finish()
        elif not said:
            self.ignored += 1
        return blocks

    def _take_piece(self, choice: int) -> None:
        if choice in self.finish_reasons:
            problem = f'choice {choice} of the stream goes on after its finish "{self.finish_reasons[choice]}"'
            raise UpstreamFailed(Failure(Fault.MALFORMED, problem))
        self._seen.add(choice)

    def _take_finish(self, event: Finished) -> bool:
        self._seen.add(event.choice)
        is_new = event.choice not in self.finish_reasons
        self.finish_reasons.setdefault(event.choice, str(event.reason))
        return is_new

    def _note_progress(self) -> None:
        if not self._seen:
            return
        has_all = len(self.finish_reasons) >= max(self._expected, len(self._seen))
        self.progress = Progress.FINISHED if has_all else Progress.OPEN

    def _told(self, failed: Failed) -> Failure:
        fault = FAULT_OF_WORD.get(failed.code or "") or FAULT_OF_WORD.get(failed.type or "") or Fault.ERROR_EVENT
        message = without_secrets(failed.message, self._secret)
        return Failure(fault, message, type=failed.type, code=failed.code, is_quoted=True)


def relay_between(upstream: Dialect, client: Dialect, answering: Answering, *, secret: str) -> TranslatingRelay:
    """The relay of one attempt where the upstream and the client speak different dialects."""
    reader, writer = upstream.event_reader(), client.event_writer(answering)
    return TranslatingRelay(reader, writer, choices=answering.choices, secret=secret)


def translate_request(
    request: ChatRequest, from_dialect: Dialect, to_dialect: Dialect, *, model: str, stream: bool
) -> Written:
    """The client's request as the body for an upstream of another dialect, which calls the model `model`.

    Raises:
        RequestRefused: a field is wrong (400), or the upstream's dialect has no word for it.
    """
    conversation = from_dialect.read_conversation(request)
    if conversation.top_logprobs is not None:
        message = (
            f'Log probabilities cannot be given: the model is served in the dialect "{to_dialect.name}",'
            f' and its answers cannot be translated to "{from_dialect.name}" with them.'
        )
        raise invalid(message, param="top_logprobs", code="unsupported_parameter")
    return to_dialect.write_conversation(conversation, model=model, stream=stream)
