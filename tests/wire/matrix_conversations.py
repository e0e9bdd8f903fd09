"""Conversations of any kind, for properties of the dialects' readers and writers."""

import json

from hypothesis import strategies as st
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
    Tool,
    ToolCall,
    ToolResult,
    ToolUse,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
WORDS = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,11}", fullmatch=True)
BASE64 = st.from_regex(r"[A-Za-z0-9+/]{4,12}", fullmatch=True)
MEDIA_TYPES = st.sampled_from(["image/png", "image/jpeg", "image/webp"])
JSON = st.dictionaries(WORDS, st.integers() | TEXTS, max_size=2).map(lambda value: json.dumps(value))
SCHEMAS = st.just(Raw(b'{"type":"object","properties":{"b":{},"a":{}}}'))


def optional(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


URLS = TEXTS.map(lambda text: f"https://example.org/{text}")
IMAGES = st.builds(Image, url=URLS, detail=optional(WORDS)) | st.builds(
    Image, data=BASE64, media_type=MEDIA_TYPES, detail=optional(WORDS)
)
DOCUMENTS = st.builds(Document, data=BASE64, media_type=st.just("application/pdf"), name=WORDS) | st.builds(
    Document, file_id=WORDS, name=optional(WORDS)
)
THOUGHTS = st.builds(Thinking, text=TEXTS, signature=optional(TEXTS)) | st.builds(SealedThinking, data=TEXTS)
CALLS = st.builds(ToolCall, id=WORDS, name=WORDS, arguments=JSON)
RESULTS = st.builds(ToolResult, call_id=WORDS, parts=st.lists(st.builds(Text, text=TEXTS), max_size=2).map(tuple))


@st.composite
def answers(draw: st.DrawFn) -> Message:
    """An assistant's turn in the order in which every dialect can say it."""
    parts: list[Part] = [
        *draw(st.lists(THOUGHTS, max_size=3)),
        *draw(st.lists(st.builds(Text, text=TEXTS), max_size=2)),
        *draw(st.lists(st.builds(Refusal, text=TEXTS), max_size=1)),
        *draw(st.lists(CALLS, max_size=3)),
    ]
    return Message(Role.ASSISTANT, tuple(parts), draw(optional(WORDS)))


MESSAGES = (
    st.builds(
        Message,
        role=st.just(Role.SYSTEM),
        parts=st.lists(st.builds(Text, text=TEXTS), max_size=2).map(tuple),
        name=optional(WORDS),
    )
    | st.builds(
        Message,
        role=st.just(Role.USER),
        parts=st.lists(
            st.builds(Text, text=TEXTS) | IMAGES | DOCUMENTS | st.builds(Audio, data=BASE64, format=WORDS), max_size=3
        ).map(tuple),
        name=optional(WORDS),
    )
    | st.builds(Message, role=st.just(Role.USER), parts=st.lists(RESULTS, min_size=1, max_size=3).map(tuple))
    | answers()
)

NUMBERS = st.floats(0, 2)
FORMATS = st.just(JsonFormat()) | st.builds(
    JsonFormat, schema=SCHEMAS, name=WORDS, description=optional(TEXTS), strict=optional(st.booleans())
)
TOOLS = st.builds(
    Tool, name=WORDS, description=optional(TEXTS), schema=optional(SCHEMAS), strict=optional(st.booleans())
)

CONVERSATIONS = st.builds(
    Conversation,
    messages=st.lists(MESSAGES, min_size=1, max_size=6).map(tuple),
    tools=st.lists(TOOLS, min_size=1, max_size=3).map(tuple),
    tool_choice=optional(st.sampled_from(ToolUse) | st.builds(NamedTool, name=WORDS)),
    parallel_tools=optional(st.booleans()),
    max_tokens=optional(st.integers(1, 10_000)),
    temperature=optional(NUMBERS),
    top_p=optional(NUMBERS),
    stop=st.lists(TEXTS, max_size=3).map(tuple),
    seed=optional(st.integers(0, 2**31)),
    frequency_penalty=optional(NUMBERS),
    presence_penalty=optional(NUMBERS),
    choices=st.integers(1, 3),
    top_logprobs=optional(st.integers(0, 5)),
    format=optional(FORMATS),
    reasoning=optional(
        st.builds(Reasoning, effort=st.sampled_from(["low", "high"])) | st.just(Reasoning(False, "none"))
    ),
    user=optional(TEXTS),
    service_tier=optional(st.sampled_from(["auto", "default", "flex"])),
)
"""Conversations that OpenAI Chat Completions can say in full."""
