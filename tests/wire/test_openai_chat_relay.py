"""What holds of the relay for any stream at all: one terminal, no success after a failure, nothing kept."""

import gc
import json
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.openai_chat_corpus import CREATED, MODEL, STREAM_ID, all_cases, check_laws, relayed
from unbroken.chat.events import Started
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.wire.openai_chat.chunks import ChunkRelay
from unbroken.wire.openai_chat.events import EventReader
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, SseReader, write_data

DONE = b"data: [DONE]\n\n"


def new_relay(choices: int = 1, *, include_usage: bool = False) -> ChunkRelay:
    return ChunkRelay(STREAM_ID, MODEL, created=CREATED, choices=choices, include_usage=include_usage)


def chunk(delta: object, finish_reason: object = None, *, index: int = 0, **more: object) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    envelope = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps({**envelope, **more}, separators=(",", ":")).encode()


def event(data: bytes) -> SseEvent:
    return SseEvent(b"", data)


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}

TEXTS = st.text(max_size=6)

WELL_FORMED_DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"reasoning_content": text}, TEXTS),
    st.builds(lambda text: {"content": None, "reasoning": text}, TEXTS),
    st.builds(lambda text: {"refusal": text}, TEXTS),
)

ANY_DELTAS = st.one_of(
    WELL_FORMED_DELTAS,
    st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS),
    st.sampled_from(
        [
            {},
            None,
            {"role": ""},
            {"zz": 1},
            {"tool_calls": []},
            {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "id": "b", "function": {"name": "g"}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
            {"tool_calls": [{"function": {"name": "h", "arguments": "{}"}}]},
            {"tool_calls": ["x"]},
            {"tool_calls": 5},
            "x",
        ]
    ),
)

CHUNKS = st.builds(
    chunk,
    ANY_DELTAS,
    st.sampled_from([None, None, None, "", "stop", "length", "tool_calls", "error", "zz", 5]),
    index=st.sampled_from([0, 0, 0, 1]),
    zz=st.sampled_from([0, 0, 1, "é", {"id": "c"}]),
)

ODD_DATA = st.sampled_from(
    [
        b"",
        b" ",
        b"[DONE]",
        b"not json",
        b"{",
        b"[]",
        b"{}",
        b'{"error":{"message":"x"}}',
        b'{"error":null,"choices":[]}',
        b'{"choices":null}',
        b'{"choices":[5]}',
        b'{"choices":[{}]}',
        b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        b'{"choices":[],"usage":{}}',
        b'{"choices":[{"index":0,"delta":{"content":"\xff"}}]}',
        rb'{"choices":[{"index":0,"delta":{"content":"\ud83c"}}]}',
        chunk({"content": "u"}, usage=USAGE),
        chunk({"content": "u"}, "stop", usage=USAGE),
    ]
)

EVENTS = st.builds(
    SseEvent, st.sampled_from([b"", b"", b"", b"", b"message", b"ping", b"error"]), CHUNKS | CHUNKS | ODD_DATA
)

SCRIPTS = st.lists(st.builds(event, CHUNKS) | EVENTS, max_size=12).map(lambda events: [event(ROLE), *events])


@given(SCRIPTS, st.sampled_from([1, 2]), st.booleans())
def test_any_script_ends_in_one_terminal_and_keeps_the_laws(
    script: list[SseEvent], choices: int, include_usage: bool
) -> None:
    relay = new_relay(choices, include_usage=include_usage)
    sent, failures = b"", []
    for one in [*script, None]:
        try:
            sent += b"".join(relay.finish() if one is None else relay.feed(one))
        except UpstreamFailed as failed:
            failures.append(failed.failure)
    assert len(set(map(id, failures))) <= 1, "a failure stays the same"
    check_laws(sent, asks_usage=include_usage, failed=bool(failures))
    assert sent.count(DONE) == (0 if failures else 1)


@given(SCRIPTS, st.sampled_from([1, 2]), st.booleans())
def test_what_was_learned_changes_nothing(script: list[SseEvent], choices: int, include_usage: bool) -> None:
    script = [one for one in script for _ in range(3)]  # so that chunks fit the template of those before

    def outcome(relay: ChunkRelay, *, may_learn: bool) -> tuple[object, ...]:
        sent, failure = b"", None
        try:
            for one in script:
                if not may_learn:
                    relay._template = relay.shortcut = relay._envelope.frame = None
                sent += b"".join(relay.feed(one))
            sent += b"".join(relay.finish())
        except UpstreamFailed as failed:
            failure = failed.failure
        return sent, failure, relay.deltas, relay.ignored, relay.usage, relay.finish_reasons, relay.progress

    fast, slow = (new_relay(choices, include_usage=include_usage) for _ in range(2))
    assert outcome(fast, may_learn=True) == outcome(slow, may_learn=False)


