"""One answer: a request in any dialect, its production, and the answer back to the client, whole or as a stream."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Raw

from unbroken.chat.error import RequestRefused
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Offset, StreamId
from unbroken.gateway.call import Call, ClientLeft
from unbroken.gateway.durability import fingerprint, read_durability
from unbroken.gateway.durable_answers import send_durable_answer
from unbroken.gateway.follow import Ending, StreamFollower
from unbroken.gateway.origin import Origin
from unbroken.gateway.produce import Producer
from unbroken.gateway.production import Asked, Production
from unbroken.gateway.records import KEPT_HEADERS
from unbroken.gateway.whole import WholeProduction
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
    body = await call.read_json_body(gateway.settings.server.body_limit)
    await send_answer(gateway, call, dialect.read_request(body), body, dialect, key_name)


async def send_answer(
    gateway: "Gateway",
    call: Call,
    request: ChatRequest,
    body: bytes,
    dialect: Dialect,
    key_name: str,
    *,
    echo: Mapping[str, Raw] | None = None,
    is_background: bool = False,
) -> None:
    """Has a request answered as the rest of its call.

    `body` is what the client sent of it, `echo` are fields that the answer repeats.
    """
    started_at = call.connection.loop.time()
    call.asked_model = request.model
    durability = read_durability(call.headers, gateway.settings.store, key_name, is_background=is_background)
    if not gateway.upstreams.table.tiers(request.model):
        raise RequestRefused(await gateway.unknown_model(request.model))
    stream = StreamId(f"{dialect.id_prefix}{gateway.ids.new()}")
    if call.connection.is_lost:
        raise ClientLeft
    # Not all headers: they would be kept as long as the stream is open.
    headers = {name: call.headers[name] for name in KEPT_HEADERS if name in call.headers}
    asked = Asked(request, stream, dialect, int(gateway.means.now()), headers, echo or request.fields)
    origin = Origin(call.method, call.path, call.request_id.decode(), key_name, started_at)
    if durability is not None:
        call.rest = send_durable_answer(gateway, call, asked, durability, fingerprint(call.path, body), origin)
        return
    on_whole = gateway.on_whole(asked, key_name)
    if request.stream:
        call.rest = _send_stream(gateway, call, Producer(asked, gateway.means, on_whole=on_whole), origin)
    else:
        call.rest = _send_answer(gateway, call, WholeProduction(asked, gateway.means, on_whole=on_whole), origin)


async def _send_answer(gateway: "Gateway", call: Call, production: WholeProduction, origin: Origin) -> None:
    gateway.productions.add(production)
    call.connection.on_lost = partial(production.stop, LEFT)
    try:
        answer = await production.answer()
    except UpstreamFailed as failed:
        await refuse(call, production, failed.failure)
    else:
        call.tell_of(production.account.dropped, production.account.limits)
        await call.respond_json(answer.body)
    finally:
        _book(gateway, call, production, origin)


async def refuse(call: Call, production: Production, failure: Failure) -> None:
    """Tells the client why there is no answer."""
    if failure is LEFT:
        raise ClientLeft
    await call.respond_error(api_error(failure, production.account.upstream))


def _book(gateway: "Gateway", call: Call, production: Production, origin: Origin) -> None:
    gateway.productions.discard(production)
    gateway.book(production, origin, status=call.status)
    call.is_noted = True


async def _send_stream(gateway: "Gateway", call: Call, producer: Producer, origin: Origin) -> None:
    gateway.productions.add(producer)
    task = call.connection.loop.create_task(producer.write_stream())
    call.connection.on_lost = partial(producer.stop, LEFT)
    gateway.metrics.open_streams += 1
    try:
        keep_alive = gateway.settings.keep_alive
        await producer.wait_until_begun(keep_alive.first)
        # What the log holds decides, not how the stream stands by now: what is in it has to reach the client.
        if producer.begun.done() and not producer.begun.result():
            await task
            assert producer.account.failure is not None
            return await refuse(call, producer, producer.account.failure)
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
            unfollow = await gateway.log.follow(producer.stream, Offset(0), follower.feed)
            producer.client = follower
            ending = await follower.ended
            unfollow()
        finally:
            follower.close()
        if ending is Ending.LEFT:
            producer.stop(LEFT)
        else:
            await call.end_event_stream()
        await task
    finally:
        gateway.metrics.open_streams -= 1
        try:
            if not task.done():
                producer.stop(LEFT)
                await task
            await gateway.log.forget(producer.stream)
        finally:
            _book(gateway, call, producer, origin)
