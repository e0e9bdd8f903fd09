"""What a scripted upstream has seen, and waiting until it has seen enough."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

TIMEOUT = 10.0  # s, of every wait: far more than anything local needs


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    holds: Callable[[], bool]
    heeds_errors: bool
    woken: asyncio.Future[None]


@dataclass(slots=True)
class Counters:
    """Counts of one server; whoever changes one calls `changed()`."""

    connections: int = 0
    open_connections: int = 0
    requests: int = 0
    waiting_requests: int = 0
    open_answers: int = 0
    blocked_answers: int = 0
    left: int = 0
    bytes_sent: int = 0
    errors: list[Exception] = field(default_factory=list)
    _waiting: list[_Waiting] = field(default_factory=list)

    def changed(self) -> None:
        """Wake those whose condition now holds."""
        for waiting in self._waiting:
            if not waiting.woken.done() and waiting.holds():
                waiting.woken.set_result(None)

    def failed(self, error: Exception) -> None:
        """Keep a mistake for the test to see, at once if it waits."""
        self.errors.append(error)
        for waiting in self._waiting:
            if waiting.heeds_errors and not waiting.woken.done():
                waiting.woken.set_exception(error)

    async def wait_for(self, what: str, holds: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        """Return when the condition holds; raises the first mistake, or TimeoutError with what was found."""
        if not holds() and self.errors:
            raise self.errors[0]
        await self._wait(what, holds, timeout, heeds_errors=True)

    async def wait_despite_errors(self, what: str, holds: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        """Return when the condition holds, whatever goes wrong meanwhile."""
        await self._wait(what, holds, timeout, heeds_errors=False)

    async def _wait(self, what: str, holds: Callable[[], bool], timeout: float, *, heeds_errors: bool) -> None:
        if holds():
            return
        waiting = _Waiting(holds, heeds_errors, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await asyncio.wait_for(waiting.woken, timeout)
        except TimeoutError:
            raise TimeoutError(f"waited {timeout:g} s for {what}; found {self}") from None
        finally:
            self._waiting.remove(waiting)

    def __str__(self) -> str:
        errors = "".join(f"; error: {error}" for error in self.errors)
        return (
            f"{self.requests} requests on {self.connections} connections ({self.open_connections} open), "
            f"{self.open_answers} open answers ({self.blocked_answers} blocked), {self.left} left by their reader"
            f"{errors}"
        )
