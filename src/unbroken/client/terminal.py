"""The chat in a terminal: questions, commands and answers in turn, until its user leaves."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from unbroken.client.actions import Actions
from unbroken.client.commands import Command, Question, Unknown, read_line
from unbroken.client.failure import ChatFailed
from unbroken.client.interrupt import silent_keyboard, until_interrupted
from unbroken.client.one_shot import RECONNECTED, between, ending_note
from unbroken.client.plain_view import AnswerView
from unbroken.client.prompt import Interrupted
from unbroken.client.session import Answered, ChatSession, Notice
from unbroken.client.surface import Surface

Asking = Callable[[AnswerView, Notice], Coroutine[Any, Any, Answered]]


class Prompt(Protocol):
    """Where lines come from."""

    async def read(self) -> str:
        """The next line; raises Interrupted and EOFError."""


class TerminalChat:
    """One interactive chat."""

    def __init__(
        self, session: ChatSession, actions: Actions, prompt: Prompt, surface: Surface, *, stats: bool
    ) -> None:
        self._session = session
        self._actions = actions
        self._prompt = prompt
        self._surface = surface
        self._stats = stats
        self._is_leaving = False  # one more Ctrl-C leaves

    async def run(self) -> None:
        """Talk until the user leaves."""
        while True:
            try:
                line = await self._prompt.read()
            except EOFError:
                return
            except Interrupted as interrupted:
                if self._is_leaving and not interrupted.had_text:
                    return
                self._is_leaving = True
                self._surface.say("Ctrl-C once more leaves, and so does Ctrl-D.")
                continue
            self._is_leaving = False
            match read_line(line):
                case Question(text):
                    await self._ask(text)
                case Command("/exit"):
                    return
                case Command("/retry"):
                    await self._ask_again()
                case Command() as command:
                    await self._actions.run(command)
                case Unknown(name, suggestion):
                    meant = f"Did you mean {suggestion}?" if suggestion else "/help shows those that there are."
                    self._surface.complain(f"There is no command {name}. {meant}")

    async def _ask(self, question: str) -> None:
        await self._show_answer(lambda view, notice: self._session.ask(question, view.show, notice))

    async def _ask_again(self) -> None:
        if self._session.conversation.turns:
            await self._show_answer(lambda view, notice: self._session.ask_again(view.show, notice))
        else:
            self._surface.complain("There is no question yet that could be asked again.")

    async def _show_answer(self, asking: Asking) -> None:
        view = self._surface.new_view()
        view.wait()
        try:
            with silent_keyboard():
                answered = await until_interrupted(asking(view, between(view, self._surface)))
        except ChatFailed as failed:
            view.end()
            self._surface.complain(f"{failed}\n")
            return
        view.end()
        if answered is None:
            self._is_leaving = True
            self._surface.say("Stopped; /retry asks again, Ctrl-C once more leaves.\n")
            return
        if answered.is_resumed:
            self._surface.say(RECONNECTED)
        if ending := ending_note(answered.reason):
            self._surface.say(ending)
        self._surface.say(f"{answered.stats}\n" if self._stats else "")
