"""Tool calls as a person reads them."""

import json

from unbroken.chat.events import ToolCallDelta, ToolCallStarted
from unbroken.client.visible import visible_line


class ToolCalls:
    """The calls of an answer, put together from their pieces."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._arguments: dict[int, str] = {}

    def take(self, event: ToolCallStarted | ToolCallDelta) -> None:
        """Note a piece."""
        match event:
            case ToolCallStarted(index, _, name):
                self._names[index] = name
            case ToolCallDelta(index, arguments):
                self._arguments[index] = self._arguments.get(index, "") + arguments

    def lines(self) -> list[str]:
        """One line per call: its name and its arguments so far."""
        return [
            f"→ {visible_line(name)}({_told(self._arguments.get(index, ''))})" for index, name in self._names.items()
        ]


def _told(arguments: str) -> str:
    """`{"city": "Berlin"}` as `city="Berlin"`; anything else as it is."""
    try:
        said = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return visible_line(arguments)
    if not isinstance(said, dict):
        return visible_line(arguments)
    return visible_line(", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in said.items()))
