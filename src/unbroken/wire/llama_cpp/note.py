"""The note of an answer's tokens: what is kept beside its blocks, so that it can go on from the very ids (K1).

llama.cpp tells one id with each piece of text. A piece that it has held back for a while (half a character, the
beginning of a stop sequence) is of several tokens, and only the last one's id is told.
"""

import struct
from dataclasses import dataclass

_word = struct.Struct("<I")
_words = struct.Struct("<III")
_pack_id = _word.pack

_HELD = 1 << 31  # no vocabulary is so large; the other bits are the text's length in bytes
_UNFIT, _ANEW = 0xFFFFFFFF, 0xFFFFFFFE  # no text is so long


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A piece of text that is known to be of `count` tokens, of which only the id of the last is known."""

    text: str
    count: int
    last: int


class TokenNote:
    """Gathers the note of what is said; whoever writes the blocks takes it with them, so it never grows.

    That of an attempt which says the answer from its beginning (`is_whole`) takes the place of all notes before it.
    """

    __slots__ = ("_counted", "_is_spoilt", "_parts")

    def __init__(self, *, is_whole: bool = False) -> None:
        self._parts = [_pack_id(_ANEW)] if is_whole else []
        self._counted = 0
        self._is_spoilt = False

    def add(self, id: int, total: int, text: str | None = None) -> bool:
        """Notes the id of the last token of a piece, `total` being the answer's tokens so far.

        False if the piece is of several tokens, which its `text` would have to tell.
        """
        if total == self._counted + 1:
            self._parts.append(_pack_id(id))
        elif text is None:
            return False
        elif total > self._counted:
            data = text.encode()
            self._parts.append(_words.pack(_HELD | len(data), total - self._counted, id) + data)
        else:
            self.spoil()
        self._counted = total
        return True

    def spoil(self) -> None:
        """Notes that something was said that cannot be gone on from by ids."""
        if not self._is_spoilt:
            self._is_spoilt = True
            self._parts.append(_pack_id(_UNFIT))

    def take(self) -> bytes:
        """What was noted since it was last taken."""
        if not self._parts:
            return b""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def read_note(note: bytes) -> list[int | HeldBack] | None:
    """The tokens in the notes of one answer, one behind the other; None where ids do not tell what was said."""
    tokens: list[int | HeldBack] = []
    is_fit, at = True, 0
    try:
        while at < len(note):
            (word,) = _word.unpack_from(note, at)
            if word == _ANEW:
                tokens, is_fit = [], True
            elif word == _UNFIT:
                is_fit = False
            elif word < _HELD:
                tokens.append(word)
            else:
                piece, at = _read_piece(note, at)
                tokens.append(piece)
                continue
            at += _word.size
    except (struct.error, UnicodeDecodeError):
        return None
    return tokens if is_fit and at == len(note) else None


def _read_piece(note: bytes, at: int) -> tuple[HeldBack, int]:
    """The piece that begins at `at`, and where it ends."""
    length, count, last = _words.unpack_from(note, at)
    start = at + _words.size
    end = start + length - _HELD
    return HeldBack(note[start:end].decode(), count, last), end
