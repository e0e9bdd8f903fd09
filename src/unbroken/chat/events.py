"""What a streamed answer says, in words that no dialect owns."""

from dataclasses import dataclass

from msgspec import Raw

from unbroken.chat.finish import FinishReason
from unbroken.chat.usage import Usage


@dataclass(frozen=True, slots=True)
class Started:
    """The answer has begun."""

    id: str
    model: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, where it shows it."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningSigned:
    """The provider's seal on the reasoning so far; it goes back to the provider as it came."""

    signature: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningSealed:
    """A whole piece of reasoning that only its provider can read."""

    data: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """A piece of the model's words on why it does not answer."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Cited:
    """A source of the text so far, JSON as its provider gave it."""

    citation: Raw
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins to call a tool; `index` tells parallel calls apart."""

    index: int
    id: str
    name: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call's arguments, JSON text."""

    index: int
    arguments: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class UsageReported:
    """The tokens used, as the upstream counted them."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice is complete; a reason that we have no word for is the upstream's own."""

    reason: FinishReason | str
    choice: int = 0
    #: The caller's stop sequence that ended it, where the upstream says which.
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ended with an error; the terminal event of a stream that broke."""

    message: str
    type: str | None = None
    code: str | None = None


Event = (
    Started
    | TextDelta
    | ReasoningDelta
    | ReasoningSigned
    | ReasoningSealed
    | RefusalDelta
    | Cited
    | ToolCallStarted
    | ToolCallDelta
    | UsageReported
    | Finished
    | Failed
)
