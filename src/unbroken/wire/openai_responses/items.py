"""Input items as messages: what is said so far."""

from collections.abc import Iterator

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.conversation import (
    Audio,
    Document,
    Image,
    Message,
    Part,
    Refusal,
    Role,
    SealedThinking,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from unbroken.chat.error import invalid
from unbroken.wire.openai_chat.data_url import read_data_url
from unbroken.wire.openai_responses.complaints import no_word, read_as
from unbroken.wire.openai_responses.request import NULL

PARAGRAPH = "\n\n"
"""What stands between the parts of a summary that are made one text."""


class _Sound(Struct):
    data: str
    format: str


class _Part(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Raw] | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: _Sound | None = None


class _Kind(Struct):
    type: str | None = None


class _Item(Struct):
    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Raw = NULL
    status: str | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None


_KIND = msgspec.json.Decoder(_Kind)
_ITEM = msgspec.json.Decoder(_Item)
_OUTPUT = msgspec.json.Decoder(str | list[_Part])
_write = msgspec.json.Encoder().encode

_KNOWN = (None, "message", "function_call", "function_call_output", "reasoning", "item_reference")

_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM, "developer": Role.SYSTEM}


def read_items(items: list[Raw]) -> tuple[Message, ...]:
    """The messages that the items make.

    Items of the model that follow on each other are one message of the assistant; results of tools that do are one of
    the user.

    Raises:
        RequestRefused: 400 that names an item that is wrong, or that no other dialect has a word for.
    """
    messages: list[Message] = []
    joinable = False  # whether the last message is made of items that may be added to
    for at, raw in enumerate(items):
        message, is_piece = _read_item(raw, f"input[{at}]")
        if not message.parts:
            continue
        last = messages[-1] if messages else None
        if last is not None and joinable and is_piece and last.role is message.role:
            messages[-1] = Message(last.role, last.parts + message.parts)
        else:
            messages.append(message)
        joinable = is_piece
    return tuple(messages)


def _read_item(raw: Raw, where: str) -> tuple[Message, bool]:
    """The message of one item, and whether it may be one with its neighbours."""
    kind = read_as(_KIND, raw, where).type
    if kind not in _KNOWN:
        raise no_word(f"{where}.type", f'only an upstream of this API knows items of type "{kind}"')
    item = read_as(_ITEM, raw, where)
    match kind:
        case None | "message":
            role = _ROLES.get(item.role or "")
            if role is None:
                raise no_word(
                    f"{where}.role", f'expected "user", "assistant", "system" or "developer", found {item.role!r}'
                )
            return Message(role, tuple(_content(item.content or "", f"{where}.content"))), role is Role.ASSISTANT
        case "function_call":
            call_id, name = _said(item.call_id, f"{where}.call_id"), _said(item.name, f"{where}.name")
            return Message(Role.ASSISTANT, (ToolCall(call_id, name, item.arguments or "{}"),)), True
        case "function_call_output":
            output = item.output if item.output != NULL else Raw(b'""')
            parts = tuple(_content(read_as(_OUTPUT, output, f"{where}.output"), f"{where}.output"))
            fitting = tuple(part for part in parts if isinstance(part, Text | Image | Document))
            if len(fitting) < len(parts):
                raise no_word(f"{where}.output", "expected text, images and files only")
            call_id = _said(item.call_id, f"{where}.call_id")
            return Message(Role.USER, (ToolResult(call_id, fitting, item.status == "incomplete"),)), True
        case "reasoning":
            return Message(Role.ASSISTANT, tuple(_thinking(item))), True
        case _:
            raise no_word(
                where, "an item_reference can be followed only where the item was stored; give the item itself"
            )


def _said(value: str | None, where: str) -> str:
    if value is None:
        raise invalid(f"Missing required parameter: '{where}'.", param=where, code="missing_required_parameter")
    return value


def _thinking(item: _Item) -> Iterator[Part]:
    parts = item.content if isinstance(item.content, list) and item.content else item.summary
    if parts:
        yield Thinking(PARAGRAPH.join(part.text or "" for part in parts), item.encrypted_content)
    elif item.encrypted_content:
        yield SealedThinking(item.encrypted_content)


def _content(content: str | list[_Part], where: str) -> Iterator[Part]:
    if isinstance(content, str):
        yield Text(content)
        return
    for at, part in enumerate(content):
        yield _read_part(part, f"{where}[{at}]")


def _read_part(part: _Part, where: str) -> Part:
    match part.type:
        case "input_text" | "output_text" | "text" | "summary_text":
            citations = Raw(_write(part.annotations)) if part.annotations else None
            return Text(part.text or "", citations=citations)
        case "refusal":
            return Refusal(part.refusal or "")
        case "input_image":
            return _image(part, where)
        case "input_file":
            return _document(part, where)
        case "input_audio" if part.input_audio is not None:
            return Audio(part.input_audio.data, part.input_audio.format)
        case _:
            raise no_word(f"{where}.type", f'there is no content of type "{part.type}"')


def _image(part: _Part, where: str) -> Image:
    if part.image_url is None:
        raise no_word(f"{where}.file_id" if part.file_id else where, "expected an image_url")
    if (found := read_data_url(part.image_url)) is not None:
        media_type, data = found
        return Image(data=data, media_type=media_type, detail=part.detail)
    return Image(url=part.image_url, detail=part.detail)


def _document(part: _Part, where: str) -> Document:
    if part.file_data is not None:
        # Without the head of a data URL it is the data itself.
        media_type, data = read_data_url(part.file_data) or (None, part.file_data)
        return Document(data=data, media_type=media_type, name=part.filename)
    if part.file_url is None and part.file_id is None:
        raise no_word(where, "expected a file_data, a file_url or a file_id")
    return Document(url=part.file_url, file_id=part.file_id, name=part.filename)