@pytest.mark.parametrize(
    "members",
    [
        ("id", "object", "created", "model", "choices"),
        ("id", "object", "model", "created", "choices"),
        ("id", "object", "created", "choices", "model"),
        ("choices", "created", "id", "model", "object"),
    ],
)
def test_chunks_that_are_stamped_anew_keep_the_first_stamp(members: tuple[str, ...]) -> None:
    """C1."""
    relay = new_relay()
    for at, delta in enumerate([{"role": "assistant", "content": ""}, *({"content": f"w{at}"} for at in range(9))]):
        choice = {"index": 0, "delta": delta, "logprobs": {"at": at}, "finish_reason": None}
        sent = {"object": "chat.completion.chunk", "created": 10**at, "choices": [choice]}
        data = json.dumps({name: {"id": "c", "model": "m", **sent}[name] for name in members}).encode()
        (block,) = relay.feed(event(data))
        assert json.loads(block.removeprefix(b"data: ")) == {**sent, "id": STREAM_ID, "model": MODEL, "created": 1}


def test_of_a_member_that_is_there_twice_nothing_of_theirs_is_told() -> None:
    relay = new_relay()
    relay.feed(event(ROLE))
    for name in ("id", "model", r"\u0069d"):
        (block,) = relay.feed(event(chunk({"content": "x"})[:-1] + b',"%b":"theirs"}' % name.encode()))
        told = json.loads(block.removeprefix(b"data: "))
        assert (told["id"], told["model"]) == (STREAM_ID, MODEL)


@given(SCRIPTS, st.sampled_from([1, 2]), st.booleans())
def test_relaying_what_was_relayed_changes_nothing(script: list[SseEvent], choices: int, include_usage: bool) -> None:
    upstream = b"".join(
        (b"event: %b\n" % one.type if one.type else b"") + write_data(one.data) for one in script if one.data.strip()
    )
    once, failure = relayed(new_relay(choices, include_usage=include_usage), [upstream])
    twice, again = relayed(new_relay(choices, include_usage=include_usage), [once])
    if failure is None:
        assert (twice, again) == (once, None)
    else:
        assert once.startswith(twice.removesuffix(DONE))


@given(st.lists(WELL_FORMED_DELTAS, max_size=20), st.sampled_from(["stop", "length", "zz"]))
def test_a_well_formed_stream_says_the_same_when_relayed(deltas: list[dict[str, object]], reason: str) -> None:
    chunks = [ROLE, *map(chunk, deltas), chunk({}, reason)]
    upstream = b"".join(map(write_data, chunks)) + DONE
    sent, failure = relayed(new_relay(), [upstream])
    assert failure is None
    assert sent == upstream.replace(b'{"id":"c"', b'{"id":"%b"' % STREAM_ID.encode()).replace(
        b'"model":"m"', b'"model":"%b"' % MODEL.encode()
    )
    ours, theirs = events(sent), events(upstream)
    assert ours[0] == Started(STREAM_ID, MODEL)
    assert ours[1:] == theirs[1:]


def events(data: bytes) -> list[object]:
    reader = EventReader()
    return [said for one in SseReader().feed(data) for said in reader.feed(one)]


@given(st.sampled_from(all_cases()), st.lists(st.integers(0, 4000), max_size=6))
def test_any_split_of_the_bytes_gives_the_same_blocks(case: object, cuts: list[int]) -> None:
    data = case.upstream  # type: ignore[attr-defined]
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(edges)]
    assert relayed(case.new_relay(), pieces) == relayed(case.new_relay(), [data])  # type: ignore[attr-defined]


def test_a_relay_that_failed_raises_the_same_failure_whatever_it_is_fed() -> None:
    relay = new_relay()
    relay.feed(event(ROLE))
    for _ in range(3):
        relay.feed(event(chunk({"content": "a"})))
    with pytest.raises(UpstreamFailed) as first:
        relay.feed(event(b"{"))
    for data in (chunk({"content": "a"}), STOP, b"[DONE]", b"", b"{"):
        with pytest.raises(UpstreamFailed) as again:
            relay.feed(event(data))
        assert again.value.failure is first.value.failure
    with pytest.raises(UpstreamFailed):
        relay.finish()
    assert relay.progress is Progress.OPEN
    assert relay.deltas == 3


