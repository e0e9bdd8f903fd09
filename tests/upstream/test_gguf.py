"""The GGUF reader: what a header says, and a clear word for every way in which a file can be broken."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.upstream.gguf import GgufHeader, GgufInvalid, read_gguf
from unbroken.upstream.model_file import ModelFileInvalid, inspect_model_file


def _read(data: bytes) -> GgufHeader:
    return read_gguf(io.BytesIO(data), len(data))


def _key(name: str, kind: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind)


#: A small file with a pair of each kind and two tensors of 64 and 18 bytes.
WHOLE = (
    b"GGUF"
    + struct.pack("<IQQ", 3, 2, 6)
    + (_key("general.architecture", 8) + struct.pack("<Q", 5) + b"llama")
    + (_key("llama.context_length", 4) + struct.pack("<I", 4096))
    + (_key("llama.rope", 6) + struct.pack("<f", 0.5))
    + (_key("llama.heads", 9) + struct.pack("<IQ2I", 4, 2, 8, 4))
    + (_key("tokens", 9) + struct.pack("<IQ", 8, 2) + (struct.pack("<Q", 1) + b"a") * 2)
    + (_key("tokenizer.chat_template", 8) + struct.pack("<Q", 1) + b"x")
    + (struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 16, 0, 0))
    + (struct.pack("<Q", 1) + b"b" + struct.pack("<IQIQ", 1, 32, 2, 64))
)
WHOLE += bytes(-len(WHOLE) % 32) + bytes(64 + 18)


def test_header_says_what_the_model_is() -> None:
    header = _read(WHOLE)
    assert (header.version, header.architecture, header.name) == (3, "llama", "")
    assert header.context_length == 4096
    assert header.numbers("heads") == (8, 4)
    assert "tokens" not in header.metadata  # vocabularies are skipped
    assert header.has_chat_template
    assert header.tensor_count == 2
    assert header.needed_bytes == len(WHOLE)


def test_long_arrays_are_skipped_whatever_they_hold() -> None:
    long = _key("scores", 9) + struct.pack("<IQ", 6, 5000) + bytes(4 * 5000)
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + long + _key("general.name", 8) + struct.pack("<Q", 1) + b"m"
    assert dict(_read(data).metadata) == {"general.name": "m"}
    with pytest.raises(GgufInvalid):
        _read(data[:3000])


def test_padding_after_the_last_tensor_is_neither_needed_nor_wrong() -> None:
    assert _read(WHOLE + bytes(14)).needed_bytes == len(WHOLE)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(GgufInvalid):
        _read(WHOLE[:length])


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_damaged_byte_is_read_or_refused_and_nothing_else(place: int, byte: int) -> None:
    data = bytearray(WHOLE)
    data[place] = byte
    try:
        header = _read(bytes(data))
    except GgufInvalid:
        return
    assert header.needed_bytes <= len(data)
    assert header.context_length >= 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a GGUF file: it begins with b''"),
        (b"PK\x03\x04 a zip", "is not a GGUF file: it begins with b'PK"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), "version 1 GGUF"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "claims 1,152,921,504,606,846,976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata pairs"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "bytes in one text"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 20), "goes beyond its"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + _key("a", 99), "unknown type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + _key("a", 9) + struct.pack("<IQ", 9, 1), "unknown type 9"),
        (WHOLE[:-1], "its tensors need"),
    ],
)
def test_refusal_says_what_was_found(data: bytes, message: str) -> None:
    with pytest.raises(GgufInvalid, match=message.replace("(", r"\(")):
        _read(data)


def test_written_model_is_described(model: Path) -> None:
    described = inspect_model_file(str(model))
    assert (described.name, described.architecture, described.context_length) == ("successor", "llama", 4096)
    assert described.size_bytes == model.stat().st_size
    assert described.kv_bytes_per_token == 1 * 4 * (72 + 72) * 2  # layers × heads × (key + value) × 16 bit


def test_sliding_windows_make_no_guess_about_the_cache(write_model: Callable[..., Path]) -> None:
    path = write_model(**{"llama.attention.sliding_window": 512})
    assert inspect_model_file(str(path)).kv_bytes_per_token == 0


def test_heads_may_differ_by_layer(write_model: Callable[..., Path]) -> None:
    path = write_model(layers=2, **{"llama.attention.head_count_kv": [4, 1]})
    assert inspect_model_file(str(path)).kv_bytes_per_token == (4 + 1) * (72 + 72) * 2


def test_split_model_needs_all_its_parts(model: Path) -> None:
    first = model.rename(model.with_name("big-00001-of-00002.gguf"))
    with pytest.raises(ModelFileInvalid, match=r'big-00002-of-00002\.gguf" does not exist'):
        inspect_model_file(str(first))
    second = first.with_name("big-00002-of-00002.gguf")
    second.write_bytes(first.read_bytes())
    assert inspect_model_file(str(first)).size_bytes == 2 * first.stat().st_size
    with pytest.raises(ModelFileInvalid, match="give the path of part 1"):
        inspect_model_file(str(second))
