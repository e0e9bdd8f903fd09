"""What the chat's commands do, but for those that ask the model or leave."""

from collections.abc import Callable, Sequence
from os.path import realpath
from pathlib import Path

from unbroken.client.api import ChatApi
from unbroken.client.commands import Command, help_text
from unbroken.client.failure import ChatFailed
from unbroken.client.models import Model
from unbroken.client.opening import detailed
from unbroken.client.session import ChatSession
from unbroken.client.surface import Surface
from unbroken.client.transcript import NotATranscript, read_json, write_json, write_markdown


class Actions:
    """Carries commands out on a session."""

    def __init__(
        self,
        session: ChatSession,
        api: ChatApi,
        models: Sequence[Model],
        surface: Surface,
        new_file_name: Callable[[], str],
    ) -> None:
        self._session = session
        self._api = api
        self._models = models
        self._surface = surface
        self._new_file_name = new_file_name
        self._saved: set[str] = set()  # what this chat wrote it may write over

    def model_names(self) -> list[str]:
        """The models of the server, as far as they are known."""
        return [model.name for model in self._models]

    async def run(self, command: Command) -> None:
        """Carry one command out."""
        match command.name:
            case "/help":
                self._surface.say(help_text())
            case "/model":
                await self._model(command.argument)
            case "/system":
                self._system(command.argument)
            case "/new":
                self._session.restart()
                self._surface.say("A new conversation.")
            case "/save":
                self._save(command.argument)
            case "/save!" if command.argument:
                self._save(command.argument, is_forced=True)
            case "/save!":
                self._surface.complain("Say which file: /save! chat.md.")
            case "/load":
                self._load(command.argument)
            case name:
                raise ValueError(f"no action for {name}")

    async def _model(self, name: str) -> None:
        try:
            self._models = await self._api.models()
        except ChatFailed as failed:
            if not name:
                self._surface.complain(str(failed))
                return
        known = {model.name: model for model in self._models}
        if not name:
            here = self._session.model.name
            self._surface.say("\n".join(f"{'*' if listed == here else ' '} {listed}" for listed in known))
        elif known and name not in known:
            self._surface.complain(f'There is no model "{name}". There are: {", ".join(known)}.')
        else:
            self._session.use(await detailed(self._api, known.get(name, Model(name))))
            self._surface.say(f"{name} answers from here on.")

    def _system(self, text: str) -> None:
        conversation = self._session.conversation
        if text:
            system = None if text.lower() == "none" else text
            self._session.conversation = conversation.with_system(system)
            self._surface.say("The system prompt is set." if system else "There is no system prompt any more.")
        else:
            self._surface.say(conversation.system or "There is no system prompt; /system TEXT sets one.")

    def _save(self, name: str, *, is_forced: bool = False) -> None:
        path = Path(name or self._new_file_name()).expanduser()
        write = write_json if path.suffix == ".json" else write_markdown
        may_replace = is_forced or (bool(name) and realpath(path) in self._saved)
        try:
            with path.open("w" if may_replace else "x", encoding="utf-8", errors="replace") as file:
                file.write(write(self._session.conversation))
        except FileExistsError:
            said = f"{path} is there already: /save FILE with another name, or /save! FILE to write over it."
            self._surface.complain(said)
        except OSError as error:
            self._surface.complain(f"{path} cannot be written: {error.strerror}.")
        else:
            self._saved.add(realpath(path))
            self._surface.say(f"Saved as {path}.")

    def _load(self, name: str) -> None:
        if not name:
            self._surface.complain("Say which file: /load chat.json.")
            return
        try:
            conversation = read_json(Path(name).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            self._surface.complain(f"{name} cannot be read: {error.strerror}.")
        except (NotATranscript, UnicodeDecodeError) as error:
            self._surface.complain(f"{name} cannot be loaded: {error}.")
        else:
            self._session.restart()
            self._session.conversation = conversation
            turns = len(conversation.turns)
            self._surface.say(f"Loaded {turns} turn{'' if turns == 1 else 's'} from {name}.")
