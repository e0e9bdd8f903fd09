"""The response object, in which this dialect says everything that is known of an answer."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.wire.dialects import Answering
from unbroken.wire.sse import in_one_line

_NULL = Raw(b"null")

#: What a response repeats of its request, and what it says where the request says nothing. In the API's order.
_ECHOED: Mapping[str, Raw] = {
    "background": Raw(b"false"),
    "instructions": _NULL,
    "max_output_tokens": _NULL,
    "max_tool_calls": _NULL,
    "parallel_tool_calls": Raw(b"true"),
    "previous_response_id": _NULL,
    "prompt_cache_key": _NULL,
    "reasoning": Raw(b'{"effort":null,"summary":null}'),
    "safety_identifier": _NULL,
    "service_tier": _NULL,
    "store": Raw(b"true"),
    "temperature": _NULL,
    "text": Raw(b'{"format":{"type":"text"}}'),
    "tool_choice": Raw(b'"auto"'),
    "tools": Raw(b"[]"),
    "top_logprobs": Raw(b"0"),
    "top_p": _NULL,
    "truncation": Raw(b'"disabled"'),
    "user": _NULL,
    "metadata": Raw(b"{}"),
}

_FUNCTION = Raw(b'"function"')
_SAID_OF_FUNCTIONS: Mapping[str, Raw] = {"description": _NULL, "parameters": _NULL, "strict": _NULL}

_read_tools = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_read_members = msgspec.json.Decoder(dict[str, Raw]).decode
_write = msgspec.json.Encoder().encode


class ResponseObject:
    """Gives the response object of one answer in each of its states."""

    def __init__(self, answering: Answering) -> None:
        echo = answering.request
        self._id, self._model, self._created = answering.stream_id, answering.model, answering.created
        said = {name: in_one_line(echo[name]) for name in _ECHOED if echo.get(name, _NULL) != _NULL}
        if "tools" in said:
            said["tools"] = _whole_tools(said["tools"])
        if "text" in said:
            said["text"] = Raw(_write({**_read_members(_ECHOED["text"]), **_read_members(said["text"])}))
        self._echo = {**_ECHOED, **said}

    def state(self, status: str, output: list[dict[str, Any]], **more: object) -> dict[str, object]:
        """The object with this status and output; `more` are `error`, `incomplete_details` and `usage`."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": output,
            "usage": None,
            **self._echo,
            **more,
        }


def our_members(answering: Answering) -> dict[str, Raw]:
    """The members of a response that are ours and not the upstream's."""
    own = {"id": Raw(_write(answering.stream_id)), "model": Raw(_write(answering.model))}
    earlier = answering.request.get("previous_response_id", _NULL)
    # It was asked of us: the upstream has got what it stands for.
    return own if earlier == _NULL else {**own, "previous_response_id": earlier}


def _whole_tools(tools: Raw) -> Raw:
    """Tools with every member that the API's own answers have; strict readers miss them."""
    return Raw(
        _write(
            [{**_SAID_OF_FUNCTIONS, **tool} if tool.get("type") == _FUNCTION else tool for tool in _read_tools(tools)]
        )
    )
