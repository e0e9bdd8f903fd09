"""Why an answer ended, in this dialect's words and in ours; a word that neither table has is kept."""

from unbroken.chat.finish import FinishReason

_READ = {
    reason.value: reason
    for reason in (
        FinishReason.STOP,
        FinishReason.LENGTH,
        FinishReason.TOOL_CALLS,
        FinishReason.CONTENT_FILTER,
        FinishReason.REFUSAL,
        FinishReason.PAUSE,
    )
}


def read_finish_reason(
    reason: str, *, stop_sequence: str | None = None, has_calls: bool = False, has_refused: bool = False
) -> FinishReason | str:
    """What a `finish_reason` says, with what the choice has said before it.

    This dialect says `stop` for four things: `stop_sequence` (vLLM's `stop_reason`) tells one apart, tool calls
    another (servers that forget their word for it, FAULTS.md 5), a `refusal` the third.
    """
    if reason == "stop":
        if has_calls:
            return FinishReason.TOOL_CALLS
        if stop_sequence is not None:
            return FinishReason.STOP_SEQUENCE
        return FinishReason.REFUSAL if has_refused else FinishReason.STOP
    return _READ.get(reason, reason)


def write_finish_reason(reason: FinishReason | str, *, has_refused: bool = False) -> str:
    """The `finish_reason` for a reason; a refusal in words of its own ends with `stop`, as OpenAI's do."""
    if reason == FinishReason.STOP_SEQUENCE or (reason == FinishReason.REFUSAL and has_refused):
        return "stop"
    return str(reason)
