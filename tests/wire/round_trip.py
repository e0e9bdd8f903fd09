"""What a conversation may lose on its way through another dialect and back: all of it, as tables.

`SPELLINGS` are two ways to say one thing: what a dialect has one word for where others have two. `DROPPED` is what may
be missing if the caller was told so by this name. `NO_WORD` is what must be refused, and by which name. Whatever is in
none of the tables comes back as it was said.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType

from msgspec import Raw

from unbroken.chat.conversation import (
    Audio,
    Conversation,
    Document,
    Image,
    JsonFormat,
    Message,
    NamedTool,
    Part,
    Reasoning,
    Refusal,
    Role,
    SealedThinking,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolUse,
)
from unbroken.wire.anthropic_messages.write_parts import call_id

Change = Callable[[Conversation], Conversation]

CHAT, MESSAGES, RESPONSES = "openai-chat", "anthropic-messages", "openai-responses"


# --- ways to change a conversation


def each_part(change: Callable[[Part], Part | None]) -> Change:
    """Changes every part, those of results too; None leaves a part out."""

    def changed(parts: Iterable[Part]) -> Iterator[Part]:
        for part in parts:
            if isinstance(part, ToolResult):
                part = replace(part, parts=tuple(changed(part.parts)))  # type: ignore[arg-type]
            if (new := change(part)) is not None:
                yield new

    return lambda said: replace(
        said, messages=tuple(replace(message, parts=tuple(changed(message.parts))) for message in said.messages)
    )


def each_message(change: Callable[[Message], Message]) -> Change:
    return lambda said: replace(said, messages=tuple(change(message) for message in said.messages))


def without(**fields: object) -> Change:
    """Sets fields to what they are if nothing is said."""
    return lambda said: replace(said, **fields)  # type: ignore[arg-type]


def reasoning(change: Callable[[Reasoning], Reasoning]) -> Change:
    return lambda said: said if said.reasoning is None else replace(said, reasoning=change(said.reasoning))


def format(change: Callable[[JsonFormat], JsonFormat]) -> Change:
    return lambda said: said if said.format is None else replace(said, format=change(said.format))


def uncached(part: Part) -> Part:
    return replace(part, cache=None) if isinstance(part, Text | Image | Document | ToolCall | ToolResult) else part


def no_cache(said: Conversation) -> Conversation:
    extras = {name: raw for name, raw in said.extras.items() if name != "cache_control"}
    tools = tuple(replace(tool, cache=None) for tool in said.tools)
    return each_part(uncached)(replace(said, tools=tools, extras=MappingProxyType(extras)))


def unsealed(part: Part) -> Part | None:
    return None if isinstance(part, Thinking) and part.signature is None else part


# --- what may be missing if it was told

DROPPED: Mapping[str, Change] = {
    r"cache_control": no_cache,
    r"is_error": each_part(lambda part: replace(part, is_error=False) if isinstance(part, ToolResult) else part),
    r"(messages\.\d+\.)?name": each_message(lambda message: replace(message, name=None)),
    r"title": each_part(
        lambda part: replace(part, name=None) if isinstance(part, Document) and part.text is not None else part
    ),
    r"messages\..*\.detail": each_part(lambda part: replace(part, detail=None) if isinstance(part, Image) else part),
    r"(messages\..*\.)?citations": each_part(
        lambda part: replace(part, citations=None) if isinstance(part, Text) else part
    ),
    r"reasoning|messages\.\d+\.content\.\d+": each_part(unsealed),
    r"messages\.\d+\.role": lambda said: replace(
        said, messages=tuple(sorted(said.messages, key=lambda message: message.role is not Role.SYSTEM))
    ),
    # How much is thought is one wish, whether it is a word or a number.
    r"reasoning\.(budget|enabled)|reasoning_effort|thinking\.budget_tokens": without(reasoning=None),
    r"reasoning\.summary": reasoning(lambda wished: replace(wished, summary=None)),
    r"response_format\.json_schema\.description": format(lambda wished: replace(wished, description=None)),
    r"parallel_tool_calls": without(parallel_tools=None),
    **{
        name: without(**{name: None})
        for name in (
            *("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty", "top_logprobs"),
            "service_tier",
        )
    },
}


def without_told(said: Conversation, dropped: Iterable[str]) -> Conversation:
    """The conversation without what was told to be dropped."""
    for name in dropped:
        changes = [change for pattern, change in DROPPED.items() if re.fullmatch(pattern, name)]
        for change in changes:
            said = change(said)
        extras = {other: raw for other, raw in said.extras.items() if other != name}
        said = replace(said, extras=MappingProxyType(extras))
    return said


# --- two ways to say one thing


def as_text(part: Part) -> Part:
    match part:
        case Document(text=str(text), cache=cache):
            return Text(text, cache)
    return part


def named(part: Part) -> Part:
    """OpenAI wants a name beside the data of a document."""
    if isinstance(part, Document) and part.data is not None and part.name in ("document", "document.pdf"):
        return replace(part, name=None)
    return part


def by_kind(message: Message) -> Message:
    """Chat Completions has one place for each kind of part in an answer."""
    if message.role is not Role.ASSISTANT:
        return message
    kinds: list[type | tuple[type, ...]] = [(Thinking, SealedThinking), Text, Refusal, ToolCall]
    return replace(message, parts=tuple(part for kind in kinds for part in message.parts if isinstance(part, kind)))


def cited_last(message: Message) -> Message:
    """Chat Completions has one list of sources for all texts of an answer."""
    texts = [at for at, part in enumerate(message.parts) if isinstance(part, Text)]
    sources = [part.citations for part in message.parts if isinstance(part, Text) and part.citations is not None]
    parts = [replace(part, citations=None) if isinstance(part, Text) else part for part in message.parts]
    if texts and sources and isinstance(last := parts[texts[-1]], Text):
        inner = b",".join(bytes(source).strip()[1:-1] for source in sources)
        parts[texts[-1]] = replace(last, citations=Raw(b"[%b]" % inner))
    return replace(message, parts=tuple(parts))


def one_refusal(message: Message) -> Message:
    """Chat Completions has one refusal in an answer."""
    refusals = [part.text for part in message.parts if isinstance(part, Refusal)]
    others = tuple(part for part in message.parts if not isinstance(part, Refusal))
    return replace(message, parts=(*others, Refusal("".join(refusals)))) if refusals else message


def turns(said: Conversation) -> Conversation:
    """Who speaks is what counts, not in how many messages; empty ones say nothing."""
    messages: list[Message] = []
    for _, run in groupby(said.messages, lambda message: (message.role, message.name)):
        joined = list(run)
        parts = tuple(part for message in joined for part in message.parts if part != Text(""))
        if parts:
            messages.append(replace(joined[0], parts=parts))
    return replace(said, messages=tuple(messages))


def anthropic_turns(said: Conversation) -> Conversation:
    """In the Messages API results come first in their turn, and system messages last."""
    messages: list[Message] = []
    leading = True
    for is_assistant, run in groupby(said.messages, lambda message: message.role is Role.ASSISTANT):
        turn = list(run)
        system = [message for message in turn if message.role is Role.SYSTEM]
        asked = [part for message in turn if message.role is Role.USER for part in message.parts]
        if is_assistant:
            messages += turn
            continue
        if leading:
            first = [message for at, message in enumerate(turn) if turn[: at + 1] == system[: at + 1]]
            messages += first
            system = system[len(first) :]
        asked.sort(key=lambda part: not isinstance(part, ToolResult))
        messages += [Message(Role.USER, tuple(asked))] if asked else []
        messages += system
        leading = False
    return replace(said, messages=tuple(messages))


def chosen(said: Conversation) -> Conversation:
    """Nothing is chosen where there are no tools; to choose freely is what is done anyway."""
    if not said.tools and said.tool_choice in (None, ToolUse.AUTO, ToolUse.NONE):
        return replace(said, tool_choice=None, parallel_tools=None)
    choice = None if said.tool_choice is ToolUse.AUTO else said.tool_choice
    return replace(said, tool_choice=choice, parallel_tools=said.parallel_tools is not False)


def thinking(wished: Reasoning) -> Reasoning:
    """An effort says that it is to be thought."""
    if wished.enabled is False or wished.effort == "none":
        return Reasoning(False)
    return replace(wished, enabled=None) if wished.effort or wished.budget else wished


def no_reasoning(said: Conversation) -> Conversation:
    return replace(said, reasoning=None) if said.reasoning == Reasoning() else said


def defaults(said: Conversation) -> Conversation:
    """What the Messages API does anyway where it takes no such setting."""
    chance = {"temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0}
    return replace(said, **{name: None for name, value in chance.items() if getattr(said, name) == value})


NO_SCHEMAS = (None, Raw(b'{"type":"object","properties":{}}'))
_SHOWN = ("auto", "concise", "detailed", "summarized", "omitted")

#: By the dialect that says it so; "" are those that hold for all.
SPELLINGS: Mapping[str, tuple[Change, ...]] = {
    "": (
        turns,
        chosen,
        reasoning(thinking),
        each_part(
            lambda part: replace(part, detail=None) if isinstance(part, Image) and part.detail == "auto" else part
        ),
        each_part(named),
        lambda said: replace(
            said,
            tools=tuple(replace(tool, schema=None) if tool.schema in NO_SCHEMAS else tool for tool in said.tools),
        ),
    ),
    CHAT: (
        each_part(as_text),
        turns,
        each_message(one_refusal),
        each_message(by_kind),
        each_message(cited_last),
        format(lambda wished: replace(wished, name=None) if wished.name == "response" else wished),
    ),
    MESSAGES: (
        anthropic_turns,
        turns,
        # The words are an answer's: there is no place of its own for a refusal.
        each_part(lambda part: Text(part.text) if isinstance(part, Refusal) else part),
        # A format has no name, and is always kept to.
        format(lambda wished: JsonFormat(wished.schema, description=wished.description)),
        each_part(lambda part: replace(part, id=call_id(part.id)) if isinstance(part, ToolCall) else part),
        each_part(lambda part: replace(part, call_id=call_id(part.call_id)) if isinstance(part, ToolResult) else part),
        # A limit must be said: it is made up where there is none (T8).
        without(max_tokens=None),
        defaults,
        reasoning(lambda wished: replace(wished, effort="low") if wished.effort == "minimal" else wished),
        reasoning(lambda wished: replace(wished, summary="summarized") if wished.summary in _SHOWN[:4] else wished),
    ),
    RESPONSES: (
        each_part(as_text),
        turns,
        # Not to be strict must be said.
        lambda said: replace(said, tools=tuple(replace(tool, strict=bool(tool.strict)) for tool in said.tools)),
        format(lambda wished: replace(wished, name=None) if wished.name == "answer" else wished),
        reasoning(lambda wished: replace(wished, summary=None) if wished.summary in _SHOWN else wished),
    ),
}


def normal(said: Conversation, dialects: Iterable[str], dropped: Iterable[str]) -> Conversation:
    """The conversation as any of the dialects may say it, without what was told to be dropped."""
    said = without_told(said, dropped)
    for dialect in (*dialects, ""):
        for change in SPELLINGS[dialect]:
            said = change(said)
    return no_reasoning(replace(said, extras=dict(said.extras)))


# --- what must be refused


def has(
    kind: Callable[[Part], bool], where: Callable[[Message], bool] = lambda message: True
) -> Callable[[Conversation], bool]:
    """Whether a part of this kind is said, in a result or outside of one."""

    def found(parts: Iterable[Part]) -> bool:
        return any(kind(part) or (isinstance(part, ToolResult) and found(part.parts)) for part in parts)

    return lambda said: any(where(message) and found(message.parts) for message in said.messages)


def in_result(part: Part) -> bool:
    return isinstance(part, ToolResult) and any(
        not isinstance(inner, Text) and not (isinstance(inner, Document) and inner.text is not None)
        for inner in part.parts
    )


def extra(*names: str) -> Mapping[str, Callable[[Conversation], bool]]:
    return {name: lambda said, name=name: name in said.extras for name in names}  # type: ignore[misc]


#: By the dialect that has no word for it: a pattern of the field that is named, and whether it is said.
NO_WORD: Mapping[str, Mapping[str, Callable[[Conversation], bool]]] = {
    CHAT: {
        r"messages\[\d+\]": lambda said: (
            has(in_result)(said) or has(lambda part: isinstance(part, Document) and part.url is not None)(said)
        ),
        **extra("hologram", "container", "stop"),
    },
    MESSAGES: {
        "n": lambda said: said.choices > 1,
        "logprobs": lambda said: said.top_logprobs is not None,
        "response_format": lambda said: (
            "response_format" in said.extras or (said.format is not None and said.format.schema is None)
        ),
        "temperature": lambda said: said.temperature is not None and said.temperature > 1,
        "stop": lambda said: "stop" in said.extras or not all(stop.strip() for stop in said.stop),
        "tool_choice": lambda said: (
            not said.tools and (isinstance(said.tool_choice, NamedTool) or said.tool_choice is ToolUse.REQUIRED)
        ),
        r"messages\.\d+\.content\.[\d.a-z]+": lambda said: (
            has(lambda part: isinstance(part, Audio))(said)
            or has(lambda part: isinstance(part, Image) and part.media_type == "image/tiff")(said)
            or has(lambda part: isinstance(part, Document) and part.media_type == "text/csv")(said)
        ),
        **extra("hologram", "logit_bias"),
    },
    RESPONSES: {
        "stop": lambda said: bool(said.stop),
        "n": lambda said: said.choices > 1,
        r"messages\[\d+\]": has(lambda part: isinstance(part, Audio)),
        **extra("hologram", "logit_bias", "response_format", "container"),
    },
}
