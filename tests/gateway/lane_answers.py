"""What a client asks for, all that was to be seen of its answer, and what it read."""

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from unbroken.settings.tree import Settings
from unbroken.store.durable import MAX_PENDING_BYTES
from unbroken.wire.sse import SseEvent, SseReader

DURABLE = "unbroken-durable: true"


@dataclass(frozen=True)
class Asked:
    """What the client asks for, of whom, and within which bounds."""

    client: str = "openai-chat"
    upstream: str = "openai-chat"
    version: str = "1.1"
    fields: tuple[tuple[str, Any], ...] = ()
    #: What the upstream sends that is asked to go on; without it nobody is.
    again: tuple[bytes, ...] = ()
    #: The header that asks for a durable answer.
    durable: str = ""
    max_stream_bytes: int = 64 << 20
    max_pending_bytes: int = MAX_PENDING_BYTES
    spare_bytes: int = 1 << 20

    @property
    def request(self) -> bytes:
        path, body = {
            "openai-chat": ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
            "anthropic-messages": ("messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}),
            "openai-responses": ("responses", {"input": "Hi"}),
        }[self.client]
        data = msgspec.json.encode({"model": "m", "stream": True, **body, **dict(self.fields)})
        head = (
            f"POST /v1/{path} HTTP/{self.version}\r\nhost: h\r\nx-request-id: r\r\ncontent-type: application/json\r\n"
        )
        head += f"{self.durable}\r\n" if self.durable else ""
        return f"{head}anthropic-version: 2023-06-01\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data

    @property
    def settings(self) -> Settings:
        upstream = {"name": "up", "base_url": "http://up/v1", "models": ["*"], "dialect": self.upstream}
        upstream["continuation"] = "match" if self.again else "none"
        sections = {"retries": {"attempts": 2 if self.again else 1}, "store": {"streams": "memory"}}
        return msgspec.convert({"upstream": [upstream], **sections}, Settings)


@dataclass(frozen=True)
class Played:
    """All that was to be seen of one answer."""

    #: The body of an answer that is no stream.
    whole: Any
    #: When, and the body, of each write to the client of one that is.
    body: list[tuple[float, Any]]
    #: What else was done to the client's connection.
    client: list[tuple[float, str]]
    #: What was done to the connections to upstreams.
    upstreams: list[list[tuple[float, str, bytes]]]
    #: What was found in the log, and what another follower was given.
    seen: list[Any]
    #: What the log has in the end, of a durable answer: its blocks, how it stands, its account, its notes.
    kept: list[Any]
    lines: list[dict[str, Any]]
    metrics: bytes
    #: How many texts went through each of the lanes.
    lanes: list[int] = field(compare=False)

    @property
    def in_lanes(self) -> int:
        """Texts that went through lanes."""
        return sum(self.lanes)

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data in self.body)


def dechunked(data: bytes) -> bytes:
    """The body of one chunk; whatever is written to a client at once is one."""
    line, end, rest = data.partition(b"\r\n")
    size = int(line, 16)
    assert (line, end, rest[size:]) == (b"%x" % size, b"\r\n", b"\r\n"), data
    return rest[:size]


def in_words(answer: Played) -> Played:
    """The same with the values of its events in place of their bytes."""
    whole = json.loads(answer.whole) if answer.whole else answer.whole
    return replace(answer, whole=whole, body=_values(answer.body), seen=_values(answer.seen), kept=_values(answer.kept))


def _values(found: object) -> object:
    match found:
        case bytes():
            said = [(type, data if data == b"[DONE]" else json.loads(data)) for type, data in SseReader().feed(found)]
            return (re.findall(rb"^id: (\d+)$", found, re.MULTILINE), said) if said else found
        case list() | tuple():
            return [_values(one) for one in found]
        case _:
            return found


def followed(answer: Played) -> bytes:
    """The blocks that the client was sent, each with the next number."""
    read_events(answer.text)
    numbers = re.findall(rb"(?m)^id: (\d+)$", answer.text)
    assert numbers == [b"%d" % number for number in range(1, len(numbers) + 1)]
    return re.sub(rb"(?m)^id: \d+\n", b"", answer.text)


def read_events(text: bytes) -> list[SseEvent]:
    """The events that a client reads, all of them whole."""
    reader = SseReader()
    events = reader.feed(text)
    assert not reader.has_rest
    for _, data in events:
        if data != b"[DONE]":
            json.loads(data)
    return events


def spoken(answer: Played) -> str:
    """The text that the client reads."""
    said = [json.loads(data) for _, data in read_events(answer.text) if data != b"[DONE]"]
    deltas = [one["choices"][0]["delta"] if one.get("choices") else one.get("delta", {}) for one in said]
    return "".join(delta.get("content") or delta.get("text") or "" for delta in deltas)
