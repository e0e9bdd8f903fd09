"""Answers that are no completion: errors, the list of models, and whatever bytes or events a test wants."""

from collections.abc import Mapping, Sequence
from typing import Any, AnyStr

import msgspec

from unbroken.upstream.scripted.draft import Answer, Draft, Event
from unbroken.upstream.scripted.steps import Head, Send

JSON = Mapping[str, Any]
CREATED = 1_700_000_000  # fixed, so that the same script gives the same bytes


def events(*data: JSON | str) -> Answer:
    """Answer with these SSE events whatever was asked: JSON objects, or text such as "[DONE]"."""
    items = tuple(Event(item if isinstance(item, str) else dict(item)) for item in data)
    return Answer(lambda _: Draft(Head(), items))


def blocks(*raw: bytes) -> Answer:
    """Answer with a stream of these bytes, each its own HTTP chunk and write."""
    return Answer(lambda _: Draft(Head(), tuple(Send(block) for block in raw)))


def body(
    data: bytes, *, status: int = 200, content_type: str = "application/json", headers: JSON | None = None
) -> Answer:
    """Answer with a whole body and its content length."""
    return Answer(lambda _: whole_body(data, status=status, content_type=content_type, headers=headers))


def error(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    code: str | int | None = None,
    param: str | None = None,
    headers: JSON | None = None,
) -> Answer:
    """Answer with a status and OpenAI's error envelope."""
    return body(error_json(message, type=type, code=code, param=param), status=status, headers=headers)


def html_error(status: int = 502) -> Answer:
    """Answer with a proxy's HTML error page."""
    page = f"<html>\r\n<head><title>{status}</title></head>\r\n<body><h1>{status}</h1><hr>nginx</body>\r\n</html>\r\n"
    return body(page.encode(), status=status, content_type="text/html")


def rate_limited(retry_after: float | str | None = None, *, retry_after_ms: int | None = None) -> Answer:
    """Answer 429, with Retry-After in seconds (or an HTTP date) where given."""
    headers = {"Retry-After": retry_after, "Retry-After-Ms": retry_after_ms}
    kept = {name: f"{value:g}" if isinstance(value, float) else value for name, value in headers.items()}
    given = {name: value for name, value in kept.items() if value is not None}
    return error(429, "Rate limit reached", type="requests", code="rate_limit_exceeded", headers=given)


def overloaded(status: int = 503) -> Answer:
    """Answer that the server is overloaded."""
    return error(status, "The server is overloaded", type="server_error", code="overloaded")


def context_length_exceeded() -> Answer:
    """Answer 400 as OpenAI does to a prompt that is too long."""
    message = "This model's maximum context length is 4096 tokens."
    return error(400, message, code="context_length_exceeded", param="messages")


def content_policy_violation() -> Answer:
    """Answer 400 as a provider does to a prompt that it will not answer."""
    return error(400, "Your request was rejected by our safety system.", code="content_policy_violation")


def models(names: Sequence[str]) -> Answer:
    """Answer with the list of models."""
    listed = [{"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"} for name in names]
    return body(msgspec.json.encode({"object": "list", "data": listed}))


def error_json(
    message: str, *, type: str = "server_error", code: str | int | None = None, param: str | None = None
) -> bytes:
    """Give OpenAI's error envelope, all four keys in it."""
    return msgspec.json.encode({"error": {"message": message, "type": type, "param": param, "code": code}})


def whole_body(
    data: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: JSON | None = None,
    pieces: int = 1,
) -> Draft:
    """Give the draft of a body with a content length, sent in so many pieces."""
    shown = (("Content-Type", content_type), *((name, str(value)) for name, value in (headers or {}).items()))
    return Draft(Head(status, shown, body=len(data)), tuple(Send(piece) for piece in evenly(data, pieces)))


def evenly(whole: AnyStr, pieces: int) -> list[AnyStr]:
    """Cut into so many pieces, none of them empty; fewer where there is not enough, none for 0."""
    size = -(-len(whole) // pieces) if pieces else 0
    return [whole[start : start + size] for start in range(0, len(whole), size)] if size else []
