"""The durable streams of a server, as far as a listing wants to know them."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct


class StreamLine(Struct, frozen=True):
    """A durable stream (D4): `created` in seconds since 1970, `offset` counts its blocks so far."""

    id: str
    state: str
    model: str = ""
    created: float = 0.0
    offset: int = 0
    upstream: str | None = None


class _List(Struct):
    data: list[StreamLine]


def read_streams(body: bytes) -> list[StreamLine]:
    """The streams in the body of `GET /streams`; raises msgspec.DecodeError where it is no list of streams."""
    return msgspec.json.decode(body, type=_List).data


def stream_table(streams: Sequence[StreamLine], now: float) -> str:
    """One line for each stream, under a heading; the columns are as wide as they have to be."""
    rows = [("STREAM", "MODEL", "UPSTREAM", "BLOCKS", "AGE")]
    rows += [
        (line.id, line.model, line.upstream or "-", str(line.offset), f"{max(0, round(now - line.created))} s")
        for line in streams
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
