"""An engine as those who ask it see it, whichever process it is a child of."""

import asyncio
from abc import ABC, abstractmethod

from unbroken.upstream.engine_state import EngineAddress, EngineFailed, EnginePhase, EngineState

#: How long a death may go unnoticed: sockets close first, then a GPU is let go, and then the parent is told.
DOUBT_SECONDS = 2.0


class EngineView(ABC):
    """What is known of an engine, and the wait until it can be asked."""

    def __init__(self, state: EngineState) -> None:
        #: Its phase, with a sentence for people.
        self.state = state
        #: Where it answers; None while it is not ready.
        self.address: EngineAddress | None = None
        #: Tokens that one conversation may hold; None until it was ready once.
        self.context_length: int | None = None
        self._doubted: EngineAddress | None = None
        self._end_of_doubt: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @abstractmethod
    async def start(self) -> None:
        """Begins to load the model, in the background; another call changes nothing."""

    @abstractmethod
    async def stop(self) -> None:
        """Takes it that nobody here asks the engine any more."""

    async def wait_until_ready(self, timeout: float | None = None) -> EngineAddress:
        """The address, once the model is loaded; waits while it loads or restarts, or is perhaps dead.

        Raises:
            EngineFailed: the engine has given up, is stopped, or is not ready within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while (address := self.address) is None or address == self._doubted:
                    if self.state.phase in (EnginePhase.FAILED, EnginePhase.STOPPED):
                        raise EngineFailed(self.state.sentence)
                    await self._changed.wait()
        except TimeoutError:
            raise EngineFailed(f"{self.state.sentence}; not ready within {timeout:g} s") from None
        return address

    def doubt(self, address: EngineAddress, seconds: float = DOUBT_SECONDS) -> None:
        """A connection there was refused or broke: most likely the engine has died, and nobody has noticed yet.

        Nobody is sent there again, unless after so many seconds it still has not died.
        """
        if address == self.address:
            self._forget_doubt()
            self._doubted = address
            self._end_of_doubt = asyncio.get_running_loop().call_later(seconds, self._trust)

    def _trust(self) -> None:
        self._forget_doubt()
        self._wake()

    def _forget_doubt(self) -> None:
        self._doubted = None
        if self._end_of_doubt is not None:
            self._end_of_doubt.cancel()

    def _wake(self) -> None:
        """Has all who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()
