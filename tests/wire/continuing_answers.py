"""Answers that break off and go on: an attempt's bytes, its blocks for a client, and what a reader makes of both."""

import json
from collections.abc import Sequence
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.wire.responses_sdk import client_of
from unbroken.chat.events import Event
from unbroken.chat.fault import Failure, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.continuing import ContinuingRelay, Joint, read_back
from unbroken.wire.continuing_joints import Matched
from unbroken.wire.dialects import Answering, Dialect, Relay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.sse import SseEvent, SseReader
from unbroken.wire.translate import relay_between

DIALECTS: list[Dialect] = [OPENAI_CHAT, ANTHROPIC_MESSAGES, OPENAI_RESPONSES]

CREATED = 1_700_000_000

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def answering(dialect: Dialect) -> Answering:
    """What the client's stream is called."""
    return Answering(f"{dialect.id_prefix}1", "public", CREATED, include_usage=True)


def spoken(upstream: Dialect, events: Sequence[Event], *, id: str = "theirs", end: bool = True) -> list[SseEvent]:
    """What an upstream sends that says these events; another `id` is another attempt."""
    known = Answering(f"{upstream.id_prefix}{id}", "their-model", CREATED + len(id), include_usage=True)
    writer = upstream.event_writer(known)
    blocks = [block for event in events for block in writer.write(event)]
    return SseReader().feed(b"".join([*blocks, *(writer.end() if end else [])]))


def new_relay(client: Dialect, upstream: Dialect, *, created: int = CREATED) -> Relay:
    """The relay of an attempt from its beginning, as every answer has one."""
    known = Answering(answering(client).stream_id, "public", created, include_usage=True)
    if client is upstream:
        return client.relay(known, secret="", ours=None)
    return relay_between(upstream, client, known, secret="")


def relayed(relay: Relay, upstream: Sequence[SseEvent]) -> tuple[list[Block], Failure | None]:
    """The blocks of an attempt, and how it failed."""
    blocks: list[Block] = []
    try:
        for event in upstream:
            blocks += relay.feed(event)
        blocks += relay.finish()
    except UpstreamFailed as failed:
        return blocks, failed.failure
    return blocks, None


def continuing(
    client: Dialect, upstream: Dialect, sent: Sequence[Block], joint: Joint | None = None
) -> ContinuingRelay:
    """The relay of an attempt that goes on behind `sent`; matched if no other joint is given."""
    joint = joint or Matched(read_back(client, sent).said)
    writer = client.continuing_writer(answering(client), sent)
    attempt = new_relay(client, upstream, created=CREATED + 99)
    return ContinuingRelay(attempt, client.event_reader(), joint, writer)


def heard(dialect: Dialect, blocks: Sequence[Block]) -> tuple[list[Event], bool]:
    """What the client reads, and whether it saw the dialect's end."""
    reader = dialect.event_reader()
    events = [event for sse in SseReader().feed(b"".join(blocks)) for event in reader.feed(sse)]
    return events, reader.is_complete


def put_together(dialect: Dialect, blocks: Sequence[Block]) -> dict[str, Any]:
    """What the official SDK makes of a whole stream, once its events have been found to keep the dialect's grammar."""
    events = [json.loads(event.data) for event in SseReader().feed(b"".join(blocks)) if event.data != b"[DONE]"]
    if dialect is OPENAI_CHAT:
        return _completion(events)
    return _message(events) if dialect is ANTHROPIC_MESSAGES else _response(events, blocks)


def _completion(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1
    roles = [choice for event in events for choice in event["choices"] if choice["delta"].get("role")]
    assert len(roles) == 1
    assert roles[0] in events[0]["choices"]
    ends = [choice for event in events for choice in event["choices"] if choice.get("finish_reason")]
    assert len(ends) == 1
    assert [bool(event.get("usage")) for event in events].count(True) <= 1
    if ends[0]["finish_reason"] in ("length", "content_filter"):
        return {}  # for these the SDK's parser raises an error of its own
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for event in events:
        state.handle_chunk(ChatCompletionChunk.construct(**event))  # as the SDK does, which refuses no word
    return {**state.current_completion_snapshot.to_dict(), "created": 0}  # the upstream's own, on the diagonal


def _message(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert [event["type"] for event in events].count("message_start") == 1
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"
    began = [event["index"] for event in events if event["type"] == "content_block_start"]
    ended = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert began == ended == list(range(len(began)))
    open_block: int | None = None
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                open_block = event["index"]
            case "content_block_delta":
                assert event["index"] == open_block
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
    snapshot: Message | None = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event.get("delta", {}).get("stop_reason") == "exhausted":
            event["delta"]["stop_reason"] = "end_turn"  # the SDK's types know no other words than the API's
        valid: Any = EVENT.validate_python(event)
        snapshot = accumulate_event(event=valid, current_snapshot=snapshot, json_bufs=buffers)  # type: ignore[arg-type]
    assert snapshot is not None
    return snapshot.to_dict()


def _response(events: list[dict[str, Any]], blocks: Sequence[Block]) -> dict[str, Any]:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    types = [event["type"] for event in events]
    assert types[:2] == ["response.created", "response.in_progress"]
    assert (types.count("response.created"), types.count("response.in_progress")) == (1, 1)
    assert len({(e["response"]["id"], e["response"]["created_at"]) for e in events if "response" in e}) == 1
    added = [(event["output_index"], event["item"]["id"]) for event in events if event["type"].endswith("item.added")]
    assert [place for place, _ in added] == list(range(len(added)))
    done = {event["output_index"]: event["item"] for event in events if event["type"].endswith("item.done")}
    ids = dict(added)
    assert {place: item["id"] for place, item in done.items()} == ids
    assert types.count("response.output_item.done") == len(added)
    assert all(event["item_id"] == ids[event["output_index"]] for event in events if "item_id" in event)
    _check_parts(events)
    whole = events[-1]["response"]
    assert whole["output"] == [done[place] for place in sorted(done)]
    if (whole["incomplete_details"] or {}).get("reason") in (None, "max_output_tokens", "content_filter"):
        for event in events:
            RESPONSE_EVENT.validate_python(event)
    with client_of(b"".join(blocks)).responses.stream(model="m", input="Hi") as stream:
        seen = [event.type for event in stream]
        assert seen == types
        if types[-1] == "response.completed":  # of other ends the SDK gives no response
            assert stream.get_final_response().id == whole["id"]
    for item in whole["output"]:
        item["id"] = item["type"]  # the upstream's own, on the diagonal
    return {**whole, "created_at": 0}


def _check_parts(events: list[dict[str, Any]]) -> None:
    """Each part begins once, is filled, and is closed once by what it came to."""
    names = {"content_index": "content_part", "summary_index": "reasoning_summary_part"}
    for index, part in names.items():
        seen: dict[tuple[int, int], list[str]] = {}
        said: dict[tuple[int, int], str] = {}
        for event in events:
            if index in event:
                where = (event["output_index"], event[index])
                seen.setdefault(where, []).append(event["type"].removeprefix("response."))
                if event["type"].endswith(".delta"):
                    said[where] = said.get(where, "") + event["delta"]
                elif event["type"].endswith(("text.done", "refusal.done")):
                    assert event.get("text", event.get("refusal")) == said.get(where, "")
        for types in seen.values():
            assert types[0] == f"{part}.added"
            assert types[-1] == f"{part}.done"
            assert types[-2].endswith(".done")
            assert all(not type.endswith(".done") for type in types[:-2])
