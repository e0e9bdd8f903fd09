"""What was learned of a stream's events changes nothing of what becomes of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unbroken.chat.events import Event
from unbroken.chat.fault import Failure, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Answering, Dialect, EventWriter, Relay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent, SseReader
from unbroken.wire.template import (
    LEARN_AFTER,
    MAX_LEARN_AFTER,
    Lessons,
    PaddedTemplate,
    Template,
    says_something,
    strings_named,
)
from unbroken.wire.translate import TranslatingRelay

ANSWERING = Answering("ours", "public", 1_700_000_000, include_usage=True)

JSON_TEXTS = st.one_of(
    st.text(max_size=8).map(lambda text: json.dumps(text).encode()),
    st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)
ODD_TEXTS = st.sampled_from(
    [
        *(rb'"\ud83d"', rb'"\ude00x"', rb'"\u00e9\/"', rb'"\u0000"', rb'"\x"', b'"\xff"', b'"\xed\xa0\xbd"'),
        *(
            b'"a"\n',
            b'\n"a"',
            b'\r"a"',
            b'"a"\r\n',
            b'"a" ',
            b' "a"',
            b'"a"\t',
            b'"a\n"',
            b'"a\r"',
            b'"a\tb"',
            b'"\x00"',
        ),
        *(b"", b'"', b'""', b"null", b"1", b"[]", b'{"a":"b"}', b'"a', b'a"', b'"a"b"', b'"a" "b"', b'"a","text":"b"'),
        *(b'"a","content":"b"', b'"a"},"x":{"text":"b"', b'"a"\ndata: ', b'\ndata: "a"'),
    ]
)
ANY_TEXTS = st.one_of(JSON_TEXTS, JSON_TEXTS, ODD_TEXTS, st.binary(max_size=4))


def is_text(data: bytes) -> bool:
    """Whether it is a JSON string that says something, and nothing beside it."""
    try:
        text = json.loads(data.decode())
        said = text.encode() if isinstance(text, str) else b""
    except ValueError:
        return False
    return bool(said) and data[:1] == data[-1:] == b'"'


# one template


@given(ANY_TEXTS, st.sampled_from([b"{", b'{"a":"', b'"']), st.sampled_from([b"}", b'"}', b'"']))
@example(b'"a"\n', b"{", b"}")
@example(b'\r"a"', b"{", b"}")
def test_an_event_fits_if_a_text_stands_in_the_place_of_the_text(text: bytes, before: bytes, after: bytes) -> None:
    assert says_something(text) == is_text(text)
    template = Template(before, after, b"<", b">")
    assert template.fill(before + text + after) == (b"<" + text + b">" if is_text(text) else None)
    line = template.within(b"data: ", b"\n\n")
    assert line.fill(b"data: " + before + text + after + b"\n\n") == template.fill(before + text + after)
    assert line.fill(before + text + after) is None


@given(ANY_TEXTS, ANY_TEXTS, st.booleans())
@example(b'"a"\n', b'"b"', False)
@example(b'"a"', b'\n"b"', False)
def test_padding_may_be_empty_but_is_a_text(text: bytes, padding: bytes, is_line: bool) -> None:
    template = PaddedTemplate([b'{"c":', b',"p":', b"}"], [b"<", b"|", b">"])
    event = b'{"c":' + text + b',"p":' + padding + b"}"
    if is_line:
        template, event = template.within(b"data: ", b"\n\n"), b"data: " + event + b"\n\n"
    fits = is_text(text) and (is_text(padding) or padding == b'""')
    assert template.fill(event) == (b"<" + text + b"|" + padding + b">" if fits else None)


@pytest.mark.parametrize("event", [b"", b"{", b"}", b"{}", b'{""}', b'{"a"', b'"a"}', b'x{"a"}', b'{"a"}x', b'{"a"}}'])
def test_what_is_around_a_text_must_be_as_it_was(event: bytes) -> None:
    assert Template(b"{", b"}", b"<", b">").fill(event) is None
    assert Template(b'{"a', b'a"}', b"<", b">").fill(b'{"a"}') is None


# where the texts are


class Pairs(dict[str, Any]):
    """An object whose members may have the same names."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__({"": 0})  # an empty one is written without a look at its items
        self.pairs = pairs

    def items(self) -> Any:
        return self.pairs


