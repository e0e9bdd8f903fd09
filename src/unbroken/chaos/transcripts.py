"""What a client got, and what the gateways say of it afterwards: the evidence that the judge has."""

from dataclasses import dataclass, field
from typing import Any

from unbroken.chaos.blocks import Seen
from unbroken.chaos.plan import Question


@dataclass(slots=True)
class Transcript:
    """All that one client saw of one answer."""

    question: Question
    #: Empty until a response has said it.
    stream: str = ""
    #: Of a streamed answer.
    seen: list[Seen] = field(default_factory=list)
    #: Of a whole answer.
    whole: str | None = None
    #: The error that a whole answer was, as its client was told.
    error: str = ""
    #: How often the client, or its transport, had to come back.
    returns: int = 0
    #: What went wrong that no client should see; empty if nothing did.
    trouble: str = ""
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class LogCopy:
    """A stream as one gateway tells it when all is over."""

    gateway: int
    status: dict[str, Any]
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a round when it is over."""

    transcripts: tuple[Transcript, ...]
    #: By stream.
    copies: dict[str, tuple[LogCopy, ...]]
    #: How often each prompt was asked at the scripted upstreams, and how many askings broke off as planned.
    asked: dict[str, int]
    faults: dict[str, int]
    #: By stream: how often another owner went on with it.
    takeovers: dict[str, int]
