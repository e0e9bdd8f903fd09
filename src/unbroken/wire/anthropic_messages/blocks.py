"""The dialect's SSE blocks: an `event:` line and the JSON of the event, whose `type` is the same word."""

import re

import msgspec
from msgspec import Raw

from unbroken.chat.stream import Block
from unbroken.wire.sse import write_data

_WORD = re.compile(rb"[\w.-]{1,64}")  # what may stand in a line of its own

_write = msgspec.json.Encoder().encode

Members = dict[str, Raw]

NULL = Raw(b"null")
"""What a member that is absent is taken for."""

MESSAGE_STOP = Block(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def write_event(type: bytes, data: bytes) -> Block:
    """The block of one event, its data as it is; a type that is no word is left out."""
    head = b"event: %b\n" % type if _WORD.fullmatch(type) else b""
    return Block(head + write_data(data))


def write_own(type: str, **members: object) -> Block:
    """The block of an event of our own making."""
    return Block(b"event: %b\ndata: %b\n\n" % (type.encode(), _write({"type": type, **members})))
