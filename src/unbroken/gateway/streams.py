"""`/v1/streams`: durable streams by their id, for whoever comes back to them (D3 to D6, D11, D15)."""

import re
from typing import TYPE_CHECKING

import msgspec

from unbroken.chat.error import ApiError, RequestRefused, invalid
from unbroken.chat.stream import Offset, StreamId, StreamStatus
from unbroken.gateway.call import Call
from unbroken.gateway.durable_answers import respond_whole, send_stream
from unbroken.gateway.stream_account import read_account, write_status
from unbroken.store.log import OffsetUnknown, StreamUnknown
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

_OFFSET = re.compile(r"[0-9]{1,18}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)


async def list_streams(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves the caller's streams that have not ended, oldest first."""
    own = [status for status in await gateway.durable.log.live() if status.record.key_name == key_name]
    rows = [msgspec.Raw(write_status(status, read_account(status))) for status in own]
    await call.respond_json(msgspec.json.encode({"object": "list", "data": rows}))


async def get_stream(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves a stream's events from an offset on, or its status."""
    status = await find_stream(gateway, call.path.removeprefix("/v1/streams/"), key_name)
    if "text/event-stream" not in call.header(b"accept"):
        return await call.respond_json(write_status(status, read_account(status)))
    after = _after(call)
    if after > status.last:
        raise OffsetUnknown(f"stream {status.record.id} has {status.last} blocks, and {after} is beyond them")
    call.own_headers.append((b"unbroken-stream", status.record.id.encode()))
    await send_stream(gateway, call, status.record.id, after, wants_ids=True)


async def delete_stream(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Cancels a stream, and gives its status."""
    found = await find_stream(gateway, call.path.removeprefix("/v1/streams/"), key_name)
    await gateway.durable.cancel(found.record.id)
    status = await gateway.durable.log.status(found.record.id)
    await call.respond_json(write_status(status, read_account(status)))


async def get_chat_completion(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves a durable chat completion, whole."""
    status = await find_stream(gateway, call.path.removeprefix("/v1/chat/completions/"), key_name)
    if status.record.dialect != OPENAI_CHAT.name:
        raise StreamUnknown(f"stream {status.record.id} is no chat completion")
    if not status.has_ended:
        message = f"The answer is not finished: /v1/streams/{status.record.id} has what there is of it."
        raise RequestRefused(ApiError(409, message, code="stream_not_finished"))
    await respond_whole(gateway, call, status, read_account(status))


async def find_stream(gateway: "Gateway", id: str, key_name: str) -> StreamStatus:
    """How a stream of the caller's stands.

    Raises:
        StreamUnknown: there is none, or it is another key's (D6).
    """
    if not _ID.fullmatch(id):
        raise StreamUnknown("no stream has such an id")
    status = await gateway.durable.log.status(StreamId(id))
    if status.record.key_name != key_name:
        raise StreamUnknown(f"stream {id} is another key's")
    return status


def _after(call: Call) -> Offset:
    given = call.header(b"last-event-id") or call.query.get("after", "0")
    if not _OFFSET.fullmatch(given):
        raise invalid("Invalid value for 'after': expected the offset of a block.", param="after", code="invalid_value")
    return Offset(int(given))
