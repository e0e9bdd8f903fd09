"""Appending text by text: what an answer under way asks of a durable log, with the log's own bookkeeping only."""

from unbroken.chat.stream import Block
from unbroken.store.durable_group import Committer, Owned
from unbroken.store.held import Run
from unbroken.store.shared import shared
from unbroken.store.storage import Append


class RunWriter:
    """`TextWriter` of a durable log, for as long as the stream is owned as it was."""

    __slots__ = ("_after", "_before", "_committer", "_max_pending", "_max_size", "_owned", "_size")

    def __init__(
        self, owned: Owned, committer: Committer, before: bytes, after: bytes, max_size: int, max_pending: int
    ) -> None:
        self._owned = owned
        self._committer = committer
        self._before, self._after = before, shared(after)
        self._size = shared(len(before) + len(after))
        self._max_size = max_size
        self._max_pending = max_pending

    def add(self, texts: list[bytes]) -> bool:
        """Adds a block for each text; False if it may not, and then it has added none."""
        owned, committer = self._owned, self._committer
        count = len(texts)
        added = self._size + len(texts[0]) if count == 1 else self._size * count + sum(map(len, texts))
        size = owned.size + added
        pending_bytes = committer.pending_bytes + added
        if size > self._max_size or pending_bytes > self._max_pending:
            return False
        if not owned.is_ours or owned.has_ended or committer.is_closing:
            return False
        owned.size = size
        last, pending = owned.last, owned.pending
        owned.last = last + count
        if pending is None:
            run = Run(self._before, self._after, texts)
            owned.pending = Append(owned.stream, owned.epoch, last + 1, run, added)  # type: ignore[arg-type]
            committer.add(owned, added)
            return True
        blocks = pending.blocks
        if type(blocks) is Run and blocks.before is self._before:
            blocks.texts += texts
        else:
            pending.add([Block(self._before + text + self._after) for text in texts])
        pending.size += added
        committer.pending_bytes = pending_bytes
        return True
