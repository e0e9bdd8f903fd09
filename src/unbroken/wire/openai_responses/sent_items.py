"""The items of an answer whose events were sent, as far as it takes to go on with them or to end them."""

from typing import Any

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.openai_responses.output import FunctionCallItem, Item, MessageItem, Piece, ReasoningItem

Members = dict[str, Any]
Where = tuple[str, int]
"""A part of an item: the list that it is in (`content`, `summary`; `arguments` of a call), and its place there."""


class SentItem:
    """What the events of one item have said of it: its parts, which of them is open, and how far that is closed."""

    def __init__(self, place: int, item: Members) -> None:
        self.place, self.item = place, item
        self.is_done = False
        self.parts: dict[Where, Members] = {}
        self.said: dict[Where, list[str]] = {}
        self.open: Where | None = None
        #: Types, without `response.`, of the closing events that were sent of what is open.
        self.closing: set[str] = set()

    @property
    def type(self) -> str:
        """What kind of item it is."""
        return str(self.item.get("type"))

    def begin(self, where: Where, part: Members) -> None:
        """A part has begun."""
        self.parts[where], self.said[where] = part, [str(part.get(_text_member(part)) or "")]
        self.open, self.closing = where, set()

    def say(self, where: Where, part_type: str, text: str) -> None:
        """More of a part; some servers do not say that it begins."""
        if where not in self.said:
            self.begin(where, {"type": part_type})
        self.said[where].append(text)

    def close(self, type: str) -> None:
        """A closing event was sent of what is open."""
        self.closing.add(type)
        if type == "content_part.done":
            self.open, self.closing = None, set()

    def cite(self, where: Where, annotation: object) -> None:
        """A source of a part of text."""
        self.parts.get(where, {}).setdefault("annotations", []).append(annotation)

    def end(self, item: Members) -> None:
        """The item was sent whole."""
        self.item, self.is_done = item, True

    def listed(self, name: str) -> list[Members]:
        """The parts of one list with all that was said of them."""
        found = sorted(where for where in self.parts if where[0] == name)
        return [{**self.parts[where], _text_member(self.parts[where]): "".join(self.said[where])} for where in found]

    def resumed(self) -> Item:
        """The item as a writer has it.

        Raises:
            UpstreamFailed: it is in a state in which nobody here could go on with it.
        """
        if self.is_done:
            return DoneItem(self)
        match self.type:
            case "message":
                return SentMessage(self)
            case "function_call":
                return SentCall(self)
            case "reasoning" if self.parts.keys() <= {("summary", 0)}:
                return SentReasoning(self)
        problem = f"item {self.place} of what was sent, of the type {self.type!r}, is none that could be gone on with"
        raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, problem))


class DoneItem(Item):
    """An item that was sent whole."""

    def __init__(self, sent: SentItem) -> None:
        super().__init__(str(sent.item.get("id") or ""), sent.place)
        self.status = str(sent.item.get("status") or "completed")
        self._item = sent.item

    @property
    def has_refused(self) -> bool:
        content = self._item.get("content")
        return self._item.get("type") == "message" and any(part.get("type") == "refusal" for part in content or ())

    def whole(self, status: str) -> dict[str, object]:
        return self._item

    def end(self, pieces: list[Piece]) -> None:
        pass  # it has ended


class SentMessage(MessageItem):
    """A message that is gone on with; text behind a part whose whole was sent is another part."""

    def __init__(self, sent: SentItem) -> None:
        super().__init__(str(sent.item.get("id") or f"msg_{sent.place}"), sent.place)
        self._given, self._closing = sent.item, sent.closing
        self._parts = [{"annotations": [], **part} if "text" in part else part for part in sent.listed("content")]
        self._is_open = sent.open is not None
        self._said = sent.said[sent.open] if sent.open is not None else []

    def ends_of_text(self) -> tuple[bytes, bytes] | None:
        return None if self._closing else super().ends_of_text()

    def whole(self, status: str) -> dict[str, object]:
        return {**self._given, **super().whole(status)}

    def end(self, pieces: list[Piece]) -> None:
        closing: list[Piece] = []
        super().end(closing)
        pieces += _not_sent(closing, self._closing)

    def _be_in(self, type: str, pieces: list[Piece]) -> None:
        if self._closing:
            self.end(pieces)
        super()._be_in(type, pieces)


class SentReasoning(ReasoningItem):
    """Reasoning that is gone on with, unless the whole of its summary was sent: then only its seal may come."""

    def __init__(self, sent: SentItem) -> None:
        super().__init__(str(sent.item.get("id") or f"rs_{sent.place}"), sent.place)
        self._given, self._closing = sent.item, sent.closing
        self._said = [part["text"] for part in sent.listed("summary")]
        self._has_summary = bool(self._said)
        self._seal = sent.item.get("encrypted_content")

    @property
    def is_empty(self) -> bool:
        """Whether it has begun and said nothing."""
        return not self._has_summary and self._seal is None

    @property
    def has_whole_summary(self) -> bool:
        """Whether no words can be added to it."""
        return bool(self._closing)

    def whole(self, status: str) -> dict[str, object]:
        return {**self._given, **super().whole(status)}

    def end(self, pieces: list[Piece]) -> None:
        closing: list[Piece] = []
        super().end(closing)
        pieces += _not_sent(closing, self._closing)


class SentCall(FunctionCallItem):
    """A call whose arguments are gone on with."""

    def __init__(self, sent: SentItem) -> None:
        item = sent.item
        id, call_id = str(item.get("id") or f"fc_{sent.place}"), str(item.get("call_id") or "")
        super().__init__(id, sent.place, call_id, str(item.get("name") or ""))
        self._given, self._closing = item, sent.closing
        self._said = [text for text in sent.said.get(("arguments", 0), ()) if text]

    def whole(self, status: str) -> dict[str, object]:
        return {**self._given, **super().whole(status)}

    def end(self, pieces: list[Piece]) -> None:
        closing: list[Piece] = []
        super().end(closing)
        pieces += _not_sent(closing, self._closing)


def _not_sent(closing: list[Piece], sent: set[str]) -> list[Piece]:
    left = [piece for piece in closing if piece.type not in sent]
    sent.clear()
    return left


def _text_member(part: Members) -> str:
    return "refusal" if part.get("type") == "refusal" else "text"
