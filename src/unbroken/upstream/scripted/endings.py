"""How answers end, joined to one with `|`: cut, reset, stalled, unfinished, failed.

Blocks are counted as a reader counts them, from 1: the role chunk is the first, comments are none. A whole
(non-streaming) body is cut into as many pieces as its stream would have blocks, so that `cut_after(2)` cuts both.
"""

from dataclasses import replace

from unbroken.upstream.scripted.bodies import error_json, whole_body
from unbroken.upstream.scripted.draft import Change, Draft, Event
from unbroken.upstream.scripted.steps import Cut, End, Reset, Stall, Step


def ends_after(n: int, ending: Step) -> Change:
    """Send n blocks, then end in this way."""
    return lambda draft: replace(draft, items=draft.items[: draft.place_after(n)], ending=ending)


def cut_after(n: int) -> Change:
    """Send n blocks, then close without the terminating chunk; 0: after the headers."""
    return ends_after(n, Cut())


def reset_after(n: int) -> Change:
    """Send n blocks, then an RST."""
    return ends_after(n, Reset())


def stall_after(n: int) -> Change:
    """Send n blocks, then nothing until the reader leaves."""
    return ends_after(n, Stall())


def eof_after(n: int) -> Change:
    """Send n blocks, then end the HTTP body cleanly, without finish_reason or `[DONE]` where they come later.

    A whole body with a content length cannot end early and clean: it is cut.
    """
    return lambda draft: ends_after(n, End() if draft.is_stream() else Cut())(draft)


def no_done() -> Change:
    """Leave `[DONE]` out."""
    return lambda draft: replace(draft, items=tuple(item for item in draft.items if item != Event("[DONE]")))


def stays_open() -> Change:
    """Send everything, `[DONE]` included, but never end the body."""
    return lambda draft: replace(draft, ending=Stall())


def error_event(message: str, *, code: str | int | None = None, type: str = "server_error", after: int) -> Change:
    """Send n blocks, then an error event, then the clean end; a whole answer becomes an HTTP 500."""
    data = error_json(message, type=type, code=code)

    def change(draft: Draft) -> Draft:
        if not draft.is_stream():
            return whole_body(data, status=500)
        kept = draft.items[: draft.place_after(after)]
        return replace(draft, items=(*kept, Event(data.decode())))

    return change