NAMES = st.sampled_from(["content", "text", "other", 'content"', "\\", "con\ntent", ""])
DOCUMENTS = st.recursive(
    st.none()
    | st.integers()
    | st.booleans()
    | st.text(max_size=4)
    | st.sampled_from(['"content":"a"', "content", ":"]),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=4).map(Pairs),
    max_leaves=12,
)


def texts_named(document: Any, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    match document:
        case Pairs():
            for name, value in document.items():
                if isinstance(value, str) and name in names:
                    yield name, value
                else:
                    yield from texts_named(value, names)
        case list():
            for value in document:
                yield from texts_named(value, names)


@given(DOCUMENTS, st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\n:\r ")]), st.booleans())
def test_every_text_of_a_name_is_found(document: Any, separators: tuple[str, str], is_ascii: bool) -> None:
    data = json.dumps(document, separators=separators, ensure_ascii=is_ascii).encode()
    found = [
        (name.decode(), json.loads(data[start:end])) for name, start, end in strings_named(data, [b"content", b"text"])
    ]
    assert found == [(name, text) for name, text in texts_named(document, ["content", "text"]) if text]


# when one is learned


def lessons_of(misses: Callable[[int], bool], pieces: int) -> list[int]:
    """The pieces behind which a template is learned, if it misses these."""
    lessons, learned = Lessons(), []
    for piece in range(1, pieces):
        if not learned or misses(piece):
            lessons.missed += 1
            if lessons.is_due(piece):
                learned.append(piece)
    return learned


def test_a_template_is_learned_at_once_and_never_again_if_it_is_of_use() -> None:
    assert lessons_of(lambda piece: False, 10_000) == [1]


def test_a_template_that_is_of_no_use_is_learned_more_and_more_seldom() -> None:
    learned = lessons_of(lambda piece: True, 5_000)
    gaps = [after - before for before, after in pairwise(learned)]
    assert gaps[0] <= 2 * LEARN_AFTER
    assert all(after in (before, 2 * before) for before, after in pairwise(gaps))
    assert max(gaps) == gaps[-1] == MAX_LEARN_AFTER


def test_a_template_that_was_of_use_is_soon_learned_anew() -> None:
    learned = lessons_of(lambda piece: piece % 100 < 3, 1000)
    assert [piece for piece in learned if piece > 1] == [*range(100, 1000, 100)]
    learned = lessons_of(lambda piece: piece < 400 or piece % 100 == 0, 3000)
    assert [piece for piece in learned if piece > 1500] == [*range(1600, 3000, 100)]


# what was learned, against what was not


@dataclass
class Relayed:
    """What became of an upstream's answer."""

    #: Type and data of each event.
    said: list[tuple[bytes, Any]]
    failure: Failure | None
    progress: Progress
    usage: Usage | None
    deltas: int
    ignored: int
    #: Reads that took the shortcut.
    short: int = 0

    def in_short(self) -> "Relayed":
        return replace(self, short=0)


def relayed(relay: Any, reads: Sequence[bytes], *, learns: bool = True, type: bytes = b"") -> Relayed:
    """Feeds a relay with what is read, by the shortcut where there is one, as an attempt does; or with events only.

    Events without a type have this one.
    """
    reader = SseReader()
    blocks: list[Block] = []
    failure: Failure | None = None
    short = 0
    try:
        for data in reads:
            shortcut = relay.shortcut if learns else None
            if shortcut is not None and reader.is_between and (block := shortcut.fill(data)) is not None:
                relay.deltas += 1
                short += 1
                blocks.append(block)
            else:
                for event in reader.feed(data):
                    blocks += relay.feed(SseEvent(event.type or type, event.data))
        blocks += relay.finish()
    except UpstreamFailed as failed:
        failure = failed.failure
        assert relay.shortcut is None, "a failure is for ever"
    said = SseReader()
    events = [event for block in blocks for event in said.feed(block)]
    assert len(events) == len(blocks)
    assert not said.has_rest
    return Relayed(
        [(event.type, in_words(event.data)) for event in events],
        failure,
        relay.progress,
        relay.usage,
        relay.deltas,
        relay.ignored,
        short,
    )


def in_words(data: bytes) -> Any:
    """What JSON says; a text may be written in several ways."""
    try:
        return json.loads(data)
    except ValueError:
        return data


class Forgetful:
    """A writer of which nothing can be learned."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    def write(self, event: Event) -> list[Block]:
        return self._writer.write(event)

    def around_text(self, choice: int) -> None: ...

    def end(self) -> list[Block]:
        return self._writer.end()


def learning(client: Dialect, upstream: Dialect) -> Relay:
    if client is upstream:
        return client.relay(ANSWERING, secret="", ours=None)
    return TranslatingRelay(upstream.event_reader(), client.event_writer(ANSWERING))


def without_learning(client: Dialect, upstream: Dialect, reads: Sequence[bytes]) -> Relayed:
    """The same, event by event, where nothing is learned."""
    if client is not upstream:
        relay = TranslatingRelay(upstream.event_reader(), Forgetful(client.event_writer(ANSWERING)))
        return relayed(relay, reads, learns=False)
    # What has a type of its own is looked at by no template of Chat Completions; of Messages only its own type is.
    return relayed(learning(client, upstream), reads, learns=False, type=b"message")


def chunk(members: bytes, *, index: int = 0, finish: bytes = b"null", more: bytes = b"") -> bytes:
    """The data of a chunk; `members` are its delta's."""
    choice = b'{"index":%d,"delta":{%b},"finish_reason":%b}' % (index, members, finish)
    return b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[%b]%b}' % (choice, more)


def chat(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def delta(members: bytes, *, index: int = 0) -> bytes:
    return b'{"type":"content_block_delta","index":%d,"delta":{%b}}' % (index, members)


def messages(data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data.split(b'"')[3], data)


def text_delta(text: bytes, *, index: int = 0) -> bytes:
    return delta(b'"type":"text_delta","text":%b' % text, index=index)


LOGPROBS = b'"logprobs":{"content":[{"token":"a","logprob":-0.1,"bytes":[97]}]}'
USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'
CALL = b'"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":%b}}]'

#: Events of a text and of another one.
CHAT_SHAPES: list[Callable[[bytes, bytes], bytes]] = [
    lambda text, other: chat(chunk(b'"content":%b' % text)),
    lambda text, other: chat(chunk(b'"content":%b' % text)),
    lambda text, other: chat(chunk(b'"content": %b' % text).replace(b",", b", ")),
    lambda text, other: chat(chunk(b'"role":"assistant","content":%b' % text)),
    lambda text, other: chat(chunk(b'"reasoning_content":null,"content":%b,"tool_calls":[]' % text)),
    lambda text, other: chat(chunk(b'"content":%b' % text, index=1)),
    lambda text, other: chat(chunk(b'"content":%b' % text, more=b',"usage":null')),
    lambda text, other: chat(chunk(b'"content":%b' % text, more=b"," + USAGE)),
    lambda text, other: chat(chunk(b'"content":%b' % text, more=b"," + LOGPROBS)),
    lambda text, other: chat(chunk(b'"content":%b' % text, more=b',"obfuscation":%b' % other)),
    lambda text, other: chat(chunk(b'"content":%b' % text, more=b',"x":{"content":%b}' % other)),
    lambda text, other: chat(chunk(b'"content":%b' % text, more=b',"x":{"text":%b}' % other)),
    lambda text, other: chat(chunk(b'"content":%b,"reasoning_content":%b' % (text, other))),
    lambda text, other: chat(chunk(b'"content":%b,"content":%b' % (text, other))),
    lambda text, other: chat(chunk(b'"content":%b,"c\\u006fntent":%b' % (text, other))),
    lambda text, other: chat(chunk(b'"c\\u006fntent":%b,"content":%b' % (text, other))),
    lambda text, other: chat(
        chunk(b'"content":[{"type":"text","text":%b}]' % text, more=b',"x":{"content":%b}' % other)
    ),
    lambda text, other: chat(chunk(b'"content":[{"type":"text","text":%b,"content":%b}]' % (text, other))),
    lambda text, other: chat(chunk(b'"content":null', more=b',"x":{"content":%b}' % text)),
    lambda text, other: chat(chunk(b'"content":"","x":{"content":%b}' % text)),
    lambda text, other: chat(chunk(b'"x":{"content":%b},"content":%b' % (text, other[:1] + other[-1:]))),
    lambda text, other: chat(chunk(b'"content":%b,"tool_calls":[{"index":0,"id":"a"}]' % text)),
    lambda text, other: chat(chunk(b'"content":%b,%b' % (text, CALL % other))),
    lambda text, other: chat(chunk(b'"content":%b' % text, finish=other)),
    lambda text, other: chat(chunk(b'"content":%b' % text).replace(b'"id":"c"', b'"id":%b' % other)),
    *(
        lambda text, other, name=name: chat(chunk(b'"%b":%b' % (name, text)))  # type: ignore[misc]
        for name in (b"reasoning_content", b"reasoning", b"refusal", b"other")
    ),
    lambda text, other: chat(chunk(CALL % text)),
    lambda text, other: chat(chunk(b'"tool_calls":[{"index":0,"function":{"arguments":%b}}]' % text)),
    lambda text, other: chat(chunk(b'"content":%b' % text)).replace(b"\n", b"\r\n"),
    lambda text, other: chat(chunk(b'"content":%b' % text)).replace(b"data: ", b"data:"),
    lambda text, other: chat(chunk(b'"content":%b' % text)).replace(b'"created"', b'\ndata: "created"'),
    lambda text, other: chat(chunk(b'"content":%b' % text).replace(b'"created"', b'\n"created"')),
    lambda text, other: chat(chunk(b'"content":\ndata: %b' % text)),
    lambda text, other: b"event: message\n" + chat(chunk(b'"content":%b' % text)),
    lambda text, other: b"event: ping\n" + chat(chunk(b'"content":%b' % text)),
    lambda text, other: b"id: 7\n" + chat(chunk(b'"content":%b' % text)),
]
MESSAGE_SHAPES: list[Callable[[bytes, bytes], bytes]] = [
    lambda text, other: messages(text_delta(text)),
    lambda text, other: messages(text_delta(text)),
    lambda text, other: messages(text_delta(text).replace(b":", b": ").replace(b",", b", ")),
    lambda text, other: messages(text_delta(text, index=1)),
    lambda text, other: messages(text_delta(text)[:-1] + b" " * (len(other) % 5) + b"}"),
    lambda text, other: messages(text_delta(text)[:-2] + b" " * (len(other) % 5) + b"}}"),
    lambda text, other: messages(text_delta(text)[:-1] + b',"text":%b}' % other),
    lambda text, other: messages(text_delta(text)[:-1] + b',"p":%b}' % other),
    lambda text, other: messages(delta(b'"text":%b,"type":"text_delta"' % text)),
    lambda text, other: messages(delta(b'"type":"text_delta","text":%b,"text":%b' % (text, other))),
    lambda text, other: messages(delta(b'"type":"text_delta","text":%b,"t\\u0065xt":%b' % (text, other))),
    lambda text, other: messages(delta(b'"type":"text_delta","t\\u0065xt":%b,"text":%b' % (text, other))),
    lambda text, other: messages(delta(b'"type":"text_delta","text":%b,"citation":{"text":%b}' % (text, other))),
    lambda text, other: messages(delta(b'"type":"text_delta","text":"","x":{"text":%b}' % text)),
    lambda text, other: messages(delta(b'"type":"citations_delta","citation":{"type":"x","text":%b}' % text)),
    lambda text, other: messages(delta(b'"type":"thinking_delta","thinking":%b' % text, index=2)),
    lambda text, other: messages(delta(b'"type":"input_json_delta","partial_json":%b' % text, index=3)),
    lambda text, other: messages(text_delta(text).replace(b'"index":0,', b"")),
    lambda text, other: chat(text_delta(text)),
    lambda text, other: b"event: ping\n" + chat(text_delta(text)),
    lambda text, other: b"event: other\n" + chat(text_delta(text)),
    lambda text, other: b"id: 7\n" + messages(text_delta(text)),
    lambda text, other: messages(text_delta(text)).replace(b"\n", b"\r\n"),
    lambda text, other: messages(text_delta(text)).replace(b"data: ", b"data:"),
    lambda text, other: messages(text_delta(text)).removesuffix(b"\n\n") + b"\r\n",
    lambda text, other: messages(text_delta(text)).removesuffix(b"\n"),
    lambda text, other: messages(text_delta(text).replace(b'"index"', b'\ndata: "index"')),
    lambda text, other: messages(text_delta(text).replace(b'"index"', b'\n"index"')),
    lambda text, other: messages(text_delta(b"\ndata: " + text)),
    lambda text, other: messages(text_delta(text + b"\ndata: ")),
]


def block_begins(index: int, kind: bytes) -> bytes:
    return b'{"type":"content_block_start","index":%d,"content_block":{"type":"%b"}}' % (index, kind)


def block_ends(index: int) -> bytes:
    return b'{"type":"content_block_stop","index":%d}' % index


CHAT_BEGIN = [chat(chunk(b'"role":"assistant","content":""'))]
CHAT_END = [chat(chunk(b"", finish=b'"stop"')), chat(b'{"id":"c","choices":[],%b}' % USAGE), b"data: [DONE]\n\n"]
MESSAGE_BEGIN = [
    messages(b'{"type":"message_start","message":{"id":"m","model":"c","content":[],"usage":{"input_tokens":1}}}'),
    messages(block_begins(0, b"text")),
]
MESSAGE_END = [
    messages(block_ends(0)),
    messages(b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}'),
    messages(b'{"type":"message_stop"}'),
]
COMMENTS = [b": a comment\n\n", b": a comment\n", b"\n", b"data:\n\n", b"event: x\n\n"]
CHAT_ODDITIES = [*CHAT_BEGIN, *CHAT_END, *COMMENTS, chat(chunk(b"", finish=b'"stop"', index=1)), chat(b'{"error":{}}')]
MESSAGE_ODDITIES = [
    *(*MESSAGE_BEGIN, *MESSAGE_END, *COMMENTS),
    *(messages(block_begins(index, kind)) for index, kind in ((1, b"text"), (2, b"thinking"))),
    messages(
        b'{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"a","name":"f","input":{}}}'
    ),
    *(messages(block_ends(index)) for index in range(4)),
    messages(b'{"type":"ping"}'),
    messages(b'{"type":"error","error":{"type":"api_error","message":"m"}}'),
]


@dataclass(frozen=True)
class Upstream:
    dialect: Dialect
    begin: list[bytes]
    shapes: list[Callable[[bytes, bytes], bytes]]
    oddities: list[bytes]
    end: list[bytes]


UPSTREAMS = {
    "chat": Upstream(OPENAI_CHAT, CHAT_BEGIN, CHAT_SHAPES, CHAT_ODDITIES, CHAT_END),
    "messages": Upstream(ANTHROPIC_MESSAGES, MESSAGE_BEGIN, MESSAGE_SHAPES, MESSAGE_ODDITIES, MESSAGE_END),
}
RIGHT = JSON_TEXTS.filter(lambda text: text != b'""')
SAME, ANY_PAIR = RIGHT.map(lambda text: (text, text)), st.tuples(RIGHT, RIGHT)


@st.composite
def answers(draw: st.DrawFn, upstream: Upstream) -> list[bytes]:
    """What is read of an answer: runs of events of one shape, odd ones between them, some of them together."""
    reads = list(upstream.begin)
    if draw(st.sampled_from([True, True, False])):
        reads += [upstream.shapes[0](text, text) for text in draw(st.lists(RIGHT, min_size=4, max_size=6))]
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.just(upstream.shapes[0]) | st.sampled_from(upstream.shapes))
        texts = draw(st.lists(SAME | ANY_PAIR, min_size=1, max_size=6))
        odd = draw(st.lists(st.tuples(ANY_TEXTS, ANY_TEXTS), max_size=1))
        again = draw(st.lists(SAME | ANY_PAIR, max_size=3))
        reads += [shape(text, other) for text, other in (*texts, *odd, *again)]
        reads += draw(st.lists(st.sampled_from(upstream.oddities), max_size=1))
    if draw(st.booleans()):
        reads += upstream.end
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(reads) - 1))
        reads[at : at + 2] = [b"".join(reads[at : at + 2])]
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(reads) - 1))
        cut = draw(st.integers(0, len(reads[at])))
        reads[at : at + 1] = [reads[at][:cut], reads[at][cut:]]
    return reads


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("client", UPSTREAMS)
def test_what_was_learned_changes_nothing(client: str, upstream: str) -> None:
    theirs, ours = UPSTREAMS[upstream], UPSTREAMS[client].dialect
    short: list[int] = []

    @settings(max_examples=300, deadline=None)
    @given(answers(theirs))
    def look(reads: list[bytes]) -> None:
        expected = without_learning(ours, theirs.dialect, reads)
        by_reads = relayed(learning(ours, theirs.dialect), reads)
        assert by_reads.in_short() == expected
        assert relayed(learning(ours, theirs.dialect), reads, learns=False) == expected
        short.append(by_reads.short)

    look()
    assert sum(count > 2 for count in short) > 0.15 * len(short)


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("client", UPSTREAMS)
def test_what_was_learned_of_one_event_is_not_taken_for_another(client: str, upstream: str) -> None:
    theirs, ours = UPSTREAMS[upstream], UPSTREAMS[client].dialect
    first, same, other = b'"a"', (b'"b"', b'"b"'), (rb'"\u00e9"', b'"d"')
    for shape, next in product(theirs.shapes, theirs.shapes):
        begin = [*theirs.begin, *(theirs.shapes[0](first, first) for _ in range(2))]
        run = [*(shape(*texts) for texts in (same, same, other)), *(next(*texts) for texts in (same, same, other))]
        reads = [*begin, *run, shape(*same), shape(*other), theirs.shapes[0](first, first)]
        expected = without_learning(ours, theirs.dialect, reads)
        assert relayed(learning(ours, theirs.dialect), reads).in_short() == expected
        assert relayed(learning(ours, theirs.dialect), reads, learns=False) == expected


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("client", UPSTREAMS)
@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_texts_take_the_shortcut(client: str, upstream: str, count: int) -> None:
    theirs, ours = UPSTREAMS[upstream], UPSTREAMS[client].dialect
    reads = [*theirs.begin, *(theirs.shapes[0](b'"%d"' % number, b"") for number in range(count)), *theirs.end]
    by_reads = relayed(learning(ours, theirs.dialect), reads)
    assert by_reads.in_short() == without_learning(ours, theirs.dialect, reads)
    assert by_reads.short >= count - 2
    assert by_reads.deltas == count
    assert by_reads.progress is Progress.ENDED
