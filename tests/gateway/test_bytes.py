"""Bytes on their way through: whole, unharmed, bounded (FAULTS.md 18-25)."""

import asyncio
import re

import msgspec
import pytest

from unbroken.settings.tree import UpstreamSettings
from unbroken.upstream.scripted import (
    Change,
    Cut,
    Head,
    Script,
    ScriptedUpstream,
    Send,
    Stall,
    all_at_once,
    blocks,
    body,
    close_delimited,
    data_on_many_lines,
    events,
    html_error,
    http_1_0,
    in_pieces_of,
    insert_after,
    line_ends,
    no_space_after_colon,
    one_byte_at_a_time,
    parallel_tool_calls,
    role_in_every_chunk,
    split_writes,
    text,
    tool_call,
    usage_null_everywhere,
    with_bom,
    with_comments,
    with_fields,
    with_headers,
    without_role,
)

from .conftest import UPSTREAM_KEY, upstream_settings

pytestmark = pytest.mark.anyio

#: Emoji with joiners, CJK, right to left; separators that are data; what looks like the wire's own words.
DIFFICULT = '👩‍👩‍👧 漢字 שלום a\u2028b\u0085c\x0bd \\ud83d "q" \n\ndata: [DONE]\n\n event: error\r\n\r\n{}]} \x00 end'

WRITTEN: dict[str, Change] = {
    "a byte at a time": one_byte_at_a_time(),
    "three bytes at a time": in_pieces_of(3),
    "in TCP pieces of 7": split_writes(7),
    "all at once": all_at_once(),
    "CRLF": line_ends("\r\n"),
    "CR": line_ends("\r"),
    "CRLF, a byte at a time": lambda draft: one_byte_at_a_time()(line_ends("\r\n")(draft)),
    "no space": no_space_after_colon(),
    "BOM": with_bom(),
    "comments": with_comments(),
    "other fields": with_fields("event: message", "id: 7", "retry: 10", "unknown", ": comment"),
    "many data lines": data_on_many_lines(),
    "until close": close_delimited(),
    "HTTP/1.0": http_1_0(),
    "role everywhere": role_in_every_chunk(),
    "no role": without_role(),
    "usage null everywhere": usage_null_everywhere(),
}


@pytest.mark.parametrize("name", WRITTEN)
async def test_however_an_upstream_writes_the_text_arrives_unharmed(
    serve, upstream: ScriptedUpstream, name: str
) -> None:
    """FAULTS.md 18, 19, 21, 23."""
    pieces = [DIFFICULT[at : at + 3] for at in range(0, len(DIFFICULT), 3)]
    upstream.script(text(pieces) | WRITTEN[name])
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == DIFFICULT
    assert answer.error is None
    assert answer.is_done
    assert answer.raw.count(b"\n\n") == len(answer.blocks), "a block is a data line and an empty line"
    assert all(line.startswith(b"data: ") for line in re.split(rb"\n+", answer.raw.strip()))
    assert sum("role" in delta for delta in answer.deltas) == 1
    assert all("choices" in chunk for chunk in answer.chunks)


async def test_a_well_formed_block_passes_byte_for_byte(serve, upstream: ScriptedUpstream) -> None:
    """C1: but for the stream's id and the public model; white space, order and number formats are the upstream's."""
    first = '{"id":"i","object":"chat.completion.chunk","created":5,"model":"t","choices":[{"index":0,"delta":{%s}}]}'
    odd = (
        '{ "model" : "t",  "x":1.50e0, "choices":[ {"delta":{"content":"\\u00e9\\/ "},"index":0 , "finish_reason":null'
        ',"logprobs":{"content":[]}} ],"created":5,"object":"chat.completion.chunk", "id":"i" }'
    )
    role = first % '"role":"assistant","content":""'
    finish = first.replace("}]}", ',"finish_reason":"stop"}]}') % ""
    upstream.script(events(role, odd, odd, finish, "[DONE]"))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.is_done
    ours = answer.chunks[0]["id"]
    for seen, sent in zip(answer.blocks, (role, odd, odd, finish), strict=False):
        assert seen.decode() == sent.replace('"i"', f'"{ours}"').replace('"t"', '"m"')


