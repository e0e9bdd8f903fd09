"""The corpus of Chat Completions streams: its cases, and what any reader may demand of our bytes."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken.chat.fault import Failure, UpstreamFailed
from unbroken.wire.openai_chat.chunks import ChunkRelay
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseReader

CORPUS = Path(__file__).parent.parent / "corpus" / "openai_chat"

STREAM_ID, MODEL, CREATED = "chatcmpl-unbroken", "public-model", 1_700_000_000
SECRET = "upstream-secret-123"


@dataclass(frozen=True)
class Case:
    """One recorded stream: what came, what the client gets, and what is expected of both."""

    name: str
    upstream: bytes
    client: bytes
    expected: dict[str, Any]

    @property
    def asks_usage(self) -> bool:
        return bool(self.expected.get("include_usage", False))

    def new_relay(self) -> ChunkRelay:
        choices = self.expected.get("n", 1)
        return ChunkRelay(
            STREAM_ID, MODEL, created=CREATED, choices=choices, include_usage=self.asks_usage, secret=SECRET
        )


def read_case(path: Path) -> Case:
    client = path / "client.sse"
    return Case(
        path.name,
        (path / "upstream.sse").read_bytes(),
        client.read_bytes() if client.exists() else b"",
        json.loads((path / "case.json").read_text()),
    )


def all_cases() -> list[Case]:
    return [read_case(path) for path in sorted(CORPUS.iterdir()) if (path / "upstream.sse").exists()]


def relayed(relay: ChunkRelay, pieces: list[bytes]) -> tuple[bytes, Failure | None]:
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


def blocks(data: bytes) -> list[str]:
    """The data of each block, read as naively as a client may."""
    assert data == b"" or data.endswith(b"\n\n")
    found = data.split(b"\n\n")[:-1]
    assert all(line.startswith(b"data: ") for block in found for line in block.split(b"\n"))
    return ["\n".join(line[6:].decode() for line in block.split(b"\n")) for block in found]


def check_laws(client: bytes, *, asks_usage: bool, failed: bool) -> None:
    """What holds of every stream that we send, whatever the upstream did."""
    said = blocks(client)
    assert ("[DONE]" in said) is not failed, "[DONE] ends every whole answer, and never follows a failure"
    assert "[DONE]" not in said[:-1], "nothing follows [DONE]"
    chunks = [json.loads(block) for block in said if block != "[DONE]"]
    roles: set[int] = set()
    finished: set[int] = set()
    for at, chunk in enumerate(chunks):
        assert chunk["id"] == STREAM_ID
        assert chunk["model"] == MODEL
        assert chunk["object"] is not None
        assert chunk["created"] is not None
        assert isinstance(chunk["choices"], list)
        assert not chunk.get("error")
        if not chunk["choices"] and chunk.get("usage"):
            assert asks_usage, "usage is only for those who asked"
            assert at == len(chunks) - 1, "usage is the last chunk"
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice["delta"]
            assert isinstance(delta, dict)
            if role := delta.get("role"):
                assert role == "assistant"
                assert index not in roles, "one role per choice"
                roles.add(index)
            assert index in roles, "the role comes first"
            if reason := choice.get("finish_reason"):
                assert index not in finished, "one finish_reason per choice"
                assert isinstance(reason, str)
                finished.add(index)
            assert choice.get("finish_reason") != ""
            for call in delta.get("tool_calls") or ():
                assert isinstance(call["index"], int)
    if not failed:
        assert finished
        assert finished == roles, "every choice has its end"


@dataclass
class Told:
    """What a client makes of a stream by joining strings, as the official SDKs do."""

    text: dict[str, str]
    reasoning: dict[str, str]
    refusal: dict[str, str]
    tool_calls: dict[str, list[list[str]]]
    finish_reasons: dict[str, str]


def told(client: bytes) -> Told:
    texts: dict[str, dict[str, str]] = {name: defaultdict(str) for name in ("content", "reasoning", "refusal")}
    calls: dict[str, dict[int, list[str]]] = defaultdict(dict)
    reasons: dict[str, str] = {}
    for block in blocks(client):
        for choice in json.loads(block)["choices"] if block != "[DONE]" else ():
            index, delta = str(choice["index"]), choice["delta"]
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            for name, text in (
                ("content", delta.get("content")),
                ("reasoning", reasoning),
                ("refusal", delta.get("refusal")),
            ):
                if isinstance(text, str) and text:
                    texts[name][index] += text
            for call in delta.get("tool_calls") or ():
                if call.get("type") == "custom" or "custom" in call:
                    continue
                joined = calls[index].setdefault(call["index"], ["", "", ""])
                function = call.get("function") or {}
                joined[0] += call.get("id") or ""
                joined[1] += function.get("name") or ""
                joined[2] += function.get("arguments") or ""
            if choice.get("finish_reason"):
                reasons[index] = choice["finish_reason"]
    for found in calls.values():
        assert list(found) == list(range(len(found))), "calls are numbered from 0 in the order in which they begin"
    return Told(
        dict(texts["content"]),
        dict(texts["reasoning"]),
        dict(texts["refusal"]),
        {index: list(found.values()) for index, found in calls.items()},
        reasons,
    )
