"""Taking the ids of tokens out of llama.cpp's Chat Completions chunks, where only we have asked for them."""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Relay
from unbroken.wire.llama_cpp.note import TokenNote
from unbroken.wire.openai_chat.envelope import replace_members
from unbroken.wire.sse import SseEvent
from unbroken.wire.template import Shortcut

#: Fields that have llama.cpp tell, with each piece of text, the last token's id and how many tokens there were.
#: The probability after sampling costs nothing; without `post_sampling_probs` the whole vocabulary would be sorted.
TOKENS_QUESTION: Mapping[str, object] = {"n_probs": 1, "post_sampling_probs": True, "timings_per_token": True}

# A chunk as llama.cpp writes it: a piece of text and nothing else, the token's id, and what follows. A quote inside a
# string is escaped, and one that ends a string is not followed by a letter: so no text looks like these.
_PIECE = re.compile(
    rb'"finish_reason":null,"index":0,"delta":\{"content":"(?:[^"\\]++|\\.)++"\}(,"logprobs":\{"content":\[\{"id":(\d++),)'
)
_PIECE_END = b'}]}]}}],"created":'
_TIMINGS = b',"timings":{'
_TOTAL = b'"predicted_n":'
_KEPT_OF_END = _PIECE_END.index(b'}],"created":')


class _Entry(Struct):
    id: int


class _Tokens(Struct):
    content: list[_Entry] | None = None


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Raw] | None = None


class _Choice(Struct):
    delta: _Delta
    logprobs: _Tokens | None = None
    finish_reason: str | None = None


class _Timings(Struct):
    predicted_n: int


class _Chunk(Struct):
    choices: list[_Choice]
    timings: _Timings | None = None


_read_chunk = msgspec.json.Decoder(_Chunk).decode
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_read_choices = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_write = msgspec.json.Encoder().encode


class TokenNotingRelay:
    """A relay of an answer that was asked for with `TOKENS_QUESTION`: notes the tokens, and relays as without it."""

    def __init__(self, relay: Relay) -> None:
        self.progress = relay.progress
        self.usage: Usage | None = None
        self.ignored = 0
        self._relay = relay
        self._note = TokenNote(is_whole=True)
        #: The note of what was relayed since it was last taken; it belongs to the blocks given since then.
        self.take_note = self._note.take

    @property
    def deltas(self) -> int:
        """Chunks that carried a piece of the answer."""
        return self._relay.deltas

    @deltas.setter
    def deltas(self, deltas: int) -> None:
        """Takes the count of whoever uses the shortcut."""
        self._relay.deltas = deltas

    @property
    def shortcut(self) -> Shortcut | None:
        return None if self._relay.shortcut is None else self

    def feed(self, event: SseEvent) -> list[Block]:
        found = _split(event.data)
        if found is None:
            return self._feed_slowly(event)
        plain, id, total = found
        if not self._note.add(id, total):
            return self._feed_slowly(event)
        return self._pass_on(SseEvent(event.type, plain))

    def finish(self) -> list[Block]:
        try:
            return self._relay.finish()
        finally:
            self._take_state()

    def _pass_on(self, event: SseEvent) -> list[Block]:
        try:
            return self._relay.feed(event)
        finally:
            self._take_state()

    def _take_state(self) -> None:
        self.progress, self.usage, self.ignored = self._relay.progress, self._relay.usage, self._relay.ignored

    def fill(self, data: bytes) -> Block | None:
        """The shortcut, of a chunk with its tokens."""
        found = _split(data)
        shortcut = self._relay.shortcut
        if found is None or shortcut is None:
            return None
        plain, id, total = found
        block = shortcut.fill(plain)
        # A piece of several tokens comes back by `feed`, which knows its text.
        return block if block is not None and self._note.add(id, total) else None

    def _feed_slowly(self, event: SseEvent) -> list[Block]:
        try:
            chunk = _read_chunk(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._pass_on(event)  # no chunk of ours: the relay says what it is
        self._note_chunk(chunk)
        return self._pass_on(SseEvent(event.type, _without_answers(event.data, chunk)))

    def _note_chunk(self, chunk: _Chunk) -> None:
        for choice in chunk.choices:
            delta, tokens = choice.delta, choice.logprobs.content if choice.logprobs else None
            if delta.reasoning_content or delta.tool_calls:
                self._note.spoil()
            elif delta.content and tokens and chunk.timings:
                self._note.add(tokens[-1].id, chunk.timings.predicted_n, delta.content)


def _split(data: bytes) -> tuple[bytes, int, int] | None:
    """A chunk without what we have asked for, the token's id and the count of tokens; None if it is not as usual.

    `data` may be the chunk, or the block that holds it: nothing before or behind it matters.
    """
    piece = _PIECE.search(data)
    if piece is None:
        return None
    end = data.find(_PIECE_END, piece.end())
    timings = data.find(_TIMINGS, end)
    total = data.find(_TOTAL, timings) + len(_TOTAL)
    if end < 0 or timings < 0 or total < timings:
        return None
    count, closing = data[total : data.find(b",", total)], data.find(b"}", total)
    if not count.isdigit() or data[closing : closing + 2] != b"}}":
        return None
    plain = b"%b%b%b" % (data[: piece.start(1)], data[end + _KEPT_OF_END : timings], data[closing + 1 :])
    return plain, int(piece[2]), int(count)


def _without_answers(data: bytes, chunk: _Chunk) -> bytes:
    """A chunk as it would be if nothing but the caller's question had been asked."""
    fields = _read_fields(data)
    if any(choice.logprobs is not None for choice in chunk.choices):
        choices = _read_choices(fields["choices"])
        kept = [{name: value for name, value in choice.items() if name != "logprobs"} for choice in choices]
        data = replace_members(data, fields, {"choices": Raw(_write(kept))})
        fields = _read_fields(data)
    is_last = not chunk.choices or any(choice.finish_reason for choice in chunk.choices)  # it always has timings
    if "timings" in fields and not is_last:
        data = _write({name: value for name, value in fields.items() if name != "timings"})
    return data
