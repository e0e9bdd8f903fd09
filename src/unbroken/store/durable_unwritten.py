"""Streams that the storage takes for ours, or may, and that nobody here writes: others shall have them."""

from collections.abc import Callable
from contextlib import suppress

from unbroken.chat.stream import Epoch, StreamId
from unbroken.store.log import StreamUnknown
from unbroken.store.storage import StreamStorage

MAX_DOUBTFUL = 1000  # streams; the first ones, for a store that stays away makes none


class Unwritten:
    """What was given up and is not released; and what may be ours without our knowing.

    `is_written` says whether a stream is written here after all.
    """

    def __init__(self, storage: StreamStorage, is_written: Callable[[StreamId], bool]) -> None:
        self._storage = storage
        self._is_written = is_written
        self._given_up: dict[StreamId, Epoch] = {}
        #: Made or claimed, and the storage failed before it had said so.
        self._doubtful: set[StreamId] = set()

    def __bool__(self) -> bool:
        """Whether the storage takes anything for ours that nobody here writes."""
        return bool(self._given_up)

    def give_up(self, stream: StreamId, epoch: Epoch) -> None:
        """It is ours with this epoch, and to be released."""
        self._given_up[stream] = epoch

    def doubt(self, stream: StreamId) -> None:
        """It may be ours: that is found out, and then it is released."""
        if len(self._doubtful) < MAX_DOUBTFUL:
            self._doubtful.add(stream)

    def epoch_of(self, stream: StreamId) -> Epoch | None:
        """With which it was given up; None if it was not, or was released since."""
        return self._given_up.get(stream)

    def forget(self, stream: StreamId) -> None:
        """It is written here again, or gone."""
        self._given_up.pop(stream, None)

    async def release(self) -> None:
        """Lets others have all of them; raises StoreUnavailable, and then some are left for the next time."""
        for stream, epoch in list(self._given_up.items()):
            await self._storage.release(stream, epoch)
            if self._given_up.get(stream) == epoch:
                del self._given_up[stream]
        for stream in list(self._doubtful):
            with suppress(StreamUnknown):
                epoch = (await self._storage.status(stream)).epoch
                if not self._is_written(stream):  # what is being claimed here just now is lost, and taken over again
                    await self._storage.release(stream, epoch)
            self._doubtful.discard(stream)
