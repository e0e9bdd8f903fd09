"""Completions as OpenAI-compatible servers give them: streamed or whole, as the request asks."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from unbroken.upstream.scripted.bodies import JSON, evenly
from unbroken.upstream.scripted.completion import Content, Envelope, completion, words
from unbroken.upstream.scripted.draft import Answer


def text(
    content: str | Sequence[str],
    *,
    model: str | None = None,
    id: str | None = None,
    finish_reason: str | None = "stop",
    usage: bool | JSON = True,
    reasoning: str | None = None,
    role: bool = True,
    done: bool = True,
) -> Answer:
    """Answer with text, a chunk per word (or per given piece); the model is the request's where none is given.

    The stream: a role chunk, the reasoning's words, the content's words, the finish chunk, the usage chunk where the
    request asks for one, `[DONE]`. No finish_reason: no finish chunk.
    """
    pieces = words(content) if isinstance(content, str) else list(content)
    deltas = [{"reasoning_content": word} for word in words(reasoning or "")] + [{"content": p} for p in pieces]
    message: dict[str, Any] = {"content": "".join(pieces)}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    return completion(Content(tuple(deltas), message), Envelope(model, id, finish_reason, usage, role, done))


def refusal(content: str, *, model: str | None = None) -> Answer:
    """Answer with a refusal, a chunk per word."""
    deltas = tuple({"refusal": word} for word in words(content))
    return completion(
        Content(deltas, {"content": None, "refusal": content}), Envelope(model, None, "stop", True, True, True)
    )


def tool_call(
    name: str, arguments: JSON | str, *, pieces: int = 3, id: str = "call_1", finish_reason: str | None = "tool_calls"
) -> Answer:
    """Answer with one tool call: its name, then its arguments in so many pieces (0: with the name, as Ollama does)."""
    return parallel_tool_calls((name, arguments), ids=(id,), pieces=pieces, finish_reason=finish_reason)


def parallel_tool_calls(
    *calls: tuple[str, JSON | str],
    indices: Literal["counted", "all-zero", "missing"] = "counted",
    ids: Sequence[str] | Literal["counted", "missing"] = "counted",
    pieces: int = 3,
    finish_reason: str | None = "tool_calls",
) -> Answer:
    """Answer with several tool calls, each (name, arguments), with the indices and ids that some servers get wrong."""
    if ids == "counted":
        ids = [f"call_{number}" for number in range(1, len(calls) + 1)]
    deltas: list[JSON] = []
    whole: list[JSON] = []
    for number, (name, given) in enumerate(calls):
        arguments = given if isinstance(given, str) else msgspec.json.encode(given).decode()
        own_id = {} if isinstance(ids, str) else {"id": ids[number]}
        index = {"counted": {"index": number}, "all-zero": {"index": 0}, "missing": {}}[indices]
        parts = evenly(arguments, pieces)
        function = {"name": name, "arguments": "" if pieces else arguments}
        deltas.append({"tool_calls": [{**index, **own_id, "type": "function", "function": function}]})
        deltas += [{"tool_calls": [{**index, "function": {"arguments": part}}]} for part in parts]
        whole.append({**own_id, "type": "function", "function": {"name": name, "arguments": arguments}})
    content = Content(tuple(deltas), {"content": None, "tool_calls": whole})
    return completion(content, Envelope(None, None, finish_reason, True, True, True))
