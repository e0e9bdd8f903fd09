"""Why an answer ended, in this dialect's words and in ours."""

from collections.abc import Mapping

from unbroken.chat.finish import FinishReason

READ: Mapping[str, FinishReason] = {
    "end_turn": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "tool_use": FinishReason.TOOL_CALLS,
    "pause_turn": FinishReason.PAUSE,
    "refusal": FinishReason.REFUSAL,
}

WRITTEN: Mapping[str, str] = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.PAUSE: "pause_turn",
    FinishReason.REFUSAL: "refusal",
    FinishReason.CONTENT_FILTER: "refusal",  # here the provider's filters refuse too; there is no other word
}


def read_stop_reason(word: str, *, has_tool_calls: bool) -> FinishReason | str:
    """Our word for a `stop_reason`; one that we do not know is kept."""
    reason = READ.get(word, word)
    return FinishReason.TOOL_CALLS if reason is FinishReason.STOP and has_tool_calls else reason


def write_stop_reason(reason: FinishReason | str, *, has_tool_calls: bool = False, has_refused: bool = False) -> str:
    """The `stop_reason` for a reason; one that is another provider's own is kept."""
    if reason == FinishReason.STOP:
        if has_tool_calls:
            return "tool_use"
        if has_refused:
            return "refusal"
    return WRITTEN.get(reason, str(reason))
