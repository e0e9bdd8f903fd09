"""The log: one line a request and a line for what happens beside requests; never content or secrets.

Lines are gathered and written by a thread, so that a slow disk or a full pipe holds up no stream (FAULTS.md 35).
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import msgspec

MAX_WAITING = 10_000  # lines; what comes beyond is counted and dropped
GATHER_SECONDS = 0.1  # for which lines gather once one has come: the thread is woken for crowds, not for lines
MAX_WRITE_BYTES = 4096  # PIPE_BUF: so many reach a pipe in one piece, whoever else writes to it

# Nothing that moves a terminal's cursor, begins a line or turns the direction of the text.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROL |= {code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
_BARE = ("message", "method", "path", "status")  # fields that a person knows without their names

_encode = msgspec.json.Encoder().encode

Line = tuple[float, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Order:
    """Something to be done by the thread when all lines before it are written."""

    do: Callable[[], None]
    done: threading.Event = field(default_factory=threading.Event)


class Journal:
    """Writes lines to a file or a terminal, as JSON or for people; `always` are fields that every line has.

    Several processes may write to one file: lines stay whole.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        *,
        format: str = "auto",
        file: str = "",
        clock: Callable[[], float] = time.time,
        always: Mapping[str, Any] | None = None,
    ) -> None:
        self._clock = clock
        self._always = dict(always or {})
        self._waiting: deque[Line | _Order] = deque()
        self._dropped = 0
        self._is_woken = self._is_closed = False
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._out = out or sys.stderr
        self._file: TextIO | None = None
        self._second, self._stamp = 0, ""
        self._open(file, format)
        self._thread = threading.Thread(target=self._write_lines, name="journal", daemon=True)
        self._thread.start()

    def note(self, event: str, **fields: Any) -> None:
        """Writes one line: what happened, and its fields; a field that is None is left out."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append((self._clock(), event, fields))
        if not self._is_woken:
            self._is_woken = True
            self._wake.set()

    def flush(self) -> None:
        """Waits until what has been noted is written."""
        self._order(lambda: None).wait(timeout=10)

    def reopen(self, *, format: str, file: str) -> None:
        """Opens the file anew, once the lines so far are written: another program may have moved it away.

        Where it cannot be opened the journal goes on with the one it had, and says so.
        """
        self._order(lambda: self._open(file, format))

    def close(self) -> None:
        """Writes what is waiting and stops."""
        self._order(self._stop)
        self._thread.join(timeout=5)

    def _order(self, do: Callable[[], None]) -> threading.Event:
        order = _Order(do)
        self._waiting.append(order)
        self._hurry.set()
        self._wake.set()
        return order.done

    # in the thread

    def _open(self, file: str, format: str) -> None:
        # Without a file it is whatever it was given at first; a file belongs to the journal.
        opened = open(file, "a", encoding="utf-8", errors="backslashreplace") if file else None  # noqa: SIM115
        self._close_file()
        self._file, self._to = opened, opened or self._out
        self._is_json = format == "json" or (format == "auto" and not self._to.isatty())

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def _stop(self) -> None:
        self._close_file()
        self._is_closed = True

    def _write_lines(self) -> None:
        while not self._is_closed:
            self._wake.wait()
            self._hurry.wait(GATHER_SECONDS)
            self._hurry.clear()
            self._wake.clear()
            self._is_woken = False
            lines: list[str] = []
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                lines.append(self._render(self._clock(), "lines_dropped", {"count": dropped}))
            while self._waiting:
                entry = self._waiting.popleft()
                if isinstance(entry, _Order):
                    self._write(lines)
                    lines = []
                    self._obey(entry)
                else:
                    lines.append(self._render(*entry))
            self._write(lines)

    def _obey(self, order: _Order) -> None:
        try:
            order.do()
        except OSError as error:
            self.note("log", message=f"the log could not be opened anew: {error.strerror}")
        finally:
            order.done.set()

    def _write(self, lines: list[str]) -> None:
        for piece in _pieces(lines):
            try:
                self._to.write(piece)
                self._to.flush()
            except (OSError, ValueError):
                self._dropped += piece.count("\n")  # a full disk or a closed terminal must not end the gateway

    def _render(self, at: float, event: str, fields: dict[str, Any]) -> str:
        said = {name: value for name, value in fields.items() if value is not None} | self._always
        if self._is_json:
            try:
                return _encode({"time": self._timestamp(at), "event": event, **said}).decode() + "\n"
            except (TypeError, ValueError) as error:  # something that JSON cannot hold: the line is ours, say so
                return _encode({"time": self._timestamp(at), "event": event, "unwritable": str(error)}).decode() + "\n"
        words = " ".join(_human(name, value) for name, value in said.items())
        return f"{time.strftime('%H:%M:%S', time.localtime(at))} {event:<9} {words}".rstrip() + "\n"

    def _timestamp(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
        return f"{self._stamp}.{int((at - second) * 1000):03d}Z"


def _pieces(lines: list[str]) -> Iterator[str]:
    """The lines, put together to what is written at once."""
    piece, size = "", 0
    for line in lines:
        length = len(line.encode(errors="replace"))
        if piece and size + length > MAX_WRITE_BYTES:
            yield piece
            piece, size = "", 0
        piece, size = piece + line, size + length
    if piece:
        yield piece


def _human(name: str, value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    text = text.translate(_CONTROL)
    return text if name in _BARE else f"{name}={text}"
