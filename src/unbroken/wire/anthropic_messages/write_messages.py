"""The messages of a conversation as `system` and `messages`.

The API joins turns of one role; servers like it do not, so they are joined here. Results of tools come first in
their turn, as it demands. Leading system messages are `system`. A later one goes behind the turn of the user that it
stands beside, where the model takes such messages; else up into `system`, which keeps its authority and loses its
place, and the caller is told so.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile

from unbroken.chat.conversation import Message, Role
from unbroken.chat.error import invalid
from unbroken.wire.anthropic_messages.write_parts import PartWriter, Written

Numbered = tuple[int, Message]


def write_messages(
    messages: Sequence[Message], parts: PartWriter, *, has_later_system: bool
) -> tuple[list[Written], list[Written]]:
    """The blocks of `system`, and the `messages`.

    Raises:
        RequestRefused: something in them has no word in this dialect, or nothing is asked.
    """
    numbered = list(enumerate(messages))
    leading = list(takewhile(lambda pair: pair[1].role is Role.SYSTEM, numbered))
    rest = numbered[len(leading) :]
    system = _blocks(leading, parts)
    written: list[Written] = []
    for is_assistant, group in groupby(rest, key=lambda pair: pair[1].role is Role.ASSISTANT):
        turn = list(group)
        if is_assistant:
            _add(written, "assistant", _blocks(turn, parts))
            continue
        asked = _blocks([pair for pair in turn if pair[1].role is Role.USER], parts)
        _add(written, "user", sorted(asked, key=lambda block: block["type"] != "tool_result"))
        said = [pair for pair in turn if pair[1].role is Role.SYSTEM]
        if asked and has_later_system:
            _add(written, "system", _blocks(said, parts))
        else:
            system += _blocks(said, parts)
            parts.dropped += [f"messages.{at}.role" for at, _ in said]
    _check_end(messages, written)
    return system, written


def _blocks(turn: Sequence[Numbered], parts: PartWriter) -> list[Written]:
    return list(_each_block(turn, parts))


def _each_block(turn: Sequence[Numbered], parts: PartWriter) -> Iterator[Written]:
    for at, message in turn:
        if message.name is not None:
            parts.dropped.append(f"messages.{at}.name")
        yield from parts.write(message.parts, f"messages.{at}.content")


def _add(written: list[Written], role: str, blocks: list[Written]) -> None:
    if not blocks:
        return  # the API refuses a turn without content
    if written and written[-1]["role"] == role:
        written[-1]["content"] += blocks
    else:
        written.append({"role": role, "content": blocks})


def _check_end(messages: Sequence[Message], written: list[Written]) -> None:
    """Refuses what would ask another question once the empty turns are left out."""
    if not written:
        raise invalid("messages: at least one message is required", param="messages")
    if messages[-1].role is Role.USER and written[-1]["role"] == "assistant":
        path = f"messages.{len(messages) - 1}.content"
        raise invalid(f"{path}: the last message has no content", param=path)


def lacks_thoughts(messages: Sequence[Written]) -> bool:
    """Whether results are given for calls whose thoughts did not come back: most dialects have no place for them."""
    match messages:
        case [*_, {"role": "assistant", "content": [first, *_] as blocks}, {"role": "user"}]:
            return first["type"] not in _THOUGHTS and any(block["type"] == "tool_use" for block in blocks)
    return False


_THOUGHTS = ("thinking", "redacted_thinking")


def as_short(message: Written) -> Written:
    """A message whose only content is plain text, with the text in the place of its blocks."""
    match message["content"]:
        case [{"type": "text", "text": text, **rest}] if not rest:
            return {**message, "content": text}
    return message
