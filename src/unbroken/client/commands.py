"""What a line typed into the chat means. Pure."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

COMMANDS: Mapping[str, tuple[str, str]] = {
    "/help": ("", "show this"),
    "/model": ("[name]", "list the models, or go on with another one"),
    "/system": ("[text]", "show the system prompt, or set it; /system none takes it away"),
    "/new": ("", "start a new conversation, with the same system prompt"),
    "/retry": ("", "ask the last question again"),
    "/save": ("[file]", "save the conversation: .md to read, .json to load again"),
    "/save!": ("file", "the same, over a file that is there"),
    "/load": ("file", "go on with a conversation saved as .json"),
    "/exit": ("", "leave; Ctrl-D does too"),
}
SYNONYMS: Mapping[str, str] = {"/quit": "/exit", "/bye": "/exit", "/clear": "/new", "/?": "/help", "/models": "/model"}

_COMMAND = re.compile(r"(/[a-z?]+!?)(?:\s+(.*))?", re.I | re.S)  # "/etc/hosts" is no command


@dataclass(frozen=True, slots=True)
class Question:
    """A line for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A line for the chat itself; its name is one of COMMANDS."""

    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that does not exist, and the one that was perhaps meant."""

    name: str
    suggestion: str | None = None


def read_line(line: str) -> Question | Command | Unknown | None:
    """What the line means; None where it is empty."""
    text = line.strip()
    if not text:
        return None
    found = _COMMAND.fullmatch(text)
    if found is None:
        return Question(text)
    name = SYNONYMS.get(found[1].lower(), found[1].lower())
    if name in COMMANDS:
        return Command(name, (found[2] or "").strip())
    near = difflib.get_close_matches(name, [*COMMANDS, *SYNONYMS], 1, 0.5)
    return Unknown(name, SYNONYMS.get(near[0], near[0]) if near else None)


def help_text() -> str:
    """Every command and key."""
    said = [(f"{name} {argument}".strip(), told) for name, (argument, told) in COMMANDS.items()]
    said += [
        ("Alt-Enter", "a new line; so does Enter behind a backslash, and a paste keeps its lines"),
        ("Ctrl-C", "stop the answer; twice: leave"),
    ]
    width = max(len(name) for name, _ in said)
    return "\n".join(f"  {name:<{width}}  {told}" for name, told in said)
