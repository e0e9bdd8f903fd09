"""The reaper: looks after durable streams whose writer may have died (D12)."""

import asyncio
from contextlib import suppress

from unbroken.chat.error import RequestRefused
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.stream import StreamId, StreamStatus
from unbroken.gateway.durable import DurableStreams
from unbroken.store.log import LogError, StreamUnknown

LOOKS_PER_LEASE = 4  # at the streams that are read here; at all streams it looks once a lease


class Reaper:
    """Takes over what is read here and lapsed, what runs in the background and lapsed, and ends lapsed orphans."""

    def __init__(self, durable: DurableStreams, *, lease: float) -> None:
        self._durable = durable
        self._pause = lease / LOOKS_PER_LEASE
        self._lapsed: dict[StreamId, float] = {}  # since when, as far as we know; seconds since 1970

    async def run(self) -> None:
        """Looks again and again, until it is cancelled."""
        looks = 0
        while True:
            await asyncio.sleep(self._pause)
            looks += 1
            with suppress(LogError):  # the next look may find the store well again; that it fails is told by its health
                await self._look_at_read()
                if looks % LOOKS_PER_LEASE == 0:
                    await self._look_at_all()

    async def _look_at_read(self) -> None:
        now = self._durable.now()
        for stream in self._durable.readers.streams:
            if self._durable.writes(stream):
                continue
            try:
                status = await self._durable.log.status(stream)
                if status.has_ended:
                    continue
                if status.is_owned:
                    await self._durable.log.watch(stream, now + 3 * self._pause)
                else:
                    await self._durable.take_over(stream)
            except (StreamUnknown, RequestRefused):  # forgotten on another worker, say: nothing comes any more
                self._durable.readers.cut(stream)

    async def _look_at_all(self) -> None:
        lapsed = {status.record.id: status for status in await self._durable.log.lapsed()}
        self._lapsed = {stream: since for stream, since in self._lapsed.items() if stream in lapsed}
        for stream, status in lapsed.items():
            with suppress(StreamUnknown, RequestRefused):
                await self._look_at_lapsed(stream, status)

    async def _look_at_lapsed(self, stream: StreamId, status: StreamStatus) -> None:
        grace, now = status.record.orphan_grace, self._durable.now()
        lapsed_at = self._lapsed.setdefault(stream, now)
        if grace is None:
            await self._durable.take_over(stream)
        elif max(status.watched_until, lapsed_at) + grace < now:
            failure = Failure(Fault.CANCELLED, f"nobody has read the answer for {grace:g} s")
            await self._durable.take_over(stream, only_to_end=failure)
