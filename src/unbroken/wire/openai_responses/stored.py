"""What was said before: earlier responses as input, and the lists that a client may ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from msgspec import Raw

from unbroken.chat.request import ChatRequest
from unbroken.wire.openai_responses.request import NULL

_read_input = msgspec.json.Decoder(str | list[Raw] | None).decode
_read_members = msgspec.json.Decoder(dict[str, Raw]).decode
_read_text = msgspec.json.Decoder(str | None).decode
_write = msgspec.json.Encoder().encode

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


class _Output(msgspec.Struct):
    output: list[Raw] = []


_read_output = msgspec.json.Decoder(_Output).decode


def previous_response_id(request: ChatRequest) -> str | None:
    """The response that the request goes on from, None where it begins anew."""
    id: str | None = _read_text(request.fields.get("previous_response_id", NULL))
    return id


def input_items(request: ChatRequest) -> tuple[Raw, ...]:
    """The input as items; a text is a message of the user."""
    said = _read_input(request.fields.get("input", NULL))
    if isinstance(said, str):
        content = [{"type": "input_text", "text": said}]
        return (Raw(_write({"type": "message", "role": "user", "content": content})),)
    return tuple(said or ())


def output_items(response: bytes) -> tuple[Raw, ...]:
    """The output of a whole response, JSON as it came."""
    return tuple(item.copy() for item in _read_output(response).output)


def with_previous(request: ChatRequest, items: Sequence[Raw]) -> ChatRequest:
    """The request with all that was said before, input and output, in front of its own input.

    Instructions of earlier requests are not among it: the API does not carry them on.
    """
    fields = {name: raw for name, raw in request.fields.items() if name != "previous_response_id"}
    fields["input"] = Raw(_write([*items, *input_items(request)]))
    return replace(request, fields=fields)


def with_ids(items: Sequence[Raw], response_id: str) -> tuple[Raw, ...]:
    """The items with a `type` and an id each; those that have none get one that is always the same."""
    suffix = response_id.removeprefix("resp_")
    return tuple(_with_id(item, f"{suffix}_in_{at}") for at, item in enumerate(items))


def _with_id(item: Raw, suffix: str) -> Raw:
    members = _read_members(item)
    type = _read_text(members.get("type", NULL)) or "message"
    if members.get("id", NULL) != NULL and "type" in members:
        return item
    id = members.get("id", NULL)
    own = Raw(_write(f"{_PREFIXES.get(type, 'item')}_{suffix}")) if id == NULL else id
    mended: dict[str, object] = {**members, "id": own, "type": type}
    if type == "message" and isinstance(text := msgspec.json.decode(members.get("content", NULL)), str):
        is_said = _read_text(members.get("role", NULL)) == "assistant"
        mended["content"] = [
            {"type": "output_text", "text": text, "annotations": []}
            if is_said
            else {"type": "input_text", "text": text}
        ]
    return Raw(_write(mended))


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted: at most `limit` items behind the one with the id `after`, in this order."""

    after: str | None = None
    limit: int = 20
    is_descending: bool = True


def write_list(items: Sequence[Raw], page: Page) -> bytes | None:
    """The list object of the items on the page, each of which has an id; None where `after` names none of them."""
    ids = [_read_text(_read_members(item).get("id", NULL)) or "" for item in items]
    order = list(reversed(range(len(items)))) if page.is_descending else list(range(len(items)))
    if page.after is not None:
        if page.after not in ids:
            return None
        order = order[order.index(ids.index(page.after)) + 1 :]
    shown = order[: page.limit]
    return _write(
        {
            "object": "list",
            "data": [items[at] for at in shown],
            "first_id": ids[shown[0]] if shown else "",
            "last_id": ids[shown[-1]] if shown else "",
            "has_more": len(shown) < len(order),
        }
    )


def write_deleted(response_id: str) -> bytes:
    """What a client is told when a response has been deleted."""
    return _write({"id": response_id, "object": "response.deleted", "deleted": True})
