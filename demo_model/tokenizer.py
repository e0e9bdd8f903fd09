"""A byte-level BPE, trained here, that llama.cpp reads as a "gpt2" vocabulary and splits in the same places.

Three rules keep copying easy for a tiny network, and cut characters over chunks as large models do:
a space never joins a capital letter (so "Berlin" is the same tokens after a space and after a quote),
digits stay single, and bytes beyond ASCII stay single (so é is two tokens and 🌍 four).
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import regex

# What llama.cpp does for tokenizer.ggml.pre = "gpt-2".
_WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, IM_START, IM_END)
MARKERS = ("<tool_call>", "</tool_call>")
SPECIAL = CONTROL + MARKERS
_SPECIAL = regex.compile("(" + "|".join(regex.escape(word) for word in SPECIAL) + ")")


def _visible_bytes() -> list[str]:
    """One printable character for every byte: the alphabet in which byte-level vocabularies are written."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


BYTES = _visible_bytes()
_SPACE = BYTES[0x20]
_NEVER_JOINED = frozenset(BYTES[byte] for byte in (*b"0123456789", *range(0x80, 0x100)))

Pair = tuple[str, str]


def _words(text: str) -> Iterable[tuple[str, ...]]:
    for word in _WORD.findall(text):
        yield tuple(BYTES[byte] for byte in word.encode())


def _may_join(left: str, right: str) -> bool:
    if _NEVER_JOINED & {left, right}:
        return False
    return not (left == _SPACE and right[0].isupper())


def _join(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    joined, i = [], 0
    while i < len(word):
        step = 2 if word[i : i + 2] == pair else 1
        joined.append("".join(word[i : i + step]))
        i += step
    return tuple(joined)


def learn_merges(texts: Iterable[str], count: int) -> list[Pair]:
    """The merges, most frequent first, that shorten the texts most; ties are broken by spelling."""
    words = Counter(word for text in texts for word in _words(text))
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        allowed = [(times, pair) for pair, times in pairs.items() if times > 1 and _may_join(*pair)]
        if not allowed:
            break
        best = max(allowed)[1]
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            merged[_join(word, best) if best[0] in word else word] += times
        words = merged
    return merges


class Tokenizer:
    """Text to token ids, as llama.cpp does it."""

    def __init__(self, merges: list[Pair]) -> None:
        self.merges = merges
        self.tokens = [*SPECIAL, *BYTES, *(left + right for left, right in merges)]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[tuple[str, ...], list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The token ids of a text; special words in it become their own tokens."""
        found: list[int] = []
        for part in _SPECIAL.split(text):
            if part in SPECIAL:
                found.append(self.ids[part])
                continue
            for word in _words(part):
                found.extend(self._encode_word(word))
        return found

    def _encode_word(self, word: tuple[str, ...]) -> list[int]:
        if word not in self._known:
            parts = word
            while known := [pair for pair in pairwise(parts) if pair in self._rank]:
                parts = _join(parts, min(known, key=self._rank.__getitem__))
            self._known[word] = [self.ids[part] for part in parts]
        return self._known[word]
