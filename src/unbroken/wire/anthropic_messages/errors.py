"""Errors: ours into the dialect's envelope, an upstream's envelope into a `Failure`."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.blocks import write_event
from unbroken.wire.openai_chat.errors import without_secrets
from unbroken.wire.openai_chat.surrogates import without_halves

MAX_MESSAGE = 2000  # characters of an upstream's message that we hand on

_MAX_LOOKED_AT = 16 * MAX_MESSAGE

NO_THREADS = "thread_unsupported_request"
"""The API's code for a conversation that cannot be kept; its SDKs look for it and send the whole one."""

_write = msgspec.json.Encoder().encode

#: The dialect's word for each status; other statuses have the word of their hundred.
TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

#: Words that say more than a status does, wherever the error comes from.
_TELLING = frozenset({"overloaded_error", "rate_limit_error", "timeout_error", "billing_error", "request_too_large"})

BY_STATUS: Mapping[int, Fault] = {
    401: Fault.UNAUTHORIZED,
    402: Fault.UNAUTHORIZED,
    403: Fault.UNAUTHORIZED,
    404: Fault.MODEL_NOT_FOUND,
    408: Fault.SERVER_ERROR,
    409: Fault.SERVER_ERROR,
    413: Fault.TOO_LARGE,
    429: Fault.RATE_LIMITED,
    503: Fault.OVERLOADED,
    529: Fault.OVERLOADED,
}

BY_TYPE: Mapping[str, Fault] = {
    "invalid_request_error": Fault.BAD_REQUEST,
    "authentication_error": Fault.UNAUTHORIZED,
    "billing_error": Fault.UNAUTHORIZED,
    "permission_error": Fault.UNAUTHORIZED,
    "not_found_error": Fault.MODEL_NOT_FOUND,
    "request_too_large": Fault.TOO_LARGE,
    "rate_limit_error": Fault.RATE_LIMITED,
    "api_error": Fault.SERVER_ERROR,
    "timeout_error": Fault.SERVER_ERROR,
    "overloaded_error": Fault.OVERLOADED,
}

# What the API has no type for, it says in words of its own.
_CONTEXT_LENGTH = re.compile(
    r"prompt is too long|exceeds? (the )?(context|model'?s? context)|context (length|size|window)|maximum context", re.I
)
_NO_CREDIT = re.compile(r"credit balance is too low", re.I)
_CONTENT_POLICY = re.compile(r"content filtering policy", re.I)


def write_error(error: ApiError, request_id: str) -> bytes:
    """The body of an error response."""
    return _write({"type": "error", "error": _inner(error), "request_id": request_id})


def write_error_event(error: ApiError) -> Block:
    """The block that ends a stream with an error; no `message_stop` follows it."""
    return write_event(b"error", _write({"type": "error", "error": _inner(error)}))


def status_of(error: ApiError) -> int:
    """The HTTP status that clients of this dialect know the error by: 529 where others say 503."""
    return 529 if error.status == 503 else error.status


def _inner(error: ApiError) -> dict[str, Any]:
    # The envelope has no place for the parameter: its messages begin with it.
    names_it = error.param is None or error.param in error.message
    message = error.message if names_it else f"{error.param}: {error.message}"
    inner: dict[str, Any] = {"type": _type_of(error), "message": message}
    if error.code == NO_THREADS:
        inner["details"] = {"error_code": NO_THREADS, "unsupported": []}
    return inner


def _type_of(error: ApiError) -> str:
    if error.type in _TELLING:
        return error.type
    return TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")


def read_error(status: int, content_type: str, body: bytes, *, secret: str = "") -> Failure:
    """What an upstream's error response says; an HTML page becomes one sentence, `secret` is blotted out."""
    otherwise = Fault.BAD_REQUEST if 400 <= status < 500 else Fault.SERVER_ERROR
    fault = BY_STATUS.get(status, otherwise)
    try:
        said = msgspec.json.decode(without_halves(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    if said is None:
        is_text = content_type.startswith("text/plain")
        text = _told(body.decode(errors="replace").strip(), secret) if is_text else ""
        kind = content_type.partition(";")[0].strip() or "no content type"
        return Failure(fault, text or f"answered {status} with {kind}", status, is_quoted=True)
    return _failure(said, fault, status, secret)


def read_error_event(data: bytes, *, secret: str = "") -> Failure:
    """What an error inside a stream says.

    Raises:
        msgspec.DecodeError: it is not JSON.
    """
    return _failure(msgspec.json.decode(without_halves(data)), Fault.ERROR_EVENT, 0, secret)


def _failure(said: object, fault: Fault, status: int, secret: str) -> Failure:
    error: Any = said.get("error", said) if isinstance(said, dict) else said
    if not isinstance(error, dict):
        error = {"message": error}
    type = _told(error["type"], secret) if isinstance(error.get("type"), str) else None
    message = error.get("message")
    if not isinstance(message, str) or not message.strip():
        message = msgspec.json.encode(said).decode()
    if fault is Fault.ERROR_EVENT or status == 400:
        fault = BY_TYPE.get(type or "", fault)
    fault = _by_words(fault, message[:MAX_MESSAGE])
    return Failure(fault, _told(message, secret), status, type=type, is_quoted=True)


def _by_words(fault: Fault, message: str) -> Fault:
    if fault in (Fault.BAD_REQUEST, Fault.TOO_LARGE) and _CONTEXT_LENGTH.search(message):
        return Fault.CONTEXT_LENGTH
    if fault is Fault.BAD_REQUEST and _NO_CREDIT.search(message):
        return Fault.UNAUTHORIZED
    return Fault.CONTENT_POLICY if fault is Fault.BAD_REQUEST and _CONTENT_POLICY.search(message) else fault


def _told(text: str, secret: str) -> str:
    # Blotted out first and cut then: half a secret would not be found.
    return without_secrets(text[:_MAX_LOOKED_AT], secret)[:MAX_MESSAGE]
