"""A conversation as the body of a request of this dialect, for an upstream that speaks it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.conversation import (
    Conversation,
    JsonFormat,
    Message,
    NamedTool,
    Reasoning,
    Role,
    SealedThinking,
    Text,
    Thinking,
    Tool,
    ToolUse,
)
from unbroken.chat.error import RequestRefused, invalid
from unbroken.wire.dialects import Written
from unbroken.wire.openai_chat.write_conversation import is_long_user
from unbroken.wire.openai_responses.input import InputWriter

_write = msgspec.json.Encoder().encode

#: Fields of any dialect that this one knows by the same name.
_SAME_NAME = frozenset(
    {
        *("include", "max_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("safety_identifier", "truncation"),
    }
)

#: Fields of other dialects that only tune an answer: without them it is another sample of the same.
_SETTINGS = frozenset(
    {
        *("seed", "top_k", "min_p", "top_a", "typical_p", "frequency_penalty", "presence_penalty"),
        *("repetition_penalty", "repeat_penalty", "length_penalty", "logprobs", "top_logprobs", "prediction"),
        *("metadata", "store", "stream_options", "cache_control", "cache_prompt", "priority", "request_id"),
        *("inference_geo", "speed", "betas", "anthropic-beta", "keep_alive"),
        *("context_management", "diagnostics", "output_config", "thinking"),
    }
)

#: Members of other dialects' tools that change nothing of what is answered.
_TOOL_SETTINGS = frozenset({"defer_loading", "eager_input_streaming", "input_examples"})

_TIERS = frozenset({"auto", "default", "flex", "priority", "scale"})

#: Whether and how thoughts are shown, in the words of any dialect; not to be shown is to say nothing here.
_SUMMARIES: Mapping[str, str | None] = {
    **{word: word for word in ("auto", "concise", "detailed")},
    "summarized": "auto",
    "omitted": None,
}

_NO_SCHEMA = Raw(b'{"type":"object","properties":{}}')


def write_conversation(conversation: Conversation, *, model: str, stream: bool) -> Written:
    """The body, and what of the conversation is not said in it.

    Raises:
        RequestRefused: 400 that names what this dialect has no word for, where the answer would be another one.
    """
    if conversation.stop:
        raise _no_word("stop", "stop sequences")
    if conversation.choices > 1:
        raise _no_word("n", "several answers at once")
    dropped = [
        name
        for name in ("top_k", "seed", "frequency_penalty", "presence_penalty", "top_logprobs")
        if getattr(conversation, name) is not None
    ]
    instructions, messages = _instructions(conversation.messages)
    writer = InputWriter()
    body: dict[str, Any] = {"model": model, "stream": stream, "store": False}
    if instructions is not None:
        body["instructions"] = instructions
    body["input"] = writer.write(messages)
    body.update(_settings(conversation, writer.dropped))
    include = _read_names(conversation.extras.get("include"))
    if _thinks(conversation):
        include = [*include, "reasoning.encrypted_content"]
    if include:
        body["include"] = list(dict.fromkeys(include))
    for name, raw in conversation.extras.items():
        if name == "verbosity":
            body["text"] = {**body.get("text", {}), "verbosity": raw}
        elif name == "user":
            # The caller gave both.
            body |= {"user": raw, **({"safety_identifier": body["user"]} if "user" in body else {})}
        elif name.partition(".")[0] in _SETTINGS or _is_tool_setting(name):
            dropped.append(name)
        elif name not in _SAME_NAME:
            raise _no_word(name, f'"{name}"')
        elif name != "include":
            body[name] = raw
    return Written(_write(body), tuple(dict.fromkeys([*dropped, *writer.dropped])))


def _is_tool_setting(name: str) -> bool:
    """Whether a field is a member of a tool (`tools.0.…`) that may be left out."""
    outer, _, inner = name.partition(".")
    return outer == "tools" and inner.partition(".")[2] in _TOOL_SETTINGS


def _no_word(field: str, what: str) -> RequestRefused:
    message = f"Unsupported parameter: '{field}': the Responses API of this model's upstream has no word for {what}."
    return invalid(message, param=field, code="unsupported_parameter")


def _instructions(messages: tuple[Message, ...]) -> tuple[str | None, tuple[Message, ...]]:
    """The leading system message where it is one text and not all that is said, and the other messages."""
    match messages:
        case (Message(Role.SYSTEM, (Text(text, None, None),), None), _, *_) if text:
            return text, messages[1:]
    return None, messages


def _settings(conversation: Conversation, dropped: list[str]) -> dict[str, Any]:
    settings: Mapping[str, Any] = {
        "tools": [_tool(tool, dropped) for tool in conversation.tools] or None,
        "tool_choice": _tool_choice(conversation.tool_choice),
        "parallel_tool_calls": conversation.parallel_tools,
        "max_output_tokens": conversation.max_tokens,
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "text": None if conversation.format is None else {"format": _format(conversation.format)},
        "reasoning": _reasoning(conversation.reasoning, dropped),
        "user": _user(conversation.user, dropped),
        "service_tier": _service_tier(conversation.service_tier, dropped),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _user(user: str | None, dropped: list[str]) -> str | None:
    if not is_long_user(user):
        return user
    dropped.append("user")
    return None


def _service_tier(tier: str | None, dropped: list[str]) -> str | None:
    if tier is None or tier in _TIERS:
        return tier
    dropped.append("service_tier")
    return None


def _tool(tool: Tool, dropped: list[str]) -> dict[str, Any]:
    if tool.cache is not None:
        dropped.append("cache_control")
    # Not said is not strict in every other dialect; here it would be.
    said: dict[str, Any] = {"type": "function", "name": tool.name, "strict": bool(tool.strict)}
    if tool.description is not None:
        said["description"] = tool.description
    return {**said, "parameters": _NO_SCHEMA if tool.schema is None else tool.schema}


def _tool_choice(choice: ToolUse | NamedTool | None) -> object:
    if isinstance(choice, NamedTool):
        return {"type": "function", "name": choice.name}
    return None if choice is None else choice.value


def _format(format: JsonFormat) -> dict[str, Any]:
    if format.schema is None:
        return {"type": "json_object"}
    said = {"name": format.name or "answer", "description": format.description, "strict": format.strict}
    return {
        "type": "json_schema",
        **{name: value for name, value in said.items() if value is not None},
        "schema": format.schema,
    }


def _reasoning(reasoning: Reasoning | None, dropped: list[str]) -> dict[str, str] | None:
    if reasoning is None:
        return None
    if reasoning.budget is not None:
        dropped.append("reasoning.budget")  # how much effort a number of tokens is, differs from model to model
    elif reasoning.enabled and reasoning.effort is None:
        dropped.append("reasoning.enabled")
    effort = "none" if reasoning.enabled is False else reasoning.effort
    # Where thoughts are asked for, other dialects show them if nothing else is said.
    summary = reasoning.summary or ("auto" if reasoning.enabled else None)
    if summary not in (None, *_SUMMARIES):
        dropped.append("reasoning.summary")
    said = {"effort": effort, "summary": _SUMMARIES.get(summary or "")}
    return {name: word for name, word in said.items() if word is not None} or None


def _thinks(conversation: Conversation) -> bool:
    """Whether thinking must come back sealed; models that do not think refuse to be asked for the seal."""
    reasoning = conversation.reasoning
    if reasoning is not None and reasoning.enabled is not False:
        return True
    return any(
        isinstance(part, SealedThinking) or (isinstance(part, Thinking) and part.signature is not None)
        for message in conversation.messages
        for part in message.parts
    )


def _read_names(raw: Raw | None) -> list[str]:
    return [] if raw is None else msgspec.json.decode(raw, type=list[str])
