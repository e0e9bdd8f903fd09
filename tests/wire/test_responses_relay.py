"""The diagonal of the Responses API, where the corpus does not reach."""

import json

import pytest
from msgspec import Raw

from tests.wire.openai_responses_corpus import ANSWERING, CORPUS, CREATED, MODEL, STREAM_ID, blocks, check_laws
from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_responses.answer import relay_answer
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.openai_responses.relay import ResponseRelay
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, SseReader

SECRET = "upstream-secret-123"
ERROR = ApiError(502, 'upstream "a": gone', "server_error", "cut")


def events_of(name: str) -> list[SseEvent]:
    return SseReader().feed((CORPUS / name / "upstream.sse").read_bytes())


def event(**members: object) -> SseEvent:
    return SseEvent(str(members["type"]).encode(), json.dumps(members).encode())


def test_an_upstream_may_still_fail_over_until_the_first_piece() -> None:
    relay = ResponseRelay(ANSWERING)
    stages = []
    for one in events_of("openai_text"):
        relay.feed(one)
        stages.append((one.type.decode().removeprefix("response."), relay.progress))
    waiting = ("created", "in_progress", "output_item.added", "content_part.added")
    assert stages[:4] == [(type, Progress.WAITING) for type in waiting]
    assert {progress for _, progress in stages[4:-1]} == {Progress.OPEN}
    assert stages[-1] == ("completed", Progress.ENDED)
    assert relay.finish() == []


@pytest.mark.parametrize(
    ("item", "begins"),
    [
        ({"type": "message", "content": []}, False),
        ({"type": "reasoning", "summary": [], "encrypted_content": "incomplete"}, False),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}, True),
        ({"type": "function_call", "name": "f", "arguments": ""}, True),
        ({"type": "web_search_call", "status": "in_progress"}, True),
        (None, False),
    ],
)
def test_an_item_that_says_something_is_a_piece(item: object, begins: bool) -> None:
    relay = ResponseRelay(ANSWERING)
    relay.feed(event(type="response.output_item.added", sequence_number=0, output_index=0, item=item))
    assert relay.progress is (Progress.OPEN if begins else Progress.WAITING)


def test_a_failure_is_raised_again_and_again() -> None:
    relay = ResponseRelay(ANSWERING)
    for one in events_of("openai_text")[:6]:
        relay.feed(one)
    failures = []
    for attempt in (event(type="error", message="gone"), *events_of("openai_text")[6:8]):
        with pytest.raises(UpstreamFailed) as failed:
            relay.feed(attempt)
        failures.append(failed.value.failure)
    with pytest.raises(UpstreamFailed) as failed:
        relay.finish()
    assert failures == [failed.value.failure] * 3
    assert relay.progress is Progress.OPEN, "it tells whether another upstream may be asked"


def test_answers_to_questions_of_our_own_go_no_further() -> None:
    relay = ResponseRelay(ANSWERING, ours="prompt_progress")
    one, two = events_of("openai_text")[:2]
    assert relay.feed(one)
    delta = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "delta": "x"}
    assert relay.feed(event(**delta, sequence_number=1, prompt_progress={})) == []
    assert blocks(b"".join(relay.feed(two)))[0]["sequence_number"] == 1
    assert relay.feed(event(**delta, sequence_number=2)) != []
    assert relay.feed(event(**delta, sequence_number=3, prompt_progress={})) == []
    assert relay.ignored == 2


def test_the_fast_way_gives_the_same_bytes_as_the_slow_one() -> None:
    fast, slow = ResponseRelay(ANSWERING), ResponseRelay(ANSWERING)
    for one in events_of("unicode"):
        slowly = slow._feed_slowly(one)
        assert fast.feed(one) == slowly
    assert (fast.deltas, fast.progress, fast.usage) == (slow.deltas, slow.progress, slow.usage)


def test_a_type_cannot_begin_a_line_of_its_own() -> None:
    relay = ResponseRelay(ANSWERING)
    with pytest.raises(UpstreamFailed) as failed:
        relay.feed(SseEvent(b"", json.dumps({"type": "a\n\ndata: [DONE]"}).encode()))
    assert failed.value.failure.fault is Fault.MALFORMED


@pytest.mark.parametrize("begun", [0, 2, 6])
def test_our_own_error_ends_the_stream_with_the_next_number(begun: int) -> None:
    """O4."""
    relay = ResponseRelay(ANSWERING)
    sent: list[Block] = []
    for one in events_of("openai_text")[:begun]:
        sent += relay.feed(one)
    sent += relay.fail(ERROR)
    assert relay.fail(ERROR) == []
    events = check_laws(b"".join(sent), failed=False)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"]["message"] == ERROR.message
    assert events[-1]["error"]["code"] == "cut"


