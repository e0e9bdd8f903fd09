"""One answer: a request in any dialect, its producer, and the answer back to the client, whole or as a stream."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Raw

from unbroken.chat.error import RequestRefused
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Offset, StreamId
from unbroken.gateway.call import Call, ClientLeft
from unbroken.gateway.follow import Ending, StreamFollower
from unbroken.gateway.models import unknown_model
from unbroken.gateway.produce import Producer
from unbroken.rules.outcome import api_error
from unbroken.wire.dialects import Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway

LEFT = Failure(Fault.CLIENT_LEFT, "the client has gone")


async def create_chat_completion(gateway: "Gateway", call: Call, key_name: str) -> None:
    """Serves `POST /v1/chat/completions`."""
    await create_answer(gateway, call, key_name, OPENAI_CHAT)


async def create_answer(gateway: "Gateway", call: Call, key_name: str, dialect: Dialect) -> None:
    """Serves one request of a dialect."""
    request = dialect.read_request(await call.read_json_body(gateway.settings.server.body_limit))
    await send_answer(gateway, call, request, dialect, key_name)


async def send_answer(
    gateway: "Gateway",
    call: Call,
    request: ChatRequest,
    dialect: Dialect,
    key_name: str,
    echo: Mapping[str, Raw] | None = None,
    on_whole: Callable[[Producer], None] | None = None,
) -> None:
    """Answers a request; `echo` are fields that the answer repeats, `on_whole` hears of an answer that is whole."""
    started_at = call.connection.loop.time()
    if not gateway.upstreams.table.tiers(request.model):
        raise RequestRefused(unknown_model(request.model, await gateway.model_names()))
    stream = StreamId(f"{dialect.id_prefix}{gateway.ids.new()}")
    if call.connection.is_lost:
        raise ClientLeft
    producer = Producer(request, stream, gateway.means, dialect, call.headers, echo, on_whole)
    gateway.producers.add(producer)
    try:
        await (_send_stream if request.stream else _send_answer)(gateway, call, producer, stream)
    finally:
        gateway.producers.discard(producer)
        gateway.book(call, request, producer, key_name, started_at)


async def _send_answer(gateway: "Gateway", call: Call, producer: Producer, stream: StreamId) -> None:
    call.connection.on_lost = lambda: producer.stop(LEFT)
    try:
        answer = await producer.answer()
    except UpstreamFailed as failed:
        await _refuse(call, producer, failed.failure)
    else:
        call.tell_of(producer.account.dropped, producer.account.limits)
        await call.respond_json(answer.body)


async def _refuse(call: Call, producer: Producer, failure: Failure) -> None:
    if failure is LEFT:
        raise ClientLeft
    await call.respond_error(api_error(failure, producer.account.upstream))


async def _send_stream(gateway: "Gateway", call: Call, producer: Producer, stream: StreamId) -> None:
    production = asyncio.create_task(producer.write_stream())
    call.connection.on_lost = lambda: producer.stop(LEFT)
    gateway.metrics.open_streams += 1
    try:
        keep_alive = gateway.settings.keep_alive
        await _wait_until_begun(producer, keep_alive.first)
        # What the log holds decides, not how the stream stands by now: what is in it has to reach the client.
        if producer.begun.done() and not producer.begun.result():
            await production
            assert producer.account.failure is not None
            return await _refuse(call, producer, producer.account.failure)
        call.tell_of(producer.account.dropped, producer.account.limits)
        await call.begin_event_stream()
        follower = StreamFollower(
            call.connection,
            first_comment=keep_alive.first,
            comment_every=keep_alive.every,
            is_late=not producer.begun.done(),
            on_pause=producer.pause,
            keep_alive=call.keep_alive,
        )
        try:
            unfollow = await gateway.log.follow(stream, Offset(0), follower.feed)
            ending = await follower.ended
            unfollow()
        finally:
            follower.close()
        if ending is Ending.LEFT:
            producer.stop(LEFT)
        else:
            await call.end_event_stream()
        await production
    finally:
        gateway.metrics.open_streams -= 1
        if not production.done():
            producer.stop(LEFT)
            await production
        await gateway.log.forget(stream)


async def _wait_until_begun(producer: Producer, patience: float) -> None:
    """Waits for the first token, a failure, or until the upstream has been silent for `patience` seconds.

    As long as it waits, an upstream's failure can still be told with a status of its own (FAULTS.md 33).
    """
    loop = asyncio.get_running_loop()
    decided: asyncio.Future[None] = loop.create_future()

    def decide(_: object = None) -> None:
        if not decided.done():
            decided.set_result(None)

    def look() -> None:
        if loop.time() >= producer.heard_at + patience:
            decide()
        else:
            timers[0] = loop.call_at(producer.heard_at + patience, look)

    timers = [loop.call_at(producer.heard_at + patience, look)]
    producer.begun.add_done_callback(decide)
    try:
        await decided
    finally:
        timers[0].cancel()
