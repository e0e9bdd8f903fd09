"""What a completion says and what surrounds it, as the chunks of a stream and as one body."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from unbroken.upstream.scripted.bodies import CREATED, JSON, whole_body
from unbroken.upstream.scripted.draft import Answer, Draft, Event, Item
from unbroken.upstream.scripted.received import Received
from unbroken.upstream.scripted.steps import Head

DEFAULT_MODEL = "scripted"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What surrounds the content of a completion."""

    model: str | None
    id: str | None
    finish_reason: str | None
    usage: bool | JSON
    role: bool
    done: bool


@dataclass(frozen=True, slots=True)
class Content:
    """What a completion says: as the deltas of a stream and as one message."""

    deltas: tuple[JSON, ...]
    message: JSON


def completion(content: Content, envelope: Envelope) -> Answer:
    """Give the answer that says this: as a stream or as one body, as the request asks."""

    def draft_for(request: Received) -> Draft:
        stream = _stream(content, envelope, request)
        if request.wants_stream():
            return Draft(Head(), stream)
        return whole_body(_whole(content, envelope, request), pieces=len(stream))

    return Answer(draft_for)


def _stream(content: Content, envelope: Envelope, request: Received) -> tuple[Item, ...]:
    base = {**_base(envelope, request, "chat.completion.chunk"), "choices": []}
    told = bool(envelope.usage) and request.wants_usage()
    if told:
        base["usage"] = None  # OpenAI says so in every chunk but the last
    choices: list[JSON] = [{"delta": delta, "finish_reason": None} for delta in content.deltas]
    if envelope.role:
        choices.insert(0, {"delta": {"role": "assistant", "content": ""}, "finish_reason": None})
    if envelope.finish_reason is not None:
        choices.append({"delta": {}, "finish_reason": envelope.finish_reason})
    items: list[Item] = [Event({**base, "choices": [{"index": 0, **choice}]}) for choice in choices]
    if told:
        items.append(Event({**base, "usage": _usage(content, envelope, request)}))
    if envelope.done:
        items.append(Event("[DONE]"))
    return tuple(items)


def _whole(content: Content, envelope: Envelope, request: Received) -> bytes:
    message = {"role": "assistant", **content.message}
    choice = {"index": 0, "message": message, "finish_reason": envelope.finish_reason}
    usage = {"usage": _usage(content, envelope, request)} if envelope.usage else {}
    return msgspec.json.encode({**_base(envelope, request, "chat.completion"), "choices": [choice], **usage})


def _base(envelope: Envelope, request: Received, kind: str) -> dict[str, Any]:
    return {
        "id": envelope.id or f"chatcmpl-{request.number}",
        "object": kind,
        "created": CREATED,
        "model": envelope.model or request.fields().get("model", DEFAULT_MODEL),
        "system_fingerprint": "fp_scripted",
    }


def _usage(content: Content, envelope: Envelope, request: Received) -> JSON:
    """Count a token per streamed delta, and one per word of the prompt."""
    if not isinstance(envelope.usage, bool):
        return envelope.usage
    messages = request.fields().get("messages", [])
    prompt = sum(len(str(message.get("content", "")).split()) for message in messages if isinstance(message, dict))
    made = len(content.deltas)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def words(content: str) -> list[str]:
    """Cut text into its words, each with the space before it; joined they are the text again."""
    return re.findall(r"\s*\S+|\s+$", content)