WHOLE = {
    "id": "resp_theirs",
    "object": "response",
    "status": "completed",
    "error": None,
    "model": "theirs",
    "output": [{"type": "message", "id": "msg_1", "role": "assistant", "content": []}],
    "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    "new": {"id": "untouched"},
}


def test_a_whole_answer_passes_but_for_id_and_model() -> None:
    body = json.dumps(WHOLE, indent=1).encode()
    sent, usage = relay_answer(body, ANSWERING, secret=SECRET)
    expected = body.replace(b'"resp_theirs"', b'"%b"' % STREAM_ID.encode(), 1)
    assert sent == expected.replace(b'"theirs"', b'"%b"' % MODEL.encode(), 1)
    assert usage == Usage(3, 4)


def test_an_answer_names_the_response_that_it_was_asked_to_go_on_from() -> None:
    """O2."""
    answering = Answering(STREAM_ID, MODEL, CREATED, request={"previous_response_id": Raw(b'"resp_before"')})
    sent, _ = relay_answer(json.dumps({**WHOLE, "previous_response_id": None}).encode(), answering)
    assert json.loads(sent)["previous_response_id"] == "resp_before"
    relay = ResponseRelay(answering)
    for one in events_of("openai_text"):
        for said in blocks(b"".join(relay.feed(one))):
            if "response" in said:
                assert said["response"]["previous_response_id"] == "resp_before"


def test_an_incomplete_answer_is_an_answer() -> None:
    whole = {**WHOLE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert relay_answer(json.dumps(whole).encode(), ANSWERING)[1] == Usage(3, 4)


@pytest.mark.parametrize(
    ("body", "fault", "message"),
    [
        (
            {**WHOLE, "status": "failed", "error": {"code": "server_error", "message": "x " + SECRET}},
            "server_error",
            "x ***",
        ),
        (
            {**WHOLE, "status": "failed", "error": {"code": "invalid_prompt", "message": "Flagged"}},
            "content_policy",
            "Fl",
        ),
        ({**WHOLE, "status": "cancelled"}, "error_event", "cancelled"),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, "bad_request", "bad"),
        ({**WHOLE, "output": None}, "malformed", "no output"),
        ({**WHOLE, "output": "text"}, "malformed", "not valid"),
        ([], "malformed", "not valid"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(body: object, fault: str, message: str) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        relay_answer(json.dumps(body).encode(), ANSWERING, secret=SECRET)
    assert failed.value.failure.fault.value == fault
    assert message in failed.value.failure.message


def test_errors_are_those_of_openai() -> None:
    body = b'{"error":{"message":"Too many","type":"requests","code":"rate_limit_exceeded","param":null}}'
    failure = OPENAI_RESPONSES.read_error(429, "application/json", body, secret="")
    expected = Failure(Fault.RATE_LIMITED, "Too many", 429, type="requests", code="rate_limit_exceeded", is_quoted=True)
    assert failure == expected
    assert json.loads(OPENAI_RESPONSES.write_error(ERROR, "req_1")) == {
        "error": {"message": ERROR.message, "type": "server_error", "param": None, "code": "cut"}
    }
    (sent,) = blocks(OPENAI_RESPONSES.write_error_event(ERROR))
    assert sent["type"] == "error"


def test_the_dialect_makes_what_the_gateway_needs() -> None:
    assert (OPENAI_RESPONSES.name, OPENAI_RESPONSES.path) == ("openai-responses", "/responses")
    assert OPENAI_RESPONSES.id_prefix == "resp_"
    relay = OPENAI_RESPONSES.relay(ANSWERING, secret=SECRET, ours=None)
    sent = [block for one in events_of("openai_text") for block in relay.feed(one)]
    reader = OPENAI_RESPONSES.event_reader()
    said = [event for one in SseReader().feed(b"".join(sent)) for event in reader.feed(one)]
    writer = OPENAI_RESPONSES.event_writer(ANSWERING)
    again = b"".join([*(block for event in said for block in writer.write(event)), *writer.end()])
    assert check_laws(again, failed=False)
    whole = json.loads(OPENAI_RESPONSES.write_answer(said, ANSWERING))
    assert whole["output"][0]["content"][0]["text"] == "Hello there!"
    assert OPENAI_RESPONSES.relay_answer(json.dumps(whole).encode(), ANSWERING, secret=SECRET)[1] == Usage(12, 5)
