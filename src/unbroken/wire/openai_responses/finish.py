"""How an answer ended: this dialect's `status` and `incomplete_details` to and from our reasons."""

from collections.abc import Mapping

from unbroken.chat.finish import FinishReason

#: Reasons that are a good end; the dialect has one word for all of them.
COMPLETED = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS, FinishReason.STOP_SEQUENCE})

_BY_WORD: Mapping[str, FinishReason] = {
    "max_output_tokens": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,  # servers that took the other dialects' word
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "pause_turn": FinishReason.PAUSE,
}

_WORDS: Mapping[str, str] = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.REFUSAL: "content_filter",  # declined without a word: not the end of a whole answer
}


def read_incomplete(reason: str) -> FinishReason | str:
    """Why a response is incomplete; a word that we do not know stays as it is."""
    return _BY_WORD.get(reason, reason)


def incomplete_reason(reason: FinishReason | str, *, has_refused: bool) -> str | None:
    """The word for `incomplete_details`; None for a response that is complete, with a refusal in words or without."""
    if reason in COMPLETED or (reason == FinishReason.REFUSAL and has_refused):
        return None
    return _WORDS.get(reason, str(reason))
