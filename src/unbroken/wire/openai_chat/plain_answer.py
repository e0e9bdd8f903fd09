"""The fast way for a whole answer that is just as the API describes it: id and model are exchanged where they stand."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from unbroken.chat.usage import Usage

# As OpenAI, vLLM, llama.cpp and most others begin their answers. What a string escapes is left to the slow way.
_HEAD = re.compile(
    rb'\s*\{\s*"id"\s*:\s*("[^"\\]*+")\s*,\s*"object"\s*:\s*"chat\.completion"\s*,\s*"created"\s*:\s*\d++\s*,'
    rb'\s*"model"\s*:\s*("[^"\\]*+")\s*,'
)

_Count = Annotated[int, Meta(ge=0)] | None


class _Message(Struct):
    role: Literal["assistant"]
    content: str
    tool_calls: None = None


class _Choice(Struct):
    index: int
    message: _Message
    finish_reason: Literal["stop", "length"]


class _PromptDetails(Struct):
    cached_tokens: _Count = None
    cache_write_tokens: _Count = None


class _CompletionDetails(Struct):
    reasoning_tokens: _Count = None


class _Usage(Struct):
    """What `read_usage` finds in numbers that are as they should be."""

    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Answer(Struct):
    id: str
    model: str
    choices: list[_Choice]
    usage: _Usage | None = None
    error: None = None
    type: None = None


_read = msgspec.json.Decoder(_Answer).decode
_write = msgspec.json.Encoder().encode


def relay_plain_answer(body: bytes, stream_id: str, model: str) -> tuple[bytes, Usage | None, tuple[str, ...]] | None:
    """The answer in our name, its usage, and its finish reasons; None where it wants a closer look."""
    head = _HEAD.match(body)
    # Also where a member occurs twice: the last one counts, and would not be the one that is exchanged.
    if head is None or body.count(b'"id"') != 1 or body.count(b'"model"') != 1:
        return None
    try:
        if not body.isascii():
            body.decode()  # strings that are not read are passed on as they are
        answer = _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not answer.choices:
        return None
    (id_start, id_end), (model_start, model_end) = head.span(1), head.span(2)
    written = b"%b%b%b%b%b" % (
        body[:id_start],
        _write(stream_id),
        body[id_end:model_start],
        _write(model),
        body[model_end:],
    )
    return written, _told(answer.usage), tuple([choice.finish_reason for choice in answer.choices])


def _told(usage: _Usage | None) -> Usage | None:
    if usage is None or (usage.prompt_tokens is None and usage.completion_tokens is None):
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        input=usage.prompt_tokens or 0,
        output=usage.completion_tokens or 0,
        cached_read=(prompt and prompt.cached_tokens) or 0,
        cache_write=(prompt and prompt.cache_write_tokens) or 0,
        reasoning=(completion and completion.reasoning_tokens) or 0,
    )
