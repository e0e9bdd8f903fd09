"""Anything that may happen to an answer, most of which goes through lanes."""

import json
from collections.abc import Callable

from hypothesis import strategies as st

from tests.gateway.lane_steps import (
    AnotherClaims,
    Cancelled,
    ClientGoesOn,
    ClientIsSlow,
    ClientLeaves,
    Look,
    Read,
    Silence,
    Step,
    StoreFails,
    StoreIsSlow,
    UpstreamLeaves,
    WeStop,
)
from tests.gateway.lane_upstreams import (
    CHAT_BEGIN,
    CHAT_END,
    CHAT_USAGE,
    END,
    HEAD,
    MESSAGE_BEGIN,
    MESSAGE_END,
    UPSTREAMS,
    chat,
    chunk,
    data_line,
    message,
    message_text,
    named,
)
from unbroken.upstream.chunked import LONGEST

PLAIN_TEXTS = st.text(min_size=1, max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False))
ODD_TEXTS = [
    *(
        rb'""',
        rb'"\ud83d"',
        rb'"\ude00"',
        rb'"\ud83d\ude00"',
        rb'"\u00e9\/\u0000\u2028"',
        b'"\xe2\x80\xa8\xc2\x85\x7f"',
    ),
    *(
        b'"\xff"',
        b'"a',
        b'a"',
        b'"a\n"',
        b'"a\tb"',
        b'"\x00"',
        b'"a"\n',
        b'\n"a"',
        b'"a"\r',
        b'\r\n"a"',
        b'"a" ',
        b' "a"',
        b'\t"a"',
    ),
    *(b"null", b"5", b"", b'"a","x":"b"', b'"a"},"x":{"content":"b"', b'"a"\ndata: ', b'"\\"', b'"\\x"', b'"a" "b"'),
    *(b'"%b"' % (b"x" * size) for size in (200, 5000, LONGEST - 220, LONGEST, 2 * LONGEST - 300, 3 * LONGEST)),
]
TEXTS = st.one_of(
    PLAIN_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(min_size=1, max_size=8).map(lambda text: json.dumps(text).encode()),
)
ANY_TEXTS = st.one_of(TEXTS, TEXTS, TEXTS, st.sampled_from(ODD_TEXTS))

