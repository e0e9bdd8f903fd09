"""The relay between two dialects: what comes through, how it ends, and how it fails."""

import json
from collections.abc import Callable, Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.matrix_events import ANSWERS, FAILURES, PIECES, REASONS, START, STOP, USAGE, numbered, text, words
from tests.wire.openai_chat_corpus import Case, all_cases
from tests.wire.openai_chat_corpus import relayed as chunks_relayed
from unbroken.chat.error import ApiError, RequestRefused
from unbroken.chat.events import Event, Failed, Finished, RefusalDelta, TextDelta, ToolCallStarted
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Answering
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_chat.errors import write_error_event
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, SseReader
from unbroken.wire.translate import TranslatingRelay, relay_between, translate_request

UPSTREAM = Answering("upstream-1", "theirs", 1, include_usage=True)
CLIENT = Answering("chatcmpl-ours", "public", 1_700_000_000, include_usage=True)
DONE = SseEvent(b"", b"[DONE]")


def new_relay(choices: int = 1, secret: str = "") -> TranslatingRelay:
    answering = Answering("chatcmpl-ours", "public", 1_700_000_000, choices, include_usage=True)
    return relay_between(OPENAI_CHAT, OPENAI_CHAT, answering, secret=secret)


def written(events: Sequence[Event], *, end: bool = True) -> list[SseEvent]:
    """The upstream's answer."""
    writer = OPENAI_CHAT.event_writer(UPSTREAM)
    blocks = [block for event in events for block in writer.write(event)]
    return SseReader().feed(b"".join([*blocks, *(writer.end() if end else [])]))


def relayed(relay: TranslatingRelay, upstream: Sequence[SseEvent]) -> tuple[list[Block], Failure | None]:
    """What the client gets, and why it is not whole."""
    blocks: list[Block] = []
    try:
        for event in upstream:
            blocks += relay.feed(event)
        blocks += relay.finish()
    except UpstreamFailed as failed:
        return blocks, failed.failure
    return blocks, None


def read(blocks: Sequence[Block]) -> list[Event]:
    reader = OPENAI_CHAT.event_reader()
    return [event for sse in SseReader().feed(b"".join(blocks)) for event in reader.feed(sse)]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_comes_through(name: str) -> None:
    """T1, T6."""
    relay = new_relay()
    blocks, failure = relayed(relay, written([START, *ANSWERS[name], USAGE]))
    assert failure is None
    assert words(read(blocks)) == words(ANSWERS[name])
    assert relay.progress is Progress.ENDED
    assert relay.usage == USAGE.usage
    assert blocks[-1] == b"data: [DONE]\n\n"
    assert b"upstream-1" not in b"".join(blocks)


def test_the_progress_tells_when_the_answer_has_begun_and_when_it_is_whole() -> None:
    relay = new_relay()
    seen = []
    for event in written([START, TextDelta("a"), TextDelta("b"), STOP, USAGE]):
        relay.feed(event)
        seen.append((relay.progress, relay.deltas))
    waiting, open, finished, ended = Progress.WAITING, Progress.OPEN, Progress.FINISHED, Progress.ENDED
    assert seen == [(waiting, 0), (open, 1), (open, 2), (finished, 2), (finished, 2), (ended, 2)]
    assert relay.finish_reasons == {0: "stop"}