async def test_events_that_are_no_chunks_are_left_out(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 19, 21: pings, empty data, empty `choices`; none of them is a token."""
    ping, empty = b"event: ping\ndata: {}\n\n", b"data:\n\n"
    nothing = {"id": "x", "object": "chat.completion.chunk", "choices": []}
    upstream.script(text("one two three") | insert_after(2, ping, empty, b": c\n\n", nothing) | insert_after(0, ping))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one two three"
    assert answer.is_done
    assert b"ping" not in answer.raw


async def test_a_block_that_is_not_json_fails_clean(serve, upstream: ScriptedUpstream) -> None:
    """C7, FAULTS.md 20, 24: the error stands between blocks, never inside one."""
    for broken in (b"data: {broken\n\n", b"data: \xff\xfe\n\n", b"data: [1]\n\n", b'data: {"choices": 3}\n\n'):
        upstream.script(text("one two three") | insert_after(2, broken))
    gateway = await serve(upstream)
    for _ in range(4):
        answer = await gateway.stream()
        assert answer.text == "one"
        assert answer.error["code"] == "malformed"
        assert not answer.is_done
    assert (await gateway.stream()).text == "one two three"


async def test_half_a_block_at_the_end_is_not_sent(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 24."""
    chunk = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"one"},"finish_reason":null}]}\n\n'
    upstream.script(blocks(chunk, chunk[:40]))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    assert answer.text == "one"
    assert "error" in answer.chunks[-1]
    assert all(msgspec.json.decode(block) for block in answer.blocks)


async def test_arguments_that_are_missing_are_an_empty_object(serve, upstream: ScriptedUpstream) -> None:
    """C5, FAULTS.md 22."""
    upstream.always(parallel_tool_calls(("get_time", ""), ids="missing", indices="missing", pieces=0))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    calls = [call for delta in answer.deltas for call in delta.get("tool_calls", ())]
    assert "".join(call["function"].get("arguments", "") for call in calls) == "{}"
    assert calls[0]["id"]
    assert {call["index"] for call in calls} == {0}
    call = (await gateway.ask()).json()["choices"][0]["message"]["tool_calls"][0]
    assert call["function"]["arguments"] == "{}"
    assert call["id"]


async def test_arguments_in_single_characters_arrive(serve, upstream: ScriptedUpstream) -> None:
    arguments = msgspec.json.encode({"location": "Zürich 漢"}).decode()
    upstream.script(tool_call("get_weather", arguments, pieces=len(arguments)))
    gateway = await serve(upstream)
    answer = await gateway.stream()
    calls = [call for delta in answer.deltas for call in delta.get("tool_calls", ())]
    assert "".join(call["function"].get("arguments", "") for call in calls) == arguments


