"""`Retry-After` and its relatives: how long an upstream asks us to wait. Source: RFC 9110, 10.2.3; OpenAI's headers."""

from collections.abc import Mapping


def read_retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds to wait; None where nothing is said, or said as a date (clocks differ, and none is read here)."""
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < 1e9:
            return seconds
    return None
