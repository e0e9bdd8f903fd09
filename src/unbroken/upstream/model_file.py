"""A model file before it is loaded: is it there, is it whole, what will it need."""

import re
from dataclasses import dataclass
from pathlib import Path

from unbroken.upstream.gguf import GgufHeader, GgufInvalid, read_gguf

_PART = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


class ModelFileInvalid(Exception):
    """The model file cannot be used; the message names it, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What must be known of a model before it is loaded.

    `kv_bytes_per_token` is what one token of context costs, 0 where no simple formula holds (sliding windows, state
    space models, latent attention).
    """

    path: str
    size_bytes: int
    name: str
    architecture: str
    context_length: int
    kv_bytes_per_token: int
    has_chat_template: bool


def inspect_model_file(path: str) -> ModelFile:
    """Reads the header of the GGUF file at `path` and checks that the file, with all its parts, is complete.

    Raises:
        ModelFileInvalid: it is missing, unreadable, not GGUF, damaged, cut short, or a part of it is missing.
    """
    parts = _parts(path)
    header = _read(parts[0])
    for part in parts[1:]:
        _read(part)
    return ModelFile(
        path=path,
        size_bytes=sum(part.stat().st_size for part in parts),
        name=header.name or Path(path).stem,
        architecture=header.architecture,
        context_length=header.context_length,
        kv_bytes_per_token=kv_bytes_per_token(header),
        has_chat_template=header.has_chat_template,
    )


def kv_bytes_per_token(header: GgufHeader) -> int:
    """Bytes of key and value cache for one token in 16 bit; 0 where no simple formula holds."""
    unusual = ("attention.sliding_window", "attention.kv_lora_rank", "ssm.state_size", "attention.shared_kv_layers")
    if any(header.number(key) for key in unusual):
        return 0
    heads = header.number("attention.head_count")
    kv_heads_of_all = header.number("attention.head_count_kv") or heads
    kv_heads = sum(header.numbers("attention.head_count_kv")) or kv_heads_of_all * header.number("block_count")
    head_size = header.number("embedding_length") // heads if heads else 0
    key_size = header.number("attention.key_length") or head_size
    value_size = header.number("attention.value_length") or head_size
    return kv_heads * (key_size + value_size) * 2


def _parts(path: str) -> list[Path]:
    """The files that make up the model: one, or all parts of a split one."""
    if (match := _PART.search(path)) is None:
        return [Path(path)]
    if int(match["number"]) != 1:
        raise ModelFileInvalid(
            f'model "{path}" is part {int(match["number"])} of a split model: give the path of part 1'
        )
    return [Path(f"{path[: match.start()]}-{n:05}-of-{match['count']}.gguf") for n in range(1, int(match["count"]) + 1)]


def _read(path: Path) -> GgufHeader:
    if path.is_dir():
        raise ModelFileInvalid(f'model "{path}" is a directory, expected a GGUF file')
    try:
        with path.open("rb") as stream:
            return read_gguf(stream, path.stat().st_size)
    except FileNotFoundError:
        raise ModelFileInvalid(f'model "{path}" does not exist; check the path') from None
    except OSError as error:
        raise ModelFileInvalid(f'model "{path}" cannot be read: {error.strerror or error}') from None
    except GgufInvalid as error:
        raise ModelFileInvalid(f'model "{path}" {error}') from None
