"""The list of models in this dialect's shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

_write = msgspec.json.Encoder().encode

_UNKNOWN_TIME = "1970-01-01T00:00:00Z"
"""What the API says of a model whose date is not known."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model that can be asked; `created_at` is an RFC 3339 time."""

    id: str
    display_name: str | None = None
    created_at: str = _UNKNOWN_TIME


def write_models(rows: Sequence[ModelRow]) -> bytes:
    """The body of `GET /models`: all models on one page."""
    data = [_members(row) for row in rows]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return _write({"data": data, "has_more": False, "first_id": first, "last_id": last})


def write_model(row: ModelRow) -> bytes:
    """The body of `GET /models/{id}`."""
    return _write(_members(row))


def _members(row: ModelRow) -> dict[str, Any]:
    return {
        "type": "model",
        "id": row.id,
        "display_name": row.display_name or row.id,
        "created_at": row.created_at,
        "lifecycle": "active",
    }
