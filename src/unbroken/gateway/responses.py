"""`/v1/responses`: OpenAI Responses, which a client may ask for again and go on from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw

from unbroken.chat.counted import counted
from unbroken.chat.error import RequestRefused, invalid
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block, Offset, StreamStatus
from unbroken.gateway.answers import send_answer
from unbroken.gateway.call import Call
from unbroken.gateway.durable_answers import send_stream
from unbroken.gateway.production import Asked, OnWhole
from unbroken.gateway.records import asked_again
from unbroken.gateway.stream_account import read_account
from unbroken.gateway.streams import find_stream
from unbroken.gateway.whole_log import last_response, response_now
from unbroken.store.log import OffsetUnknown, StreamUnknown
from unbroken.store.responses import StoredResponse
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.openai_responses.stored import (
    Page,
    input_items,
    output_items,
    previous_response_id,
    with_ids,
    with_previous,
    write_deleted,
    write_list,
)

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

MOST_LISTED = 100

_LIMIT = re.compile(r"[0-9]{1,3}")
_SEQUENCE_NUMBER = re.compile(r"-1|[0-9]{1,18}", re.ASCII)
_read_members = msgspec.json.Decoder(dict[str, Raw]).decode
_TRUE, _FALSE = Raw(b"true"), Raw(b"false")


async def create_response(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves one request, and keeps the response unless the client does not want it kept."""
    body = await call.read_json_body(gateway.settings.server.body_limit)
    request = OPENAI_RESPONSES.read_request(body)
    call.asked_model = request.model
    is_background = request.fields.get("background") == _TRUE
    asked = await _with_earlier(gateway, request, key_name)
    _checked(input_items(asked))
    if is_background:
        if request.fields.get("store") == _FALSE:
            raise invalid("Work in the background is kept: `store` cannot be false.", param="store")
        # It is our background: no upstream is to have one of its own.
        asked = replace(asked, fields={name: raw for name, raw in asked.fields.items() if name != "background"})
    await send_answer(
        gateway, call, asked, body, OPENAI_RESPONSES, key_name, echo=request.fields, is_background=is_background
    )


def response_keeper(gateway: "Gateway", asked: Asked, key_name: str) -> OnWhole | None:
    """What keeps a whole response, None where the client does not want it kept."""
    request = asked.request
    if asked.echo.get("store") == _FALSE:
        return None

    def keep(whole: bytes) -> None:
        body = last_response([Block(whole)]) if request.stream else whole
        if body is not None and _has_output(body):
            # Copied: each would keep the whole body of its request.
            items = tuple(item.copy() for item in with_ids(input_items(request), asked.stream))
            gateway.responses.put(StoredResponse(asked.stream, key_name, items, body))

    return keep


