"""The durable streams that this process writes: accepted, gone on with, cancelled, handed over."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress

from unbroken.chat.fault import Failure, Fault
from unbroken.chat.stream import Block, Epoch, Offset, StreamId, StreamRecord, StreamStatus
from unbroken.gateway.journal import Journal
from unbroken.gateway.origin import Origin
from unbroken.gateway.produce import Producer
from unbroken.gateway.production import Asked, Means, OnWhole
from unbroken.gateway.readers import Readers
from unbroken.gateway.records import asked_again
from unbroken.gateway.stream_account import read_account
from unbroken.rules.lifecycle import State
from unbroken.store.log import DurableLog, LogError, StoreUnavailable

#: Owners of one stream in its life; what kills one process after the other is not tried for ever.
MAX_OWNERS = 10

CANCELLED = Failure(Fault.CANCELLED, "the answer was cancelled")


class DurableStreams:
    """The producers of durable streams here, and the readers of any."""

    def __init__(
        self,
        log: DurableLog,
        journal: Journal,
        *,
        means: Callable[[], Means],
        on_whole: Callable[[Asked, str], OnWhole | None],
        book: Callable[[Producer, Origin], None],
    ) -> None:
        """`means` gives those of the moment; `on_whole` who wants to hear of a whole answer of a key's."""
        self._loop = asyncio.get_running_loop()
        self.log = log
        self._journal = journal
        self._means = means
        self._on_whole = on_whole
        self._book = book
        self._producers: dict[StreamId, Producer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._grace: dict[StreamId, float | None] = {}
        self._orphan_timers: dict[StreamId, asyncio.TimerHandle] = {}
        self.readers = Readers(self._has_no_reader)
        #: Those that failed before their first token, and have not been told to all who wait; with their claims.
        self._to_forget: dict[StreamId, str] = {}
        #: How many ask for a claim just now, and may be told of the stream that has it.
        self._opening: Counter[str] = Counter()
        self._is_handing_over = False

    def __len__(self) -> int:
        return len(self._producers)

    def now(self) -> float:
        """Seconds since 1970."""
        return self._means().now()

    def writes(self, stream: StreamId) -> bool:
        """Whether the stream is written here."""
        return stream in self._producers

    async def open(self, record: StreamRecord, asked: Asked, origin: Origin) -> Producer | StreamStatus:
        """Accepts an answer and begins to produce it; or gives the stream that has its claim already.

        Raises:
            LogError: the store does not take it.
        """
        with self._asking_for(record.claim):
            opened = await self.log.open(record, on_lost=lambda error: self._lose(record.id, error))
        if isinstance(opened, StreamStatus):
            return opened
        producer = self._adopt(record, asked, opened)
        self._run(producer, record, origin, producer.write_stream())
        return producer

    async def take_over(self, stream: StreamId, *, only_to_end: Failure | None = None) -> bool:
        """Goes on with a stream whose writer has died, or ends it; whether it was for us to do so.

        Raises:
            LogError: the store cannot be read.
            RequestRefused: another version of this program has taken the request; this one would not.
        """
        if self._is_handing_over or stream in self._producers:
            return False
        epoch = await self.log.take_over(stream, on_lost=lambda error: self._lose(stream, error))
        if epoch is None:
            return False
        return await self._go_on(stream, epoch, only_to_end)

    async def cancel(self, stream: StreamId) -> None:
        """Ends a stream, whoever writes it; one that has ended stays as it is.

        Raises:
            LogError: the store cannot be read or written.
        """
        if (producer := self._producers.get(stream)) is not None and not producer.is_lost:
            producer.stop(CANCELLED)
        elif not (await self.log.status(stream)).has_ended:
            epoch = await self.log.claim(stream, on_lost=lambda error: self._lose(stream, error))
            await self._go_on(stream, epoch, CANCELLED)
        await self.wait_for_end(stream)

    async def wait_for_end(self, stream: StreamId) -> None:
        """Returns when the stream has its terminal block.

        Raises:
            LogError: it cannot be read.
        """
        ended: asyncio.Future[None] = self._loop.create_future()

        def feed(first: Offset, blocks: Sequence[Block], ends: bool) -> None:
            if ends and not ended.done():
                ended.set_result(None)

        def cut() -> None:
            if not ended.done():
                ended.set_exception(StoreUnavailable("the store of durable streams cannot be written to"))

        leave = self.readers.join(stream, cut)
        try:
            unfollow = await self.log.follow(stream, Offset((await self.log.status(stream)).last), feed)
            try:
                await ended
            finally:
                unfollow()
        finally:
            leave()

    async def hand_over(self) -> None:
        """Lets go of what is written here, so that another process can go on with it at once."""
        self._is_handing_over = True
        for stream, producer in list(self._producers.items()):
            if not producer.state.is_terminal:  # else its end is being committed
                producer.lose(StoreUnavailable("the gateway is shutting down; another goes on with the answer"))
                self._journal.note("handed_over", stream=stream)
        for stream in self.readers.streams:
            self.readers.cut(stream)
        if self._tasks:
            await asyncio.wait(self._tasks)

    # inside

    def _adopt(self, record: StreamRecord, asked: Asked, epoch: Epoch) -> Producer:
        on_whole = self._on_whole(asked, record.key_name)
        producer = Producer(asked, self._means(), log=self.log, epoch=epoch, on_whole=on_whole)
        self._producers[record.id] = producer
        self._grace[record.id] = record.orphan_grace
        self._await_reader(record.id)
        return producer

    async def _go_on(self, stream: StreamId, epoch: Epoch, only_to_end: Failure | None) -> bool:
        """Writes on what was claimed with this epoch, unless it has been claimed from us by now."""
        try:
            entries = await self.log.read(stream, Offset(0))
            blocks, note = [entry.block for entry in entries], await self.log.notes(stream)
            status = await self.log.status(stream)
            asked = asked_again(status.record)
        except BaseException:
            self.log.let_go(stream, epoch)  # else it is ours, and nobody ever writes it
            raise
        if status.epoch != epoch or status.has_ended:
            return False
        record, account = status.record, read_account(status)
        if epoch > MAX_OWNERS:
            problem = f"{epoch - 1} processes have ended while they wrote this answer: it is given up"
            only_to_end = only_to_end or Failure(Fault.INTERNAL, problem)
        producer = self._adopt(record, asked, epoch)
        producer.attempts_before = producer.account.attempts = account.attempts
        producer.account.model, producer.account.upstream = account.model, account.upstream
        producer.account.continuations += account.continuations
        origin = Origin("TAKEOVER", f"/v1/streams/{stream}", "", record.key_name, self._loop.time())
        work = producer.go_on(blocks, note) if only_to_end is None else producer.end(blocks, only_to_end)
        self._run(producer, record, origin, work)
        self._journal.note("takeover", stream=stream, epoch=epoch, offset=status.last)
        return True

    def _run(self, producer: Producer, record: StreamRecord, origin: Origin, work: Awaitable[None]) -> None:
        self._start(self._see_through(producer, record, origin, work))

    async def _see_through(
        self, producer: Producer, record: StreamRecord, origin: Origin, work: Awaitable[None]
    ) -> None:
        stream = record.id
        try:
            await work
            await self.log.committed(stream, producer.epoch)  # what is not, another will end and book
        finally:
            if self._producers.get(stream) is producer:
                del self._producers[stream]
                del self._grace[stream]
                if (timer := self._orphan_timers.pop(stream, None)) is not None:
                    timer.cancel()
            if producer.lost is None:
                self._book(producer, origin)
            elif not self._is_handing_over:  # then it is let go with all the others, once what there is is committed
                self._let_go(producer, producer.lost)
        has_failed = producer.state is State.FAILED and not producer.is_lost
        if has_failed and producer.has_said_nothing and not record.is_background:
            self._to_forget[stream] = record.claim
            self._forget_if_told(stream)

    def _let_go(self, producer: Producer, error: LogError) -> None:
        """Leaves a lost stream to others, and says so, however it was lost."""
        stream = producer.stream
        self._journal.note("lost", stream=stream, message=str(error))
        self.log.let_go(stream, producer.epoch)
        if producer.state is State.CANCELLED and isinstance(error, StoreUnavailable):
            self.readers.cut(stream)  # whoever has cancelled it must hear that it was not

    @contextmanager
    def _asking_for(self, claim: str) -> Iterator[None]:
        """Nothing is forgotten of which somebody is being told that it has the claim."""
        self._opening[claim] += 1
        try:
            yield
        finally:
            self._opening[claim] -= 1
            if not self._opening[claim]:
                del self._opening[claim]
            for stream in [stream for stream, failed in self._to_forget.items() if claim and failed == claim]:
                self._loop.call_soon(self._forget_if_told, stream)  # by then who was told reads it, or has gone

    def _forget_if_told(self, stream: StreamId) -> None:
        """Forgets an answer that failed before its first token once it was told, so that its key is free (D8)."""
        claim = self._to_forget.get(stream)
        if claim is None or self.readers.has(stream) or (claim and self._opening[claim]):
            return
        del self._to_forget[stream]
        self._start(self._forget(stream))

    async def _forget(self, stream: StreamId) -> None:
        with suppress(LogError):  # it is forgotten with the others, when its time is over
            await self.log.forget(stream)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lose(self, stream: StreamId, error: LogError) -> None:
        """What is said of a stream that can no longer be written from here."""
        if (producer := self._producers.get(stream)) is not None:
            producer.lose(error)
        if isinstance(error, StoreUnavailable):
            self.readers.cut(stream)

    def _has_no_reader(self, stream: StreamId) -> None:
        self._forget_if_told(stream)
        self._await_reader(stream)

    def _await_reader(self, stream: StreamId) -> None:
        """Begins to wait for a reader of a stream that is written here and has none."""
        if (grace := self._grace.get(stream)) is None or stream not in self._producers:
            return
        if (timer := self._orphan_timers.get(stream)) is not None:
            timer.cancel()
        self._orphan_timers[stream] = self._loop.call_later(grace, self._look_for_reader, stream)

    def _look_for_reader(self, stream: StreamId) -> None:
        if stream in self._producers and not self.readers.has(stream):
            self._start(self._end_orphan(stream))

    async def _end_orphan(self, stream: StreamId) -> None:
        grace = self._grace.get(stream)
        try:
            watched_until = (await self.log.status(stream)).watched_until
        except LogError:
            return self._await_reader(stream)  # nobody knows who reads it elsewhere
        if (producer := self._producers.get(stream)) is None or self.readers.has(stream) or grace is None:
            return
        if watched_until + grace > self.now():
            return self._await_reader(stream)  # somebody reads it on another worker, or did a while ago
        producer.stop(Failure(Fault.CANCELLED, f"nobody has read the answer for {grace:g} s"))
