"""A model whose every word is known: a Llama GGUF, written here, in which each token has one successor."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: What the model says after a prompt that ends in `<greet>` or `<count>`; it counts until it is stopped.
CHAINS = {
    "greet": [b"he", b" \xc3", b"\xa9 ", b"\xf0\x9f", b"\x8c\x8a", b" ok"],  # characters are split over tokens
    "count": [b" 1", b" 2", b" 3", b" 4"],
}
ENDLESS = {"count"}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
F32, Q4_0 = 0, 2


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, value: Any) -> bytes:
    match value:
        case bool():
            return _text(key) + struct.pack("<I?", 7, value)
        case int():
            return _text(key) + struct.pack("<II", 4, value)
        case float():
            return _text(key) + struct.pack("<If", 6, value)
        case str():
            return _text(key) + struct.pack("<I", 8) + _text(value)
        case [str(), *_]:
            return _text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        case _:
            return _text(key) + struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def _byte_letters() -> list[str]:
    """How byte-level BPE spells each byte."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    other = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(other)) for byte in range(256)]


def write_gguf(path: Path, metadata: dict[str, Any], tensors: list[tuple[str, list[int], int, bytes | None]]) -> Path:
    """Writes a GGUF file; a tensor is (name, dimensions, type, data), and data of None is zeros that take no disk."""
    infos, places, offset = b"", [], 0
    for name, dimensions, kind, data in tensors:
        weights = 1
        for dimension in dimensions:
            weights *= dimension
        infos += _text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        infos += struct.pack("<IQ", kind, offset)
        places.append((offset, data))
        size = weights // 32 * 18 if kind == Q4_0 else weights * 4
        offset += -(-size // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_pair(key, value) for key, value in metadata.items()) + infos
    start = -(-len(head) // 32) * 32
    with path.open("wb") as file:
        file.write(head)
        for place, data in places:
            if data:
                file.seek(start + place)
                file.write(data)
        file.truncate(start + offset)
    return path


def write_successor_model(
    path: Path, *, width: int = 288, layers: int = 1, feed_forward: int = 32, context: int = 4096, **metadata: Any
) -> Path:
    """Writes the model: embeddings are one-hot, the layers add nothing, the output maps each token to its successor."""
    letters = _byte_letters()
    vocabulary, successor = [*letters, "<s>", "</s>"], {}
    for name, pieces in CHAINS.items():
        first = len(vocabulary)
        vocabulary += [f"<{name}>", *("".join(letters[byte] for byte in piece) for piece in pieces)]
        successor |= {token: token + 1 for token in range(first, len(vocabulary) - 1)}
        successor[len(vocabulary) - 1] = first + 1 if name in ENDLESS else 257
    kinds = [3 if word in ("<s>", "</s>") else 4 if word[1:-1] in CHAINS else 1 for word in vocabulary]
    one = struct.pack("<f", 1.0)

    def ones_at(places: list[tuple[int, int]]) -> bytes:
        matrix = bytearray(4 * len(vocabulary) * width)
        for row, column in places:
            place = 4 * (row * width + column)
            matrix[place : place + 4] = one
        return bytes(matrix)

    size = len(vocabulary)
    tensors: list[tuple[str, list[int], int, bytes | None]] = [
        ("token_embd.weight", [width, size], F32, ones_at([(token, token) for token in range(size)])),
        ("output_norm.weight", [width], F32, one * width),
        ("output.weight", [width, size], F32, ones_at([(after, before) for before, after in successor.items()])),
    ]
    for layer in range(layers):
        tensors += [(f"blk.{layer}.{name}_norm.weight", [width], F32, one * width) for name in ("attn", "ffn")]
        tensors += [
            (f"blk.{layer}.attn_{name}.weight", [width, width], Q4_0, None) for name in ("q", "k", "v", "output")
        ]
        tensors += [(f"blk.{layer}.ffn_{name}.weight", [width, feed_forward], Q4_0, None) for name in ("gate", "up")]
        tensors += [(f"blk.{layer}.ffn_down.weight", [feed_forward, width], Q4_0, None)]
    described: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "successor",
        "llama.context_length": context,
        "llama.embedding_length": width,
        "llama.block_count": layers,
        "llama.feed_forward_length": feed_forward,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
        "llama.rope.dimension_count": width // 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["Ġ t"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    return write_gguf(path, described | metadata, tensors)


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a successor model into the test's directory; keywords are those of `write_successor_model`."""
    return lambda **wishes: write_successor_model(tmp_path / "model.gguf", **wishes)


@pytest.fixture
def model(write_model: Callable[..., Path]) -> Path:
    """A model that answers at once."""
    return write_model()


@pytest.fixture
def slow_model(write_model: Callable[..., Path]) -> Path:
    """A model that computes some milliseconds for each token, so that there is time to leave in the middle."""
    return write_model(width=512, layers=8, feed_forward=4096, context=16384)
