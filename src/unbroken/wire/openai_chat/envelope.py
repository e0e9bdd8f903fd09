"""The envelope that every chunk of one answer shares: id, created, model and what else stands beside `choices`."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

_write = msgspec.json.Encoder().encode

_MEMBER = re.compile(rb'\s*[{,]\s*"([^"\\]*+)"\s*:\s*')  # up to the value; a name with escapes is nobody's

Fields = Mapping[str, Raw]

NULL = Raw(b"null")
"""What a member that is absent is taken for."""

Span = tuple[int, int, int]
"""Where a member begins, and where its value begins and ends."""

_SHARED = frozenset({"id", "object", "created", "model"})  # by all chunks of an answer


class Frame(NamedTuple):
    """The bytes around what differs from chunk to chunk, as the upstream sends them and as the client gets them.

    All that is exchanged stands in them: what begins and ends with the same bytes has the same members there.
    """

    head: bytes
    tail: bytes
    own_head: bytes
    own_tail: bytes

    def exchange(self, data: bytes) -> bytes | None:
        """The chunk `data` in our own frame; None if it has another one."""
        head, tail = self.head, self.tail
        if (
            data.startswith(head)
            and data.endswith(tail)
            and len(data) >= len(head) + len(tail)
            and data.count(b'"id"') == 1  # of two the last counts, and would not be the one that is exchanged
            and data.count(b'"model"') == 1
            and data.count(b'"created"') == 1
            and b"\\u006" not in data  # a letter of such a name, escaped
        ):
            return b"%b%b%b" % (self.own_head, data[len(head) : len(data) - len(tail)], self.own_tail)
        return None


class Envelope:
    """Gives an upstream's chunks the stream's id and the public model, leaving all other bytes alone."""

    __slots__ = (
        "_created",
        "_fingerprint",
        "_has_learned",
        "_object",
        "_own",
        "frame",
    )

    def __init__(self, stream_id: str, model: str, created: int) -> None:
        self._own = {"id": Raw(_write(stream_id)), "model": Raw(_write(model))}
        self._object = Raw(b'"chat.completion.chunk"')
        self._created = Raw(b"%d" % created)
        self._fingerprint: dict[str, Raw] = {}
        self._has_learned = False
        #: Of the latest chunk that was learned from; None where there was none, or it had no frame.
        self.frame: Frame | None = None

    def learn(self, data: bytes, fields: Fields) -> None:
        """Takes from an upstream's chunk what all chunks of the answer have in common."""
        self._has_learned = True
        if fields.get("created", NULL) != NULL:
            self._created = fields["created"].copy()
        if "system_fingerprint" in fields:
            self._fingerprint = {"system_fingerprint": fields["system_fingerprint"].copy()}
        self.learn_frame(data, fields)

    def learn_frame(self, data: bytes, fields: Fields) -> None:
        """Takes from an upstream's chunk what stands around all that differs from chunk to chunk."""
        self.frame = _frame(data, fields, self._values(fields, {}))

    def relay(self, data: bytes, fields: Fields, changes: Fields | None = None) -> bytes:
        """The chunk `data`, whose members are `fields`, with our id and model, and with `changes`."""
        if not changes and self.frame is not None and (chunk := self.frame.exchange(data)) is not None:
            return chunk
        return replace_members(data, fields, self._values(fields, changes or {}))

    def _values(self, fields: Fields, changes: Fields) -> dict[str, Raw]:
        """Which members of a chunk are exchanged, and for what."""
        values = {**self._own, **changes}
        if fields.get("object", NULL) == NULL:
            values["object"] = self._object
        # Some servers stamp every chunk anew; the answer was created once.
        created = fields.get("created", NULL)
        if created == NULL or (self._has_learned and created != self._created):
            values["created"] = self._created
        return values

    def write_own(self, choices: object, **more: object) -> bytes:
        """A chunk of our own making in this answer's envelope."""
        own = {"id": self._own["id"], "object": self._object, "created": self._created, "model": self._own["model"]}
        return _write({**own, **self._fingerprint, "choices": choices, **more})


def _frame(data: bytes, fields: Fields, values: Fields) -> Frame | None:
    """The frame of the chunk `data`, some of whose shared members get other `values`; None if it lacks one of them."""
    spans = member_spans(data, fields, _SHARED) if fields.keys() >= _SHARED else None
    if spans is None:
        return None
    end = len(data)
    choices_at, _, choices_end = spans.get("choices", (end, end, end))
    ends = [spans[name][2] for name in _SHARED]
    # With the byte behind the last value: a number may go on.
    head_end = max([shared + 1 for shared in ends if shared <= choices_at], default=0)
    tail_start = choices_end if max(ends) > choices_end else end
    own_head, own_tail = _exchanged(data, 0, head_end, spans, values), _exchanged(data, tail_start, end, spans, values)
    return Frame(data[:head_end], data[tail_start:], own_head, own_tail)


def replace_members(data: bytes, fields: Fields, values: Fields) -> bytes:
    """The JSON object `data`, whose members are `fields`, with other values for some of its members.

    All other bytes stay as they are, white space included. Only an object that lacks one of the members, or has
    one of its own twice, is written anew.
    """
    spans = member_spans(data, fields, values) if values.keys() <= fields.keys() else None
    if spans is None:
        written: dict[str, Any] = {**fields, **values}
        return _write(written)
    return _exchanged(data, 0, len(data), spans, values)


def _exchanged(data: bytes, start: int, end: int, spans: Mapping[str, Span], values: Fields) -> bytes:
    """That part of `data`, with other values for those of the members that lie in it."""
    pieces, done = [], start
    for at, value_start, value_end, name in sorted([(*spans[name], name) for name in values]):
        if start <= at < end:
            pieces += [data[done:value_start], bytes(values[name])]
            done = value_end
    return b"".join([*pieces, data[done:end]])


def member_spans(data: bytes, fields: Fields, wanted: Collection[str] | None = None) -> dict[str, Span] | None:
    """Where each member of the JSON object `data` begins, and its value begins and ends; None if one occurs twice.

    Where none of the `wanted` names occurs again anywhere, the search ends with the last of them.
    """
    spans: dict[str, Span] = {}
    at = 0
    if wanted is None or [name for name in wanted if data.count(b'"%b"' % name.encode()) > 1]:
        wanted = ()
    left = len(wanted)
    for name, raw in fields.items():
        member = _MEMBER.match(data, at)
        if member is None or member[1] != name.encode():
            return None
        start = member.end()
        spans[name] = (at, start, at := start + len(bytes(raw)))
        if name in wanted:
            left -= 1
            if not left:
                return spans
    return spans if data[at:].strip() == b"}" else None
