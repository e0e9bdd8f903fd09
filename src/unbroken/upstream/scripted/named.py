"""Answers by name, for the command line: `gap=0.05,cut_after=20` or `rate_limited=2`."""

from collections.abc import Callable

from unbroken.upstream.scripted import bodies, endings, insertions, wording, writing
from unbroken.upstream.scripted.draft import Answer, Change
from unbroken.upstream.scripted.steps import Cut, ReadNothing, Reset, Script, Stall

LINE_ENDS = {"crlf": "\r\n", "cr": "\r", "lf": "\n"}

ANSWERS: dict[str, tuple[str, Callable[[str], Answer | Script]]] = {
    "error": ("=STATUS  an error in OpenAI's envelope", lambda v: bodies.error(int(v or 500), "A scripted error")),
    "html_error": ("=STATUS  a proxy's HTML page", lambda v: bodies.html_error(int(v or 502))),
    "overloaded": ("=STATUS  503 or 529", lambda v: bodies.overloaded(int(v or 503))),
    "rate_limited": ("=SECONDS  429, with Retry-After", lambda v: bodies.rate_limited(v or None)),
    "silent": ("takes the request and never answers", lambda _: Script((Stall(),))),
    "read_nothing": ("accepts and never reads", lambda _: Script((ReadNothing(),))),
    "cut": ("closes without an answer", lambda _: Script((Cut(),))),
    "reset": ("resets without an answer", lambda _: Script((Reset(),))),
}

CHANGES: dict[str, tuple[str, Callable[[str], Change]]] = {
    "cut_after": ("=N  close after N blocks", lambda v: endings.cut_after(int(v))),
    "reset_after": ("=N  RST after N blocks", lambda v: endings.reset_after(int(v))),
    "stall_after": ("=N  silence after N blocks", lambda v: endings.stall_after(int(v))),
    "eof_after": ("=N  clean end after N blocks", lambda v: endings.eof_after(int(v))),
    "error_event": (
        "=N  an error event after N blocks",
        lambda v: endings.error_event("A scripted error", after=int(v)),
    ),
    "malformed_after": ("=N  broken JSON after N blocks", lambda v: insertions.malformed_after(int(v))),
    "gap": ("=SECONDS  between blocks", lambda v: insertions.gap(float(v))),
    "no_done": ("no [DONE]", lambda _: endings.no_done()),
    "no_finish": ("no finish_reason", lambda _: wording.no_finish()),
    "stays_open": ("never ends after [DONE]", lambda _: endings.stays_open()),
    "without_role": ("no role chunk", lambda _: wording.without_role()),
    "finish_empty_string": ('finish_reason "" for null', lambda _: wording.finish_empty_string()),
    "line_ends": ("=crlf|cr|lf", lambda v: writing.line_ends(LINE_ENDS[v])),
    "no_space_after_colon": ("data:{…}", lambda _: writing.no_space_after_colon()),
    "with_comments": ("a comment before each event", lambda _: insertions.with_comments()),
    "one_byte_at_a_time": ("a chunk per byte", lambda _: writing.one_byte_at_a_time()),
    "close_delimited": ("no chunks, the end is the close", lambda _: writing.close_delimited()),
}


def read_script(words: str, said: Answer) -> Answer | Script:
    """Give the answer that the words name: `ok`, one of ANSWERS, or CHANGES joined by commas, made to what is said.

    Raises ValueError that names the word which is unknown or lacks a value.
    """
    answer: Answer | Script = said
    for word in words.split(","):
        name, _, value = word.strip().partition("=")
        try:
            if name in ANSWERS:
                answer = ANSWERS[name][1](value)
            elif name in CHANGES and isinstance(answer, Answer):
                answer = answer | CHANGES[name][1](value)
            elif name != "ok":
                raise ValueError(f"{name!r} is not known, or cannot change what stands before it")
        except (ValueError, KeyError) as error:
            raise ValueError(f"script {words!r}, at {word!r}: {error}") from None
    return answer


def explain() -> str:
    """List every name with what it does."""
    ends = [f"  {name}{_told(told)}" for name, (told, _) in ANSWERS.items()]
    kinds = [f"  {name}{_told(told)}" for name, (told, _) in CHANGES.items()]
    return "\n".join(["whole answers:", "  ok  the text as it is", *ends, "", "changes to the text:", *kinds])


def _told(told: str) -> str:
    return told if told.startswith("=") else f"  {told}"
