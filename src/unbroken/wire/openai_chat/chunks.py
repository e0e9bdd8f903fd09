"""A stream's chunks on their way from an upstream to a client of the same dialect.

A chunk that keeps the rules passes byte for byte but for its id and model; one that breaks a rule is mended
(FAULTS.md 5, 14, 21, 22) or, where mending would be guessing, the stream fails.
"""

from itertools import zip_longest

import msgspec
from msgspec import Raw

from unbroken.chat.counted import counted
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.openai_chat.choice import ChoiceRelay, Members, MendedChoice
from unbroken.wire.openai_chat.envelope import NULL, Envelope, Fields
from unbroken.wire.openai_chat.errors import is_error, read_error_event
from unbroken.wire.openai_chat.plain import relay_plain_chunk
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_chat.template import learn_templates
from unbroken.wire.openai_chat.usage import read_usage
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, write_data
from unbroken.wire.template import Lessons, Shortcut

DONE = Block(b"data: [DONE]\n\n")

MAX_CHOICES = 128  # the API's own bound of `n`

_EMPTY = Raw(b"[]")

# Looked up once: in Python 3.11 a member of an enum costs as much as a call.
_OPEN, _FINISHED, _ENDED = Progress.OPEN, Progress.FINISHED, Progress.ENDED

_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_read_choices = msgspec.json.Decoder(list[dict[str, Raw]] | None).decode
_read_index = msgspec.json.Decoder(int | None).decode
_read_any = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode


