"""Who reads which durable stream on this process: for orphans, and for streams that others write."""

from collections.abc import Callable

from unbroken.chat.stream import StreamId

Cut = Callable[[], None]
"""Cuts a reader's line: what it has is no answer, and it must come back for the rest."""


class Readers:
    """The readers of each stream here; `on_last_left` hears when a stream has none any more."""

    def __init__(self, on_last_left: Callable[[StreamId], None]) -> None:
        self._cuts: dict[StreamId, list[Cut]] = {}
        self._on_last_left = on_last_left

    @property
    def streams(self) -> list[StreamId]:
        """The streams that somebody reads."""
        return list(self._cuts)

    def has(self, stream: StreamId) -> bool:
        """Whether somebody reads the stream."""
        return stream in self._cuts

    def join(self, stream: StreamId, cut: Cut) -> Callable[[], None]:
        """Counts a reader; gives what is called when it leaves."""
        cuts = self._cuts.setdefault(stream, [])
        cuts.append(cut)

        def leave() -> None:
            cuts.remove(cut)
            if not cuts and self._cuts.get(stream) is cuts:
                del self._cuts[stream]
                self._on_last_left(stream)

        return leave

    def cut(self, stream: StreamId) -> None:
        """Cuts the lines of all readers of a stream."""
        for cut in list(self._cuts.get(stream, ())):
            cut()
