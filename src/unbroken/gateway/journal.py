"""The log: one line a request and a line for what happens beside requests; never content or secrets.

Lines are gathered and written by a thread, so that a slow disk or a full pipe holds up no stream (FAULTS.md 35).
"""

import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

import msgspec

MAX_WAITING = 10_000  # lines; what comes beyond is counted and dropped

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


class Journal:
    """Writes lines to a file or a terminal, as JSON or for people."""

    def __init__(
        self, out: TextIO | None = None, *, format: str = "auto", file: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        # The file belongs to the journal from here to `close`.
        self._out = open(file, "a", encoding="utf-8") if file else (out or sys.stderr)  # noqa: SIM115
        self._is_json = format == "json" or (format == "auto" and not self._out.isatty())
        self._clock = clock
        self._lines: queue.Queue[tuple[float, str, dict[str, Any]] | None] = queue.Queue(MAX_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_lines, name="journal", daemon=True)
        self._thread.start()

    def note(self, event: str, **fields: Any) -> None:
        """Writes one line: what happened, and its fields; a field that is None is left out."""
        try:
            self._lines.put_nowait((self._clock(), event, fields))
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Waits until what has been noted is written."""
        self._lines.join()

    def close(self) -> None:
        """Writes what is waiting and stops."""
        self._lines.put(None)
        self._thread.join(timeout=5)
        if self._file:
            self._out.close()

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._write(self._render(self._clock(), "lines_dropped", {"count": dropped}))
            self._write(self._render(*line))
            self._lines.task_done()

    def _write(self, line: str) -> None:
        try:
            self._out.write(line)
            self._out.flush()
        except (OSError, ValueError):
            self._dropped += 1  # a full disk or a closed terminal must not end the gateway

    def _render(self, at: float, event: str, fields: dict[str, Any]) -> str:
        said = {name: value for name, value in fields.items() if value is not None}
        if self._is_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
            return msgspec.json.encode({"time": stamp, "event": event, **said}).decode() + "\n"
        words = " ".join(_human(name, value) for name, value in said.items())
        return f"{time.strftime('%H:%M:%S', time.localtime(at))} {event:<9} {words}".rstrip() + "\n"


def _human(name: str, value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    text = text.translate(_CONTROL)
    return text if name in ("message", "method", "path", "status") else f"{name}={text}"
