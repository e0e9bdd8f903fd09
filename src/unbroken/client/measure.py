"""How fast an answer came. Pure: the clock is passed in."""

from collections.abc import Callable, Sequence

from unbroken.chat.events import Event, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStarted, UsageReported
from unbroken.chat.usage import Usage

Clock = Callable[[], float]


class Stopwatch:
    """Begins when it is made; is shown the events as they come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock()
        self._first: float | None = None
        self._last = self._began
        self._deltas = 0
        self.usage: Usage | None = None

    def take(self, events: Sequence[Event]) -> None:
        """Note when these events came, and what they say about tokens."""
        now = self._clock()
        for event in events:
            match event:
                case TextDelta() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta():
                    self._last = now
                    self._first = self._last if self._first is None else self._first
                    self._deltas += 1
                case UsageReported(usage):
                    self.usage = usage

    def line(self, model: str) -> str:
        """Tokens (`~`: only pieces were counted), their speed, seconds to the first one, and the model."""
        counted = self.usage.output if self.usage else 0
        tokens = counted or self._deltas
        words = [f"{'' if counted else '~'}{tokens} token{'' if tokens == 1 else 's'}"]
        if self._first is not None:
            # The first token takes the prompt's time: speed is that of the tokens after it.
            if self._deltas > 1 and self._last > self._first:
                words.append(f"{_figure((tokens - 1) / (self._last - self._first))} tok/s")
            words.append(f"first token {self._first - self._began:.2f} s")
        return " · ".join([*words, model])


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"
