"""What is new in an answer that was asked for again, or asked to go on: by comparing it with what was sent."""

from collections.abc import Callable
from typing import assert_never

import msgspec
from msgspec.structs import replace

from unbroken.chat.counted import counted
from unbroken.chat.events import (
    Cited,
    Event,
    ReasoningDelta,
    ReasoningSealed,
    ReasoningSigned,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.said import TEXTS, PartKind, PieceOfAnswer, Said, SaidPart
from unbroken.chat.usage import Usage

MAX_WAITING = (
    1 << 20
)  # characters of a later call that wait for an earlier one to be said again; far above any answer's

TELLING = 16
"""Characters that a splice may have in common with the beginning by chance; with more it is a new turn or an echo."""

MAX_SPACE = 64  # characters of white space that are held back until something is said that tells

_read_any = msgspec.json.Decoder().decode


class _Again:
    """A part that was sent, and how much of it has been said again."""

    def __init__(self, part: SaidPart) -> None:
        self.kind, self.text, self.name = part.kind, part.text, part.name
        self.at = 0

    @property
    def is_whole(self) -> bool:
        return self.at == len(self.text)

    def take(self, text: str) -> str:
        """What of `text` lies behind the part; raises UpstreamFailed where it is not what was sent."""
        rest = self.text[self.at : self.at + len(text)]
        if not text.startswith(rest):
            same = self.at + _alike(rest, text)
            raise _differs(f"its {self.kind.value} is another one from character {same + 1} on")
        self.at += len(rest)
        return text[len(rest) :]


class Appended:
    """The joint of an upstream that goes on from the very tokens that were sent, and reports the usage of the whole."""

    def __init__(self, said: Said) -> None:
        self.pieces = said.pieces

    def usage_of_whole(self, usage: Usage) -> Usage:
        """What it reports."""
        return usage

    def feed(self, event: PieceOfAnswer) -> list[Event]:
        """The event: all that it says is new."""
        return [event]

    def end(self, reason: FinishReason | str) -> list[Event]:
        """Nothing is held back."""
        return []


class Matched:
    """The joint of an answer asked for again from its start: nothing passes until all that was sent has come again.

    Parts are compared in their order, of tool calls the names and arguments: their ids, like the seals of reasoning,
    may be others, and those that were sent stay. Pieces of calls may be mixed in another way.
    """

    def __init__(self, said: Said) -> None:
        self._sent = [_Again(part) for part in said.parts]
        self._begun = 0  # parts of the new answer so far
        self._kind: PartKind | None = None  # of the latest of them
        self._calls: dict[int, _Again | None] = {}  # by the index of the new answer; None where nothing of it was sent
        self._waiting: list[Event] = []
        self._waiting_size = 0
        self.pieces = 0

    def usage_of_whole(self, usage: Usage) -> Usage:
        """Its own, since it says all of the answer."""
        return usage

    def feed(self, event: PieceOfAnswer) -> list[Event]:
        """The events that go beyond what was sent; raises UpstreamFailed where they differ from it (K4)."""
        new: Event | None
        match event:
            case TextDelta(text) | ReasoningDelta(text) | RefusalDelta(text):
                new = self._say(event, TEXTS[type(event)], text) if text else None
            case ToolCallStarted(index, _, name):
                new = self._call(event, index, name)
            case ToolCallDelta(index, arguments):
                again = self._calls.get(index)
                rest = arguments if again is None else again.take(arguments)
                new = ToolCallDelta(index, rest) if rest else None
            case ReasoningSigned():
                new = event if self._begin(PartKind.SIGNED) is None else None
            case ReasoningSealed(data):
                new = self._equal(event, PartKind.SEALED, data)
            case Cited(citation):
                new = self._equal(event, PartKind.CITED, bytes(citation).decode())
            case _:
                assert_never(event)
        return self._in_turn(new)

    def end(self, reason: FinishReason | str) -> list[Event]:
        """Nothing is left; raises UpstreamFailed where not all that was sent has come again (K4)."""
        if not self._has_all:
            raise _differs("it ends before what was sent does")
        return self._in_turn(None)

    @property
    def _has_all(self) -> bool:
        return self._begun >= len(self._sent) and all(again.is_whole for again in self._sent)

    def _in_turn(self, new: Event | None) -> list[Event]:
        """The events that may pass: none before all that was sent has come again."""
        if not self._sent:
            return [] if new is None else [new]
        if new is not None:
            self._waiting.append(new)
            self._waiting_size += _size(new)
            if self._waiting_size > MAX_WAITING:
                raise _differs(f"more than {MAX_WAITING} characters are new before all that was sent has come again")
        if not self._has_all:
            return []
        self._sent = []
        self._calls = dict.fromkeys(self._calls)
        passed, self._waiting = self._waiting, []
        return passed

    def _say(
        self, event: TextDelta | ReasoningDelta | RefusalDelta, kind: PartKind, text: str
    ) -> TextDelta | ReasoningDelta | RefusalDelta | None:
        goes_on = kind is self._kind
        again = self._current() if goes_on else self._begin(kind)
        if again is None:
            return event
        rest = again.take(text)
        if rest and self._begun < len(self._sent):
            raise _differs(f"it has more {kind.value} where something else was sent")
        return type(event)(rest) if rest else None

    def _call(self, event: ToolCallStarted, index: int, name: str) -> Event | None:
        again = self._calls[index] = self._begin(PartKind.CALL)
        if again is None:
            return event
        if again.name != name:
            raise _differs(f'it calls the tool "{name}" where "{again.name}" was sent')
        return None

    def _equal(self, event: Event, kind: PartKind, data: str) -> Event | None:
        again = self._begin(kind)
        if again is None:
            return event
        if again.text != data and (kind is PartKind.SEALED or _read_any(again.text) != _read_any(data)):
            raise _differs(f"its {kind.value} is another one")
        again.at = len(again.text)
        return None

    def _current(self) -> _Again | None:
        at = self._begun - 1
        return self._sent[at] if at < len(self._sent) else None

    def _begin(self, kind: PartKind) -> _Again | None:
        """The part that was sent where the new answer begins one of this kind; None behind all that was sent."""
        before = self._current() if self._begun else None
        if before is not None and not before.is_whole and before.kind is not PartKind.CALL:
            raise _differs(
                f"its {before.kind.value} ends {counted(len(before.text) - before.at, 'character')} too early"
            )
        self._begun += 1
        self._kind = kind
        again = self._current()
        if again is not None and again.kind is not kind:
            raise _differs(f"it has {kind.value} where {again.kind.value} was sent")
        if again is not None and kind is PartKind.SIGNED:
            again.at = len(again.text)
        return again


class Spliced:
    """The joint of an upstream that was handed the partial answer as the assistant's last message.

    What begins as the partial answer began is a new turn, or an echo of it (K3): it is told by the first 16 characters,
    or by all of a shorter partial answer, and then matched. What ends before that can be told is no continuation.
    """

    def __init__(self, said: Said, *, handed_over: str, is_limited: bool, on_matched: Callable[[], None]) -> None:
        """`handed_over` is the text without the white space at its end, which has been sent and may come again.

        `is_limited` says that no more tokens were asked for than are left, which are too few for what begins again;
        `on_matched` hears that it does.
        """
        self._said = said
        self._is_limited, self._on_matched = is_limited, on_matched
        self._beginning = said.text.lstrip()[:TELLING]
        self._space = said.text[len(handed_over) :]
        self._held = ""
        self._matched: Matched | None = None
        self._is_decided = False

    @property
    def pieces(self) -> int:
        """Those that were sent, unless they are said again."""
        return self._said.pieces if self._matched is None else 0

    def usage_of_whole(self, usage: Usage) -> Usage:
        """What was handed over was input of the attempt, and is output of the answer.

        Where nobody has counted its tokens they are guessed, and the usage says that it is estimated.
        """
        told = self._said.usage if self._said.usage is not None and self._said.usage.input else None
        sent = max(self._said.tokens, told.output if told is not None else 0)
        first = told or replace(usage, input=max(0, usage.input - sent))
        return replace(
            usage,
            input=first.input,
            output=usage.output + sent if self._matched is None else max(usage.output, sent),
            cached_read=min(first.cached_read, first.input),
            cache_write=min(first.cache_write, first.input),
            estimated=True,
        )

    def feed(self, event: PieceOfAnswer) -> list[Event]:
        """The events that go beyond what was sent."""
        if self._matched is not None:
            return self._matched.feed(event)
        if isinstance(event, TextDelta):
            return self._feed_text(event.text)
        if not self._is_decided:
            if isinstance(event, ReasoningDelta | ReasoningSigned | ReasoningSealed):
                raise _differs("it thinks before it goes on, as a new turn does")
            return [*self._let_go(), event]
        return [event]

    def end(self, reason: FinishReason | str) -> list[Event]:
        """What was held back; raises UpstreamFailed where it may have been the beginning again (K3)."""
        if self._matched is None:
            return [] if self._is_decided else self._let_go()
        if self._is_limited and reason == FinishReason.LENGTH:  # of what was left, not of what the caller may have
            raise _differs("it says again what was sent, and so comes to its limit too early")
        return self._matched.end(reason)

    def _let_go(self) -> list[Event]:
        if self._held.strip():
            raise _differs("it ends while it says again what was sent, or happens to begin alike")
        return self._decide()

    def _feed_text(self, text: str) -> list[Event]:
        if self._is_decided:
            return self._behind_space(text)
        self._held += text
        begun = self._held.lstrip()
        if begun.startswith(self._beginning):
            self._matched = Matched(self._said)
            self._on_matched()
            return self._matched.feed(TextDelta(self._held))
        is_open = len(begun) > 0 or len(self._held) <= MAX_SPACE
        return [] if is_open and self._beginning.startswith(begun) else self._decide()

    def _decide(self) -> list[Event]:
        held, self._held, self._is_decided = self._held, "", True
        return self._behind_space(held)

    def _behind_space(self, text: str) -> list[Event]:
        """The text without the white space that was sent already, where it comes again."""
        if self._space:
            same = _alike(self._space, text)
            self._space = self._space[same:] if same == len(text) else ""
            text = text[same:]
        return [TextDelta(text)] if text else []


def _size(event: Event) -> int:
    match event:
        case TextDelta(text) | ReasoningDelta(text) | RefusalDelta(text):
            return len(text)
        case ToolCallDelta(arguments=arguments):
            return len(arguments)
        case ReasoningSealed(data) | ReasoningSigned(data) | Cited(data):
            return len(data) if isinstance(data, str) else len(bytes(data))
    return 1


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginnings on."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def _differs(how: str) -> UpstreamFailed:
    return UpstreamFailed(Failure(Fault.DIFFERS, f"the answer does not go on from what was sent: {how}"))
