"""`/v1/messages`: Anthropic Messages, and the count of a question's tokens."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from unbroken.chat.error import RequestRefused
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.gateway.answers import create_answer
from unbroken.gateway.call import Call
from unbroken.gateway.response_heads import why_refused
from unbroken.gateway.upstreams import Upstream
from unbroken.rules.outcome import api_error
from unbroken.upstream.http import HttpClient
from unbroken.upstream.sinks import WholeResponse
from unbroken.wire.anthropic_messages.count import COUNT_PATH, read_count, write_count
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.anthropic_messages.request import read_count_request
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.translate import translate_request

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

BYTES_PER_TOKEN = 4  # of English, roughly: for upstreams that do not count

_read = msgspec.json.Decoder(dict[str, Any]).decode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def create_message(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves one message."""
    await create_answer(gateway, call, key_name, ANTHROPIC_MESSAGES)


async def count_tokens(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Counts a question's tokens: exactly where the upstream can, else by its length, and then a header says so."""
    body = await call.read_json_body(gateway.settings.server.body_limit)
    request = read_count_request(body)
    call.asked_model = request.model
    now = call.connection.loop.time()
    candidates = gateway.upstreams.candidates(request.model, now)
    limit = gateway.settings.timeouts.headers  # a count takes no thinking
    if not gateway.upstreams.table.tiers(request.model):
        raise RequestRefused(await gateway.unknown_model(request.model))
    try:
        if not candidates:
            raise UpstreamFailed(gateway.upstreams.nobody_left(request.model, now))
        target = candidates[0]
        upstream = gateway.upstreams.get(target.upstream)
        if upstream.dialect is ANTHROPIC_MESSAGES:
            tokens = await _within(limit, _count_there(upstream, body, target.model, call))
        elif upstream.is_engine:
            tokens = await _within(limit, _count_in_engine(upstream, request))
        else:
            tokens = len(body) // BYTES_PER_TOKEN + 1
            call.own_headers.append((b"unbroken-estimated", b"true"))
    except UpstreamFailed as failed:
        return await call.respond_error(api_error(failed.failure))
    await call.respond_json(write_count(tokens))


async def _within(limit: float, counting: Coroutine[None, None, int]) -> int:
    try:
        async with asyncio.timeout(limit):
            return await counting
    except TimeoutError:
        raise UpstreamFailed(Failure(Fault.HEADERS_TIMEOUT, f"no response within {limit:g} s")) from None


async def _count_there(upstream: Upstream, body: bytes, model: str, call: Call) -> int:
    asked = msgspec.json.encode({**_read_fields(body), "model": model})
    return read_count(await _post(upstream, COUNT_PATH, asked, upstream.headers_for(call.headers)))


async def _count_in_engine(upstream: Upstream, request: ChatRequest) -> int:
    """llama.cpp's own count: the chat template filled in, and its tokens."""
    written = translate_request(request, ANTHROPIC_MESSAGES, OPENAI_CHAT, model="engine", stream=False)
    prompt = _read(await _post(upstream, "//apply-template", written.body))["prompt"]
    asked = msgspec.json.encode({"content": prompt, "add_special": True, "parse_special": True})
    return len(_read(await _post(upstream, "//tokenize", asked))["tokens"])


async def _post(upstream: Upstream, path: str, body: bytes, headers: bytes = b"") -> bytes:
    client: HttpClient = await upstream.client()
    sink = WholeResponse()
    connection = await client.post(path, body, sink, accept="application/json", more_headers=headers)
    try:
        status, answer = await sink.complete
    except BaseException:
        connection.close()
        raise
    if status != 200:
        raise UpstreamFailed(why_refused(status, sink.headers, answer, upstream.read_error, secret=upstream.secret))
    return answer