CALL = b'"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]'
CHAT_ODDITIES = [
    *(data_line(data) for data in (*CHAT_BEGIN, *CHAT_END, *CHAT_END)),
    data_line(chat(b'"content":null')),
    data_line(chat(b'"content":"u"', more=b"," + CHAT_USAGE)),
    data_line(chat(b'"content":"a"', b'"length"')),
    data_line(chat(b'"content":"a"', b'""')),
    data_line(chat(b'"content":"one"', index=1)),
    data_line(chat(b"", b'"stop"', index=1)),
    data_line(b'{"id":"c1","choices":[],%b}' % CHAT_USAGE),
    *(data_line(chat(b'"%b":"r"' % name)) for name in (b"reasoning_content", b"reasoning", b"refusal", b"other")),
    data_line(chat(b'"content":"a","reasoning_content":"b"')),
    data_line(chat(b'"content":"a","content":"b"')),
    data_line(chat(b'"c\\u006fntent":"x","content":"a"')),
    data_line(chat(b'"content":[{"type":"text","text":"b"}]', more=b',"x":{"content":"wrong"}')),
    data_line(chat(CALL)),
    data_line(chat(b'"content":"a",' + CALL)),
    data_line(chat(b'"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]')),
    data_line(b'{"error":{"message":"it broke","type":"server_error"}}'),
    data_line(b'{"choices":[{"index":0,"delta":{"content":'),
    data_line(chat(b'"content":"a"')).replace(b"\n", b"\r\n"),
    data_line(chat(b'"content":"a"')).replace(b"\n", b"\r"),
    data_line(chat(b'"content":"a"')).replace(b"data: ", b"data:"),
    data_line(chat(b'"content":"a"')).replace(b'"created"', b'\ndata: "created"'),
    b"event: message\n" + data_line(chat(b'"content":"a"')),
    b"event: ping\n" + data_line(chat(b'"content":"a"')),
    b"id: 7\n" + data_line(chat(b'"content":"a"')),
    b"\xef\xbb\xbf" + data_line(chat(b'"content":"a"')),
    *(b": a comment\n\n", b": a comment\n", b"\n", b"data:\n\n", b"data: \n\n", b"event: x\n\n", b"retry: 5\n\n"),
    *(b"data: cut", b"event: cut", b"data: {", b"<html>"),
]
MESSAGE_ODDITIES = [
    *(named(data) for data in (*MESSAGE_BEGIN, *MESSAGE_END, *MESSAGE_END)),
    named(message(b"content_block_start", b'"index":1,"content_block":{"type":"text","text":""}')),
    named(message_text(b'"one"', 1)),
    named(message(b"content_block_stop", b'"index":1')),
    named(message(b"content_block_start", b'"index":2,"content_block":{"type":"thinking","thinking":""}')),
    named(message(b"content_block_delta", b'"index":2,"delta":{"type":"thinking_delta","thinking":"t"}')),
    named(message(b"content_block_start", b'"index":3,"content_block":{"type":"tool_use","id":"a","name":"f"}')),
    named(message(b"content_block_delta", b'"index":3,"delta":{"type":"input_json_delta","partial_json":"{}"}')),
    named(message(b"content_block_delta", b'"index":0,"delta":{"type":"citations_delta","citation":{"text":"a"}}')),
    named(message(b"content_block_delta", b'"delta":{"type":"text_delta","text":"a"}')),
    named(message(b"content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":"a","text":"b"}')),
    named(message_text(b'"a"').replace(b"}}", b"}   }")),
    named(message_text(b'"a"').replace(b"}}", b'},"x":{"text":"b"}}')),
    data_line(message_text(b'"a"')),
    named(message_text(b'"a"')).replace(b"\n", b"\r\n"),
    named(message_text(b'"a"')).replace(b"data: ", b"data:"),
    named(message_text(b'"a"')).replace(b'"index"', b'\ndata: "index"'),
    b"event: ping\n" + data_line(message_text(b'"a"')),
    named(b'{"type":"ping"}'),
    named(b'{"type":"error","error":{"type":"overloaded_error","message":"too much"}}'),
    *(b": a comment\n\n", b": a comment\n", b"\n", b"event: x\n\n", b"data: cut", b"event: cut", b"data: {", b"<html>"),
]
ODDITIES = {"openai-chat": CHAT_ODDITIES, "anthropic-messages": MESSAGE_ODDITIES}
FRAMES: list[Callable[[bytes], bytes]] = [
    lambda body: chunk(body, "{:X}"),
    lambda body: chunk(body, "{:x};name=value"),
    lambda body: chunk(body, "0{:x}"),
    lambda body: chunk(body, "{:x} "),
    lambda body: chunk(body).replace(b"\r\n", b"\n", 1),
    lambda body: chunk(body)[:-2] + b"\n",
    lambda body: b"\n" + body + b"\r\n",
    lambda body: body,
    lambda body: chunk(chunk(body)),
    lambda body: chunk(body) + END,
    lambda body: chunk(body[:9]) + chunk(body[9:] or b"x"),
    lambda body: chunk(body) + b"\r\n",
]
SECONDS = st.sampled_from([0.0, 0.0004, 0.003, 0.2, 0.7, 1.0, 1.5, 11.0, 25.0, 31.0])
HAPPENINGS: st.SearchStrategy[Step] = st.one_of(
    SECONDS.map(Silence),
    SECONDS.map(Silence),
    st.booleans().map(ClientIsSlow),
    st.just(ClientGoesOn()),
    st.just(ClientGoesOn()),
)
STORE_HAPPENINGS: st.SearchStrategy[Step] = st.one_of(
    HAPPENINGS,
    st.sampled_from([0.0, 0.0004, 0.004, 0.02, 0.3]).map(StoreIsSlow),
    st.sampled_from([0.01, 0.4, 3.0, 14.0]).map(StoreFails),
)
LOOKS = st.builds(Look, st.integers(0, 9), st.booleans())
ENDINGS: st.SearchStrategy[list[Step]] = st.one_of(
    st.just([]),
    st.just([]),
    st.just([ClientLeaves()]),
    st.booleans().map(lambda is_reset: [UpstreamLeaves(is_reset)]),
    st.just([WeStop()]),
)
STORE_ENDINGS: st.SearchStrategy[list[Step]] = st.one_of(
    ENDINGS, st.just([AnotherClaims()]), st.just([Cancelled()]), st.just([StoreFails(60.0)])
)


@st.composite
def scripts(draw: st.DrawFn, upstream: str, *, looks: bool = True, is_durable: bool = False) -> list[Step]:
    """What happens to an answer of this dialect; most of it are pieces of text, each of them a chunk and a read."""
    way, happenings = UPSTREAMS[upstream], STORE_HAPPENINGS if is_durable else HAPPENINGS
    sent: list[bytes | Step] = [chunk(way.write(data)) for data in way.begin]
    begin = draw(st.sampled_from(["t", "t", "t", ""]))
    for kind in begin + "".join(draw(st.lists(st.sampled_from("tttttoofchjnw"), min_size=2, max_size=14))):
        match kind:
            case "t":
                sent += [chunk(way.write(way.text(text))) for text in draw(st.lists(TEXTS, min_size=6, max_size=16))]
            case "w":  # the log commits between them
                for text in draw(st.lists(TEXTS, min_size=2, max_size=6)):
                    sent += [chunk(way.write(way.text(text))), Silence(draw(st.sampled_from([0.0, 0.002, 0.006])))]
            case "o":
                sent.append(chunk(draw(st.sampled_from(ODDITIES[upstream]))))
            case "f":
                sent.append(draw(st.sampled_from(FRAMES))(way.write(way.text(draw(TEXTS)))))
            case "c":
                sent.append(chunk(way.write(way.text(draw(ANY_TEXTS)))))
            case "j":
                texts = draw(st.lists(ANY_TEXTS, min_size=2, max_size=4))
                sent.append(chunk(b"".join(way.write(way.text(text)) for text in texts)))
            case "n":  # a chunk of what looks like chunks
                texts = draw(st.lists(TEXTS, min_size=1, max_size=4))
                inner = [chunk(way.write(way.text(text))) for text in texts]
                sent += [b"%x\r\n" % sum(map(len, inner)), *inner, b"\r\n"]
            case _:
                sent.append(draw(happenings | LOOKS if looks else happenings))
    if draw(st.booleans()):
        sent += [*(chunk(way.write(data)) for data in way.end), END]
    ending = draw(STORE_ENDINGS if is_durable else ENDINGS)
    if ending:
        at = draw(st.integers(0, len(sent)))
        sent[at:at] = ending
    return [Read(HEAD), *cut_anew(draw, sent)]


def cut_anew(draw: st.DrawFn, sent: list[bytes | Step]) -> list[Step]:
    """Most chunks are a read each; some come together, or cut."""
    steps: list[Step] = []
    places = st.integers(0, max(len(sent) - 1, 0))
    joined, cut = draw(st.sets(places, max_size=6)), draw(st.dictionaries(places, st.integers(1, 400), max_size=3))
    rest = b""
    for place, one in enumerate(sent):
        if not isinstance(one, bytes):
            steps += [Read(rest), one] if rest else [one]
            rest = b""
            continue
        rest += one
        if place in cut and len(rest) > cut[place]:
            steps.append(Read(rest[: cut[place]]))
            rest = rest[cut[place] :]
        elif place not in joined:
            steps.append(Read(rest))
            rest = b""
    return [*steps, Read(rest)] if rest else steps
