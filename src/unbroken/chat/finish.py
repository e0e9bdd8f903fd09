"""Why an answer ended."""

from enum import StrEnum


class FinishReason(StrEnum):
    """The reasons that have a word of ours; a provider's word that has none is kept, never made one of these."""

    STOP = "stop"
    LENGTH = "length"  # max_tokens, or the context's end
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"  # the provider's filter cut in
    STOP_SEQUENCE = "stop_sequence"  # one of the caller's; dialects without the word say stop
    REFUSAL = "refusal"  # the model declines
    PAUSE = "pause_turn"  # the provider wants to be called again with what there is
