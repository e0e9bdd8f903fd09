"""The envelope that every chunk of one answer shares: id, created, model and what else stands beside `choices`."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec import Raw

_write = msgspec.json.Encoder().encode

_MEMBER = re.compile(rb'\s*[{,]\s*"([^"\\]*+)"\s*:\s*')  # up to the value; a name with escapes is nobody's

Fields = Mapping[str, Raw]

NULL = Raw(b"null")
"""What a member that is absent is taken for."""


class Envelope:
    """Gives an upstream's chunks the stream's id and the public model, leaving all other bytes alone."""

    def __init__(self, stream_id: str, model: str, created: int) -> None:
        self._own = {"id": Raw(_write(stream_id)), "model": Raw(_write(model))}
        self._object = Raw(b'"chat.completion.chunk"')
        self._created = Raw(_write(created))
        self._fingerprint: dict[str, Raw] = {}
        self._has_learned = False

    def learn(self, fields: Fields) -> None:
        """Takes from an upstream's chunk what all chunks of the answer have in common."""
        self._has_learned = True
        if fields.get("created", NULL) != NULL:
            self._created = fields["created"].copy()
        if "system_fingerprint" in fields:
            self._fingerprint = {"system_fingerprint": fields["system_fingerprint"].copy()}

    def relay(self, data: bytes, fields: Fields, changes: Fields | None = None) -> bytes:
        """The chunk `data`, whose members are `fields`, with our id and model, and with `changes`."""
        values = {**self._own, **(changes or {})}
        if fields.get("object", NULL) == NULL:
            values["object"] = self._object
        # Some servers stamp every chunk anew; the answer was created once.
        created = fields.get("created", NULL)
        if created == NULL or (self._has_learned and created != self._created):
            values["created"] = self._created
        return replace_members(data, fields, values)

    def write_own(self, choices: object, **more: object) -> bytes:
        """A chunk of our own making in this answer's envelope."""
        own = {"id": self._own["id"], "object": self._object, "created": self._created, "model": self._own["model"]}
        return _write({**own, **self._fingerprint, "choices": choices, **more})


def replace_members(data: bytes, fields: Fields, values: Fields) -> bytes:
    """The JSON object `data`, whose members are `fields`, with other values for some of its members.

    All other bytes stay as they are, white space included. Only an object that lacks one of the members, or has
    one of its own twice, is written anew.
    """
    spans = member_spans(data, fields, values) if values.keys() <= fields.keys() else None
    if spans is None:
        written: dict[str, Any] = {**fields, **values}
        return _write(written)
    pieces, done = [], 0
    for _, start, end, name in sorted((*spans[name], name) for name in values):
        pieces += [data[done:start], bytes(values[name])]
        done = end
    return b"".join([*pieces, data[done:]])


def member_spans(
    data: bytes, fields: Fields, wanted: Collection[str] | None = None
) -> dict[str, tuple[int, int, int]] | None:
    """Where each member of the JSON object `data` begins, and its value begins and ends; None if one occurs twice.

    Where none of the `wanted` names occurs again anywhere, the search ends with the last of them.
    """
    spans: dict[str, tuple[int, int, int]] = {}
    at = 0
    if wanted is None or any(data.count(b'"%b"' % name.encode()) > 1 for name in wanted):
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
