"""The place of a run: upstreams, store, gateways and lines, started, disturbed as planned, and ended together."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

import httpx2

from unbroken.chaos.blocks import OffsetReader
from unbroken.chaos.gateways import GatewayProcess
from unbroken.chaos.lines import CuttingProxy
from unbroken.chaos.plan import (
    Disturbance,
    FreezeGateway,
    KillEngine,
    KillGateway,
    KillStore,
    KillWorker,
    LockStore,
    RestartGateway,
    StoreKind,
    Wishes,
)
from unbroken.chaos.questions import ENGINE_MODEL
from unbroken.chaos.stores import ForeignStore, SqliteFile, Store, ValkeyServer
from unbroken.chaos.transcripts import LogCopy
from unbroken.chaos.upstreams import MODEL, Upstreams

OVER_SECONDS = 20.0  # for streams to be over when nothing disturbs them any more
LOOK_EVERY = 0.1  # s

CONFIG = """\
[server]
drain = 0.5
[keep_alive]
first = 0.5
every = 1.0
[timeouts]
connect = 2.0
headers = 2.0
first_token = 2.0
between_tokens = 1.0
[retries]
backoff_first = 0.05
backoff_most = 0.5
breaker_failures = 1000
[store]
streams = {store}
lease = {lease}
patience = 1.0
[[upstream]]
name = "matching"
base_url = {matching}
models = [{model}]
continuation = "match"
[[upstream]]
name = "splicing"
base_url = {splicing}
models = [{model}]
continuation = "last_message"
"""

ENGINE_CONFIG = """\
[[upstream]]
name = "engine"
engine = "llama.cpp"
path = "demo"
models = [{model}]
"""


class Place:
    """All that a run starts."""

    def __init__(self, wishes: Wishes, folder: Path, store_url: str = "") -> None:
        """`store_url` is the server of others, where one is wished for."""
        self._wishes = wishes
        self._folder = folder
        self._config = folder / "unbroken.toml"
        self.upstreams = Upstreams()
        self.store = _store(wishes.store, folder, store_url)
        self.gateways = [
            GatewayProcess(number, self._config, folder, wishes.workers) for number in range(wishes.gateways)
        ]
        self.proxy = CuttingProxy([gateway.port for gateway in self.gateways], wishes.seed)
        #: What was done to it, by the name of the disturbance.
        self.done: Counter[str] = Counter()
        #: What was still running when all had been told to end.
        self.left_running: list[str] = []
        self._plain = httpx2.AsyncClient(trust_env=False, timeout=OVER_SECONDS)

    async def __aenter__(self) -> Self:
        try:
            await self.upstreams.__aenter__()
            await self.store.start()
            await asyncio.to_thread(self._config.write_text, self._settings())
            await asyncio.gather(*(gateway.start() for gateway in self.gateways))
            await self.proxy.__aenter__()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.proxy.port:
            await self.proxy.__aexit__(kind, error, trace)
        await self._plain.aclose()
        for left in await asyncio.gather(*(gateway.stop() for gateway in self.gateways)):
            self.left_running += left
        await self.store.stop()
        await self.upstreams.__aexit__(kind, error, trace)

    async def disturb(self, disturbance: Disturbance) -> None:
        """Does what is planned, at its time from now; returns when it is over."""
        await asyncio.sleep(disturbance.at)
        is_done = True
        match disturbance:
            case KillGateway(gateway=number, down=down):
                await self.gateways[number].kill(down)
            case FreezeGateway(gateway=number, seconds=seconds):
                await self.gateways[number].freeze(seconds)
            case RestartGateway(gateway=number):
                await self.gateways[number].restart()
            case KillWorker(gateway=number, chance=chance):
                is_done = await self.gateways[number].kill_worker(chance)
            case KillEngine(gateway=number):
                is_done = await self.gateways[number].kill_engine()
            case KillStore(down=seconds) | LockStore(seconds=seconds):
                await self.store.fail(seconds)
            case _:
                assert_never(disturbance)
        self.done[type(disturbance).__name__] += is_done

    async def copies(self, stream: str) -> tuple[LogCopy, ...]:
        """A stream as each gateway tells it, once it is over or should be."""
        found = [await self._copy(gateway, stream) for gateway in self.gateways]
        return tuple(copy for copy in found if copy is not None)

    def takeovers(self) -> Counter[str]:
        """How often the streams of this run were taken over, by stream; by the epoch of each one's last owner."""
        epochs: Counter[str] = Counter()
        for gateway in self.gateways:
            for note in gateway.notes("takeover"):
                stream, epoch = str(note["stream"]), note["epoch"]
                assert isinstance(epoch, int)
                epochs[stream] = max(epochs[stream], epoch - 1)
        return epochs

    async def _copy(self, gateway: GatewayProcess, stream: str) -> LogCopy | None:
        address = f"{gateway.root}/v1/streams/{stream}"
        loop = asyncio.get_running_loop()
        latest = loop.time() + OVER_SECONDS
        while loop.time() < latest:
            with suppress(httpx2.TransportError):
                response = await self._plain.get(address)
                if response.status_code == 404:
                    return None
                if response.status_code == 200 and (status := response.json())["state"] != "running":
                    answer = await self._plain.get(address, headers={"accept": "text/event-stream"})
                    return LogCopy(gateway.number, status, tuple(OffsetReader().feed(answer.content)))
            await asyncio.sleep(LOOK_EVERY)
        return None

    def _settings(self) -> str:
        text = CONFIG.format(
            store=json.dumps(self.store.url),
            lease=self._wishes.lease,
            matching=json.dumps(self.upstreams.matching.base_url),
            splicing=json.dumps(self.upstreams.splicing.base_url),
            model=json.dumps(MODEL),
        )
        return text + ENGINE_CONFIG.format(model=json.dumps(ENGINE_MODEL)) if self._wishes.has_engine else text


def _store(kind: StoreKind, folder: Path, url: str) -> Store:
    match kind:
        case StoreKind.SQLITE:
            return SqliteFile(folder)
        case StoreKind.VALKEY:
            return ValkeyServer(folder)
        case StoreKind.FOREIGN:
            return ForeignStore(url)
        case _:
            assert_never(kind)