def test_a_finished_answer_is_ended_without_the_upstreams_end() -> None:
    blocks, failure = relayed(new_relay(), written([START, TextDelta("a"), STOP], end=False))
    assert failure is None
    assert blocks[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("said", [[], [START], [START, TextDelta("a")], [START, ToolCallStarted(0, "i", "f")]])
def test_an_answer_without_its_finish_is_cut(said: list[Event], end: bool) -> None:
    relay = new_relay()
    blocks, failure = relayed(relay, written(said, end=end))
    assert failure is not None
    assert failure.fault is Fault.CUT
    assert b"[DONE]" not in b"".join(blocks)
    has_begun = any(not isinstance(event, type(START)) for event in said)
    assert relay.progress is (Progress.OPEN if has_begun else Progress.WAITING)


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_fails_the_relay_and_it_stays_failed(name: str) -> None:
    relay = new_relay()
    blocks, failure = relayed(relay, written([START, *FAILURES[name]], end=False))
    assert failure is not None
    assert failure.fault is (Fault.OVERLOADED if name == "before the first token" else Fault.SERVER_ERROR)
    assert b"[DONE]" not in b"".join(blocks)
    for event in (DONE, SseEvent(b"", b"{}")):
        with pytest.raises(UpstreamFailed) as again:
            relay.feed(event)
        assert again.value.failure == failure
    with pytest.raises(UpstreamFailed):
        relay.finish()


@pytest.mark.parametrize(
    ("type", "code", "fault"),
    [
        ("overloaded_error", None, Fault.OVERLOADED),
        ("rate_limit_error", None, Fault.RATE_LIMITED),
        ("api_error", None, Fault.SERVER_ERROR),
        ("not_found_error", None, Fault.MODEL_NOT_FOUND),
        ("invalid_request_error", "context_length_exceeded", Fault.CONTEXT_LENGTH),
        ("odd", "odder", Fault.ERROR_EVENT),
        ("client_left", None, Fault.ERROR_EVENT),
        (None, None, Fault.ERROR_EVENT),
    ],
)
def test_an_error_is_the_fault_that_its_words_say(type: str | None, code: str | None, fault: Fault) -> None:
    """T5."""
    relay = TranslatingRelay(Saying([[START], [Failed("m", type, code)]]), OPENAI_CHAT.event_writer(CLIENT))
    relay.feed(DONE)
    with pytest.raises(UpstreamFailed) as failed:
        relay.feed(DONE)
    assert failed.value.failure == Failure(fault, "m", type=type, code=code, is_quoted=True)


def test_a_secret_in_an_error_is_blotted_out() -> None:
    block = write_error_event(ApiError(500, "bad key topsecret"))
    _, failure = relayed(new_relay(secret="topsecret"), SseReader().feed(block))
    assert failure is not None
    assert failure.message == "bad key ***"


def test_what_is_no_chunk_fails() -> None:
    _, failure = relayed(new_relay(), [SseEvent(b"", b"<html>")])
    assert failure is not None
    assert failure.fault is Fault.MALFORMED


def test_an_answer_that_goes_on_after_its_finish_fails() -> None:
    _, failure = relayed(new_relay(), written([START, TextDelta("a"), STOP, TextDelta("b")]))
    assert failure is not None
    assert failure.fault is Fault.MALFORMED


def test_what_comes_after_the_end_is_ignored() -> None:
    relay = new_relay()
    relayed(relay, written([START, TextDelta("a"), STOP]))
    assert relay.feed(written([START, TextDelta("b")])[1]) == []
    assert relay.finish() == []
    assert relay.ignored == 1


def test_all_choices_have_to_finish() -> None:
    said: list[Event] = [START, TextDelta("a"), TextDelta("b", 1), STOP]
    _, failure = relayed(new_relay(2), written(said))
    assert failure is not None
    assert failure.fault is Fault.CUT
    blocks, failure = relayed(new_relay(2), written([*said, Finished("stop", 1)]))
    assert failure is None
    assert text(read(blocks)) == "ab"


def test_a_server_that_knows_no_n_is_done_when_it_says_so() -> None:
    blocks, failure = relayed(new_relay(2), written([START, TextDelta("a"), STOP]))
    assert failure is None
    assert blocks[-1] == b"data: [DONE]\n\n"


class Saying:
    """A reader of a dialect that says what it is told to, one list for each event."""

    def __init__(self, said: Sequence[list[Event]], *, completes: bool = True) -> None:
        self._said = list(said)
        self._completes = completes
        self.is_complete = False
        self.text_names: Collection[bytes] = ()

    def feed(self, event: SseEvent) -> list[Event]:
        said = self._said.pop(0) if self._said else []
        self.is_complete = self._completes and not self._said
        return said


def test_pieces_and_the_end_in_one_event_come_through() -> None:
    relay = TranslatingRelay(Saying([[START, TextDelta("a"), USAGE, STOP]]), OPENAI_CHAT.event_writer(CLIENT))
    blocks = relay.feed(DONE)
    assert relay.progress is Progress.ENDED
    assert words(read(blocks)) == [TextDelta("a"), STOP]


SCRIPTS = st.lists(
    PIECES
    | st.just([STOP])
    | st.just([USAGE])
    | st.just([Failed("it broke")])
    | st.just([Finished("stop", 1)])
    | st.just([START])
    | REASONS.map(lambda reason: [Finished(reason)]),
    max_size=8,
)


@given(SCRIPTS, st.booleans())
def test_any_script_has_at_most_one_end_and_none_after_a_failure(
    script: list[list[Event | str]], completes: bool
) -> None:
    said = [numbered(events) for events in script]
    relay = TranslatingRelay(Saying(said, completes=completes), OPENAI_CHAT.event_writer(CLIENT))
    blocks, failure = relayed(relay, [DONE] * len(said))
    ends = [block for block in blocks if block == b"data: [DONE]\n\n"]
    assert len(ends) == (failure is None)
    if failure is None:
        assert blocks[-1] == ends[0]
        assert relay.progress is Progress.ENDED
        assert relay.finish() == []
    else:
        assert relay.progress is not Progress.ENDED
    shown = text([event for events in said for event in events])
    assert shown.startswith(text(read(blocks)))


@given(PIECES, st.lists(st.integers(1, 400), max_size=20))
def test_any_split_gives_the_same_bytes(pieces: list[Event | str], cuts: list[int]) -> None:
    writer = OPENAI_CHAT.event_writer(UPSTREAM)
    said = [START, *numbered(pieces), Finished(FinishReason.LENGTH), USAGE]
    upstream = b"".join([*(block for event in said for block in writer.write(event)), *writer.end()])
    whole, _ = relayed(new_relay(), SseReader().feed(upstream))
    reader, events, at = SseReader(), [], 0
    for cut in cuts:
        events += reader.feed(upstream[at : at + cut])
        at += cut
    events += reader.feed(upstream[at:])
    assert relayed(new_relay(), events) == (whole, None)


# What was learned.


def chat_event(delta: str, more: str = "", *, index: int = 0) -> SseEvent:
    choice = f'{{"index":{index},"delta":{{{delta}}},"finish_reason":null}}'
    return SseEvent(b"", f'{{"id":"c","model":"m","choices":[{choice}]{more}}}'.encode())


def to_messages(relay: TranslatingRelay, events: Sequence[SseEvent]) -> list[tuple[object, str]]:
    """The texts that a client of Messages gets, and the places of their blocks; by the shortcut where there is one."""
    blocks: list[Block] = []
    for event in events:
        line = b"data: %b\n\n" % event.data
        if relay.shortcut is not None and (block := relay.shortcut.fill(line)) is not None:
            blocks.append(block)
        else:
            blocks += relay.feed(event)
    said = [json.loads(event.data) for event in SseReader().feed(b"".join(blocks))]
    return [(one["index"], one["delta"]["text"]) for one in said if "text" in one.get("delta", ())]


def messages_of_chat() -> TranslatingRelay:
    return relay_between(OPENAI_CHAT, ANTHROPIC_MESSAGES, CLIENT, secret="")


def test_texts_behind_other_words_go_to_a_block_of_their_own() -> None:
    texts = [chat_event(f'"content":"{number}"') for number in range(40)]
    thought = chat_event('"reasoning_content":"hm"')
    relay = messages_of_chat()
    said = to_messages(relay, [*texts[:20], thought, *texts[20:]])
    assert said == [(0 if number < 20 else 2, f"{number}") for number in range(40)]
    assert relay.shortcut is not None, "learned anew"


def test_texts_of_a_choice_that_nobody_asked_for_are_nobodys() -> None:
    texts = [chat_event(f'"content":"{number}"', index=number % 2) for number in range(12)]
    texts += [chat_event('"content":"no"', index=1) for _ in range(12)]
    assert to_messages(messages_of_chat(), texts) == [(0, f"{number}") for number in range(0, 12, 2)]


@pytest.mark.parametrize(
    "written",
    [
        lambda text, other: chat_event(f'"content":[{{"type":"text","text":{text}}}]', f',"x":{{"content":{other}}}'),
        lambda text, other: chat_event(f'"content":{other},"c\\u006fntent":{text}'),
        lambda text, other: chat_event(f'"content":{other},"content":{text}'),
        lambda text, other: chat_event(f'"content":{text}', f',"x":{{"content":{other}}}'),
        lambda text, other: chat_event(f'"content":{text}', f',"x":{{"text":{other}}}'),
    ],
    ids=["in a list", "with a name that is escaped", "twice", "elsewhere", "with another name"],
)
@pytest.mark.parametrize("other", ["right", "another"])
def test_a_member_of_the_same_name_is_not_taken_for_the_text(
    written: Callable[[str, str], SseEvent], other: str
) -> None:
    events = [written('"right"', f'"{other}"') for _ in range(4)]
    events += [written('"right"', '"wrong"') for _ in range(4)]
    assert to_messages(messages_of_chat(), events) == [(0, "right")] * 8


@pytest.mark.parametrize("place", ['"delta"', '"finish_reason"'], ids=["before the text", "behind it"])
def test_a_text_over_several_lines_is_no_model_of_a_broken_event(place: str) -> None:
    """Read as bytes, where each line begins with its own `data:`, nothing looks like its data."""
    relay = messages_of_chat()
    for number in range(40):
        type, data = chat_event(f'"content":"{number}"')
        spread = SseEvent(type, data.replace(place.encode(), b"\n" + place.encode()))
        assert relay.feed(spread)
        assert relay.shortcut is None or relay.shortcut.fill(b"data: %b\n\n" % spread.data) is None


# What real servers send.

CASES = [case for case in all_cases() if case.expected.get("n", 1) == 1 and case.name != "openai_audio"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_servers_send_ends_as_it_does_on_the_diagonal(case: Case) -> None:
    upstream = SseReader().feed(case.upstream)
    ours, failure = relayed(new_relay(), upstream)
    theirs, diagonal = chunks_relayed(case.new_relay(), [case.upstream])
    if failure is None or diagonal is None:
        assert failure is diagonal
    else:
        assert failure.fault is diagonal.fault
    shown = text(read(ours)), text(read([Block(theirs)]))
    assert shown[0] == shown[1]


def test_sound_is_refused_for_no_other_dialect_has_it() -> None:
    (case,) = [case for case in all_cases() if case.name == "openai_audio"]
    blocks, failure = relayed(new_relay(), SseReader().feed(case.upstream))
    assert failure is not None
    assert (failure.fault, b"[DONE]" in b"".join(blocks)) == (Fault.MALFORMED, False)


# Requests.


def test_a_request_is_translated() -> None:
    request = OPENAI_CHAT.read_request(b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"top_k":3}')
    written = translate_request(request, OPENAI_CHAT, OPENAI_CHAT, model="theirs", stream=True)
    assert json.loads(written.body)["model"] == "theirs"
    assert written.dropped == ("top_k",)


def test_log_probabilities_are_refused_for_no_answer_could_bring_them() -> None:
    request = OPENAI_CHAT.read_request(b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"logprobs":true}')
    with pytest.raises(RequestRefused, match="Log probabilities"):
        translate_request(request, OPENAI_CHAT, OPENAI_CHAT, model="theirs", stream=True)


def test_refusals_stay_refusals() -> None:
    said: list[Event] = [RefusalDelta("No"), Finished(FinishReason.REFUSAL)]
    blocks, _ = relayed(new_relay(), written([START, *said]))
    assert words(read(blocks)) == said
