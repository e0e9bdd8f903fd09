"""The dialect as the gateway sees it."""

import json

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Fault
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.chunks import ChunkRelay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT

ANSWERING = Answering("chatcmpl-1", "public", 7, choices=2, include_usage=True)
BODY = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true,"odd":1}'


def test_it_has_a_name_a_place_and_a_prefix() -> None:
    assert (OPENAI_CHAT.name, OPENAI_CHAT.path, OPENAI_CHAT.id_prefix) == (
        "openai-chat",
        "/chat/completions",
        "chatcmpl-",
    )


def test_the_diagonal_keeps_every_field_of_a_request() -> None:
    request = OPENAI_CHAT.read_request(BODY)
    body = json.loads(OPENAI_CHAT.write_request(request, model="theirs", ask_usage=True, more={"x": 1}))
    usage = {"stream_options": {"include_usage": True}}
    assert body == {**json.loads(BODY), "model": "theirs", "x": 1, **usage}


def test_the_diagonal_relays_chunks() -> None:
    relay = OPENAI_CHAT.relay(ANSWERING, secret="s", ours=None)
    assert isinstance(relay, ChunkRelay)


def test_the_diagonal_relays_whole_answers() -> None:
    said = b'{"id":"x","choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'
    body, usage = OPENAI_CHAT.relay_answer(said, ANSWERING, secret="")
    assert (json.loads(body)["id"], json.loads(body)["model"], usage) == ("chatcmpl-1", "public", Usage(1))


def test_errors_are_read_and_written_in_its_envelope() -> None:
    error = ApiError(429, "slow down", "rate_limit_error", "rate_limit_exceeded")
    body = OPENAI_CHAT.write_error(error, "req_1")
    assert OPENAI_CHAT.write_error_event(error) == b"data: %b\n\n" % body
    failure = OPENAI_CHAT.read_error(429, "application/json", body, secret="")
    assert (failure.fault, failure.message) == (Fault.RATE_LIMITED, "slow down")
