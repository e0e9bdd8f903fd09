"""Requests of every dialect that say anything it can say, for the way through another dialect and back."""

import json
from typing import Any

from hypothesis import strategies as st
from msgspec import Raw

from tests.wire.round_trip import CHAT, MESSAGES, RESPONSES
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
    Tool,
    ToolCall,
    ToolResult,
    ToolUse,
)
from unbroken.wire.dialects import Dialect

WORDS = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,7}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
CALL_IDS = WORDS | st.sampled_from(["functions.f:0", "call_1"])
OBJECTS = st.dictionaries(WORDS, TEXTS | st.integers(), max_size=2).map(json.dumps)
CACHE = Raw(b'{"type":"ephemeral"}')
SCHEMA = Raw(b'{"type":"object","properties":{"b":{},"a":{}}}')
SOURCES = {
    CHAT: Raw(b'[{"type":"url_citation","url_citation":{"url":"https://example.org","title":"W"}}]'),
    RESPONSES: Raw(b'[{"type":"url_citation","url":"https://example.org","title":"W"}]'),
    MESSAGES: Raw(b'[{"type":"char_location","cited_text":"c","document_index":0}]'),
}

#: Fields beside those that have words of ours, as clients of the dialect say them.
FIELDS: dict[str, dict[str, list[Any]]] = {
    CHAT: {
        "top_k": [5],
        "user": ["ann"],
        "safety_identifier": ["u-1"],
        "metadata": [{"a": "b"}],
        "store": [True],
        "verbosity": ["low"],
        "prompt_cache_key": ["k"],
        "logit_bias": [{"5": 1}],
        "response_format": [{"type": "grammar", "grammar": "g"}],
        "hologram": [{"on": True}],
        "min_p": [0.1],
    },
    MESSAGES: {
        "cache_control": [{"type": "ephemeral"}],
        "container": ["c"],
        "hologram": [{"on": True}],
        "thinking": [{"type": "between_tools"}],
        "speed": ["fast"],
    },
    RESPONSES: {
        "safety_identifier": ["u-1"],
        "user": ["ann"],
        "verbosity": ["low"],
        "prompt_cache_key": ["k"],
        "truncation": ["auto"],
        "max_tool_calls": [3],
        "stop": ["END"],
        "hologram": [{"on": True}],
    },
}


def rarely(draw: st.DrawFn, values: st.SearchStrategy[Any], otherwise: Any = None) -> Any:
    """A value now and then: a request that says everything is refused for one thing, and proves nothing of the rest."""
    return draw(values) if draw(st.integers(0, 3)) == 3 else otherwise


@st.composite
def texts(draw: st.DrawFn, dialect: str) -> Text:
    return Text(draw(TEXTS), rarely(draw, st.just(CACHE)) if dialect == MESSAGES else None)


@st.composite
def pictures(draw: st.DrawFn, dialect: str) -> Image:
    detail = rarely(draw, st.sampled_from(["auto", "low", "high"])) if dialect != MESSAGES else None
    if draw(st.booleans()):
        return Image(url=f"https://example.org/{draw(WORDS)}", detail=detail)
    kinds = ["image/png", "image/webp"] if dialect == MESSAGES else ["image/png", "image/webp", "image/tiff"]
    return Image(data="aGk=", media_type=draw(st.sampled_from(kinds)), detail=detail)


@st.composite
def documents(draw: st.DrawFn, dialect: str) -> Document:
    name = draw(st.none() | WORDS)
    kinds = ["application/pdf"] if dialect == MESSAGES else ["application/pdf", "application/pdf", "text/csv"]
    ways = [
        Document(data="aGk=", media_type=draw(st.sampled_from(kinds)), name=name if dialect == MESSAGES else "n.pdf"),
        Document(file_id=draw(WORDS), name=name),
        *([Document(url=f"https://example.org/{draw(WORDS)}", name=name)] if dialect != CHAT else []),
        *([Document(text=draw(TEXTS), name=name)] if dialect == MESSAGES else []),
    ]
    return draw(st.sampled_from(ways))


