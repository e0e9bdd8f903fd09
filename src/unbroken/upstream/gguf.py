"""The header of a GGUF file: what the model is, and whether the file is whole.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing here trusts a length that it reads.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

MAX_PAIRS = 1 << 16  # metadata pairs; models have below a hundred
MAX_TENSORS = 1 << 17  # the largest mixtures of experts have some thousands
MAX_STRING_BYTES = 16 << 20  # far above any chat template
MAX_ARRAY_ITEMS = 1 << 24  # far above any vocabulary
MAX_DIMENSIONS = 4
KEPT_ITEMS = 4096  # longer arrays (vocabularies, merges) are skipped; per-layer numbers are kept

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

#: Tensor type → (weights in a block, bytes of a block), from ggml's type traits.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)}
_BLOCKS |= {10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)}
_BLOCKS |= {16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)}
_BLOCKS |= {23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)}
_BLOCKS |= {34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36)}


class GgufInvalid(Exception):
    """The bytes are not a complete GGUF model; the message reads on after the file's name."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about its model; `needed_bytes` is the size that the file must at least have."""

    version: int
    metadata: Mapping[str, Value]
    tensor_count: int
    needed_bytes: int

    @property
    def architecture(self) -> str:
        """The architecture's name, such as `llama`; empty if there is none."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        """The model's own name; empty if it has none."""
        return str(self.metadata.get("general.name", ""))

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained to hold; 0 if it does not say."""
        return self.number("context_length")

    @property
    def has_chat_template(self) -> bool:
        """Whether the file brings a chat template; without one llama.cpp takes ChatML."""
        return bool(self.metadata.get("tokenizer.chat_template"))

    def number(self, key: str) -> int:
        """The whole number under `<architecture>.<key>`; 0 if there is none."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) else 0

    def numbers(self, key: str) -> tuple[int, ...]:
        """The whole numbers under `<architecture>.<key>`, one a layer; empty if there are none."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return tuple(item for item in value if isinstance(item, int)) if isinstance(value, tuple) else ()


def read_gguf(stream: BinaryIO, size: int) -> GgufHeader:
    """Reads the header of a GGUF file of `size` bytes and checks that all tensors lie within it.

    Raises:
        GgufInvalid: it is no GGUF file, one of an unknown version, damaged or cut short.
    """
    cursor = _Cursor(stream, size)
    if (magic := cursor.take(min(4, size))) != b"GGUF":
        raise GgufInvalid(f"is not a GGUF file: it begins with {magic!r}, expected b'GGUF'")
    version = cursor.number("<I")
    if version not in (2, 3):
        kind = "big-endian" if version in (2 << 24, 3 << 24) else f"version {version}"
        raise GgufInvalid(f"is a {kind} GGUF file, expected little-endian version 2 or 3")
    tensors = cursor.count("tensors", MAX_TENSORS)
    pairs = cursor.count("metadata pairs", MAX_PAIRS)
    metadata: dict[str, Value] = {}
    for _ in range(pairs):
        key = cursor.text()
        if (value := cursor.value(cursor.number("<I"))) is not None:
            metadata[key] = value
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise GgufInvalid(f"is damaged: its alignment is {alignment!r}, expected a power of two")
    end = max((_read_tensor_end(cursor) for _ in range(tensors)), default=0)
    needed = -(-cursor.position // alignment) * alignment + end if tensors else cursor.position
    if needed > size:
        raise GgufInvalid(
            f"is incomplete: it has {size:,} bytes, its tensors need {needed:,};"
            " was the download cut short? Fetch it again"
        )
    return GgufHeader(version, metadata, tensors, needed)


def _read_tensor_end(cursor: "_Cursor") -> int:
    """Where a tensor ends, in bytes from the start of the data."""
    name = cursor.text()
    if (dimensions := cursor.number("<I")) > MAX_DIMENSIONS:
        raise GgufInvalid(f'is damaged: tensor "{name[:64]}" has {dimensions} dimensions')
    weights = 1
    for _ in range(dimensions):
        weights *= cursor.number("<Q")
    block_weights, block_bytes = _BLOCKS.get(cursor.number("<I"), (1, 0))  # llama.cpp judges types newer than this list
    return cursor.number("<Q") + weights // block_weights * block_bytes


class _Cursor:
    """Reads values one after the other, never beyond the file's size."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self.position = 0

    def take(self, length: int) -> bytes:
        self._check(length)
        data = self._stream.read(length)
        if len(data) != length:
            raise GgufInvalid(f"is incomplete: it ends after {self.position + len(data):,} bytes, inside its header")
        self.position += length
        return data

    def skip(self, length: int) -> None:
        self._check(length)
        self._stream.seek(length, 1)
        self.position += length

    def _check(self, length: int) -> None:
        if self.position + length > self._size:
            raise GgufInvalid(f"is damaged or incomplete: its header goes beyond its {self._size:,} bytes")

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def count(self, what: str, limit: int) -> int:
        if (number := self.number("<Q")) > limit:
            raise GgufInvalid(f"is damaged: it claims {number:,} {what}, expected at most {limit:,}")
        return number

    def text(self) -> str:
        return self.take(self.count("bytes in one text", MAX_STRING_BYTES)).decode("utf-8", "replace")

    def value(self, kind: int) -> Value | None:
        """The next value; None for an array that is too long to keep."""
        if kind != _ARRAY:
            return self._scalar(kind)
        item = self.number("<I")
        length = self.count("items in one array", MAX_ARRAY_ITEMS)
        if length <= KEPT_ITEMS and item != _STRING:
            return tuple(self._scalar(item) for _ in range(length))
        if item != _STRING:
            self.skip(length * _width(item))
            return None
        for _ in range(length):
            self.take(self.count("bytes in one text", MAX_STRING_BYTES))
        return None

    def _scalar(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self.text()
        data = self.take(_width(kind))
        value: Scalar = struct.unpack(_NUMBERS[kind], data)[0]
        return value


def _width(kind: int) -> int:
    if kind not in _NUMBERS:
        raise GgufInvalid(f"is damaged: it has a value of the unknown type {kind}")
    return struct.calcsize(_NUMBERS[kind])
