"""The line that is typed into: history, several lines, completion of commands and models."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

from unbroken.client.commands import COMMANDS
from unbroken.client.history import prepare_history

MARK = "> "


class Interrupted(Exception):
    """Ctrl-C was pressed; `had_text` where it only cleared what was typed."""

    def __init__(self, *, had_text: bool) -> None:
        super().__init__()
        self.had_text = had_text


class LinePrompt:
    """Reads what is typed; input and output are the terminal unless others are given."""

    def __init__(
        self,
        history: Path | None,
        model_names: Callable[[], Sequence[str]],
        *,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            FormattedText([("class:prompt", MARK)]),
            multiline=True,
            prompt_continuation=" " * len(MARK),
            history=_history(history),
            completer=CommandCompleter(model_names),
            complete_while_typing=True,
            key_bindings=_keys(),
            style=Style.from_dict({"prompt": "bold"}),
            reserve_space_for_menu=4,
            input=input,
            output=output,
        )

    async def read(self) -> str:
        """The next line or lines.

        Raises:
            Interrupted: Ctrl-C.
            EOFError: Ctrl-D on an empty line.
        """
        try:
            return await self._session.prompt_async()
        except KeyboardInterrupt:
            raise Interrupted(had_text=bool(self._session.default_buffer.text)) from None


class CommandCompleter(Completer):
    """Completes commands at the start of the line, and models behind `/model`."""

    def __init__(self, model_names: Callable[[], Sequence[str]]) -> None:
        self._model_names = model_names

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What could stand at the cursor."""
        typed = document.text_before_cursor
        if typed.startswith("/model "):
            begun = typed.removeprefix("/model ")
            for name in self._model_names():
                if name.startswith(begun):
                    yield Completion(name, start_position=-len(begun))
        elif typed.startswith("/") and " " not in typed:
            for name, (argument, told) in COMMANDS.items():
                if name.startswith(typed):
                    yield Completion(name, -len(typed), display=f"{name} {argument}".strip(), display_meta=told)


def _history(path: Path | None) -> History:
    return FileHistory(str(path)) if path is not None and prepare_history(path) else InMemoryHistory()


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\":
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def start_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
