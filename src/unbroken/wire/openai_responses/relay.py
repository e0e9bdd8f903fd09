"""A stream's events on their way from an upstream to a client of the same dialect.

An event passes byte for byte but for the response's id and model, also one whose type we do not know. Its number is
mended where the upstream's do not follow on each other: a client that comes back names the last one it saw.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.counted import counted
from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.envelope import NULL, replace_members
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.openai_responses.errors import error_object, read_failed, read_stream_error
from unbroken.wire.openai_responses.response import ResponseObject, our_members
from unbroken.wire.openai_responses.usage import read_usage
from unbroken.wire.openai_responses.writer import write_block
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, in_one_line, write_data

Members = dict[str, Raw]

_TERMINAL = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "response.cancelled"})

#: Events in which the response object stands whole.
_LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress", *_TERMINAL})

_SAYS_NOTHING = (NULL, Raw(b'""'), Raw(b"[]"), Raw(b"{}"))
_NO_ERRORS = (NULL, Raw(b'""'), Raw(b"{}"), Raw(b"false"))

#: Items that say nothing yet when they begin, and the members in which they will.
_EMPTY_AT_FIRST = {
    "message": ("content",),
    "reasoning": ("summary", "content"),  # not its seal: while the item is open, that is no part of the answer
}


class _Delta(Struct):
    """An event that nothing has to be done about; what is typed None has to be looked at where it is there."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    response: None = None
    response_id: None = None
    error: None = None


_read_delta = msgspec.json.Decoder(_Delta).decode
_read_fields = msgspec.json.Decoder(Members).decode
_read_members = msgspec.json.Decoder(Members | None).decode
_read_number = msgspec.json.Decoder(int | None).decode
_read_text = msgspec.json.Decoder(str | None).decode
_read_any = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode


