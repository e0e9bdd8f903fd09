"""Usage as this dialect reports it."""

from unbroken.chat.usage import Usage


def read_usage(usage: object) -> Usage | None:
    """The tokens in a decoded `usage` object; None where it does not say any as numbers."""
    if not isinstance(usage, dict):
        return None
    input, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if input is None and output is None:
        return None
    prompt = usage.get("prompt_tokens_details")
    return Usage(
        input=input or 0,
        output=output or 0,
        cached_read=_count(prompt, "cached_tokens") or 0,
        cache_write=_count(prompt, "cache_write_tokens") or 0,
        reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens") or 0,
    )


def write_usage(usage: Usage) -> dict[str, object]:
    """The `usage` object of an answer."""
    prompt = {"cached_tokens": usage.cached_read}
    if usage.cache_write:
        prompt["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _count(of: object, name: str) -> int | None:
    value = of.get(name) if isinstance(of, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # servers whose language has no integers
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
