"""One answer in each dialect, as Unbroken would stream it and as it would give it whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORDS = ("It", " is", " one", " answer,", " näive", " and", " whole.")
TEXT = "".join(WORDS)


@dataclass(frozen=True)
class Script:
    """The blocks of an answer without their ids, and the whole of it."""

    blocks: Sequence[bytes]
    whole: bytes


def block(data: Mapping[str, Any] | str, kind: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {kind}\n" if kind else "").encode() + f"data: {text}\n\n".encode()


def chat() -> Script:
    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "small"}
        return block({**envelope, "choices": [choice]})

    message = {"role": "assistant", "content": TEXT}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small"}
    return Script(
        [
            chunk({"role": "assistant", "content": ""}),
            *(chunk({"content": word}) for word in WORDS),
            chunk({}, "stop"),
            block("[DONE]"),
        ],
        json.dumps({**whole, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode(),
    )


def responses() -> Script:
    content = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "small", "tools": []}
    whole = {**response, "status": "completed", "output": [item]}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
        *({"type": "response.output_text.delta", **place, "delta": word} for word in WORDS),
        {"type": "response.completed", "response": whole},
    ]
    blocks = [block({**event, "sequence_number": number}, event["type"]) for number, event in enumerate(events)]
    return Script(blocks, json.dumps(whole).encode())


def messages() -> Script:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "small", "stop_sequence": None}
    usage = {"input_tokens": 1, "output_tokens": len(WORDS)}
    begun = {**message, "content": [], "stop_reason": None, "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    whole = {**message, "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn", "usage": usage}
    return Script([block(event, event["type"]) for event in events], json.dumps(whole).encode())


SCRIPTS = {"/chat/completions": chat(), "/responses": responses(), "/messages": messages()}