class ResponseRelay:
    """Turns the events of one upstream answer into the blocks that the client sees.

    Events with a top-level member `ours` answer a question that only we have asked, and go no further.
    """

    shortcut = None

    def __init__(self, answering: Answering, *, secret: str = "", ours: str | None = None) -> None:
        self.progress = Progress.WAITING
        self.usage: Usage | None = None
        #: Events that carried a piece of the answer; what an item says as a whole was said in pieces.
        self.deltas = 0
        #: Events that came after the end, or that said nothing.
        self.ignored = 0
        self._own = our_members(answering)
        self._answering = answering
        self._secret = secret
        self._ours = ours
        self._our_answer = b'"%b"' % ours.encode() if ours is not None else b""
        self._next = 0
        self._failure: Failure | None = None
        self._response: Members | None = None  # as the upstream last gave it, with our id and model

    def feed(self, event: SseEvent) -> list[Block]:
        if self.progress is Progress.OPEN and (block := self._relay_delta(event)) is not None:
            return [block]
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        word = event.data.strip()
        if self.progress is Progress.ENDED or not word or event.type == b"ping" or word == b"[DONE]":
            self.ignored += 1
            return []
        try:
            return self._feed_slowly(event)
        except UpstreamFailed as failed:
            self._failure = failed.failure
            raise

    def finish(self) -> list[Block]:
        if self._failure is None and self.progress is not Progress.ENDED:
            missing = "before the first token" if self.progress is Progress.WAITING else "without response.completed"
            self._failure = Failure(Fault.CUT, f"stream ended {missing} after {counted(self.deltas, 'delta')}")
        if self._failure is not None:
            raise UpstreamFailed(self._failure)
        return []

    def fail(self, error: ApiError) -> list[Block]:
        """The block that ends the stream with an error; none after its end.

        It says it twice, as `ResponseWriter.fail` does.
        """
        if self.progress is Progress.ENDED:
            return []
        self.progress = Progress.ENDED
        changes = {"status": "failed", "error": error_object(error)}
        said_before = {name: in_one_line(raw) for name, raw in (self._response or {}).items()}
        response = {**(said_before or ResponseObject(self._answering).state("failed", [])), **changes}
        said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        event = {"type": "response.failed", "sequence_number": self._next, "response": response, "error": said}
        return [write_block("response.failed", event)]

    def _relay_delta(self, event: SseEvent) -> Block | None:
        """The fast way for a further piece of the answer; None for what has to be looked at more closely."""
        type, data = event
        if not type.endswith(b".delta") or b"\n" in data:
            return None
        try:
            if not data.isascii():
                data.decode()  # strings that are not read are passed on as they are
            delta = _read_delta(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if delta.sequence_number != self._next or not delta.delta or delta.type.encode() != type:
            return None
        if self._failure is not None or (self._our_answer and self._our_answer in data):
            return None
        self._next += 1
        self.deltas += 1
        return Block(b"event: %b\ndata: %b\n\n" % (type, data))

    def _feed_slowly(self, event: SseEvent) -> list[Block]:
        try:
            fields = self._read(event.data)
            type = _read_text(fields.get("type", NULL)) or event.type.decode()
            if type == "error" or fields.get("error", NULL) not in _NO_ERRORS:
                raise UpstreamFailed(read_stream_error(_read_any(without_halves(event.data)), secret=self._secret))
            if not type or "\n" in type or "\r" in type:
                problem = f"event {self._next + 1} of the stream has no type that can be written"
                raise UpstreamFailed(Failure(Fault.MALFORMED, problem))
            if self._ours in fields:
                self.ignored += 1
                return []
            raw = fields.get("response", NULL)
            response = _read_fields(raw) if bytes(raw).startswith(b"{") else None
            ends = type in _TERMINAL
            if type in _FAILED or ends:
                self._look_at_end(type, response)
            changes = self._changes(type, fields, response)
            says_something = _says_something(type, fields)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = f"event {self._next + 1} of the stream is not valid: {error}"
            raise UpstreamFailed(Failure(Fault.MALFORMED, problem)) from None
        self._next += 1
        self.deltas += says_something and type.endswith(".delta")
        if ends:
            self.progress = Progress.ENDED
        elif says_something:
            self.progress = Progress.OPEN
        data = replace_members(event.data, fields, changes) if changes else event.data
        return [Block(b"event: %b\n%b" % (type.encode(), write_data(data)))]

    def _read(self, data: bytes) -> Members:
        data.decode()  # strings that nobody looks at are passed on as they are
        try:
            return _read_fields(data)
        except msgspec.DecodeError:
            return _read_fields(without_halves(data))

    def _look_at_end(self, type: str, response: Members | None) -> None:
        if response is None:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f'event "{type}" has no response'))
        status = _read_text(response.get("status", NULL))
        if type in _FAILED or status in ("failed", "cancelled") or response.get("error", NULL) not in _NO_ERRORS:
            said = {name: _read_any(response.get(name, NULL)) for name in ("status", "error")}
            raise UpstreamFailed(read_failed(said, secret=self._secret))
        self.usage = read_usage(_read_any(response.get("usage", NULL)))

    def _changes(self, type: str, fields: Members, response: Members | None) -> Members:
        """The members of an event that have to be others than the upstream's."""
        changes: Members = {}
        if "type" not in fields:
            changes["type"] = Raw(_write(type))
        if fields.get("sequence_number", NULL) == NULL or _read_number(fields["sequence_number"]) != self._next:
            changes["sequence_number"] = Raw(b"%d" % self._next)
        if fields.get("response_id", NULL) != NULL:
            changes["response_id"] = self._own["id"]
        if response is not None:
            is_whole = type in _LIFECYCLE
            own = {name: raw for name, raw in self._own.items() if is_whole or name in response}
            changes["response"] = Raw(replace_members(bytes(fields["response"]), response, own))
            if is_whole:
                self._response = {name: raw.copy() for name, raw in {**response, **own}.items()}
        return changes


def _says_something(type: str, fields: Mapping[str, Raw]) -> bool:
    """Whether an event carries a piece of the answer."""
    if type.endswith(".delta"):
        return fields.get("delta", NULL) not in _SAYS_NOTHING
    if type not in ("response.output_item.added", "response.output_item.done"):
        return False
    item = _read_members(fields.get("item", NULL))
    if item is None:
        return False
    kind = _read_text(item.get("type", NULL)) or ""
    if kind not in _EMPTY_AT_FIRST:
        return True  # a call, or what a hosted tool does: it has a name, or costs
    members = _EMPTY_AT_FIRST[kind]
    if type.endswith(".done"):
        members = (*members, "encrypted_content")
    return any(item.get(name, NULL) not in _SAYS_NOTHING for name in members)
