"""A planned question as a request, and what a whole answer to it says; in each of the three dialects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unbroken.chaos.plan import Question, Reader
from unbroken.chaos.upstreams import MODEL

ENGINE_MODEL = "unbroken-demo"
ENGINE_TOKENS = 400  # long enough to be interrupted


@dataclass(frozen=True, slots=True)
class Asking:
    """How a dialect asks, and where its whole answers have their text."""

    path: str
    body: Callable[[str], dict[str, Any]]
    limit: str
    text: Callable[[Any], str]


def _text_of_chat(whole: Any) -> str:
    return whole["choices"][0]["message"]["content"] or ""


def _text_of_response(whole: Any) -> str:
    items = [item for item in whole["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in items for part in item["content"])


def _text_of_message(whole: Any) -> str:
    return "".join(block.get("text", "") for block in whole["content"])


def _with_messages(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


ASKING: Mapping[str, Asking] = {
    "openai-chat": Asking("/v1/chat/completions", _with_messages, "max_tokens", _text_of_chat),
    "openai-responses": Asking(
        "/v1/responses", lambda prompt: {"input": prompt}, "max_output_tokens", _text_of_response
    ),
    "anthropic-messages": Asking("/v1/messages", _with_messages, "max_tokens", _text_of_message),
}


def request_body(question: Question) -> dict[str, Any]:
    """The body of the request."""
    asking = ASKING[question.dialect]
    body = {"model": MODEL, "stream": question.is_streamed, **asking.body(question.prompt)}
    if question.is_for_engine:
        body |= {"model": ENGINE_MODEL, "temperature": 0}
    if question.is_for_engine or question.dialect == "anthropic-messages":
        body |= {asking.limit: ENGINE_TOKENS}
    if question.reader is Reader.BACKGROUND:
        body |= {"background": True}
    return body
