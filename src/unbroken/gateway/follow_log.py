"""A follower of a durable stream: a slow client reads later from the log, and may be told offsets (D7, D14)."""

import asyncio
from collections.abc import Callable, Sequence

from unbroken.chat.stream import Block, Offset, StreamId
from unbroken.gateway.connection import ClientConnection
from unbroken.gateway.follow import Ending, StreamFollower
from unbroken.settings.tree import KeepAliveSettings
from unbroken.store.held import Run
from unbroken.store.log import LogError, StreamLog

FEW = 4  # texts of a commit under load: no more than a piece, whatever they are
PIECE_BYTES = 64 << 10  # of a backlog that is written at a time, before the client's pace is looked at


class LogFollower(StreamFollower):
    """Writes a stream of the log to a client from an offset on, at the client's pace."""

    __slots__ = (
        "_has_paused",
        "_is_beginning",
        "_log",
        "_returning",
        "_stream",
        "_unfollow",
        "_wants_ids",
        "at",
    )

    def __init__(
        self,
        connection: ClientConnection,
        log: StreamLog,
        stream: StreamId,
        after: Offset,
        *,
        wants_ids: bool,
        keep_alive: KeepAliveSettings,
        comment: bytes,
        is_late: bool,
    ) -> None:
        """`is_late` says that the client has waited for the first comment already."""
        super().__init__(
            connection,
            first_comment=keep_alive.first,
            comment_every=keep_alive.every,
            is_late=is_late,
            on_pause=self._keep_pace,
            keep_alive=comment,
        )
        self._log = log
        self._stream = stream
        self._wants_ids = wants_ids
        #: Offset of the last block that was written.
        self.at = after
        self._unfollow: Callable[[], None] | None = None
        self._returning: asyncio.Task[None] | None = None
        self._is_beginning = self._has_paused = False

    async def begin(self) -> None:
        """Follows the log from where the client stands.

        Raises:
            LogError: it cannot be read from there.
        """
        self._is_beginning = True
        try:
            while not self._is_paused:
                self._has_paused = False
                unfollow = await self._log.follow(self._stream, self.at, self.feed)
                if not self._has_paused and not self.ended.done():
                    self._unfollow = unfollow
                    return
                unfollow()
                if self.ended.done():
                    return
        finally:
            self._is_beginning = False

    def feed(self, first: Offset, blocks: Sequence[Block], ends: bool) -> None:
        """Writes blocks, as many as the client takes; `first` is the offset of the first, `ends` that they are all."""
        if type(blocks) is Run:
            texts, before, after = blocks.texts, blocks.before, blocks.after
            count = len(texts)
            is_simple = count == 1 or (1 < count <= FEW and not self._wants_ids)
            if is_simple and not ends and self.is_chunked and not self._is_paused:
                # As nearly always, and all of it here: one call less for each piece of an answer.
                if count == 1:
                    self.at = first
                    block = before + texts[0] + after
                    if self._wants_ids:
                        block = b"id: %d\n%b" % (first, block)
                else:
                    self.at = Offset(first + count - 1)
                    block = before + (after + before).join(texts) + after
                self.to.write(b"%x\r\n%b\r\n" % (len(block), block))
                self._wrote_at, self._commented = self._loop.time(), False
                return
            blocks = blocks.blocks()
        if len(blocks) == 1 and not self._is_paused:
            self.at = first
            block = blocks[0]
            return self._write_data(b"id: %d\n%b" % (first, block) if self._wants_ids else block, ends)
        at = 0
        while not self._is_paused:
            end = _end_of_piece(blocks, at)
            piece = blocks if end - at == len(blocks) else blocks[at:end]
            start, self.at = first + at, Offset(first + end - 1)
            is_last = end == len(blocks)
            super().feed(Offset(start), self._with_ids(start, piece) if self._wants_ids else piece, ends and is_last)
            if is_last:
                return
            at = end
        self._leave_log()

    def close(self) -> None:
        """Writes nothing more."""
        self._leave_log()
        if self._returning is not None:
            self._returning.cancel()
        super().close()

    @staticmethod
    def _with_ids(first: int, blocks: Sequence[Block]) -> list[Block]:
        return [Block(b"id: %d\n%b" % (offset, block)) for offset, block in enumerate(blocks, first)]

    def _keep_pace(self, is_paused: bool) -> None:
        if is_paused:
            self._has_paused = True
            self._leave_log()
        elif not (self._is_beginning or self._is_following) and not self.ended.done():
            self._returning = asyncio.create_task(self._return())

    async def _return(self) -> None:
        try:
            await self.begin()
        except LogError:  # it cannot be read from any more: the client has to come back, or to be told
            self._end(Ending.LEFT)
        finally:
            self._returning = None

    @property
    def _is_following(self) -> bool:
        return self._unfollow is not None or self._returning is not None

    def _leave_log(self) -> None:
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None


def _end_of_piece(blocks: Sequence[Block], start: int) -> int:
    """Where a piece that begins at `start` ends: with the block that fills it."""
    if len(blocks) == 1:
        return 1
    size = 0
    for end in range(start, len(blocks)):
        size += len(blocks[end])
        if size >= PIECE_BYTES:
            return end + 1
    return len(blocks)
