"""What a streamed answer says, in words that no dialect owns."""

from dataclasses import dataclass

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
    """One choice is complete; the reason is the upstream's own word."""

    reason: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ended with an error; the terminal event of a stream that broke."""

    message: str
    type: str | None = None
    code: str | None = None


Event = Started | TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | UsageReported | Finished | Failed
