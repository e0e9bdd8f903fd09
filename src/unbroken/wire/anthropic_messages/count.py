"""Counting a question's tokens: `POST /messages/count_tokens`."""

import msgspec

from unbroken.chat.conversation import Conversation
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.anthropic_messages.write_conversation import write_conversation
from unbroken.wire.dialects import Written

COUNT_PATH = "/messages/count_tokens"
"""Path of an upstream's route below its base URL."""

#: The fields that the route takes; others are refused by it.
_COUNTED = frozenset(
    (
        "model",
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "cache_control",
        "speed",
    )
)


class _Count(msgspec.Struct):
    input_tokens: int


_read = msgspec.json.Decoder(_Count).decode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_write = msgspec.json.Encoder().encode


def write_count(tokens: int) -> bytes:
    """The body of the answer."""
    return _write({"input_tokens": tokens})


def read_count(body: bytes) -> int:
    """The tokens that an upstream counted; raises UpstreamFailed where it did not say."""
    try:
        return _read(body).input_tokens
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamFailed(Failure(Fault.MALFORMED, f"the answer is not a count of tokens: {error}")) from None


def write_count_conversation(conversation: Conversation, *, model: str) -> Written:
    """The body for an upstream that is to count; raises RequestRefused naming what it has no word for."""
    written = write_conversation(conversation, model=model, stream=False)
    fields = _read_fields(written.body)
    return Written(_write({name: raw for name, raw in fields.items() if name in _COUNTED}), written.dropped)