async def get_response(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves a response in whatever state it is, its events, or its input items."""
    path = call.path.removeprefix("/v1/responses/")
    id, _, part = path.partition("/")
    if part not in ("", "input_items"):
        raise _unknown(path)
    if not part and call.query.get("stream") == "true":
        return await _send_events(gateway, call, id, key_name)
    found = await gateway.responses.get(id, key_name)
    if found is None:
        return await _send_unkept(gateway, call, id, part, key_name)
    if not part:
        return await call.respond_json(found.body)
    await _send_items(call, found.items)


async def delete_response(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Forgets a response; one that is being made is cancelled."""
    id = call.path.removeprefix("/v1/responses/")
    was_kept = await gateway.responses.delete(id, key_name)
    stream = await _stream(gateway, id, key_name)
    if not was_kept and stream is None:
        raise _unknown(id)
    if stream is not None:
        await gateway.durable.cancel(stream.record.id)
        await gateway.durable.log.forget(stream.record.id)
    await call.respond_json(write_deleted(id))


async def cancel_response(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Cancels a response that is being made, and gives it."""
    id, _, verb = call.path.removeprefix("/v1/responses/").partition("/")
    if verb != "cancel":
        raise _unknown(id)
    stream = await _stream(gateway, id, key_name)
    if stream is None:
        kept = await gateway.responses.get(id, key_name)
        if kept is None:
            raise _unknown(id)
        if _read_members(kept.body).get("background") != _TRUE:
            raise invalid("Cannot cancel a synchronous response.")
        return await call.respond_json(kept.body)  # it is whole, and its stream forgotten: nothing is left to stop
    await gateway.durable.cancel(stream.record.id)
    await _send_unkept(gateway, call, id, "", key_name)


async def _stream(gateway: "Gateway", id: str, key_name: str) -> StreamStatus | None:
    try:
        status = await find_stream(gateway, id, key_name)
    except StreamUnknown:
        return None
    return status if status.record.dialect == OPENAI_RESPONSES.name else None


async def _send_events(gateway: "Gateway", call: Call, id: str, key_name: str) -> None:
    """Sends the events of a durable response behind `starting_after`; the n-th block has the sequence number n - 1."""
    status = await _stream(gateway, id, key_name)
    if status is None:
        if await gateway.responses.get(id, key_name) is not None:
            message = "This response was not made durable: ask for it without `stream`."
            raise invalid(message, param="stream", code="unsupported_parameter")
        raise _unknown(id)
    given = call.query.get("starting_after", "-1")
    if not _SEQUENCE_NUMBER.fullmatch(given):
        message = "Invalid value for 'starting_after': expected a sequence number."
        raise invalid(message, param="starting_after", code="invalid_value")
    after = Offset(int(given) + 1)
    if after > status.last:
        raise OffsetUnknown(f"response {status.record.id} has {counted(status.last, 'event')}, and {given} is beyond")
    call.own_headers.append((b"unbroken-stream", id.encode()))
    await send_stream(gateway, call, status.record.id, after, wants_ids=False)


async def _send_unkept(gateway: "Gateway", call: Call, id: str, part: str, key_name: str) -> None:
    """Sends a durable response that is not whole, or was not kept as such."""
    status = await _stream(gateway, id, key_name)
    if status is None:
        raise _unknown(id)
    asked = asked_again(status.record)
    if part:
        return await _send_items(call, with_ids(input_items(asked.request), asked.stream))
    entries = await gateway.durable.log.read(asked.stream, Offset(0))
    await call.respond_json(response_now(status, read_account(status), [entry.block for entry in entries]))


async def _send_items(call: Call, items: Sequence[Raw]) -> None:
    listed = write_list(items, _page(call.query))
    if listed is None:
        raise invalid("`after` names no item of this response.", param="after", code="invalid_value")
    await call.respond_json(listed)


async def _with_earlier(gateway: "Gateway", request: ChatRequest, key_name: str) -> ChatRequest:
    """The request with what was said before it, where it goes on from a response."""
    earlier = previous_response_id(request)
    if earlier is None:
        return request
    found = await gateway.responses.get(earlier, key_name)
    if found is None:
        message = f"Previous response with id '{earlier[:200]}' not found."
        raise invalid(message, param="previous_response_id", code="previous_response_not_found")
    return with_previous(request, [*found.items, *output_items(found.body)])


def _has_output(body: bytes) -> bool:
    """Whether one can go on from the response: some servers leave out of the last event what they have streamed."""
    try:
        output_items(body)
    except msgspec.DecodeError:
        return False
    return True


def _checked(items: Sequence[Raw]) -> Sequence[Raw]:
    """The items, in which all is as it must be to be listed by their ids."""
    for at, item in enumerate(items):
        try:
            write_list(with_ids([item], ""), Page())
        except msgspec.ValidationError as error:
            problem = str(error).partition(" - at ")[0]
            raise invalid(f"Invalid value for 'input[{at}]': {problem}.", param=f"input[{at}]") from None
    return items


def _page(query: Mapping[str, str]) -> Page:
    limit = query.get("limit", "20")
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= MOST_LISTED:
        raise invalid(f"Invalid value for 'limit': expected 1 to {MOST_LISTED}.", param="limit", code="invalid_value")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("Invalid value for 'order': expected 'asc' or 'desc'.", param="order", code="invalid_value")
    return Page(query.get("after"), int(limit), order == "desc")


def _unknown(id: str) -> RequestRefused:
    message = f"Response with id '{id[:200]}' not found."
    return invalid(message, status=404, code="response_not_found")
