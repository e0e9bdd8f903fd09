"""Words into a request of this dialect, for an upstream that speaks it."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.conversation import Conversation, JsonFormat, NamedTool, Reasoning, Tool, ToolUse
from unbroken.chat.error import invalid
from unbroken.wire.dialects import Written
from unbroken.wire.openai_chat.write_messages import MessageWriter

#: OpenAI's own models that know no `max_tokens`; the servers that came after the API know little else.
_NEW_LIMIT = re.compile(r"(openai/)?(o[1-9]|gpt-[5-9])\b")

_TIERS = frozenset({"auto", "default", "flex", "priority", "scale"})

#: Characters that OpenAI takes of a user's id. Programs that write code send more: a session and a device, as JSON.
MAX_USER = 64

#: Fields of this dialect without a word in a `Conversation`: they go up as they came.
_OWN = frozenset(
    {
        *("audio", "logit_bias", "metadata", "modalities", "moderation", "prediction", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "response_format", "store", "verbosity"),
        "web_search_options",
    }
)

#: Other dialects' fields that change nothing of what is answered: the caller is told that they were left out.
_MERE_SETTINGS = frozenset(
    {
        *("background", "cache_control", "client_metadata", "context_management", "diagnostics", "include"),
        *("max_tool_calls", "metadata", "min_p", "output_config", "repetition_penalty", "speed", "thinking"),
        "truncation",
    }
)
_MERE_TOOL_SETTINGS = frozenset({"defer_loading", "eager_input_streaming", "input_examples"})

_write = msgspec.json.Encoder().encode


def write_conversation(conversation: Conversation, *, model: str, stream: bool) -> Written:
    """The body for an upstream, with the names of the settings that it could not say.

    Raises:
        RequestRefused: 400 that names what cannot be left out without changing the answer, and has no word here.
    """
    messages = MessageWriter()
    limit = "max_completion_tokens" if _NEW_LIMIT.match(model) else "max_tokens"
    fields: dict[str, Any] = {
        "model": model,
        "messages": messages.write(conversation.messages),
        "stream": True if stream else None,
        "stream_options": {"include_usage": True} if stream else None,
        "tools": [_tool(tool, messages) for tool in conversation.tools] or None,
        **_tool_use(conversation),
        limit: conversation.max_tokens,
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "stop": conversation.stop or None,
        "seed": conversation.seed,
        "frequency_penalty": conversation.frequency_penalty,
        "presence_penalty": conversation.presence_penalty,
        "n": conversation.choices if conversation.choices > 1 else None,
        "logprobs": None if conversation.top_logprobs is None else True,
        "top_logprobs": conversation.top_logprobs or None,
        "response_format": _format(conversation.format),
        "reasoning_effort": _effort(conversation.reasoning),
        "user": None if is_long_user(conversation.user) else conversation.user,
        "service_tier": conversation.service_tier if conversation.service_tier in _TIERS else None,
    }
    dropped = [*messages.dropped, *_unsaid(conversation)]
    _add_extras(conversation.extras, fields, dropped)
    return Written(_write({name: value for name, value in fields.items() if value is not None}), tuple(dropped))


def is_long_user(user: str | None) -> bool:
    """Whether a user's id is longer than OpenAI takes it in either of its dialects."""
    return user is not None and len(user) > MAX_USER


def _unsaid(conversation: Conversation) -> list[str]:
    """The settings that this dialect has no word for."""
    reasoning = conversation.reasoning or Reasoning()
    unsaid = {
        "top_k": conversation.top_k is not None,
        "reasoning.enabled": reasoning.enabled is True and reasoning.effort is None and reasoning.budget is None,
        "reasoning.budget": reasoning.budget is not None,
        "reasoning.summary": reasoning.summary is not None,
        "service_tier": conversation.service_tier not in (None, *_TIERS),
        "user": is_long_user(conversation.user),
    }
    return [name for name, is_unsaid in unsaid.items() if is_unsaid]


def _tool(tool: Tool, messages: MessageWriter) -> dict[str, Any]:
    messages.note_cache(tool.cache)
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_use(conversation: Conversation) -> dict[str, Any]:
    choice = conversation.tool_choice
    if not conversation.tools and choice in (None, ToolUse.AUTO, ToolUse.NONE):
        return {}  # the API refuses these words where there are no tools; they would change nothing
    written: object = choice.value if isinstance(choice, ToolUse) else None
    if isinstance(choice, NamedTool):
        written = {"type": "function", "function": {"name": choice.name}}
    return {"tool_choice": written, "parallel_tool_calls": conversation.parallel_tools}


def _format(format: JsonFormat | None) -> dict[str, Any] | None:
    if format is None:
        return None
    if format.schema is None and format.name is None:
        return {"type": "json_object"}
    schema = {
        "name": format.name or "response",  # the API wants one, and others have formats without
        "description": format.description,
        "schema": format.schema,
        "strict": format.strict,
    }
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def _effort(reasoning: Reasoning | None) -> str | None:
    if reasoning is None:
        return None
    return "none" if reasoning.enabled is False else reasoning.effort


def _add_extras(extras: Mapping[str, Raw], fields: dict[str, Any], dropped: list[str]) -> None:
    for name, raw in extras.items():
        outer, _, inner = name.partition(".")
        if name == "user":
            fields |= {"user": raw, "safety_identifier": fields["user"]}  # the caller gave both
        elif name in _OWN:
            fields[name] = raw
        elif outer in _MERE_SETTINGS or (outer == "tools" and inner.partition(".")[2] in _MERE_TOOL_SETTINGS):
            dropped.append(name)
        else:
            message = f"Unsupported parameter: '{name}' has no word in the OpenAI Chat Completions API,"
            message += " which the upstream of this model speaks."
            raise invalid(message, param=name, code="unsupported_parameter")
