"""The items of an answer's output while they are being written: what they say so far, and how they say it."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw


class Piece(NamedTuple):
    """An event that is to be written: its type without `response.`, and its members but for type and number."""

    type: str
    members: dict[str, Any]


_write = msgspec.json.Encoder().encode
_read_citation = msgspec.json.Decoder().decode


class Item(ABC):
    """One item of the output, at its `place`."""

    def __init__(self, id: str, place: int) -> None:
        self.id, self.place = id, place
        #: How it ended; None while it is being said.
        self.status: str | None = None

    @property
    def has_refused(self) -> bool:
        """Whether the model has said in it why it does not answer."""
        return False

    @abstractmethod
    def whole(self, status: str) -> dict[str, object]:
        """The item with all that it says so far."""

    @abstractmethod
    def end(self, pieces: list[Piece]) -> None:
        """Adds the events that close what is open inside."""

    def _piece(self, type: str, **members: object) -> Piece:
        return Piece(type, {"item_id": self.id, "output_index": self.place, **members})


class MessageItem(Item):
    """A message of the model: parts of text and of refusal, one open at a time."""

    def __init__(self, id: str, place: int) -> None:
        super().__init__(id, place)
        self._parts: list[dict[str, Any]] = []
        self._said: list[str] = []  # the open part in pieces
        self._is_open = False

    @property
    def has_refused(self) -> bool:
        """Whether the model has said why it does not answer."""
        return any(part["type"] == "refusal" for part in self._parts)

    def add_text(self, text: str, pieces: list[Piece]) -> None:
        """More text."""
        self._be_in("output_text", pieces)
        self._said.append(text)
        pieces.append(self._piece("output_text.delta", content_index=self._index, delta=text, logprobs=[]))

    def keep(self, text: str) -> None:
        """More text, which the caller writes itself between the `ends_of_text`."""
        self._said.append(text)

    def ends_of_text(self) -> tuple[bytes, bytes] | None:
        """What stands before and after the text in the members of every further delta; None where no text is open."""
        if not self._is_open or self._parts[-1]["type"] != "output_text":
            return None
        place = {"item_id": self.id, "output_index": self.place, "content_index": self._index}
        return _write(place)[1:-1] + b',"delta":', b',"logprobs":[]'

    def add_refusal(self, text: str, pieces: list[Piece]) -> None:
        """More words of a refusal."""
        self._be_in("refusal", pieces)
        self._said.append(text)
        pieces.append(self._piece("refusal.delta", content_index=self._index, delta=text))

    def cite(self, citation: Raw, pieces: list[Piece]) -> None:
        """A source of the text so far."""
        self._be_in("output_text", pieces)
        annotations = self._parts[-1]["annotations"]
        annotation = _as_annotation(citation)
        pieces.append(
            self._piece(
                "output_text.annotation.added",
                content_index=self._index,
                annotation_index=len(annotations),
                annotation=annotation,
            )
        )
        annotations.append(annotation)

    def whole(self, status: str) -> dict[str, object]:
        parts = [*self._parts[:-1], self._part()] if self._is_open else [*self._parts]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": parts}

    def end(self, pieces: list[Piece]) -> None:
        if not self._is_open:
            return
        part = self._parts[-1] = self._part()
        if part["type"] == "refusal":
            pieces.append(self._piece("refusal.done", content_index=self._index, refusal=part["refusal"]))
        else:
            pieces.append(self._piece("output_text.done", content_index=self._index, text=part["text"], logprobs=[]))
        pieces.append(self._piece("content_part.done", content_index=self._index, part=part))
        self._is_open = False

    @property
    def _index(self) -> int:
        return len(self._parts) - 1

    def _part(self) -> dict[str, Any]:
        part = self._parts[-1]
        said = "".join(self._said)
        if part["type"] == "refusal":
            return {**part, "refusal": said}
        return {**part, "text": said, "annotations": [*part["annotations"]]}

    def _be_in(self, type: str, pieces: list[Piece]) -> None:
        if self._is_open and self._parts[-1]["type"] == type:
            return
        self.end(pieces)
        self._said, self._is_open = [], True
        self._parts.append({"type": type, "refusal": ""} if type == "refusal" else _empty_text())
        pieces.append(self._piece("content_part.added", content_index=self._index, part=self._part()))


class ReasoningItem(Item):
    """What the model thought, in one summary, with its provider's seal."""

    def __init__(self, id: str, place: int) -> None:
        super().__init__(id, place)
        self._said: list[str] = []
        self._has_summary = False
        self._seal: str | None = None

    def add(self, text: str, pieces: list[Piece]) -> None:
        """More of it in words."""
        self._begin(pieces)
        self._said.append(text)
        pieces.append(self._piece("reasoning_summary_text.delta", summary_index=0, delta=text))

    def sign(self, signature: str, pieces: list[Piece]) -> None:
        """The seal on the words so far; a summary, were it an empty one, tells it from reasoning without words."""
        self._begin(pieces)
        self._seal = signature

    def seal(self, data: str) -> None:
        """Reasoning that has no words."""
        self._seal = data

    def whole(self, status: str) -> dict[str, object]:
        summary = [self._part()] if self._has_summary else []
        item = {"id": self.id, "type": "reasoning", "summary": summary, "encrypted_content": self._seal}
        return {**item, "status": status}

    def end(self, pieces: list[Piece]) -> None:
        if self._has_summary:
            part = self._part()
            pieces.append(self._piece("reasoning_summary_text.done", summary_index=0, text=part["text"]))
            pieces.append(self._piece("reasoning_summary_part.done", summary_index=0, part=part))

    def _part(self) -> dict[str, str]:
        return {"type": "summary_text", "text": "".join(self._said)}

    def _begin(self, pieces: list[Piece]) -> None:
        if not self._has_summary:
            self._has_summary = True
            pieces.append(self._piece("reasoning_summary_part.added", summary_index=0, part=self._part()))


class FunctionCallItem(Item):
    """A call of a function."""

    def __init__(self, id: str, place: int, call_id: str, name: str) -> None:
        super().__init__(id, place)
        self._call_id, self._name = call_id, name
        self._said: list[str] = []

    def add(self, arguments: str, pieces: list[Piece]) -> None:
        """More of its arguments."""
        self._said.append(arguments)
        pieces.append(self._piece("function_call_arguments.delta", delta=arguments))

    def whole(self, status: str) -> dict[str, object]:
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "arguments": "".join(self._said),
            "call_id": self._call_id,
            "name": self._name,
        }

    def end(self, pieces: list[Piece]) -> None:
        if not self._said:
            self.add("{}", pieces)  # JSON in any case (FAULTS.md 22)
        # `name` is not in every description of the event, and the official SDK's readers for Go and Java ask for it.
        pieces.append(self._piece("function_call_arguments.done", name=self._name, arguments="".join(self._said)))


def _empty_text() -> dict[str, Any]:
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _as_annotation(citation: Raw) -> Any:
    """A source in this dialect's words; OpenAI's other dialect has the same ones a level deeper."""
    said = _read_citation(citation)
    if isinstance(said, dict) and isinstance(inner := said.get(said.get("type", "")), dict):
        return {"type": said["type"], **inner}
    return said
