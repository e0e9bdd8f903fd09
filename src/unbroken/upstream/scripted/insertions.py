"""What comes before and between an answer's blocks, joined to it with `|`: silence, gates, stray blocks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unbroken.upstream.scripted.bodies import whole_body
from unbroken.upstream.scripted.draft import Change, Comment, Draft, Event, Item
from unbroken.upstream.scripted.steps import Hold, Pause, Send, SendRaw, Step, Waitable


def before_head(*steps: Step) -> Change:
    """Do these steps before the status line: `before_head(Hold(gate))`."""
    return lambda draft: replace(draft, before=(*draft.before, *steps))


def insert_after(n: int, *items: Mapping[str, Any] | bytes | Step) -> Change:
    """Put these behind block n: a JSON event, a raw block, or any step; a whole answer has no room for blocks."""
    added = tuple(_as_item(item) for item in items)

    def change(draft: Draft) -> Draft:
        place = draft.place_after(n)
        fitting = added if draft.is_stream() else tuple(item for item in added if isinstance(item, Hold | Pause))
        return replace(draft, items=(*draft.items[:place], *fitting, *draft.items[place:]))

    return change


def hold_after(n: int, gate: Waitable) -> Change:
    """Send n blocks, and the rest when the gate opens."""
    return insert_after(n, Hold(gate))


def malformed_after(n: int) -> Change:
    """Put a block with broken JSON behind block n; a whole answer is broken JSON altogether."""
    insert = insert_after(n, b'data: {"choices": [{"delta": {"content": \n\n')
    return lambda draft: insert(draft) if draft.is_stream() else whole_body(b'{"choices": [{"message": ', status=200)


def gap(seconds: float) -> Change:
    """Wait so long between one block and the next."""

    def change(draft: Draft) -> Draft:
        items: list[Item] = []
        for item in draft.items:
            if items and isinstance(item, Event | Send | SendRaw):
                items.append(Pause(seconds))
            items.append(item)
        return replace(draft, items=tuple(items))

    return change


def with_comments(text: str = "OPENROUTER PROCESSING") -> Change:
    """Send a comment block before every event."""

    def change(draft: Draft) -> Draft:
        items = ((Comment(text), item) if isinstance(item, Event) else (item,) for item in draft.items)
        return replace(draft, items=tuple(item for group in items for item in group))

    return change


def _as_item(item: Mapping[str, Any] | bytes | Step) -> Item:
    if isinstance(item, bytes):
        return Send(item)
    return Event(dict(item)) if isinstance(item, Mapping) else item