class ChunkRelay:
    """Turns the events of one upstream answer into the blocks that the client sees.

    Chunks with a top-level member `ours` answer a question that only we have asked, and go no further.
    """

    __slots__ = (
        "_choices",
        "_envelope",
        "_expected",
        "_failure",
        "_include_usage",
        "_lessons",
        "_open",
        "_ours",
        "_secret",
        "_stream_id",
        "_template",
        "_usage_chunk",
        "deltas",
        "finish_reasons",
        "ignored",
        "progress",
        "shortcut",
        "usage",
    )

    def __init__(
        self,
        stream_id: str,
        model: str,
        *,
        created: int,
        choices: int = 1,
        include_usage: bool = False,
        secret: str = "",
        ours: str | None = None,
    ) -> None:
        self.progress = Progress.WAITING
        self.usage: Usage | None = None
        #: Chunks that carried a piece of the answer.
        self.deltas = 0
        #: Events that came after the end, or that said nothing.
        self.ignored = 0
        #: The upstream's last word on why each choice ended.
        self.finish_reasons: dict[int, str] = {}
        self._stream_id = stream_id
        self._envelope = Envelope(stream_id, model, created)
        self._include_usage = include_usage
        self._secret = secret
        self._ours = ours
        self._expected = choices
        self._choices: dict[int, ChoiceRelay] = {}
        self._usage_chunk: bytes | None = None
        self._failure: Failure | None = None
        self._template: Shortcut | None = None  # for the data of an event
        self.shortcut: Shortcut | None = None  # for the same with its line
        self._open: set[int] = set()  # choices to which plain chunks may add
        self._lessons = Lessons()

    def feed(self, event: SseEvent) -> list[Block]:
        """The blocks that one event of the upstream makes.

        Raises:
            UpstreamFailed: the event is an error, is not a chunk, or ends an answer that is not whole; from then on
                every call raises it again.
        """
        type, data = event
        if not type:
            if self._template is not None and (block := self._template.fill(data)) is not None:
                self.deltas += 1
                return [block]
            if self._open and (block := self._feed_plain(data)) is not None:
                return [block]
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        word = data.strip()
        if self.progress is _ENDED or not word or type == b"ping":
            self.ignored += 1
            return []
        try:
            return self._done() if word == b"[DONE]" else self._feed_slowly(event)
        except UpstreamFailed as failed:
            self._fail(failed.failure)
            raise

    def finish(self) -> list[Block]:
        """The blocks that end the stream: usage if the client asked for it, and `[DONE]`.

        Raises:
            UpstreamFailed: the upstream's answer is not whole; nothing may be made up (FAULTS.md 1, 2).
        """
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        if self.progress is _ENDED:
            return []
        if self.progress is not _FINISHED:
            missing = "before the first token" if self.progress is Progress.WAITING else "without finish_reason"
            problem = f"stream ended {missing} after {counted(self.deltas, 'chunk')}"
            raise UpstreamFailed(self._fail(Failure(Fault.CUT, problem)))
        self.progress = _ENDED
        return [DONE] if self._usage_chunk is None else [Block(write_data(self._usage_chunk)), DONE]

    def _fail(self, failure: Failure) -> Failure:
        # The progress stays what it was: it tells whether another upstream may be asked.
        self._failure, self._template, self.shortcut = failure, None, None
        self._open.clear()
        return failure

    def _done(self) -> list[Block]:
        # A server that knows no `n` gives one choice and says that it is done: then that was all.
        if self.finish_reasons and len(self.finish_reasons) == len(self._choices):
            self.progress = _FINISHED
        return self.finish()

    def _feed_plain(self, data: bytes) -> Block | None:
        frame = self._envelope.frame
        if frame is None or (self._ours is not None and self._ours.encode() in data):
            return None
        if (block := relay_plain_chunk(data, frame, self._open)) is not None:
            self.deltas += 1
            self.progress = _OPEN
            self._lessons.missed += 1
            if self._lessons.is_due(self.deltas):
                self._template, self.shortcut = learn_templates(data, block)
        return block

    def _feed_slowly(self, event: SseEvent) -> list[Block]:
        data = event.data
        try:
            fields, choices = self._read(event)
            if self._ours in fields:
                self.ignored += 1
                return []
            usage = self._take_usage(fields)
            if not choices:
                return self._relay_without_choices(data, fields, usage)
            if not self._choices:
                self._envelope.learn(data, fields)
            mended = [self._choice(choice, at).feed(choice) for at, choice in enumerate(choices)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = f"chunk {self.deltas + 1} of the stream is not valid: {error}"
            raise UpstreamFailed(Failure(Fault.MALFORMED, problem)) from None
        self._note_progress(mended)
        return self._relay_choices(data, fields, choices, mended, usage)

    def _read(self, event: SseEvent) -> tuple[dict[str, Raw], list[Members]]:
        data = event.data
        if not data.isascii():
            data.decode()  # strings that nobody looks at are passed on as they are
        try:
            fields = _read_fields(data)
        except msgspec.DecodeError:
            fields = _read_fields(without_halves(data))
        if event.type == b"error" or is_error(fields):
            raise UpstreamFailed(read_error_event(_read_any(without_halves(data)), secret=self._secret))
        return fields, _read_choices(fields.get("choices", NULL)) or []

    def _take_usage(self, fields: Fields) -> Raw | None:
        """The usage that a chunk reports, None if it reports none."""
        raw = fields.get("usage", NULL)
        usage = None if raw == NULL else read_usage(_read_any(raw))
        self.usage = usage or self.usage
        return None if usage is None else raw

    def _choice(self, members: Members, at: int) -> ChoiceRelay:
        index = _read_index(members.get("index", NULL))
        if index is None:
            index = at
        if (choice := self._choices.get(index)) is None:
            if not 0 <= index < MAX_CHOICES:
                raise UpstreamFailed(Failure(Fault.MALFORMED, f"choice {index} of the stream is out of bounds"))
            choice = self._choices[index] = ChoiceRelay(index, self._stream_id)
        return choice

    def _note_progress(self, mended: list[MendedChoice]) -> None:
        says_something = False
        for choice in mended:
            says_something |= choice.says_something
            if (reason := self._choices[choice.index].finish_reason) is None:
                self._open.add(choice.index)
            else:
                self.finish_reasons[choice.index] = reason
                self._open.discard(choice.index)
        self.deltas += says_something
        if len(self.finish_reasons) >= max(self._expected, len(self._choices)):
            self.progress = _FINISHED
        elif self.progress is _FINISHED or says_something or self.finish_reasons:
            self.progress = _OPEN

    def _relay_without_choices(self, data: bytes, fields: Fields, usage: Raw | None) -> list[Block]:
        has_choices = fields.get("choices", NULL) != NULL
        chunk = self._envelope.relay(data, fields, None if has_choices else {"choices": _EMPTY})
        if fields.get("usage", NULL) == NULL:
            return [Block(write_data(chunk))]
        # Held: it is the last chunk, and only for those who asked. One that says nothing does not wipe out another.
        if self._include_usage and (usage is not None or self._usage_chunk is None):
            self._usage_chunk = chunk
        return []

    def _relay_choices(
        self, data: bytes, fields: Fields, choices: list[Members], mended: list[MendedChoice], usage: Raw | None
    ) -> list[Block]:
        if len(mended) == 1 and mended[0].choice is choices[0] and not mended[0].before and usage is None:
            blocks = [Block(write_data(self._envelope.relay(data, fields)))]
        else:
            blocks = self._relay_mended(data, fields, choices, mended, usage)
        if len(mended) == len(blocks) == 1 and mended[0].is_plain and usage is None:
            self._lessons.missed += 1
            if self._lessons.is_due(self.deltas):
                self._template, self.shortcut = learn_templates(data, blocks[0])
                self._envelope.learn_frame(data, fields)
        else:
            self._template = self.shortcut = None  # what the next chunk means may have changed
        return blocks

    def _relay_mended(
        self, data: bytes, fields: Fields, choices: list[Members], mended: list[MendedChoice], usage: Raw | None
    ) -> list[Block]:
        chunks = [
            self._envelope.write_own([{"index": choice.index, "delta": delta, "finish_reason": None}])
            for choice in mended
            for delta in choice.before
        ]
        changes: Members = {}
        kept = [choice.choice for choice in mended if choice.choice is not None]
        if any(new is not old for new, old in zip_longest(kept, choices)):
            changes["choices"] = Raw(_write(kept))
        if usage is not None and self._include_usage and any(choice.is_over for choice in mended):
            changes["usage"] = NULL  # said once, in a chunk of its own: there are clients that add up what they see
            self._usage_chunk = self._envelope.write_own([], usage=usage)
        if kept:
            chunks.append(self._envelope.relay(data, fields, changes))
        else:
            self.ignored += 1
        return [Block(write_data(chunk)) for chunk in chunks]
