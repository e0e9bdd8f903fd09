"""Usage as this dialect reports it: `input_tokens` are only those that no cache had a part in."""

from typing import Any

from unbroken.chat.usage import Usage

_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class UsageSum:
    """Puts together what `message_start` and each `message_delta` report: counts are totals so far, and never fall."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, usage: object) -> Usage | None:
        """Takes a decoded `usage` object; the usage of the answer so far, None where nothing was said as numbers."""
        if isinstance(usage, dict):
            for name, count in _counts(usage):
                self._counts[name] = max(count, self._counts.get(name, 0))
        if not self._counts:
            return None
        read, written = (self._counts.get(name, 0) for name in _COUNTS[2:])
        return Usage(
            input=self._counts.get("input_tokens", 0) + read + written,
            output=self._counts.get("output_tokens", 0),
            cached_read=read,
            cache_write=written,
            reasoning=self._counts.get("thinking_tokens", 0),
        )


def read_usage(usage: object) -> Usage | None:
    """The tokens in one decoded `usage` object; None where it does not say any as numbers."""
    return UsageSum().add(usage)


def write_usage(usage: Usage | None) -> dict[str, Any]:
    """The `usage` object of an answer; zeros where nothing is known, since its counts may not be left out."""
    usage = usage or Usage()
    written: dict[str, Any] = {
        "input_tokens": max(0, usage.input - usage.cached_read - usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_read,
        "output_tokens": usage.output,
    }
    if usage.reasoning:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return written


def _counts(usage: dict[str, Any]) -> list[tuple[str, int]]:
    found = {name: _count(usage.get(name)) for name in _COUNTS}
    if found["cache_creation_input_tokens"] is None and isinstance(parts := usage.get("cache_creation"), dict):
        found["cache_creation_input_tokens"] = sum(_count(part) or 0 for part in parts.values())
    if isinstance(details := usage.get("output_tokens_details"), dict):
        found["thinking_tokens"] = _count(details.get("thinking_tokens"))
    return [(name, count) for name, count in found.items() if count is not None]


def _count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # servers whose language has no integers
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
