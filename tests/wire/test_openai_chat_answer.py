"""Whole answers: untouched but for id and model where they are right, mended or refused where they are not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.chat.usage import Usage
from unbroken.wire.openai_chat.answer import Answer, relay_answer


def relayed(body: bytes, secret: str = "") -> Answer:
    return relay_answer(body, "chatcmpl-unbroken", "public-model", created=1_700_000_000, secret=secret)


def answer(choices: bytes, more: bytes = b"") -> bytes:
    return b'{"id":"c-1","object":"chat.completion","created":1760000000,"model":"m","choices":%b%b}' % (choices, more)


SAID = b'[{"index":0,"message":{"role":"assistant","content":"Hi"},"logprobs":null,"finish_reason":"stop"}]'

WELL_FORMED: dict[str, bytes] = {
    "OpenAI": answer(
        SAID,
        b',"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11},"service_tier":"default",'
        b'"system_fingerprint":"fp_1"',
    ),
    "llama.cpp": b'{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"Hi"}}],'
    b'"created":1,"model":"m","system_fingerprint":"b1","object":"chat.completion","usage":{"completion_tokens":1,'
    b'"prompt_tokens":2,"total_tokens":3},"id":"c-1","timings":{"prompt_ms":34.5120,"x":1e-7}}',
    "white space": b' {\n  "id" : "c-1",\n  "object": "chat.completion",\n  "created": 1,\n  "model":\t"m",\n  '
    b'"choices": [ '
    b'{"index": 0, "message": {"role": "assistant", "content": null, "refusal": "no"}, "finish_reason": "stop"} ]\n}\n',
    "huge numbers": answer(SAID, b',"x":[1.0,1E+2,12345678901234567890123,1e999]'),
    "escapes": answer(rb'[{"index":0,"message":{"content":"\u00e9\/\ud83c\udf0d"},"finish_reason":"length"}]'),
    "half a surrogate pair": answer(rb'[{"index":0,"message":{"content":"\ud83c"},"finish_reason":"length"}]'),
    "tool calls": answer(
        b'[{"index":0,"message":{"content":null,"tool_calls":[{"id":"c1","type":"function","function":'
        b'{"name":"f","arguments":"{}"}},{"id":"c2","type":"custom","custom":{"name":"g","input":""}}]},'
        b'"finish_reason":"tool_calls"}]'
    ),
    "an inner id": answer(SAID, b',"zz":{"id":"c-1","model":"m"}'),
    "no finish_reason": answer(b'[{"index":0,"message":{"content":"Hi"}}]'),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_right_answer_passes_byte_for_byte_but_for_id_and_model(name: str) -> None:
    body = WELL_FORMED[name]
    expected = body.replace(b'"c-1"', b'"chatcmpl-unbroken"', 1).replace(b'"m"', b'"public-model"', 1)
    assert relayed(body).body == expected


def mended(body: bytes) -> dict[str, object]:
    found = json.loads(relayed(body).body)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("envelope", [b"", b'"id":null,"object":null,"created":null,"model":null,'])
def test_what_is_missing_of_the_envelope_is_added(envelope: bytes) -> None:
    found = mended(b'{%b"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}' % envelope)
    assert found == {
        "id": "chatcmpl-unbroken",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "public-model",
        "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    }


CALL = b'[{"index":0,"message":{"content":null,"tool_calls":%b},"finish_reason":%b}]'


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ('[{"type":"function","function":{"name":"f","arguments":"{}"}}]', [("*", "f", "{}")]),
        ('[{"id":"","function":{"name":"f","arguments":""}}]', [("*", "f", "{}")]),
        ('[{"id":"a","type":"function","function":{"name":"f","arguments":null}}]', [("a", "f", "{}")]),
        ('[{"id":"a","type":"function","function":{"name":"f"}}]', [("a", "f", "{}")]),
        ('[{"id":"a","type":"function","function":{"name":"f","arguments":{"x": 1.0}}}]', [("a", "f", '{"x": 1.0}')]),
        (
            '[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"a","function":{"name":"f","arguments":"{}"}}]',
            [("a", "f", "{}"), ("*", "f", "{}")],
        ),
    ],
)
def test_tool_calls_get_an_id_a_type_and_arguments(calls: str, expected: list[tuple[str, str, str]]) -> None:
    body = answer(CALL % (calls.encode(), b'"stop"'))
    assert relayed(body).body == relayed(body).body, "a made id is the same each time"
    choice = json.loads(relayed(body).body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    found = choice["message"]["tool_calls"]
    assert all(call["type"] == "function" and call["id"] for call in found)
    assert len({call["id"] for call in found}) == len(found)
    assert [
        ("*" if id == "*" else call["id"], call["function"]["name"], call["function"]["arguments"])
        for call, (id, _, _) in zip(found, expected, strict=True)
    ] == expected


@pytest.mark.parametrize(("reason", "told"), [("stop", "tool_calls"), ("", "tool_calls"), ("length", "length")])
def test_an_answer_with_tool_calls_ends_with_them_unless_it_was_cut(reason: str, told: str) -> None:
    call = b'[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]'
    assert relayed(answer(CALL % (call, json.dumps(reason).encode()))).finish_reasons == (told,)


def test_usage_and_finish_reasons_are_told() -> None:
    two = b'[{"index":0,"message":{},"finish_reason":"stop"},{"index":1,"message":{},"finish_reason":"zz"}]'
    usage = (
        b',"usage":{"prompt_tokens":9,"completion_tokens":5.0,"prompt_tokens_details":{"cached_tokens":4},'
        b'"completion_tokens_details":{"reasoning_tokens":3}}'
    )
    found = relayed(answer(two, usage))
    assert found.finish_reasons == ("stop", "zz")
    assert found.usage == Usage(9, 5, 4, 3)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b"null", None),
        (b"{}", None),
        (b"[]", None),
        (b"5", None),
        (b'{"prompt_tokens":"9"}', None),
        (b'{"prompt_tokens":-1}', None),
        (b'{"prompt_tokens":true}', None),
        (b'{"prompt_tokens":1.5}', None),
        (b'{"prompt_tokens":9,"completion_tokens":null}', Usage(9)),
        (b'{"prompt_tokens":9,"prompt_tokens_details":[],"completion_tokens_details":5}', Usage(9)),
        (b'{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":"x"}}', Usage(9)),
    ],
)
def test_usage_that_is_no_number_is_not_guessed_at(usage: bytes, expected: Usage | None) -> None:
    assert relayed(answer(SAID, b',"usage":' + usage)).usage == expected


REFUSED: dict[str, tuple[bytes, Fault, str]] = {
    "not JSON": (b"<html>", Fault.MALFORMED, "the answer is not valid"),
    "empty": (b"", Fault.MALFORMED, "the answer is not valid"),
    "cut off": (answer(SAID)[:-1], Fault.MALFORMED, "the answer is not valid"),
    "a stream": (b"data: {}\n\n", Fault.MALFORMED, "the answer is not valid"),
    "a list": (b"[]", Fault.MALFORMED, "Expected `object`, got `array`"),
    "not UTF-8": (answer(SAID, b',"x":"\xff"'), Fault.MALFORMED, "can't decode byte 0xff"),
    "a bomb": (answer(b"[" * 100_000), Fault.MALFORMED, "the answer is not valid"),
    "no choices": (answer(b"[]"), Fault.MALFORMED, "the answer has no choices"),
    "choices null": (answer(b"null"), Fault.MALFORMED, "the answer has no choices"),
    "choices missing": (b"{}", Fault.MALFORMED, "the answer has no choices"),
    "a choice without message": (
        answer(b'[{"index":0,"text":"Hi"}]'),
        Fault.MALFORMED,
        "choice 0 of the answer has no",
    ),
    "tool calls no objects": (answer(CALL % (b'["f"]', b'"stop"')), Fault.MALFORMED, "the answer is not valid"),
    "finish_reason a number": (
        answer(b'[{"message":{},"finish_reason":1}]'),
        Fault.MALFORMED,
        "the answer is not valid",
    ),
    "an error": (b'{"error":{"message":"Bad KEY-1.","type":"server_error"}}', Fault.SERVER_ERROR, "Bad ***."),
    "vLLM's error": (b'{"object":"error","message":"No.","code":400}', Fault.BAD_REQUEST, "No."),
    "an error beside choices": (answer(SAID, b',"error":{"message":"x","code":502}'), Fault.SERVER_ERROR, "x"),
    "broken off": (
        answer(b'[{"index":0,"message":{"content":"H"},"finish_reason":"error"}]'),
        Fault.ERROR_EVENT,
        'finish_reason "error"',
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_answer_is_refused(name: str) -> None:
    body, fault, message = REFUSED[name]
    with pytest.raises(UpstreamFailed) as caught:
        relayed(body, secret="KEY-1")
    assert caught.value.failure.fault is fault
    assert message in caught.value.failure.message


def test_a_member_that_occurs_twice_is_written_once() -> None:
    body = answer(SAID, b',"id":"evil","model":"evil"')
    assert json.loads(relayed(body).body, object_pairs_hook=list)[0] == ("id", "chatcmpl-unbroken")
    assert b"evil" not in relayed(body).body


@given(st.binary(max_size=80))
def test_any_bytes_are_relayed_or_refused(body: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        relayed(body)


@pytest.mark.parametrize("name", WELL_FORMED)
def test_relaying_twice_is_relaying_once(name: str) -> None:
    once = relayed(WELL_FORMED[name])
    assert relayed(once.body) == once
