"""A stream's events on their way from an upstream to a client of the same dialect.

An event that keeps the rules passes byte for byte, but for the message's id and model; one that breaks a rule is
mended where there is only one way to mend it, or else the stream fails (FAULTS.md 1-6, 14, 20).
"""

import msgspec
from msgspec import Raw

from unbroken.chat.counted import counted
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.anthropic_messages.blocks import MESSAGE_STOP, NULL, Members, write_event, write_own
from unbroken.wire.anthropic_messages.errors import read_error_event
from unbroken.wire.anthropic_messages.open_blocks import NEEDED, OpenBlocks, made_id
from unbroken.wire.anthropic_messages.usage import UsageSum
from unbroken.wire.openai_chat.envelope import member_spans, replace_members
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent
from unbroken.wire.template import Shortcut, says_something

_EMPTY_TEXT = Raw(b'""')
_END_TURN, _TOOL_USE = Raw(b'"end_turn"'), Raw(b'"tool_use"')

_DELTA = b"event: content_block_delta\ndata: "
_DELTA_TYPES = (b"content_block_delta", b"")

_NO_USAGE = Raw(b'{"output_tokens":0}')

#: What clients take for granted in the message that begins.
_MESSAGE: Members = {
    "type": Raw(b'"message"'),
    "role": Raw(b'"assistant"'),
    "content": Raw(b"[]"),
    "usage": Raw(b'{"input_tokens":0,"output_tokens":0}'),
}


_read_word = msgspec.json.Decoder(str | None).decode
_read_members = msgspec.json.Decoder(Members).decode
_read_any = msgspec.json.Decoder().decode
_read_text = msgspec.json.Decoder(str).decode
_write = msgspec.json.Encoder().encode


