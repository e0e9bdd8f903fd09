"""`/v1/responses`: OpenAI Responses, which a client may ask for again and go on from."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw

from unbroken.chat.error import RequestRefused, invalid
from unbroken.chat.request import ChatRequest
from unbroken.gateway.answers import send_answer
from unbroken.gateway.call import Call
from unbroken.gateway.produce import Producer
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
from unbroken.wire.sse import SseReader

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

MOST_LISTED = 100

_LIMIT = re.compile(r"[0-9]{1,3}")
_TRUE, _FALSE = Raw(b"true"), Raw(b"false")


class _Terminal(msgspec.Struct):
    response: Raw


_read_terminal = msgspec.json.Decoder(_Terminal).decode


async def create_response(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves one request, and keeps the response unless the client does not want it kept."""
    request = OPENAI_RESPONSES.read_request(await call.read_json_body(gateway.settings.server.body_limit))
    if request.fields.get("background") == _TRUE:
        message = "background is not served yet: ask without it, streaming or not."
        raise invalid(message, param="background", code="unsupported_parameter")
    asked = _with_earlier(gateway, request, key_name)
    given = _checked(input_items(asked))

    def keep(producer: Producer) -> None:
        body = producer.whole or _last_response(producer.last_block)
        if body is not None and _has_output(body):
            # Copied: each would keep the whole body of its request.
            items = tuple(item.copy() for item in with_ids(given, producer.stream))
            gateway.responses.put(StoredResponse(producer.stream, key_name, items, body))

    on_whole = None if request.fields.get("store") == _FALSE else keep
    await send_answer(gateway, call, asked, OPENAI_RESPONSES, key_name, echo=request.fields, on_whole=on_whole)


async def get_response(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves a response that was kept, or its input items."""
    path = call.path.removeprefix("/v1/responses/")
    id, _, part = path.partition("/")
    found = gateway.responses.get(id, key_name)
    if found is None or part not in ("", "input_items"):
        raise _unknown(path)
    if call.query.get("stream") == "true":
        message = "A stored response cannot be streamed yet: ask for it without `stream`."
        raise invalid(message, param="stream", code="unsupported_parameter")
    if not part:
        return await call.respond_json(found.body)
    listed = write_list(found.items, _page(call.query))
    if listed is None:
        raise invalid("`after` names no item of this response.", param="after")
    await call.respond_json(listed)


async def delete_response(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Forgets a response."""
    id = call.path.removeprefix("/v1/responses/")
    if not gateway.responses.delete(id, key_name):
        raise _unknown(id)
    await call.respond_json(write_deleted(id))


def _with_earlier(gateway: "Gateway", request: ChatRequest, key_name: str) -> ChatRequest:
    """The request with what was said before it, where it goes on from a response."""
    earlier = previous_response_id(request)
    if earlier is None:
        return request
    found = gateway.responses.get(earlier, key_name)
    if found is None:
        message = f"Previous response with id '{earlier[:200]}' not found."
        raise invalid(message, param="previous_response_id", code="previous_response_not_found")
    return with_previous(request, [*found.items, *output_items(found.body)])


def _last_response(block: bytes | None) -> bytes | None:
    """The response that a stream's last event holds; None where it holds none."""
    try:
        return next((bytes(_read_terminal(event.data).response) for event in SseReader().feed(block or b"")), None)
    except msgspec.DecodeError:
        return None


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
        raise invalid(f"Invalid value for 'limit': expected 1 to {MOST_LISTED}.", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("Invalid value for 'order': expected 'asc' or 'desc'.", param="order")
    return Page(query.get("after"), int(limit), order == "desc")


def _unknown(id: str) -> RequestRefused:
    message = f"Response with id '{id[:200]}' not found."
    return invalid(message, status=404, code="response_not_found")
