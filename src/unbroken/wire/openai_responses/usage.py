"""Usage as this dialect reports it."""

from unbroken.chat.usage import Usage


def read_usage(usage: object) -> Usage | None:
    """The tokens in a decoded `usage` object; None where it does not say any as numbers."""
    if not isinstance(usage, dict):
        return None
    input, output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    if input is None and output is None:
        return None
    return Usage(
        input=input or 0,
        output=output or 0,
        cached_read=_count(usage.get("input_tokens_details"), "cached_tokens") or 0,
        cache_write=_count(usage.get("input_tokens_details"), "cache_write_tokens") or 0,
        reasoning=_count(usage.get("output_tokens_details"), "reasoning_tokens") or 0,
    )


def usage_object(usage: Usage | None) -> dict[str, object] | None:
    """The `usage` member of a response."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def _count(of: object, name: str) -> int | None:
    value = of.get(name) if isinstance(of, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # servers whose language has no integers
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
