"""A chat request, read as far as the gateway needs and kept whole for the upstream."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the caller asked for."""

    model: str
    stream: bool
    #: Whether the caller wants a usage chunk at the end of the stream.
    include_usage: bool
    #: How many answers side by side (`n`).
    choices: int
    #: Every top-level field of the body, its JSON text untouched.
    fields: Mapping[str, msgspec.Raw]
