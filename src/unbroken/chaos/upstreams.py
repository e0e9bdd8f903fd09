"""The upstreams of a run: two scripted ones that know every answer, and count how often each was asked for."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from unbroken.chaos.plan import FaultKind, Question
from unbroken.upstream.scripted import (
    Answer,
    Change,
    Received,
    ScriptedUpstream,
    cut_after,
    eof_after,
    error_event,
    gap,
    malformed_after,
    reset_after,
    stall_after,
    text,
)

MODEL = "chaos"

FAULTS: Mapping[FaultKind, Callable[[int], Change]] = {
    FaultKind.CUT: cut_after,
    FaultKind.RESET: reset_after,
    FaultKind.EOF: eof_after,
    FaultKind.STALL: stall_after,
    FaultKind.ERROR: lambda after: error_event("The upstream broke, as planned.", after=after),
    FaultKind.GARBAGE: malformed_after,
}


class Upstreams:
    """One that can only be asked again from the start, and one that goes on with a partial answer."""

    def __init__(self) -> None:
        self.matching = ScriptedUpstream(models=(MODEL,))
        self.splicing = ScriptedUpstream(models=(MODEL,))
        #: How often each prompt was asked, and how many of the askings broke off as planned.
        self.asked: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._questions: dict[str, Question] = {}
        self._leaving = AsyncExitStack()

    @property
    def open_answers(self) -> int:
        """Answers that are being written."""
        return self.matching.open_answers + self.splicing.open_answers

    def expect(self, questions: Iterable[Question]) -> None:
        """These are going to be asked, and no others any more."""
        self._questions = {question.prompt: question for question in questions}

    async def wait_until_idle(self, timeout: float) -> None:
        """Waits until nobody is being answered; raises TimeoutError."""
        await self.matching.wait_until_idle(timeout=timeout)
        await self.splicing.wait_until_idle(timeout=timeout)

    async def __aenter__(self) -> Self:
        self.matching.answer_with(lambda received: self._answer(received))
        self.splicing.answer_with(lambda received: self._answer(received))
        await self._leaving.enter_async_context(self.matching)
        await self._leaving.enter_async_context(self.splicing)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leaving.__aexit__(kind, error, trace)

    def _answer(self, received: Received) -> Answer | None:
        messages = received.fields().get("messages")
        if not messages:
            return None
        prompt, partial = _prompt_and_partial(messages)
        if (question := self._questions.get(prompt)) is None:
            return None
        at = self.asked[prompt]
        self.asked[prompt] += 1
        # What does not go on from the partial answer is another answer: the gateway has to find that out.
        rest = question.text.removeprefix(partial)
        answer = text(rest) | gap(question.gap)
        if at >= len(question.faults):
            return answer
        self.faults[prompt] += 1
        return answer | FAULTS[question.faults[at].kind](question.faults[at].after)


def _prompt_and_partial(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """What the user said, and what of the answer is there already."""
    said = {message["role"]: _text(message["content"]) for message in messages}
    return said.get("user", ""), said.get("assistant", "")


def _text(content: Any) -> str:
    """A message's text, which some dialects say in parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