async def test_a_megabyte_in_one_event_passes(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 25."""
    large = "x" * (1 << 20)
    upstream.always(text(["a", large, "z"]))
    gateway = await serve(upstream)
    assert (await gateway.stream()).text == f"a{large}z"
    assert (await gateway.ask()).json()["choices"][0]["message"]["content"] == f"a{large}z"


async def test_an_event_beyond_the_bound_is_a_clean_error(serve, upstream: ScriptedUpstream) -> None:
    """S4, FAULTS.md 25: also where its end never comes."""
    upstream.script(text(["a", "x" * (5 << 20), "z"]))
    upstream.script(text(["a", "b"]) | insert_after(2, b"data: " + b"x" * (5 << 20)))
    gateway = await serve(upstream)
    for _ in range(2):
        answer = await gateway.stream()
        assert answer.text == "a"
        assert answer.error["code"] == "too_large"
        assert "larger than" in answer.error["message"]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_proxys_html_page_becomes_our_envelope(serve, upstream: ScriptedUpstream, status: int) -> None:
    """FAULTS.md 25."""
    upstream.always(html_error(status))
    gateway = await serve(upstream, retries={"attempts": 1})
    answer = await gateway.stream()
    response = await gateway.ask()
    assert answer.status == response.status_code == status
    assert answer.headers["content-type"] == response.headers["content-type"] == "application/json"
    assert answer.error == response.json()["error"]
    assert answer.error["message"] == f'upstream "up0": answered {status} with text/html'


async def test_an_error_page_of_200_is_not_an_answer(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 25: a captive portal, a login page."""
    upstream.always(body(b"<html>log in</html>", content_type="text/html"))
    gateway = await serve(upstream, retries={"attempts": 1})
    answer = await gateway.stream()
    assert answer.status == 502
    assert answer.error["message"].endswith('answered with content-type "text/html", expected "text/event-stream"')
    response = await gateway.ask()
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "malformed"


async def test_a_page_that_comes_with_its_head_is_no_mistake_of_ours(serve) -> None:
    """The head is enough to give it up, and the body is there by then."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        settings = UpstreamSettings(name="up0", base_url=base_url, api_key=UPSTREAM_KEY, models=("m",))
        gateway = await serve(settings, retries={"attempts": 1})
        assert (await gateway.stream()).status == 502
        await gateway.wait_until_idle()


async def test_an_error_page_that_is_huge_or_never_ends_is_bounded(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 25: the status has said it; a body that does not come whole is no message."""
    page = (("Content-Type", "text/plain"),)
    upstream.script(Script((Head(500, page), *[Send(b"x" * 65536)] * 40, Cut())))
    upstream.script(Script((Head(500, page), Send(b"half a wo"), Cut())))
    upstream.script(Script((Head(500, page), Send(b"half a wo"), Stall())))
    gateway = await serve(upstream, retries={"attempts": 1}, timeouts={"headers": 0.1})
    for _ in range(3):
        answer = await gateway.stream()
        assert answer.status == 500
        assert len(answer.raw) < 3000


async def test_text_that_is_compressed_against_our_wish_is_a_clear_error(serve, upstream: ScriptedUpstream) -> None:
    """We ask for `identity`; bytes that we cannot look into are not passed on."""
    upstream.always(text("one two three") | with_headers({"Content-Encoding": "gzip"}))
    gateway = await serve(upstream, retries={"attempts": 1})
    for answer in (await gateway.stream(), await gateway.ask()):
        error = answer.error if hasattr(answer, "error") else answer.json()["error"]
        assert 'answered with content-encoding "gzip" though "identity" was asked for' in error["message"]
    assert upstream.requests[0].header("accept-encoding") == "identity"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_redirect_is_a_clear_error_that_names_base_url(serve, upstream: ScriptedUpstream, stream: bool) -> None:
    """A POST is not sent elsewhere behind the operator's back, with its key."""
    upstream.always(body(b"", status=308, headers={"Location": "https://elsewhere.example/v1/chat/completions?k=v"}))
    gateway = await serve(upstream, retries={"attempts": 1})
    answer = await (gateway.stream() if stream else gateway.ask())
    error = answer.error if stream else answer.json()["error"]
    assert 'answered 308, a redirect to "https://elsewhere.example/v1/chat/completions"' in error["message"]
    assert "base_url" in error["message"]
    assert len(upstream.requests) == 1


async def test_a_model_name_cannot_inject_a_header_or_an_event(serve, upstream: ScriptedUpstream) -> None:
    """FAULTS.md 23: from the client's side and from the upstream's."""
    name = 'm\r\nx-injected: 1\r\n\r\ndata: "x"\n\n'
    upstream.always(text("one two three", model=name, id="i\r\nx-injected: 1"))
    gateway = await serve(upstream_settings("up0", upstream, models=("m*",)))
    answer = await gateway.stream(model=name)
    assert answer.text == "one two three"
    assert answer.is_done
    assert {chunk["model"] for chunk in answer.chunks} == {name}
    assert "x-injected" not in answer.headers
    assert len(gateway.log_lines()) == 1
    assert upstream.requests[0].header("x-injected") is None
    error = await gateway.stream(model="n\r\nx-injected: 1")
    assert error.status == 404
    assert "x-injected" not in error.headers
    assert "x-injected" not in (await gateway.client.get(f"http://127.0.0.1:{gateway.port}/metrics")).headers


async def test_a_read_of_two_events_after_one_of_one_loses_nothing(serve, upstream) -> None:
    """The shortcut for a read that holds one piece of text takes no other read for one (FAULTS 18)."""
    words = ["one ", "two\\n", 'th"ree', "\n\n", "data: [DONE]", "", "€ 🌍", "last"]
    for change in (all_at_once(), in_pieces_of(7), split_writes(11), with_comments("x")):
        upstream.script(text(words) | change)
        upstream.script(text(words))
    gateway = await serve(upstream)
    for _ in range(8):
        assert (await gateway.stream()).text == "".join(words)
