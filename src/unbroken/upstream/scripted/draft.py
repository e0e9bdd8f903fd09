"""An answer before it is steps: blocks, what stands between them, and how they are written."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from unbroken.upstream.scripted.received import Received
from unbroken.upstream.scripted.steps import End, Head, Script, Send, SendRaw, Step


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE block: its data is JSON, or text that is none, such as `[DONE]`."""

    data: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class Comment:
    """One SSE comment block."""

    text: str


Item = Event | Comment | Step


@dataclass(frozen=True, slots=True)
class Style:
    """How blocks are written; the default is what OpenAI sends."""

    line_end: str = "\n"
    space: str = " "
    fields: tuple[str, ...] = ()
    many_lines: bool = False
    bom: bool = False
    piece_size: int | None = None

    def write(self, item: Event | Comment) -> bytes:
        """Give the block's bytes, its blank line included."""
        lines = [f": {item.text}"] if isinstance(item, Comment) else [*self.fields, *self._data_lines(item.data)]
        return "".join(f"{line}{self.line_end}" for line in [*lines, ""]).encode()

    def _data_lines(self, data: dict[str, Any] | str) -> list[str]:
        text = data if isinstance(data, str) else msgspec.json.encode(data).decode()
        if self.many_lines and not isinstance(data, str):
            text = msgspec.json.format(text)
        return [f"data:{self.space}{line}" for line in text.split("\n")]


@dataclass(frozen=True, slots=True)
class Draft:
    """The answer to one request, ready to be changed and then written."""

    head: Head
    items: tuple[Item, ...]
    style: Style = field(default_factory=Style)
    before: tuple[Step, ...] = ()
    ending: Step = field(default_factory=End)

    def is_stream(self) -> bool:
        """Tell whether the answer is made of SSE blocks, not of one whole body."""
        return any(isinstance(item, Event) for item in self.items)

    def place_after(self, n: int) -> int:
        """Give the index just behind the n-th block (comments and pauses are none), or the end if there are fewer."""
        blocks = [index for index, item in enumerate(self.items) if isinstance(item, Event | Send | SendRaw)]
        return 0 if n <= 0 else blocks[n - 1] + 1 if n <= len(blocks) else len(self.items)

    def events_changed(self, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> "Draft":
        """Give the draft with each JSON event replaced, or left out where the change gives None."""
        items: list[Item] = []
        for item in self.items:
            if isinstance(item, Event) and isinstance(item.data, dict):
                data = change(item.data)
                items += [] if data is None else [Event(data)]
            else:
                items.append(item)
        return replace(self, items=tuple(items))

    def to_script(self) -> Script:
        """Write the blocks and give the steps that send them."""
        steps = [Send(self.style.write(item)) if isinstance(item, Event | Comment) else item for item in self.items]
        if self.style.bom:
            steps.insert(0, Send("\ufeff".encode()))
        if self.style.piece_size is not None:
            steps = _in_pieces(steps, self.style.piece_size)
        return Script((*self.before, self.head, *steps, self.ending))


Change = Callable[[Draft], Draft]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that depends on the request; `answer | change` gives the changed one."""

    draft_for: Callable[[Received], Draft]
    changes: tuple[Change, ...] = ()

    def __or__(self, change: Change) -> "Answer":
        return replace(self, changes=(*self.changes, change))

    def script_for(self, request: Received) -> Script:
        """Give the steps that answer this request."""
        draft = self.draft_for(request)
        for change in self.changes:
            draft = change(draft)
        return draft.to_script()


def _in_pieces(steps: list[Step], size: int) -> list[Step]:
    """Join neighbouring sends and cut them anew, so that pieces take no heed of blocks."""
    cut: list[Step] = []
    joined = b""
    for step in [*steps, None]:
        if isinstance(step, Send):
            joined += step.data
            continue
        cut += [Send(joined[start : start + size]) for start in range(0, len(joined), size)]
        joined = b""
        if step is not None:
            cut.append(step)
    return cut