class MessageRelay:
    """Turns the events of one upstream answer into the blocks that the client sees.

    Events with a top-level member `ours` answer a question that only we have asked, and go no further.
    """

    def __init__(self, stream_id: str, model: str, *, secret: str = "", ours: str | None = None) -> None:
        self.progress = Progress.WAITING
        self.usage: Usage | None = None
        #: Events that carried a piece of the answer.
        self.deltas = 0
        #: Events that came after the end, or that said nothing.
        self.ignored = 0
        #: The upstream's last word on why the answer ended.
        self.stop_reason: str | None = None
        self._stream_id = stream_id
        self._own = {"id": Raw(_write(stream_id)), "model": Raw(_write(model))}
        self._secret = secret
        self._ours = ours
        self._is_begun = False
        self._blocks = OpenBlocks()
        self._usage = UsageSum()
        self._failure: Failure | None = None
        self.shortcut: Shortcut | None = None
        self._heads: tuple[bytes, ...] = ()  # what the next piece of text most likely begins with

    def feed(self, event: SseEvent) -> list[Block]:
        """The blocks that one event of the upstream makes.

        Raises:
            UpstreamFailed: the event is an error, is not of the dialect, or ends an answer that is not whole; from
                then on every call raises it again.
        """
        data = event.data
        for head in self._heads:
            if data.startswith(head) and event.type in _DELTA_TYPES and _is_text_and_end(data, len(head)):
                self.deltas += 1
                self.progress = Progress.OPEN
                if event.type and self.shortcut is None:
                    self.shortcut = _SameText(_DELTA + head)
                return [Block(b"%b%b\n\n" % (_DELTA, data))]
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        if self.progress is Progress.ENDED or not data.strip():
            self.ignored += 1
            return []
        self.shortcut = None  # what the next event means may have changed
        try:
            return self._feed_slowly(event)
        except UpstreamFailed as failed:
            self._fail(failed.failure)
            raise

    def finish(self) -> list[Block]:
        """The blocks that end the stream where the upstream itself did not say `message_stop`.

        Raises:
            UpstreamFailed: the upstream's answer is not whole; nothing may be made up (FAULTS.md 1, 2).
        """
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        if self.progress is Progress.ENDED:
            return []
        if self.progress is not Progress.FINISHED:
            missing = "before the first token" if self.progress is Progress.WAITING else "without stop_reason"
            problem = f"stream ended {missing} after {counted(self.deltas, 'delta')}"
            raise UpstreamFailed(self._fail(Failure(Fault.CUT, problem)))
        self.progress = Progress.ENDED
        return [MESSAGE_STOP]

    def _fail(self, failure: Failure) -> Failure:
        # The progress stays what it was: it tells whether another upstream may be asked.
        self._failure, self._heads, self.shortcut = failure, (), None
        return failure

    def _feed_slowly(self, event: SseEvent) -> list[Block]:
        data = event.data
        try:
            data.decode()  # strings that nobody looks at are passed on as they are
            # One half of a surrogate pair is no character, but what JSON allows: it is looked past.
            looked_at = without_halves(data) if b"\\u" in data else data
            fields = _read_members(looked_at)
            word = _read_word(fields.get("type", NULL))
            is_error = word == "error" or (word is None and fields.get("error", NULL) != NULL)
            if is_error or event.type == b"error":
                raise UpstreamFailed(read_error_event(data, secret=self._secret))
            if self._ours in fields:
                self.ignored += 1
                return []
            return self._relay(word or event.type.decode(), event, fields)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _malformed(f"is not valid: {error}") from None

    def _relay(self, type: str, event: SseEvent, fields: Members) -> list[Block]:
        block = write_event(type.encode(), event.data)
        if type == "message_start":
            return [self._begin(event.data, fields)]
        if type == "ping":
            return [block]
        if not self._is_begun:
            raise _malformed(f'is "{type}" before message_start')
        if type == "message_delta":
            return self._end_message(event.data, fields)
        if type == "message_stop":
            return self._stop(block)
        if type.startswith("content_block_"):
            return self._relay_content(type, block, event.data, fields)
        return [block]  # the API may have new events at any time

    def _begin(self, data: bytes, fields: Members) -> Block:
        if self._is_begun:
            raise _malformed("is a second message_start")
        self._is_begun = True
        members = _read_members(fields.get("message", NULL))
        self._take_usage(members)
        missing = {name: raw for name, raw in _MESSAGE.items() if members.get(name, NULL) == NULL}
        return write_event(b"message_start", _replace_inside(data, fields, "message", members, missing | self._own))

    def _relay_content(self, type: str, block: Block, data: bytes, fields: Members) -> list[Block]:
        if self.stop_reason is not None:
            raise _malformed(f'is "{type}" after stop_reason "{self.stop_reason}"')
        seen = self._blocks.see(type, fields)
        if seen is None:
            self.ignored += 1
            return []
        if seen.says_something:
            self.deltas += 1
            self.progress = Progress.OPEN
        self._heads = self._blocks.heads
        if type == "content_block_start" and (missing := self._missing(seen.index, fields)):
            data = _replace_inside(data, fields, "content_block", _read_members(fields["content_block"]), missing)
            fields = _read_members(without_halves(data))
        elif fields.get("index", NULL) != NULL:
            return [block]
        return [write_event(type.encode(), replace_members(data, fields, {"index": Raw(b"%d" % seen.index)}))]

    def _missing(self, index: int, fields: Members) -> Members:
        """The members that a block must have, and this one has not: clients add to them."""
        block = _read_members(fields["content_block"])
        needed = dict(NEEDED.get(_read_text(block["type"]), {}))
        if "input" in needed:
            needed["id"] = Raw(_write(made_id(self._stream_id, index)))
        return {name: raw for name, raw in needed.items() if block.get(name, NULL) == NULL}

    def _end_message(self, data: bytes, fields: Members) -> list[Block]:
        self._take_usage(fields)
        delta = _read_members(fields.get("delta", NULL))
        reason = delta.get("stop_reason", NULL)
        changes: Members = {}
        if fields.get("usage", NULL) == NULL:
            changes["usage"] = _NO_USAGE  # clients look into it unasked
        if reason in (NULL, _EMPTY_TEXT):
            if reason != NULL:
                changes["delta"] = Raw(_write({**delta, "stop_reason": None}))
            return [write_event(b"message_delta", replace_members(data, fields, changes) if changes else data)]
        word = _read_text(reason)
        if self.stop_reason is not None and word != self.stop_reason:
            raise _malformed(f'has stop_reason "{word}" after "{self.stop_reason}"')
        self.stop_reason, self.progress, self._heads = word, Progress.FINISHED, ()
        closed = [write_own("content_block_stop", index=index) for index in self._blocks.close()]
        if reason == _END_TURN and self._blocks.has_tool_use:
            changes["delta"] = Raw(_write({**delta, "stop_reason": _TOOL_USE}))
        return [*closed, write_event(b"message_delta", replace_members(data, fields, changes) if changes else data)]

    def _stop(self, block: Block) -> list[Block]:
        if self.stop_reason is None:
            problem = f"stream ended with message_stop without stop_reason after {counted(self.deltas, 'delta')}"
            raise UpstreamFailed(Failure(Fault.CUT, problem))
        self.progress = Progress.ENDED
        return [block]

    def _take_usage(self, members: Members) -> None:
        self.usage = self._usage.add(_read_any(members.get("usage", NULL)))


def _replace_inside(data: bytes, fields: Members, name: str, members: Members, values: Members) -> bytes:
    """The object `data` with other values for some members of the object that its member `name` is."""
    spans = member_spans(data, fields)  # from the bytes that came: halves of surrogates stay what they were
    inner = bytes(fields[name]) if spans is None else data[spans[name][1] : spans[name][2]]
    return replace_members(data, fields, {name: Raw(replace_members(inner, members, values))})


class _SameText:
    """The shortcut of further pieces of a text: they are passed on as they are."""

    __slots__ = ("_head",)

    def __init__(self, head: bytes) -> None:
        self._head = head

    def fill(self, data: bytes) -> Block | None:
        """The event itself."""
        head = self._head
        if data.startswith(head) and data.endswith(b"\n\n") and _is_text_and_end(data[:-2], len(head)):
            return Block(data)
        return None


def _is_text_and_end(data: bytes, start: int) -> bool:
    """Whether, from `start` on, there is a JSON string that is not empty, and the ends of the two objects around it."""
    # Between the two ends the API puts spaces, so that the length of an event does not tell the length of its text.
    if data[-1:] != b"}":
        return False
    body = data[start:-1].rstrip(b" ")
    if body[-1:] != b"}":
        return False
    return says_something(body[:-1])


def _malformed(problem: str) -> UpstreamFailed:
    return UpstreamFailed(Failure(Fault.MALFORMED, f"an event of the stream {problem}"))
