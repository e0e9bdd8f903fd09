"""What happens to an answer on the stage for lanes, step by step."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from unbroken.store.log import LogError, say_nothing

if TYPE_CHECKING:
    from tests.gateway.lane_stage import Stage


@dataclass(frozen=True)
class Read:
    """The gateway reads this from the upstream at once."""

    data: bytes

    async def act(self, stage: "Stage") -> None:
        stage.receive(self.data)


@dataclass(frozen=True)
class Silence:
    """Nothing comes for some seconds."""

    seconds: float

    async def act(self, stage: "Stage") -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class ClientIsSlow:
    """The client's buffer is full; with `in_write` the next write of a body fills it, with `in_head` that of a head."""

    in_write: bool = False
    in_head: bool = False

    async def act(self, stage: "Stage") -> None:
        if self.in_head:
            stage.client.in_head = partial(stage.fill_client, True)
        elif self.in_write:
            stage.client.in_write = partial(stage.fill_client, True)
        else:
            stage.fill_client(True)


@dataclass(frozen=True)
class ClientGoesOn:
    """The client's buffer has room again."""

    async def act(self, stage: "Stage") -> None:
        stage.client.in_write = stage.client.in_head = None
        stage.fill_client(False)


@dataclass(frozen=True)
class ClientLeaves:
    """The client closes its connection; something may be read from the upstream before anybody knows what to do."""

    then: bytes = b""

    async def act(self, stage: "Stage") -> None:
        stage.client.lose_now()
        if self.then:
            stage.receive(self.then)


@dataclass(frozen=True)
class UpstreamLeaves:
    """The upstream's connection is closed, or reset."""

    is_reset: bool = False

    async def act(self, stage: "Stage") -> None:
        stage.lose_upstream(ConnectionResetError(104, "Connection reset by peer") if self.is_reset else None)


@dataclass(frozen=True)
class WeStop:
    """We shut down."""

    async def act(self, stage: "Stage") -> None:
        stage.gateway.stop_answers()
        await stage.gateway.durable.hand_over()


@dataclass(frozen=True)
class Look:
    """Somebody looks into the log, and perhaps stays as a second follower."""

    after: int = 0
    stays: bool = False

    async def act(self, stage: "Stage") -> None:
        await stage.look(self.after, stays=self.stays)


@dataclass(frozen=True)
class StoreIsSlow:
    """The store takes so long for each answer from now on."""

    seconds: float

    async def act(self, stage: "Stage") -> None:
        stage.storage.database.delay = self.seconds


@dataclass(frozen=True)
class StoreFails:
    """The store is away for a while."""

    seconds: float

    async def act(self, stage: "Stage") -> None:
        database = stage.storage.database
        database.is_failing = True
        stage.loop.call_later(self.seconds, setattr, database, "is_failing", False)


@dataclass(frozen=True)
class AnotherClaims:
    """The stream becomes another owner's."""

    async def act(self, stage: "Stage") -> None:
        for stream in stage.durable_log.opened:
            with suppress(LogError):
                await stage.durable_log.claim(stream, on_lost=say_nothing)


@dataclass(frozen=True)
class Cancelled:
    """Somebody cancels the stream; where the store takes no end, nobody else is here to write one."""

    async def act(self, stage: "Stage") -> None:
        for stream in stage.durable_log.opened:
            with suppress(LogError, TimeoutError):
                async with asyncio.timeout(60):
                    await stage.gateway.durable.cancel(stream)


Step = (
    Read
    | Silence
    | ClientIsSlow
    | ClientGoesOn
    | ClientLeaves
    | UpstreamLeaves
    | WeStop
    | Look
    | StoreIsSlow
    | StoreFails
    | AnotherClaims
    | Cancelled
)


#: What may happen beside a lane.
HAPPENS: dict[str, list[Step]] = {
    "the upstream is cut": [UpstreamLeaves()],
    "the upstream is reset": [UpstreamLeaves(is_reset=True)],
    "the client leaves": [ClientLeaves()],
    "the client is slow": [ClientIsSlow()],
    "the client is slow for a while": [ClientIsSlow(), Silence(0.7), ClientGoesOn()],
    "the client is slow for a long while": [ClientIsSlow(), Silence(70.0), ClientGoesOn()],
    "the client is slow in a write": [ClientIsSlow(in_write=True)],
    "we stop": [WeStop()],
    "a short silence": [Silence(0.7)],
    "a long silence": [Silence(25.0)],
    "a stall": [Silence(40.0)],
    "a look": [Look(after=3)],
    "a second reader": [Look(after=3, stays=True)],
    "a second reader of what comes": [Look(after=20, stays=True)],
}
