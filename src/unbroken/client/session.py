"""Asking: a conversation, the model that answers it, and what is sent of it."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from unbroken.chat.events import Event, Finished, Started, TextDelta, ToolCallDelta, ToolCallStarted
from unbroken.chat.fault import Fault
from unbroken.client.api import ChatApi, Sampling
from unbroken.client.context import ContextEstimate, Fit, read_context_length, shorter
from unbroken.client.conversation import Answer, Conversation
from unbroken.client.failure import ChatFailed
from unbroken.client.measure import Clock, Stopwatch
from unbroken.client.models import Model

Show = Callable[[Sequence[Event]], None]
Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer, why it ended in the server's word, and a line on how fast it came."""

    answer: Answer
    reason: str
    stats: str
    #: Whether it went on after its line had dropped.
    is_resumed: bool = False


class ChatSession:
    """One conversation with one server; the model may change on the way."""

    def __init__(self, api: ChatApi, model: Model, *, clock: Clock, sampling: Sampling | None = None) -> None:
        self.conversation = Conversation()
        self.model = model
        self._api = api
        self._clock = clock
        self._sampling = sampling or Sampling()
        self._estimate = ContextEstimate(model.context_length)
        self._left_out = 0

    def use(self, model: Model) -> None:
        """Go on with another model."""
        self.model = model
        self._estimate = ContextEstimate(model.context_length)

    def restart(self) -> None:
        """Forget the turns; the system prompt stays."""
        self.conversation = Conversation(self.conversation.system)
        self._left_out = 0

    async def ask(self, question: str, show: Show, notice: Notice) -> Answered:
        """Ask, show the answer as it comes, and keep it, also where it is stopped or breaks off.

        Raises:
            ChatFailed: there is no whole answer; what came of it is in the conversation.
        """
        self.conversation = self.conversation.asked(question)
        return await self._answer(show, notice)

    async def ask_again(self, show: Show, notice: Notice) -> Answered:
        """Ask the last question anew, its answer forgotten; as `ask`."""
        self.conversation = self.conversation.without_last_answer()
        return await self._answer(show, notice)

    async def _answer(self, show: Show, notice: Notice) -> Answered:
        fit = self._estimate.fit(self.conversation, self._sampling.max_tokens)
        self._tell(fit, notice)
        try:
            return await self._stream(fit, show)
        except ChatFailed as failed:
            shortened = self._shortened(fit, failed)
            if shortened is None:
                raise
        self._tell(shortened, notice)
        return await self._stream(shortened, show)

    def _shortened(self, fit: Fit, failed: ChatFailed) -> Fit | None:
        """What to send instead after this failure; None where nothing shorter would help."""
        turn = self.conversation.turns[-1]
        if failed.fault is not Fault.CONTEXT_LENGTH or turn.answer:
            return None
        length = read_context_length(str(failed))
        if length and length < (self._estimate.length or length + 1):
            self._estimate = replace(self._estimate, length=length)
            fitted = self._estimate.fit(self.conversation, self._sampling.max_tokens)
            if fitted.left_out > fit.left_out:
                return fitted
        return shorter(fit)

    async def _stream(self, fit: Fit, show: Show) -> Answered:
        heard, stopwatch = _Heard(self.model.name), Stopwatch(self._clock)
        is_whole = False
        resumed = self._api.resumed
        try:
            messages = fit.conversation.messages()
            async with aclosing(self._api.stream_chat(messages, self.model.name, self._sampling)) as groups:
                async for events in groups:
                    stopwatch.take(events)
                    heard.take(events)
                    show(events)
            is_whole = True
        finally:
            if heard.text or is_whole:
                self.conversation = self.conversation.answered(heard.answer(is_whole=is_whole))
        if stopwatch.usage:
            self._estimate = self._estimate.corrected(fit.conversation, stopwatch.usage.input)
        is_resumed = self._api.resumed > resumed
        return Answered(heard.answer(is_whole=True), heard.reason, stopwatch.line(heard.model), is_resumed)

    def _tell(self, fit: Fit, notice: Notice) -> None:
        if fit.left_out > self._left_out:
            turns = "The oldest turn is" if fit.left_out == 1 else f"The oldest {fit.left_out} turns are"
            notice(f"{turns} no longer sent: the conversation is longer than the model's context.")
        self._left_out = fit.left_out


class _Heard:
    """Collects what an answer says; tool calls are kept as the text that was shown."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.reason = ""
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Started(_, model) if model:
                    self.model = model
                case TextDelta(text, choice=0):
                    self._pieces.append(text)
                case ToolCallStarted(_, _, name, choice=0):
                    self._pieces.append(f"\n→ {name} " if self._pieces else f"→ {name} ")
                case ToolCallDelta(_, arguments, choice=0):
                    self._pieces.append(arguments)
                case Finished(reason, choice=0):
                    self.reason = reason

    def answer(self, *, is_whole: bool) -> Answer:
        return Answer(self.text, self.model, is_whole)
