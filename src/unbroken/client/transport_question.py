"""Which requests a transport keeps whole: those that ask for an answer, in each of the three dialects."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from unbroken.client.resume_blocks import TERMINAL

#: The extension of a request that reads a stream which exists (D3); its value is the end of the path of its dialect.
ATTACH = "unbroken.attach"

_NOT_DURABLE = ("false", "0")


class _Body(msgspec.Struct):
    """What of a request's body matters here."""

    model: str
    stream: bool | None = None
    background: bool | None = None


_read_body = msgspec.json.Decoder(_Body).decode


@dataclass(frozen=True, slots=True)
class Question:
    """A request for an answer."""

    path: str
    #: The end of the path, by which the dialect is known.
    path_end: str
    is_stream: bool
    #: Whether it shall go on without a reader, so that leaving it is no cancel.
    is_background: bool

    def stream_path(self, stream: str) -> str:
        """Where its stream is read and cancelled (D3, D5)."""
        return f"{self.path.removesuffix(self.path_end)}/streams/{quote(stream, safe='')}"


def read_question(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Question | None:
    """The question that a request is; None for any other, and for one that shall not be durable."""
    if method != "POST" or headers.get("unbroken-durable", "").lower() in _NOT_DURABLE:
        return None
    path_end = next((end for end in TERMINAL if path.endswith(end)), None)
    if path_end is None or not headers.get("content-type", "").startswith("application/json"):
        return None
    try:
        said = _read_body(body)
    except msgspec.DecodeError:
        return None  # a message of a thread has no model; what else it is, the server says
    return Question(path, path_end, bool(said.stream), bool(said.background))


def attached(path: str, path_end: str) -> Question:
    """The question behind a request that reads an existing stream; leaving it cancels nothing."""
    return Question(path.rpartition("/streams/")[0] + path_end, path_end, is_stream=True, is_background=True)


def digest(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """What two attempts at one question have in common: where it goes, whose it is, and what it says."""
    found = hashlib.sha256()
    for part in (url, headers.get("authorization", ""), headers.get("x-api-key", "")):
        found.update(part.encode("utf-8", "surrogateescape") + b"\0")
    found.update(body)
    return found.digest()
