"""How an answer is written, joined to it with `|`: SSE's freedoms, pieces, HTTP framing. Its words stay the same."""

from collections.abc import Mapping
from dataclasses import replace

from unbroken.upstream.scripted.draft import Change
from unbroken.upstream.scripted.insertions import before_head
from unbroken.upstream.scripted.steps import Split


def split_writes(size: int) -> Change:
    """Write the wire's bytes, HTTP framing included, in writes of this size."""
    return before_head(Split(size))


def in_pieces_of(size: int) -> Change:
    """Send the body in HTTP chunks of this size, which take no heed of blocks or UTF-8."""
    return lambda draft: replace(draft, style=replace(draft.style, piece_size=size))


def one_byte_at_a_time() -> Change:
    """Send each byte of the body as an HTTP chunk and write of its own."""
    return in_pieces_of(1)


def all_at_once() -> Change:
    """Send all neighbouring blocks in one HTTP chunk and write."""
    return in_pieces_of(1 << 30)


def line_ends(line_end: str) -> Change:
    r"""End lines with `\r\n` or `\r`."""
    return lambda draft: replace(draft, style=replace(draft.style, line_end=line_end))


def no_space_after_colon() -> Change:
    """Write `data:{…}`."""
    return lambda draft: replace(draft, style=replace(draft.style, space=""))


def data_on_many_lines() -> Change:
    """Write each event's JSON over several `data:` lines."""
    return lambda draft: replace(draft, style=replace(draft.style, many_lines=True))


def with_bom() -> Change:
    """Begin the stream with a byte order mark."""
    return lambda draft: replace(draft, style=replace(draft.style, bom=True))


def with_fields(*fields: str) -> Change:
    """Write these lines in each block, before its data: `with_fields("event: message", "id: 7")`."""
    return lambda draft: replace(draft, style=replace(draft.style, fields=fields))


def close_delimited() -> Change:
    """End the body by closing the connection, without chunks or a length."""
    return lambda draft: replace(draft, head=replace(draft.head, body="close"))


def http_1_0() -> Change:
    """Answer as an HTTP/1.0 server, ending the body by closing."""
    return lambda draft: replace(draft, head=replace(draft.head, body="close", version="1.0"))


def with_headers(headers: Mapping[str, str]) -> Change:
    """Add these headers."""
    return lambda draft: replace(draft, head=replace(draft.head, headers=(*draft.head.headers, *headers.items())))
