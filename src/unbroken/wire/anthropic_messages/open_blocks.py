"""The content blocks of an answer as its events open, fill and close them."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
from msgspec import Raw

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.anthropic_messages.blocks import NULL, Members

MAX_BLOCKS = 4096  # far above any answer's; each is remembered until the answer ends

_SAYS_NOTHING = (NULL, Raw(b'""'), Raw(b"{}"), Raw(b"[]"))

#: What fills a block, as the API and servers like it begin such an event.
_PIECES = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")} | dict.fromkeys(
    ("tool_use", "server_tool_use"), ("input_json_delta", "partial_json")
)


_read_members = msgspec.json.Decoder(Members).decode
_read_index = msgspec.json.Decoder(int | None).decode
_read_text = msgspec.json.Decoder(str).decode


#: Members that clients add to without a look.
NEEDED: Mapping[str, Mapping[str, Raw]] = {
    "text": {"text": Raw(b'""')},
    "thinking": {"thinking": Raw(b'""'), "signature": Raw(b'""')},
    "tool_use": {"id": NULL, "input": Raw(b"{}")},
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What an event about a block turned out to be."""

    index: int
    #: Whether it carries a piece of the answer.
    says_something: bool


class OpenBlocks:
    """Which blocks are open, and which have been."""

    def __init__(self) -> None:
        self.has_tool_use = False
        #: What an event begins with that adds to the only open block, up to the text.
        self.heads: tuple[bytes, ...] = ()
        self._open: dict[int, str] = {}
        self._begun: set[int] = set()

    def see(self, type: str, fields: Members) -> Seen | None:
        """Takes an event `content_block_…`; None where it closes once more what is closed.

        Raises:
            UpstreamFailed: it is about no block that it could be about.
            msgspec.DecodeError: it has members of a wrong type.
        """
        index = _read_index(fields.get("index", NULL))
        if type == "content_block_start":
            return self._start(index, _read_members(fields.get("content_block", NULL)))
        if index is None and len(self._open) == 1:
            index = next(iter(self._open))
        if type == "content_block_stop":
            if index is not None and self._open.pop(index, None) is not None:
                self._learn()
                return Seen(index, False)
            if index is None or index in self._begun:
                return None
        if index is None or index not in self._open:
            which = "a block" if index is None else f"block {index}"
            raise _malformed(f'is "{type}" of {which} that is not open')
        delta = _read_members(fields.get("delta", NULL)) if type == "content_block_delta" else {}
        return Seen(index, any(raw not in _SAYS_NOTHING for name, raw in delta.items() if name != "type"))

    def close(self) -> list[int]:
        """Closes all blocks; those that were still open."""
        left, self._open, self.heads = list(self._open), {}, ()
        return left

    def _start(self, index: int | None, block: Members) -> Seen:
        if index is None:
            index = len(self._begun)
        if index in self._begun or index < 0 or len(self._begun) >= MAX_BLOCKS:
            raise _malformed(f"begins block {index}, which there cannot be")
        kind = _read_text(block.get("type", NULL))
        self._begun.add(index)
        self._open[index] = kind
        self.has_tool_use |= kind == "tool_use"
        self._learn()
        if kind in ("text", "thinking"):
            return Seen(index, any(raw not in _SAYS_NOTHING for name, raw in block.items() if name != "type"))
        return Seen(index, True)  # a tool's name, or what is said all at once

    def _learn(self) -> None:
        self.heads = ()
        if len(self._open) == 1:
            ((index, kind),) = self._open.items()
            if kind in _PIECES:
                piece, name = _PIECES[kind]
                tight = f'{{"type":"content_block_delta","index":{index},"delta":{{"type":"{piece}","{name}":'
                loose = tight.replace('":', '": ').replace(',"', ', "')
                self.heads = (tight.encode(), loose.encode())


def made_id(stream_id: str, index: int) -> str:
    """An id for a call that the upstream gave none: the same for the same stream and place."""
    return f"toolu_{blake2b(f'{stream_id}/{index}'.encode(), digest_size=12).hexdigest()}"


def _malformed(problem: str) -> UpstreamFailed:
    return UpstreamFailed(Failure(Fault.MALFORMED, f"an event of the stream {problem}"))
