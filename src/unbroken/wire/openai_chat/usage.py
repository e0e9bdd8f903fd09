"""Usage as this dialect reports it."""

from unbroken.chat.usage import Usage


def read_usage(usage: object) -> Usage | None:
    """The tokens in a decoded `usage` object; None where it does not say any as numbers."""
    if not isinstance(usage, dict):
        return None
    input, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if input is None and output is None:
        return None
    return Usage(
        input=input or 0,
        output=output or 0,
        cached_read=_count(usage.get("prompt_tokens_details"), "cached_tokens") or 0,
        reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens") or 0,
    )


def _count(of: object, name: str) -> int | None:
    value = of.get(name) if isinstance(of, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # servers whose language has no integers
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
