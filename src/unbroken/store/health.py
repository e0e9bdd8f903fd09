"""Whether a store is well, as all find who use it."""

from collections.abc import Callable
from types import TracebackType

from unbroken.store.log import StoreUnavailable


def _tell_nobody(error: StoreUnavailable | None) -> None:
    """For a store whose health nobody watches."""


class StoreHealth:
    """Hears of every failure of a store and tells of the changes: once when it goes, once when it is back.

    A store may fail at some things only (what is small still fits on a full disk), so it is back when its lease has
    been renewed twice and nothing whatever has failed between. `with` it around what may fail.
    """

    def __init__(self) -> None:
        #: Told why when it goes, and None when it is back.
        self.on_change: Callable[[StoreUnavailable | None], None] = _tell_nobody
        self._is_well = True
        self._has_failed = False  # since the lease was renewed

    def failed(self, error: StoreUnavailable) -> None:
        """Hears that something could not be done."""
        self._has_failed = True
        if self._is_well:
            self._is_well = False
            self.on_change(error)

    def renewed(self) -> None:
        """Hears that the lease was renewed, as it is every few seconds."""
        if not self._is_well and not self._has_failed:
            self._is_well = True
            self.on_change(None)
        self._has_failed = False

    def close(self) -> None:
        """Tells nobody any more: what fails because the store is being closed is no failure of the store."""
        self.on_change = _tell_nobody

    def __enter__(self) -> None:
        """Begins something that may fail."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, StoreUnavailable):
            self.failed(error)
