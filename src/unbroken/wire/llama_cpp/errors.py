"""Errors of llama.cpp's server: it answers 500 to much of what is the request's own fault."""

import re
from dataclasses import replace

from unbroken.chat.fault import Failure, Fault
from unbroken.wire.openai_chat import errors

#: What the model has no eyes or ears for; another one may have.
_WITHOUT_SENSES = re.compile(r"(image|audio|video) input is not supported")

# What it cannot make a prompt of. Broken schemas, grammars and limits are a 400 of its own; and a 500 it stays where
# the model's answer is what it cannot read ("The model produced output that does not match …").
_CANNOT_READ = re.compile(
    r"Failed to parse (messages|tools|tool call arguments)\b"
    r"|Cannot use both json_schema and grammar\b"
    r"|Unknown reasoning format\b"
)


def read_error(status: int, content_type: str, body: bytes, *, secret: str = "") -> Failure:
    """What an error response of the engine says; a 400 where the request is at fault, whatever its status is."""
    failure = errors.read_error(status, content_type, body, secret=secret)
    if failure.fault is not Fault.SERVER_ERROR:
        return failure
    if _WITHOUT_SENSES.match(failure.message):
        return replace(failure, fault=Fault.UNTRANSLATABLE, status=400, type=None)
    if _CANNOT_READ.match(failure.message):
        return replace(failure, fault=Fault.BAD_REQUEST, status=400, type=None)
    return failure
