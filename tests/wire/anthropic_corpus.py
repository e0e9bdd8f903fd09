"""The corpus of Messages streams: its cases, and what any reader may demand of our bytes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbroken.chat.fault import Failure, UpstreamFailed
from unbroken.wire.anthropic_messages.relay import MessageRelay
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseReader

CORPUS = Path(__file__).parent.parent / "corpus" / "anthropic_messages"

STREAM_ID, MODEL = "msg_unbroken", "public-model"
SECRET = "upstream-secret-123"


@dataclass(frozen=True)
class Case:
    """One recorded stream: what came, what the client gets, and what is expected of both."""

    name: str
    upstream: bytes
    client: bytes
    expected: dict[str, Any]

    def new_relay(self) -> MessageRelay:
        return MessageRelay(STREAM_ID, MODEL, secret=SECRET)


def all_cases() -> list[Case]:
    return [
        Case(
            path.name,
            (path / "upstream.sse").read_bytes(),
            (path / "client.sse").read_bytes(),
            json.loads((path / "case.json").read_text()),
        )
        for path in sorted(CORPUS.iterdir())
        if (path / "upstream.sse").exists()
    ]


def relayed(relay: MessageRelay, pieces: list[bytes]) -> tuple[bytes, Failure | None]:
    """What the client gets when the upstream's bytes come in these pieces and then the line ends."""
    reader, sent = SseReader(), b""
    try:
        for piece in pieces:
            for event in reader.feed(piece):
                sent += b"".join(relay.feed(event))
        if relay.progress is not Progress.ENDED:
            sent += b"".join(relay.finish())
    except UpstreamFailed as failed:
        return sent, failed.failure
    return sent, None


def events_of(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each block, read as naively as a client may."""
    assert data == b"" or data.endswith(b"\n\n")
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        head, *lines = block.split("\n")
        assert head.startswith("event: ")
        assert all(line.startswith("data: ") for line in lines)
        found.append((head[7:], json.loads("\n".join(line[6:] for line in lines))))
    return found


def check_laws(client: bytes, *, failed: bool) -> None:
    """What holds of every stream that we send, whatever the upstream did."""
    events = [(name, data) for name, data in events_of(client) if name != "ping"]
    names = [name for name, _ in events]
    assert ("message_stop" in names) is not failed, "message_stop ends every whole answer, and never follows a failure"
    assert "message_stop" not in names[:-1], "nothing follows message_stop"
    assert names.count("message_start") <= 1, "one envelope"
    open_blocks: set[int] = set()
    begun: set[int] = set()
    reason = None
    for at, (name, data) in enumerate(events):
        assert data["type"] == name
        assert (name == "message_start") is (at == 0)
        assert name != "error"
        if name == "message_start":
            assert data["message"]["id"] == STREAM_ID
            assert data["message"]["model"] == MODEL
            assert isinstance(data["message"]["content"], list)
            assert isinstance(data["message"]["usage"], dict)
        elif name == "content_block_start":
            assert reason is None
            assert data["index"] not in begun
            begun.add(data["index"])
            open_blocks.add(data["index"])
        elif name == "content_block_delta":
            assert data["index"] in open_blocks
        elif name == "content_block_stop":
            open_blocks.remove(data["index"])
        elif name == "message_delta":
            assert isinstance(data["usage"], dict)
            assert data["delta"]["stop_reason"] != ""
            reason = data["delta"]["stop_reason"] or reason
            assert not (reason and open_blocks), "blocks are closed before the message is"
    if not failed:
        assert reason


@dataclass
class Told:
    """What a client makes of a stream."""

    text: str = ""
    thinking: str = ""
    signatures: list[str] = field(default_factory=list)
    tool_calls: list[list[str]] = field(default_factory=list)
    citations: int = 0
    other_blocks: list[str] = field(default_factory=list)
    stop_reason: str | None = None
    stop_sequence: str | None = None


def told(client: bytes) -> Told:
    made = Told()
    calls: dict[int, list[str]] = {}
    for name, data in events_of(client):
        if name == "content_block_start":
            block = data["content_block"]
            if block["type"] == "tool_use":
                calls[data["index"]] = [block["id"], block["name"], ""]
            elif block["type"] not in ("text", "thinking"):
                made.other_blocks.append(block["type"])
            made.text += block.get("text", "")
        elif name == "content_block_delta":
            delta = data["delta"]
            made.text += delta.get("text", "")
            made.thinking += delta.get("thinking", "")
            made.citations += "citation" in delta
            if "signature" in delta:
                made.signatures.append(delta["signature"])
            if data["index"] in calls:
                calls[data["index"]][2] += delta.get("partial_json", "")
        elif name == "message_delta":
            made.stop_reason = data["delta"]["stop_reason"] or made.stop_reason
            made.stop_sequence = data["delta"].get("stop_sequence") or made.stop_sequence
    made.tool_calls = list(calls.values())
    return made
