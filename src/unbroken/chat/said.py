"""What an answer has said so far: its events folded into parts, in the order in which they began."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from unbroken.chat.events import (
    Cited,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from unbroken.chat.usage import Usage

PieceOfAnswer = (
    TextDelta
    | ReasoningDelta
    | ReasoningSigned
    | ReasoningSealed
    | RefusalDelta
    | Cited
    | ToolCallStarted
    | ToolCallDelta
)
"""An event that is a piece of the answer itself."""


CHARACTERS_OF_A_TOKEN = 4
"""In most languages and tokenizers, about."""

MOST_CHARACTERS_OF_A_TOKEN = 8
"""On average, over an answer: longer pieces are no tokens. Short ones may be: some models cut digit by digit."""


class PartKind(Enum):
    """What a part of an answer is."""

    TEXT = "text"
    REASONING = "reasoning"
    SIGNED = "signed"
    SEALED = "sealed"
    REFUSAL = "refusal"
    CITED = "cited"
    CALL = "call"


#: What pieces that follow on each other make one part of; each other event begins a part of its own.
TEXTS: dict[type, PartKind] = {
    TextDelta: PartKind.TEXT,
    ReasoningDelta: PartKind.REASONING,
    RefusalDelta: PartKind.REFUSAL,
}


@dataclass(frozen=True, slots=True)
class SaidPart:
    """One part of an answer: text of its kind, joined; of a tool call `text` is its arguments so far."""

    kind: PartKind
    text: str
    #: Of a tool call.
    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What one answer has said so far."""

    #: Of the first choice, in the order in which they began.
    parts: tuple[SaidPart, ...] = ()
    #: The choices that have said anything.
    choices: frozenset[int] = frozenset()
    #: Why the first choice ended, None while it has not.
    finished: Finished | None = None
    failed: Failed | None = None
    #: The latest report of tokens, None before there was one.
    usage: Usage | None = None
    #: Whether it was told behind all that was said: Anthropic tells one at the beginning.
    is_counted: bool = False
    #: Events that carried a piece of the answer; where nobody counts tokens they stand for them.
    pieces: int = 0

    @property
    def text(self) -> str:
        """All of the text, joined."""
        return self._joined(PartKind.TEXT)

    @property
    def reasoning(self) -> str:
        """All of the reasoning that was shown, joined."""
        return self._joined(PartKind.REASONING)

    @property
    def refusal(self) -> str:
        """All words of a refusal, joined."""
        return self._joined(PartKind.REFUSAL)

    @property
    def calls(self) -> tuple[SaidPart, ...]:
        """The tool calls in the order in which they began."""
        return tuple(part for part in self.parts if part.kind is PartKind.CALL)

    @property
    def tokens(self) -> int:
        """How many tokens it is: as the upstream has counted them, else about.

        Most servers send a piece for each token, some several tokens in one. Where a token comes in several pieces they
        are fewer than this: the caller never gets more of them than it has asked for.
        """
        if self.is_counted and self.usage is not None:
            return self.usage.output
        characters = sum(len(part.text) for part in self.parts)
        if characters > self.pieces * MOST_CHARACTERS_OF_A_TOKEN:
            return -(-characters // CHARACTERS_OF_A_TOKEN)
        return self.pieces

    @property
    def is_only_text(self) -> bool:
        """Whether nothing but text was said, and some was."""
        return bool(self.parts) and all(part.kind is PartKind.TEXT for part in self.parts)

    def _joined(self, kind: PartKind) -> str:
        return "".join(part.text for part in self.parts if part.kind is kind)


@dataclass(slots=True)
class _Open:
    """A part that may still grow."""

    kind: PartKind
    texts: list[str]
    id: str = ""
    name: str = ""

    def closed(self) -> SaidPart:
        return SaidPart(self.kind, "".join(self.texts), self.id, self.name)


@dataclass(slots=True)
class _Fold:
    parts: list[_Open] = field(default_factory=list)
    calls: dict[int, _Open] = field(default_factory=dict)

    def add(self, event: PieceOfAnswer) -> None:
        match event:
            case TextDelta(text) | ReasoningDelta(text) | RefusalDelta(text):
                self._add_text(TEXTS[type(event)], text)
            case ReasoningSigned(signature):
                self.parts.append(_Open(PartKind.SIGNED, [signature]))
            case ReasoningSealed(data):
                self.parts.append(_Open(PartKind.SEALED, [data]))
            case Cited(citation):
                self.parts.append(_Open(PartKind.CITED, [bytes(citation).decode()]))
            case ToolCallStarted(index, id, name):
                self.calls[index] = _Open(PartKind.CALL, [], id, name)
                self.parts.append(self.calls[index])
            case ToolCallDelta(index, arguments):
                if (call := self.calls.get(index)) is not None:
                    call.texts.append(arguments)

    def _add_text(self, kind: PartKind, text: str) -> None:
        if not text:
            return
        if not self.parts or self.parts[-1].kind is not kind:
            self.parts.append(_Open(kind, []))
        self.parts[-1].texts.append(text)


def said_in(events: Iterable[Event]) -> Said:
    """What the events say, folded."""
    fold = _Fold()
    choices: set[int] = set()
    finished: Finished | None = None
    failed: Failed | None = None
    usage: Usage | None = None
    is_counted = False
    pieces = 0
    for event in events:
        match event:
            case Started():
                pass
            case UsageReported(reported):
                usage, is_counted = reported, True
            case Failed():
                failed = failed or event
            case Finished(choice=choice):
                choices.add(choice)
                finished = finished or (event if choice == 0 else None)
            case _:
                choices.add(event.choice)
                pieces += 1
                is_counted = False
                if event.choice == 0:
                    fold.add(event)
    parts = tuple(part.closed() for part in fold.parts)
    return Said(parts, frozenset(choices), finished, failed, usage, is_counted, pieces)