@st.composite
def asked(draw: st.DrawFn, dialect: str) -> list[Part]:
    parts: list[Part] = draw(st.lists(texts(dialect), min_size=1, max_size=2))
    parts += rarely(draw, st.lists(pictures(dialect), max_size=2), [])
    parts += rarely(draw, st.lists(documents(dialect), max_size=1), [])
    if dialect == CHAT:
        parts += rarely(draw, st.just([Audio("aGk=", "wav")]), [])
    return draw(st.permutations(parts))


@st.composite
def results(draw: st.DrawFn, dialect: str) -> ToolResult:
    parts: list[Any] = draw(st.lists(texts(dialect), max_size=2))
    if dialect != CHAT:
        parts += rarely(draw, st.lists(pictures(dialect) | documents(dialect), max_size=1), [])
    is_error = dialect != CHAT and rarely(draw, st.just(True), False)
    cache = rarely(draw, st.just(CACHE)) if dialect == MESSAGES else None
    return ToolResult(draw(CALL_IDS), tuple(parts), is_error, cache)


@st.composite
def answers(draw: st.DrawFn, dialect: str) -> Message:
    thoughts = st.builds(Thinking, TEXTS, TEXTS | st.none()) | st.builds(SealedThinking, TEXTS)
    if dialect == RESPONSES:  # the writer gives no unsealed thoughts, so none can be said through it
        thoughts = st.builds(Thinking, TEXTS, TEXTS) | st.builds(SealedThinking, TEXTS)
    if dialect == MESSAGES:
        thoughts = st.builds(Thinking, TEXTS, TEXTS) | st.builds(SealedThinking, TEXTS)
    ids = WORDS if dialect == MESSAGES else CALL_IDS
    cache = st.sampled_from([None, None, CACHE]) if dialect == MESSAGES else st.none()
    sources = st.sampled_from([None, None, None, SOURCES[dialect]])
    parts: list[Part] = [
        *rarely(draw, st.lists(thoughts, max_size=2), []),
        *draw(st.lists(st.builds(Text, TEXTS, cache, sources), max_size=2)),
        *(rarely(draw, st.lists(st.builds(Refusal, TEXTS), max_size=1), []) if dialect != MESSAGES else []),
        *rarely(draw, st.lists(st.builds(ToolCall, ids, WORDS, OBJECTS, cache), max_size=2), []),
    ]
    if dialect != CHAT:
        parts = draw(st.permutations(parts))
    name = rarely(draw, WORDS) if dialect == CHAT else None
    return Message(Role.ASSISTANT, tuple(parts or [Text("ok")]), name)


@st.composite
def systems(draw: st.DrawFn, dialect: str) -> Message:
    parts = draw(st.lists(texts(dialect), min_size=1, max_size=2))
    return Message(Role.SYSTEM, tuple(parts), rarely(draw, WORDS) if dialect == CHAT else None)


@st.composite
def histories(draw: st.DrawFn, dialect: str) -> tuple[Message, ...]:
    messages: list[Message] = draw(st.lists(systems(dialect), max_size=2))
    for is_last in (*[False] * draw(st.integers(0, 2)), True):
        given_results = rarely(draw, st.lists(results(dialect), min_size=1, max_size=2), [])
        name = rarely(draw, WORDS) if dialect == CHAT else None
        if given_results:
            messages.append(Message(Role.USER, tuple(given_results)))
        messages.append(Message(Role.USER, tuple(draw(asked(dialect))), name))
        messages += rarely(draw, systems(dialect).map(lambda message: [message]), [])
        if not is_last:
            messages.append(draw(answers(dialect)))
    return tuple(messages)


@st.composite
def tools(draw: st.DrawFn, dialect: str) -> Tool:
    cache = rarely(draw, st.just(CACHE)) if dialect == MESSAGES else None
    schema = draw(st.sampled_from([SCHEMA, None]))
    return Tool(draw(WORDS), draw(st.none() | TEXTS), schema, draw(st.sampled_from([None, True, False])), cache)


