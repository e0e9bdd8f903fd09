"""Errors inside a stream and a response of this dialect; error responses are those of OpenAI's other dialect."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.stream import Block
from unbroken.wire.openai_chat.errors import read_error_event

_write = msgspec.json.Encoder().encode

_BAD_IMAGE = (
    *("invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url", "invalid_image_mode"),
    *("image_too_large", "image_too_small", "image_parse_error", "image_file_too_large", "image_file_not_found"),
    *("unsupported_image_media_type", "empty_image_file", "failed_to_download_image"),
)

#: The API's words for `code` in a failed response that the other dialect has not.
_BY_CODE: Mapping[str, Fault] = {
    "invalid_prompt": Fault.CONTENT_POLICY,  # the API's word for a prompt against its rules
    "bio_policy": Fault.CONTENT_POLICY,
    "misalignment_policy_violation": Fault.CONTENT_POLICY,
    "image_content_policy_violation": Fault.CONTENT_POLICY,
    "vector_store_timeout": Fault.SERVER_ERROR,
    "data_residency_mismatch": Fault.BAD_REQUEST,
    **dict.fromkeys(_BAD_IMAGE, Fault.BAD_REQUEST),
}

#: What `code` of a failed response may be, by the API's own description.
_CODES = frozenset({*_BY_CODE, "server_error", "rate_limit_exceeded"})


def read_stream_error(said: object, *, secret: str = "") -> Failure:
    """What an `error` event says: its words stand in the event itself, or in a member `error`."""
    if isinstance(said, dict) and not said.get("error"):
        said = {"error": {name: said.get(name) for name in ("message", "code", "param")} if "message" in said else said}
    return _with_our_codes(read_error_event(said, secret=secret))


def read_failed(response: Mapping[str, Any], *, secret: str = "") -> Failure:
    """What a response says that failed or was cancelled."""
    status = response.get("status")
    error = response.get("error") or {"message": f'the response ended with status "{status}"'}
    return _with_our_codes(read_error_event({"error": error}, secret=secret))


def error_object(error: ApiError) -> dict[str, object]:
    """The `error` member of a failed response; a code that the API does not have becomes its general one."""
    code = error.code if error.code in _CODES else _code_of_status(error.status)
    return {"code": code, "message": error.message, "type": error.type, "param": error.param}


def write_error_event(error: ApiError, *, sequence_number: int = 0) -> Block:
    """An `error` event: the only end of a stream that has not begun, and of one whose place nobody knows.

    Its words stand in it twice, for there are two kinds of readers: the API's description has them in the event
    itself, the official SDKs raise an error only for a member `error`.
    """
    said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    event = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "sequence_number": sequence_number,
        "error": said,
    }
    return Block(b"event: error\ndata: %b\n\n" % _write(event))


def _code_of_status(status: int) -> str:
    return "rate_limit_exceeded" if status == 429 else "server_error"


def _with_our_codes(failure: Failure) -> Failure:
    fault = _BY_CODE.get(failure.code or "")
    return failure if fault is None else replace(failure, fault=fault)