def test_a_relay_that_was_cut_does_not_finish_later() -> None:
    relay = new_relay()
    relay.feed(event(ROLE))
    with pytest.raises(UpstreamFailed, match="before the first token"):
        relay.finish()
    with pytest.raises(UpstreamFailed):
        relay.feed(event(STOP))


def test_a_failed_chunk_sends_nothing_of_itself() -> None:
    relay = new_relay(2)
    two = b'{"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":5}]}'
    with pytest.raises(UpstreamFailed) as caught:
        relay.feed(event(two))
    assert caught.value.failure.fault is Fault.MALFORMED


def test_an_error_before_the_first_token_leaves_the_answer_waiting() -> None:
    relay = new_relay()
    relay.feed(event(ROLE))
    with pytest.raises(UpstreamFailed):
        relay.feed(event(b'{"error":{"message":"x"}}'))
    assert relay.progress is Progress.WAITING, "another upstream may still be asked"


@pytest.mark.parametrize(
    ("delta", "progress"),
    [
        ({"role": "assistant"}, Progress.WAITING),
        ({"role": "assistant", "content": "", "tool_calls": [], "refusal": None, "zz": {}}, Progress.WAITING),
        ({"content": "a"}, Progress.OPEN),
        ({"reasoning_content": "a"}, Progress.OPEN),
        ({"zz": 0}, Progress.OPEN),
    ],
)
def test_the_answer_is_open_from_the_first_piece_of_it(delta: object, progress: Progress) -> None:
    """R1."""
    relay = new_relay()
    relay.feed(event(chunk(delta)))
    assert relay.progress is progress


def test_progress_follows_the_choices() -> None:
    relay = new_relay(2)
    script = [chunk({"content": "a"}), STOP, chunk({"content": "b"}, "length", index=1), b"[DONE]", b"[DONE]"]
    seen = [relay.progress]
    for data in script:
        relay.feed(event(data))
        seen.append(relay.progress)
    waiting, open, finished, ended = Progress
    assert seen == [waiting, open, open, finished, ended, ended]
    assert relay.finish_reasons == {0: "stop", 1: "length"}
    assert relay.finish() == []


def test_a_call_that_begins_after_many_pieces_of_another_is_not_taken_for_it() -> None:
    """The pieces of the second look like those of the first, which a template was learned from."""

    def pieces(id: str) -> list[bytes]:
        begun = {"index": 0, "id": id, "type": "function", "function": {"name": "f", "arguments": ""}}
        more = [{"index": 0, "function": {"arguments": f"{id}{at}"}} for at in range(20)]
        return [chunk({"tool_calls": [one]}) for one in [begun, *more]]

    relay = new_relay()
    sent = [block for data in [ROLE, *pieces("a"), *pieces("b")] for block in relay.feed(event(data))]
    calls = [json.loads(block[6:])["choices"][0]["delta"]["tool_calls"][0] for block in sent[1:]]
    assert [call["index"] for call in calls] == [0] * 21 + [1] * 21


@pytest.mark.parametrize("name", ["plain", "tools", "varied", "comments"])
def test_nothing_grows_with_the_length_of_a_stream(name: str) -> None:
    more: dict[str, list[bytes]] = {
        "plain": [write_data(chunk({"content": f"w{at}"})) for at in range(100)],
        "tools": [write_data(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}))],
        "varied": [write_data(chunk({"content": "x"}, created=at, usage=USAGE, zz=at)) for at in range(100)],
        "comments": [b": ping\n\n", b"event: ping\n\n", write_data(b'{"choices":[]}')],
    }
    reader, relay = SseReader(), new_relay(include_usage=True)

    def stream(times: int) -> None:
        for _ in range(times):
            for data in more[name]:
                for one in reader.feed(data):
                    relay.feed(one)

    stream(20)
    gc.collect()
    before, size = sys.getallocatedblocks(), _size_of(relay) + _size_of(reader)
    stream(40)
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
    assert _size_of(relay) + _size_of(reader) <= size + 200


def _size_of(held: object, seen: set[int] | None = None) -> int:
    """Bytes of an object and of all that it holds, but for code and classes."""
    seen = set() if seen is None else seen
    if id(held) in seen or isinstance(held, type) or callable(held):
        return 0
    seen.add(id(held))
    return sys.getsizeof(held) + sum(_size_of(inner, seen) for inner in gc.get_referents(held))