def reasonings(dialect: str) -> st.SearchStrategy[Reasoning]:
    efforts = st.sampled_from(["low", "high"])
    if dialect == CHAT:
        return st.builds(Reasoning, effort=efforts | st.just("minimal")) | st.just(Reasoning(False, "none"))
    if dialect == MESSAGES:
        displays = st.sampled_from([None, "summarized", "omitted"])
        return st.builds(Reasoning, st.just(True), st.none() | efforts, st.sampled_from([None, 2048]), displays)
    summaries = st.sampled_from([None, "auto", "concise"])
    return st.builds(Reasoning, effort=efforts, summary=summaries) | st.just(Reasoning(False, "none"))


@st.composite
def conversations(draw: st.DrawFn, dialect: str) -> Conversation:
    given_tools = tuple(rarely(draw, st.lists(tools(dialect), min_size=1, max_size=2), []))
    chance = st.floats(0, 1) if dialect == MESSAGES else st.floats(0, 2)
    formats = st.builds(
        JsonFormat, st.just(SCHEMA), WORDS, st.none() | TEXTS, st.sampled_from([None, True, False])
    ) | st.just(JsonFormat())
    more: dict[str, Any] = {}
    if dialect == CHAT:
        more = {
            "seed": rarely(draw, st.integers(0, 9)),
            "frequency_penalty": rarely(draw, st.floats(-1, 1)),
            "presence_penalty": rarely(draw, st.floats(-1, 1)),
            "choices": rarely(draw, st.just(2), 1),
            "top_logprobs": rarely(draw, st.integers(0, 3)),
        }
    if dialect == MESSAGES:
        formats = st.just(JsonFormat(SCHEMA))
        more = {"top_k": rarely(draw, st.integers(0, 9)), "max_tokens": draw(st.integers(4096, 9999))}
    if dialect != RESPONSES:
        more["stop"] = tuple(rarely(draw, st.lists(TEXTS.filter(str.strip), max_size=2), []))
    tiers = ["auto", "standard_only"] if dialect == MESSAGES else ["auto", "default", "flex", "priority"]
    return Conversation(
        messages=draw(histories(dialect)),
        tools=given_tools,
        tool_choice=draw(st.sampled_from([None, *ToolUse, NamedTool("f")])) if given_tools else None,
        parallel_tools=draw(st.sampled_from([None, True, False])) if given_tools else None,
        temperature=rarely(draw, chance),
        top_p=rarely(draw, st.floats(0, 1)),
        format=rarely(draw, formats),
        reasoning=rarely(draw, reasonings(dialect)),
        user=rarely(draw, WORDS),
        service_tier=rarely(draw, st.sampled_from(tiers)),
        **{"max_tokens": rarely(draw, st.integers(16, 99)), **more},
    )


@st.composite
def bodies(draw: st.DrawFn, dialect: Dialect) -> bytes:
    """The body of a request as a client of the dialect sends it."""
    said = draw(conversations(dialect.name))
    # A model that takes everything: what the client's own dialect leaves out cannot be lost any more.
    written = dialect.write_conversation(said, model="claude-3-opus", stream=draw(st.booleans()))
    body = json.loads(written.body)
    for name, values in rarely(
        draw, st.dictionaries(st.sampled_from(list(FIELDS[dialect.name])), st.just(0)), {}
    ).items():
        body[name] = FIELDS[dialect.name][name][values]
    if dialect.name == CHAT and isinstance(body["messages"][-1]["content"], str) and rarely(draw, st.just(True)):
        body["messages"][-1]["cache_control"] = json.loads(bytes(CACHE))
    if dialect.name == MESSAGES and rarely(draw, st.just(True)):
        body["metadata"] = {**body.get("metadata", {}), "team": "a"}
        body["output_config"] = {**body.get("output_config", {}), "speed": 2}
        for tool in body.get("tools", ()):
            tool["input_examples"] = [{"a": 1}]
    if dialect.name == RESPONSES and "verbosity" in body:
        body["text"] = {**body.get("text", {}), "verbosity": body.pop("verbosity")}
    return json.dumps(body).encode()
