"""Errors: ours into the dialect's envelope, an upstream's envelope into a `Failure`."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.stream import Block
from unbroken.wire.openai_chat.surrogates import without_halves
from unbroken.wire.sse import write_data

MAX_MESSAGE = 2000  # characters of an upstream's message that we hand on

_write = msgspec.json.Encoder().encode

BY_STATUS: Mapping[int, Fault] = {
    401: Fault.UNAUTHORIZED,
    402: Fault.UNAUTHORIZED,
    403: Fault.UNAUTHORIZED,
    404: Fault.MODEL_NOT_FOUND,
    408: Fault.SERVER_ERROR,
    409: Fault.SERVER_ERROR,
    425: Fault.OVERLOADED,
    429: Fault.RATE_LIMITED,
    503: Fault.OVERLOADED,
    529: Fault.OVERLOADED,
}

BY_CODE: Mapping[str, Fault] = {
    "context_length_exceeded": Fault.CONTEXT_LENGTH,
    "exceed_context_size_error": Fault.CONTEXT_LENGTH,  # llama.cpp's word, in `type`
    "content_policy_violation": Fault.CONTENT_POLICY,
    "content_filter": Fault.CONTENT_POLICY,
    "rate_limit_exceeded": Fault.RATE_LIMITED,
    "rate_limit_error": Fault.RATE_LIMITED,
    "insufficient_quota": Fault.RATE_LIMITED,
    "overloaded_error": Fault.OVERLOADED,
    "server_error": Fault.SERVER_ERROR,
    "invalid_api_key": Fault.UNAUTHORIZED,
    "authentication_error": Fault.UNAUTHORIZED,
    "model_not_found": Fault.MODEL_NOT_FOUND,
    "invalid_request_error": Fault.BAD_REQUEST,
}

# Servers that have no code for it say it in words of their own.
_CONTEXT_LENGTH = re.compile(r"maximum context length|context (length|size|window)|prompt is too long", re.I)
_FIELD = re.compile(r"Field '(?P<name>\w{1,100})': ")  # llama.cpp's way to name it
_SECRET = re.compile(
    r"\b(sk|gsk|xai|pplx|nvapi)[-_][\w*.-]{6,}|\bhf_\w{16,}|\bAIza[\w-]{16,}"
    r"|(?<=Bearer )[`'\"]?[^\s`'\"]{8,}"  # no word such as KEY: some errors say how a key is sent
    r"|(?<=://)[^\s/?#<>`'\"]+(?=@)",  # the user and password of an address
    re.I,
)

_TELLING = 8  # characters of a key's beginning; fewer are no secret, but what many keys begin with

_MAX_LOOKED_AT = 16 * MAX_MESSAGE

_NO_ERRORS = (Raw(b"null"), Raw(b'""'), Raw(b"{}"), Raw(b"false"))
_ERROR_WORD = Raw(b'"error"')


def write_error(error: ApiError) -> bytes:
    """The body of an error response; the envelope always has all four keys."""
    return _write({"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}})


def write_error_event(error: ApiError) -> Block:
    """The block that ends a stream with an error; no `[DONE]` follows it."""
    return Block(write_data(write_error(error)))


def is_error(fields: Mapping[str, Raw]) -> bool:
    """Whether a chunk or an answer with these members says that it failed; an `error` that is empty does not."""
    return (
        fields.get("error", _NO_ERRORS[0]) not in _NO_ERRORS
        or fields.get("object") == _ERROR_WORD
        or fields.get("type") == _ERROR_WORD
    )


def read_error(status: int, content_type: str, body: bytes, *, secret: str = "") -> Failure:
    """What an upstream's error response says; an HTML page becomes one sentence, `secret` is blotted out."""
    fault = _fault_of_status(status, Fault.SERVER_ERROR)
    try:
        said = msgspec.json.decode(without_halves(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    if said is None:
        is_text = content_type.startswith("text/plain")
        text = _told(body.decode(errors="replace").strip(), secret) if is_text else ""
        kind = content_type.partition(";")[0].strip() or "no content type"
        return Failure(fault, text or f"answered {status} with {kind}", status, is_quoted=True)
    return _from_envelope(said, fault, status, secret)


def read_error_event(said: object, *, secret: str = "") -> Failure:
    """What an error inside a stream says."""
    return _from_envelope(said, Fault.ERROR_EVENT, 0, secret)


def without_secrets(text: str, secret: str = "") -> str:
    """`text` with `secret`, and whatever looks like a key, blotted out; so is a `secret` that the text's end cuts."""
    if secret:
        text = text.replace(secret, "***")
        told = next((n for n in range(len(secret) - 1, _TELLING - 1, -1) if text.endswith(secret[:n])), 0)
        text = f"{text[:-told]}***" if told else text
    return _SECRET.sub("***", text)


def _told(text: str, secret: str) -> str:
    # Blotted out first and cut then: half a secret would not be found.
    return without_secrets(text[:_MAX_LOOKED_AT], secret)[:MAX_MESSAGE]


def _from_envelope(said: object, fault: Fault, status: int, secret: str) -> Failure:
    error = _inner_error(said)
    type, param, code = (
        _told(value, secret) if isinstance(value := error.get(key), str) else None for key in ("type", "param", "code")
    )
    message = error.get("message") or error.get("detail")
    if not isinstance(message, str) or not message.strip():
        message = msgspec.json.encode(said).decode()
    if fault is Fault.ERROR_EVENT:
        number = error.get("code")
        if isinstance(number, int) and not isinstance(number, bool):  # llama.cpp, vLLM, OpenRouter
            fault = _fault_of_status(number, fault)
        fault = BY_CODE.get(type or "", fault)
    if param is None and (field := _FIELD.match(message)):
        param = _told(field["name"], secret)
    fault = BY_CODE.get(code or "", fault)
    is_request_at_fault = fault in (Fault.BAD_REQUEST, Fault.TOO_LARGE)
    if type == "exceed_context_size_error" or (is_request_at_fault and _CONTEXT_LENGTH.search(message[:MAX_MESSAGE])):
        fault = Fault.CONTEXT_LENGTH
    return Failure(fault, _told(message, secret), status, type=type, param=param, code=code, is_quoted=True)


def _fault_of_status(status: int, otherwise: Fault) -> Fault:
    if 400 <= status < 600:
        return BY_STATUS.get(status, Fault.BAD_REQUEST if status < 500 else Fault.SERVER_ERROR)
    return otherwise


def _inner_error(said: object) -> dict[str, Any]:
    if isinstance(said, list) and len(said) == 1:
        said = said[0]  # Gemini's answer to a request that it refuses
    error: Any = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(error, dict):
        return error
    return {"message": error if isinstance(error, str) else None}
