"""What a stream is made of: its id, its blocks and where they stand."""

from collections.abc import Mapping
from typing import NamedTuple, NewType

from msgspec import Struct

StreamId = NewType("StreamId", str)
"""The stream's name, also the `id` of the answer that the client sees."""

Offset = NewType("Offset", int)
"""Position of a block as the client counts it, from 1; 0 is before the first."""

Epoch = NewType("Epoch", int)
"""Which owner of a stream is writing; a larger one fences off the smaller."""

Block = NewType("Block", bytes)
"""One SSE block as it goes to the client, from `data:` to the empty line."""


class Entry(NamedTuple):
    """A block and its place in the log."""

    offset: Offset
    block: Block


OwnerId = NewType("OwnerId", str)
"""One process that writes streams, for as long as it lives; a restarted one is another."""


class StreamRecord(Struct, frozen=True, kw_only=True):
    """What a durable stream is: written once when it is accepted, and enough to go on with it in any process."""

    id: StreamId
    #: Name of the caller's key: only this one may read or cancel it.
    key_name: str = ""
    #: The client's dialect, such as `openai-chat`.
    dialect: str = ""
    #: The request's JSON body as the producer reads it.
    body: bytes = b"{}"
    #: The request's fields that the answer repeats where they are not those of `body`, JSON; empty where they are.
    echo: bytes = b""
    #: Headers of the client that the upstream's dialect may ask for, names in lower case.
    headers: Mapping[str, str] = {}
    #: Seconds since 1970 when it was accepted.
    created: int = 0
    #: Whether the client asked for a stream; a whole answer is made of the same blocks.
    is_streamed: bool = True
    #: Whether it was asked for as work in the background, which goes on without being asked for.
    is_background: bool = False
    #: Seconds that it goes on without a reader; None is without limit.
    orphan_grace: float | None = 60.0
    #: Name of the idempotency claim, empty if there is none; no two streams have the same.
    claim: str = ""
    #: Digest of what was asked, to tell a repeated request from another one under the same claim.
    fingerprint: str = ""


class StreamStatus(Struct, frozen=True, kw_only=True):
    """How a durable stream stands in the store."""

    record: StreamRecord
    epoch: Epoch
    #: Offset of the last block.
    last: Offset
    #: Whether it has its terminal block.
    has_ended: bool
    #: Whether the process that writes it is known to live.
    is_owned: bool
    #: What its producer has last written down about it, JSON; empty before that.
    account: bytes = b""
    #: Seconds since 1970 until which some reader has said that it is there; 0 if none has.
    watched_until: float = 0.0
