"""Peculiarities of servers in what their chunks say, joined to an answer with `|`."""

from collections.abc import Mapping
from typing import Any

from unbroken.upstream.scripted.draft import Change


def no_finish() -> Change:
    """Leave the chunk with the finish_reason out; `[DONE]` stays."""
    return lambda draft: draft.events_changed(lambda data: None if _finish_reason(data) else data)


def without_role() -> Change:
    """Send no role, and no chunk that held nothing else."""

    def change(data: dict[str, Any]) -> dict[str, Any] | None:
        delta = _delta(data)
        if "role" not in delta:
            return data
        rest = {key: value for key, value in delta.items() if key != "role"}
        return _with_choice(data, delta=rest) if any(rest.values()) else None

    return lambda draft: draft.events_changed(change)


def role_in_every_chunk() -> Change:
    """Send the role in every chunk, as some servers do."""
    return lambda draft: draft.events_changed(
        lambda data: _with_choice(data, delta={"role": "assistant", **_delta(data)}) if data.get("choices") else data
    )


def finish_empty_string() -> Change:
    """Send finish_reason "" where it should be null."""
    return lambda draft: draft.events_changed(
        lambda data: _with_choice(data, finish_reason=_finish_reason(data) or "") if data.get("choices") else data
    )


def usage_null_everywhere() -> Change:
    """Send `"usage": null` in every chunk that has none."""
    return lambda draft: draft.events_changed(lambda data: {**data, "usage": data.get("usage")})


def usage_beside_finish(usage: Mapping[str, int]) -> Change:
    """Send this usage in the chunk with the finish_reason, and no usage chunk of its own, asked or not."""

    def change(data: dict[str, Any]) -> dict[str, Any] | None:
        if not data.get("choices"):
            return None
        return {**data, "usage": dict(usage)} if _finish_reason(data) else data

    return lambda draft: draft.events_changed(change)


def _delta(data: dict[str, Any]) -> dict[str, Any]:
    delta = data["choices"][0]["delta"] if data.get("choices") else {}
    assert isinstance(delta, dict)
    return delta


def _finish_reason(data: dict[str, Any]) -> object:
    return data["choices"][0]["finish_reason"] if data.get("choices") else None


def _with_choice(data: dict[str, Any], **changed: object) -> dict[str, Any]:
    return {**data, "choices": [{**data["choices"][0], **changed}]}
