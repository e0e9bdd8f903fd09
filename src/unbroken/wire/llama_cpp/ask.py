"""Asking llama.cpp to go on from token ids: which answers can go on so, and the body for `/completion`."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Raw

Fields = Mapping[str, Raw]

_read = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode

#: Fields with which an answer is more than its text, or not made of its text alone, and why (K2).
_MORE_THAN_TEXT: Mapping[str, str] = {
    "logprobs": "log probabilities are asked for",
    "top_logprobs": "log probabilities are asked for",
    "n_probs": "log probabilities are asked for",
    "post_sampling_probs": "log probabilities are asked for",
    "timings_per_token": "timings of each token are asked for",
    "grammar": "a grammar has a state of its own",
    "json_schema": "a JSON schema has a state of its own",
    "functions": "the answer may call a function",
}

#: What Chat Completions asks for beside sampling, or in words that `/completion` has others for.
_CHAT_ONLY = frozenset(
    {
        *("model", "messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "stream", "stream_options", "n", "user", "metadata", "store", "prompt"),
        *("max_tokens", "max_completion_tokens", "n_predict", "stop", "chat_template_kwargs", "add_generation_prompt"),
        *("reasoning_format", "reasoning_effort", "n_probs", "logprobs", "top_logprobs", "post_sampling_probs"),
        *("timings_per_token", "return_tokens"),
    }
)


def why_inexact(fields: Fields) -> str | None:
    """Why an answer to a Chat Completions request cannot go on from its tokens; None if it can."""
    for name, reason in _MORE_THAN_TEXT.items():
        if _value(fields, name):
            return reason
    for hinders, reason in _HINDRANCES:
        if hinders(fields):
            return reason
    return None


def asks_for_tokens(fields: Fields) -> bool:
    """Whether a request is sent with `TOKENS_QUESTION`, so that its answer can go on from its tokens.

    A model that samples from its whole vocabulary is not asked: llama.cpp would sort all of it for each token.
    """
    top_k, min_p = _value(fields, "top_k"), _value(fields, "min_p")
    samples_all = isinstance(top_k, int) and top_k <= 0 and min_p == 0
    return not samples_all and why_inexact(fields) is None


def _is_formatted(fields: Fields) -> bool:
    wanted = _value(fields, "response_format")
    return bool(wanted) and not (isinstance(wanted, dict) and wanted.get("type") == "text")


_HINDRANCES: Sequence[tuple[Callable[[Fields], bool], str]] = (
    (lambda fields: (_value(fields, "n") or 1) != 1, "several choices are asked for"),
    (_is_formatted, "a format has a state of its own"),
    (
        lambda fields: bool(_value(fields, "tools")) and _value(fields, "tool_choice") != "none",
        "the answer may call a tool",
    ),
)


def is_greedy(fields: Fields) -> bool:
    """Whether the same tokens are always followed by the same."""
    return _value(fields, "temperature") == 0


def stop_sequences(fields: Fields) -> list[str]:
    """The caller's stop sequences; what is not text stops nothing."""
    stop = _value(fields, "stop")
    return [word for word in (stop if isinstance(stop, list) else [stop]) if isinstance(word, str) and word]


def tokens_left(fields: Fields, said: int) -> int | None:
    """How many tokens may follow after those `said`; None without a limit."""
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        limit = _value(fields, name)
        if isinstance(limit, int) and limit >= 0:
            return max(limit, 1) - said  # a limit of 0 still gives one
    return None


def write_completion(fields: Fields, prompt: str, ids: Sequence[int], *, left: int | None) -> bytes:
    """The body that has `/completion` go on behind `ids`, which the model has said to `prompt`.

    Sampled answers go on with the same settings, but not with the same chance: nobody can ask for that.
    """
    sampling = {name: value for name, value in fields.items() if name not in _CHAT_ONLY}
    limit = {} if left is None else {"n_predict": left}
    more = {"stream": True, "return_tokens": True, "stop": stop_sequences(fields)}
    return _write({**sampling, **limit, **more, "prompt": [prompt, *ids]})


def write_repetition(fields: Fields, prompt: str, ids: Sequence[int], *, count: int) -> bytes:
    """The body that has a greedy model say again the next `count` tokens, whose ids it gives."""
    sampling = {name: value for name, value in fields.items() if name not in _CHAT_ONLY | {"return_progress"}}
    return _write({**sampling, "n_predict": count, "return_tokens": True, "prompt": [prompt, *ids]})


def _value(fields: Fields, name: str) -> object:
    raw = fields.get(name)
    return None if raw is None else _read(raw)
