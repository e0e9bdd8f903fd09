"""Conversations as files: JSON that can be loaded again, Markdown to read. Pure."""

import msgspec
from msgspec import Struct

from unbroken.client.conversation import Answer, Conversation


class NotATranscript(ValueError):
    """The file is no conversation that we can read; the message says why."""


class _Message(Struct, omit_defaults=True):
    role: str
    content: str
    model: str = ""
    #: True on an answer that was stopped or broke off.
    incomplete: bool = False


class _Transcript(Struct):
    messages: list[_Message]


def write_json(conversation: Conversation) -> str:
    """The conversation as JSON whose `messages` are those of the API."""
    messages = [_Message("system", conversation.system)] if conversation.system else []
    for turn in conversation.turns:
        messages.append(_Message("user", turn.question))
        if answer := turn.answer:
            messages.append(_Message("assistant", answer.text, answer.model, not answer.is_whole))
    return msgspec.json.format(msgspec.json.encode(_Transcript(messages)), indent=2).decode() + "\n"


def read_json(text: str) -> Conversation:
    """The conversation in what `write_json` gave.

    Raises:
        NotATranscript: it is something else.
    """
    try:
        messages = msgspec.json.decode(text, type=_Transcript).messages
    except msgspec.DecodeError as error:
        raise NotATranscript(f"not a saved conversation: {error}") from None
    conversation = Conversation()
    for number, message in enumerate(messages, 1):
        is_open = bool(conversation.turns) and conversation.turns[-1].answer is None
        match message.role:
            case "system" if not conversation.turns:
                conversation = conversation.with_system(message.content)
            case "user":
                conversation = conversation.asked(message.content)
            case "assistant" if is_open:
                answer = Answer(message.content, message.model, not message.incomplete)
                conversation = conversation.answered(answer)
            case role:
                raise NotATranscript(f'message {number} has the role "{role}", which cannot stand there')
    return conversation


def write_markdown(conversation: Conversation) -> str:
    """The conversation to be read; what the model wrote stays as it wrote it."""
    parts = [f"> **System:** {_quoted(conversation.system)}"] if conversation.system else []
    for turn in conversation.turns:
        parts += ["## You", turn.question]
        if answer := turn.answer:
            mark = "" if answer.is_whole else "\n\n*(incomplete)*"
            parts += [f"## {answer.model or 'Assistant'}", answer.text + mark]
    return "\n\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")
