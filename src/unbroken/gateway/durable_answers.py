"""Durable answers to their clients: the one that asked, those that ask again, and those that come back."""

import asyncio
from typing import TYPE_CHECKING

import msgspec

from unbroken.chat.fault import Failure
from unbroken.chat.stream import Offset, StreamId, StreamStatus
from unbroken.gateway.call import Call, ClientLeft
from unbroken.gateway.durability import Durability, key_reused
from unbroken.gateway.follow import Ending
from unbroken.gateway.follow_log import LogFollower
from unbroken.gateway.origin import Origin
from unbroken.gateway.produce import Producer
from unbroken.gateway.production import Asked
from unbroken.gateway.records import in_pieces, record_of
from unbroken.gateway.stream_account import StreamAccount, read_account
from unbroken.gateway.whole_log import queued_answer, response_now, whole_answer
from unbroken.rules.outcome import api_error

if TYPE_CHECKING:
    from unbroken.gateway.app import Gateway


async def send_durable_answer(
    gateway: "Gateway", call: Call, asked: Asked, wished: Durability, fingerprint: str, origin: Origin
) -> None:
    """Accepts an answer, or attaches to the one that the caller's key stands for, and sends it as it was asked for.

    Raises:
        RequestRefused: the key stands for another request.
        LogError: the store does not take it.
    """
    is_streamed = asked.request.stream
    asked = msgspec.structs.replace(asked, request=in_pieces(asked.request, asked.dialect.name))
    record = record_of(asked, is_streamed=is_streamed, key_name=origin.key_name, wished=wished, fingerprint=fingerprint)
    opened = await gateway.durable.open(record, asked, origin)
    producer: Producer | None = None
    if isinstance(opened, StreamStatus):
        if opened.record.fingerprint != fingerprint:
            raise key_reused()
        record = opened.record
        call.own_headers.append((b"unbroken-replayed", b"true"))
    else:
        producer = opened
        call.is_noted = True  # the answer is booked when it is over, whoever reads it by then
    call.own_headers.append((b"unbroken-stream", record.id.encode()))
    if is_streamed:
        await send_stream(gateway, call, record.id, Offset(0), wants_ids=wished.wants_ids, producer=producer)
    elif wished.is_background and isinstance(opened, StreamStatus):
        kept = await gateway.responses.get(record.id, origin.key_name)
        if kept is not None:  # it is whole, and told as such by now, though its end may still be on its way to the log
            return await call.respond_json(kept.body)
        entries = await gateway.durable.log.read(record.id, Offset(0))
        await call.respond_json(response_now(opened, read_account(opened), [entry.block for entry in entries]))
    elif wished.is_background:
        await call.respond_json(queued_answer(asked))
    else:
        await send_whole(gateway, call, record.id)


async def send_stream(
    gateway: "Gateway",
    call: Call,
    stream: StreamId,
    after: Offset,
    *,
    wants_ids: bool,
    producer: Producer | None = None,
) -> None:
    """Sends a stream's blocks behind `after`, and what comes; with its `producer` the status waits for the first.

    Raises:
        LogError: it cannot be read from there.
    """
    if call.method == "HEAD":
        await call.begin_event_stream()
        return await call.end_event_stream()
    keep_alive = gateway.settings.keep_alive
    leave = gateway.durable.readers.join(stream, call.connection.transport.abort)
    gateway.metrics.open_streams += 1
    try:
        if producer is not None:
            await producer.wait_until_begun(keep_alive.first)
            if producer.begun.done() and not producer.begun.result() and not producer.is_lost:
                return await _refuse(call, producer)
            call.tell_of(producer.account.dropped, producer.account.limits)
        await call.begin_event_stream()
        follower = LogFollower(
            call.connection,
            gateway.durable.log,
            stream,
            after,
            wants_ids=wants_ids,
            keep_alive=keep_alive,
            comment=call.keep_alive,
            is_late=producer is not None and not producer.begun.done(),
        )
        try:
            await follower.begin()
            ending = await follower.ended
        finally:
            follower.close()
        if ending is Ending.ENDED:
            await call.end_event_stream()
        elif not call.connection.is_lost:
            call.abort()
    finally:
        gateway.metrics.open_streams -= 1
        leave()


async def _refuse(call: Call, producer: Producer) -> None:
    failure: Failure | None = producer.account.failure
    assert failure is not None
    await call.respond_error(api_error(failure, producer.account.upstream))


async def send_whole(gateway: "Gateway", call: Call, stream: StreamId) -> None:
    """Sends an answer whole once it has ended, or the error that it ended with.

    Raises:
        LogError: it cannot be read.
    """
    leave = gateway.durable.readers.join(stream, call.connection.transport.abort)
    try:
        await _wait_for_end(gateway, call, stream)
        status = await gateway.durable.log.status(stream)
        await respond_whole(gateway, call, status, read_account(status))
    finally:
        leave()


async def _wait_for_end(gateway: "Gateway", call: Call, stream: StreamId) -> None:
    if call.connection.is_lost:
        raise ClientLeft
    ending = asyncio.ensure_future(gateway.durable.wait_for_end(stream))
    lost: asyncio.Future[None] = call.connection.loop.create_future()
    call.connection.on_lost = lambda: None if lost.done() else lost.set_result(None)
    try:
        await asyncio.wait((ending, lost), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            raise ClientLeft
        ending.result()
    finally:
        ending.cancel()


async def respond_whole(gateway: "Gateway", call: Call, status: StreamStatus, account: StreamAccount) -> None:
    """Sends an answer that has ended, whole, or its error."""
    if (error := account.api_error) is not None:
        return await call.respond_error(error)
    entries = await gateway.durable.log.read(status.record.id, Offset(0))
    await call.respond_json(whole_answer(status.record, account, [entry.block for entry in entries]))
