"""The corpus of Responses streams: its cases, and what any reader may demand of our bytes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbroken.chat.fault import Failure, UpstreamFailed
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_responses.relay import ResponseRelay
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseReader

CORPUS = Path(__file__).parent.parent / "corpus" / "openai_responses"

STREAM_ID, MODEL, CREATED = "resp_unbroken", "public-model", 1_700_000_000
ANSWERING = Answering(STREAM_ID, MODEL, CREATED)
SECRET = "upstream-secret-123"

TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


@dataclass(frozen=True)
class Case:
    """One recorded stream: what came, what the client gets, and what is expected of both."""

    name: str
    upstream: bytes
    client: bytes
    expected: dict[str, Any]

    def new_relay(self) -> ResponseRelay:
        return ResponseRelay(ANSWERING, secret=SECRET)


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


def relayed(relay: ResponseRelay, pieces: list[bytes]) -> tuple[bytes, Failure | None]:
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


def blocks(data: bytes) -> list[dict[str, Any]]:
    """The events, read as naively as a client may."""
    assert data == b"" or data.endswith(b"\n\n")
    found = []
    for block in data.split(b"\n\n")[:-1]:
        first, *lines = block.split(b"\n")
        assert first.startswith(b"event: ")
        assert all(line.startswith(b"data: ") for line in lines)
        event = json.loads("\n".join(line[6:].decode() for line in lines))
        assert event["type"].encode() == first[7:]
        found.append(event)
    return found


def check_laws(client: bytes, *, failed: bool) -> list[dict[str, Any]]:
    """What holds of every stream that we send, whatever the upstream did."""
    events = blocks(client)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    ends = [event["type"] for event in events if event["type"] in TERMINAL]
    assert len(ends) == (0 if failed else 1), "one terminal event, and none of our making after a failure"
    if ends:
        assert events[-1]["type"] in TERMINAL, "nothing follows it"
    for event in events:
        if isinstance(event.get("response"), dict):
            assert event["response"]["id"] == STREAM_ID
            assert event["response"]["model"] == MODEL
        assert event.get("response_id", STREAM_ID) == STREAM_ID
    return events


def check_nesting(events: list[dict[str, Any]]) -> None:
    """Items and their parts are added once, done once, and said in between."""
    items: dict[int, str] = {}
    parts: set[tuple[int, str, int]] = set()
    places: list[int] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        place = event.get("output_index")
        if kind == "output_item.added":
            assert place == len(places), "items are numbered from 0 in the order in which they begin"
            assert event["item"]["id"] not in items.values()
            places.append(place)
            items[place] = event["item"]["id"]
        elif kind == "output_item.done":
            assert items.pop(place) == event["item"]["id"]
            assert not any(part[0] == place for part in parts), "the parts of an item end before it"
        elif place is not None:
            assert event["item_id"] == items[place]
            part = _part(event)
            if kind.endswith("part.added"):
                assert part not in parts
                parts.add(part)
            elif kind.endswith("part.done"):
                parts.remove(part)
            elif part is not None:
                assert part in parts
    assert not items, "every item is done before the end"


def _part(event: dict[str, Any]) -> Any:
    for name in ("content_index", "summary_index"):
        if name in event:
            return (event["output_index"], name, event[name])
    return None


@dataclass
class Told:
    """What a client makes of a stream by joining strings, as the official SDKs do."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[list[str]] = field(default_factory=list)


def told(client: bytes) -> Told:
    said = Told()
    calls: dict[int, list[str]] = {}
    for event in blocks(client):
        match event["type"]:
            case "response.output_text.delta":
                said.text += event["delta"]
            case "response.refusal.delta":
                said.refusal += event["delta"]
            case "response.reasoning_summary_part.added":
                said.reasoning += "\n\n" if event["summary_index"] else ""
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                said.reasoning += event["delta"]
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                calls[event["output_index"]] = [event["item"]["call_id"], event["item"]["name"], ""]
            case "response.function_call_arguments.delta":
                calls[event["output_index"]][2] += event["delta"]
    said.tool_calls = [*calls.values()]
    return said
