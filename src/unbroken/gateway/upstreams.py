"""The upstreams as they stand: their clients, engines, breakers and how busy they are."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from math import ceil

import msgspec

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.gateway.engine_news import EngineNews
from unbroken.gateway.journal import Journal
from unbroken.gateway.metrics import UpstreamSnapshot
from unbroken.gateway.questions import DIALECTS
from unbroken.rules.breaker import Breaker, Circuit
from unbroken.rules.our_words import deed, in_our_words
from unbroken.rules.routing import Route, RoutingTable, Served, Target, in_order
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import RetrySettings, Settings, UpstreamSettings
from unbroken.upstream.engine import Engine
from unbroken.upstream.engine_shared import engine_id
from unbroken.upstream.engine_state import EngineAddress, EngineFailed, EnginePhase
from unbroken.upstream.engine_view import EngineView
from unbroken.upstream.http import IDLE_SECONDS, HttpClient
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Dialect, ErrorReader
from unbroken.wire.llama_cpp.errors import read_error as read_engine_error

#: Faults that say nothing about an upstream's health.
NOT_ITS_FAULT = frozenset(
    {
        Fault.BAD_REQUEST,
        Fault.CONTEXT_LENGTH,
        Fault.CONTENT_POLICY,
        Fault.UNTRANSLATABLE,
        Fault.MODEL_NOT_FOUND,
        Fault.RATE_LIMITED,
        Fault.STALE,
        Fault.DIFFERS,
        Fault.TOTAL_TIMEOUT,
        Fault.CLIENT_LEFT,
        Fault.CANCELLED,
        Fault.STORE_UNAVAILABLE,
        Fault.SHUTTING_DOWN,
        Fault.INTERNAL,
    }
)

#: What an upstream says itself: it is there, and the request may be at fault.
SAID_BY_IT = frozenset({Fault.SERVER_ERROR, Fault.ERROR_EVENT})

#: What an engine's process is heard of when it dies.
SIGNS_OF_DEATH = frozenset({Fault.CONNECT, Fault.RESET, Fault.CUT})

ANTHROPIC_VERSION = b"2023-06-01"  # asked for where the client does not speak the dialect itself
ENGINE_IDLE_SECONDS = 4.0  # llama.cpp's server closes idle connections after five

#: Characters of a configured header's value from which it may be a secret; `true` or `beta=2` are none.
MIN_SECRET = 8

#: What `/readyz` says of an upstream by its circuit.
STANDING = {Circuit.CLOSED: "well", Circuit.OPEN: "left alone", Circuit.PROBING: "on trial"}

MOST_TOLD = 4  # upstreams of which a client is told why they are left alone

NewEngine = Callable[[UpstreamSettings], EngineView]
"""Gives the engine that an upstream's settings ask for."""


class Upstream:
    """One upstream: how to reach it, and how it fares."""

    def __init__(
        self, settings: UpstreamSettings, retries: RetrySettings, connect_timeout: float, new_engine: NewEngine
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.secret = settings.api_key
        #: What it speaks.
        self.dialect: Dialect = DIALECTS[settings.dialect]
        self.breaker = Breaker(retries.breaker_failures, retries.breaker_cooldown)
        #: What it did when its circuit last counted a failure, in words of ours.
        self.last_deed = ""
        self.open_requests = 0
        self._connect_timeout = connect_timeout
        # Headers may hold keys too, such as an `api-key` of their own kind.
        self._secrets = [value for value in (self.secret, *settings.headers.values()) if len(value) >= MIN_SECRET]
        self.engine: EngineView | None = new_engine(settings) if settings.engine else None
        #: Whether it is llama.cpp in a child process of ours.
        self.is_engine = self.engine is not None
        #: Who reads its error responses.
        self.read_error: ErrorReader = read_engine_error if self.is_engine else self.dialect.read_error
        self._client: HttpClient | None = (
            None if self.engine else self._new_client(settings.base_url, None, self.secret)
        )
        self._engine_address: EngineAddress | None = None

    def headers_for(self, client: Mapping[bytes, bytes]) -> bytes:
        """The lines of a request's head that depend on its client: the version of the dialect that it speaks."""
        if self.dialect is not ANTHROPIC_MESSAGES:
            return b""
        version = client.get(b"anthropic-version", ANTHROPIC_VERSION)
        lines = b"anthropic-version: %b\r\n" % version
        if beta := client.get(b"anthropic-beta"):
            lines += b"anthropic-beta: %b\r\n" % beta
        return lines

    async def client(self, patience: float | None = None) -> HttpClient:
        """The client to send with; for an engine this waits until its model is loaded, at most `patience` seconds.

        Raises:
            UpstreamFailed: the engine cannot run its model, or not in time.
        """
        if self.engine is None:
            assert self._client is not None
            return self._client
        try:
            address = await self.engine.wait_until_ready(patience)
        except EngineFailed as error:
            raise UpstreamFailed(Failure(Fault.CONNECT, str(error))) from None
        if self._client is None or address != self._engine_address:
            if self._client is not None:
                self._client.close()
            self._engine_address, self.secret = address, address.key
            self._client = self._new_client(address.base_url, address.path, address.key)
        return self._client

    def is_well_in_spite_of(self, failure: Failure) -> bool:
        """Whether a failure shows that it is well: it has refused a request, or it is an engine that says anything.

        How an engine fares is known from its process; llama.cpp's errors are about the one request.
        """
        if failure.fault in NOT_ITS_FAULT:
            return bool(failure.status)
        return self.is_engine and failure.fault in SAID_BY_IT

    def doubt_engine(self, failure: Failure) -> bool:
        """Whether a failure looks like the death of its engine; then nobody is sent there until it is known.

        That says nothing about whoever asks it next: it is started again, with pauses of its own.
        """
        engine = self.engine
        if engine is None or failure.fault not in SIGNS_OF_DEATH or engine.state.phase is EnginePhase.FAILED:
            return False
        if self._engine_address is not None:
            engine.doubt(self._engine_address)
        return True

    def adopt(self, retries: RetrySettings, connect_timeout: float) -> None:
        """Takes bounds that a reload has changed."""
        self.breaker = replace(
            self.breaker, failures_to_open=retries.breaker_failures, cooldown=retries.breaker_cooldown
        )
        self._connect_timeout = connect_timeout
        if self._client is not None:
            self._client.connect_timeout = connect_timeout

    def without_secrets(self, failure: Failure) -> Failure:
        """The failure with what we authenticate with blotted out of the upstream's words (law 10)."""
        for secret in self._secrets:
            words = {name: getattr(failure, name) for name in ("message", "type", "param", "code")}
            said = {name: text.replace(secret, "***") for name, text in words.items() if text and secret in text}
            failure = replace(failure, **said) if said else failure
        return failure

    async def listed_models(self) -> list[dict[str, object]]:
        """What the server says it serves, its own objects; empty where it does not say."""
        try:
            client = await self.client()
            status, body = await client.get("/models", more_headers=self.headers_for({}))
            listed = msgspec.json.decode(body) if status == 200 else {}
        except (UpstreamFailed, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []
        rows = listed.get("data") if isinstance(listed, dict) else None
        return [row for row in rows or () if isinstance(row, dict) and isinstance(row.get("id"), str)]

    def lists_itself(self) -> bool:
        """Whether its models are not (all) named in the configuration, so that the server is asked."""
        return self.engine is None and (not self.settings.models or any("*" in name for name in self.settings.models))

    def engine_facts(self) -> dict[str, object]:
        """What is known of an engine's model beside its name."""
        size = self.engine.context_length if self.engine else None
        return {"context_length": size} if size else {}

    def is_ready(self, now: float) -> bool:
        """Whether a request would be sent to it now."""
        return self.breaker.allows(now) and (self.engine is None or self.engine.address is not None)

    def describe(self, now: float) -> str:
        """Its state in a few words."""
        if self.engine is not None and self.engine.address is None:
            return self.engine.state.sentence
        return STANDING[self.breaker.circuit(now)]

    async def close(self) -> None:
        """Lets running answers end, then stops what belongs to it."""
        while self.open_requests:
            await asyncio.sleep(0.05)
        if self._client is not None:
            self._client.close()
        if self.engine is not None:
            await self.engine.stop()

    def _new_client(self, base_url: str, unix_path: str | None, key: str) -> HttpClient:
        settings = self.settings
        authorization = {}
        if key:
            is_anthropic = self.dialect is ANTHROPIC_MESSAGES
            authorization = {"x-api-key": key} if is_anthropic else {"authorization": f"Bearer {key}"}
        return HttpClient(
            base_url,
            headers={**authorization, **settings.headers},
            ca_file=settings.ca_file,
            unix_path=unix_path,
            max_idle=settings.idle_connections,
            idle_seconds=ENGINE_IDLE_SECONDS if settings.engine else IDLE_SECONDS,
            connect_timeout=self._connect_timeout,
        )


class Upstreams:
    """All upstreams, and the table that says which of them serve a model.

    Without `new_engine` their engines are children of this process.
    """

    def __init__(self, journal: Journal, chance: Callable[[], float], new_engine: NewEngine | None = None) -> None:
        self._journal = journal
        self._new_engine = new_engine or (lambda settings: _own_engine(settings, journal))
        self._chance = chance
        self._by_name: dict[str, Upstream] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.table = RoutingTable(())

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_name.values())

    def apply(self, settings: Settings) -> None:
        """Takes changed settings: what is the same stays as it is, what is gone is closed when it is idle.

        Raises:
            SettingsInvalid: an upstream's file of authorities cannot be used; nothing is changed.
        """
        former, changed = dict(self._by_name), {}
        for wanted in settings.upstream:
            known = former.get(wanted.name)
            if known is not None and known.settings == wanted:
                changed[wanted.name] = former.pop(wanted.name)
            else:
                changed[wanted.name] = _new_upstream(wanted, settings, self._new_engine)
        self._by_name = changed
        for upstream in changed.values():
            upstream.adopt(settings.retries, settings.timeouts.connect)
        for upstream in former.values():
            task = asyncio.create_task(upstream.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self.table = RoutingTable(
            (Served(upstream.name, upstream.models or ("*",), upstream.weight) for upstream in settings.upstream),
            (
                Route(route.model, [(tier,) if isinstance(tier, str) else tier for tier in route.upstreams])
                for route in settings.route
            ),
        )

    async def start(self) -> None:
        """Starts the engines; their models load in the background."""
        for upstream in self._by_name.values():
            if upstream.engine is not None:
                await upstream.engine.start()

    async def close(self) -> None:
        """Closes all."""
        await asyncio.gather(*(upstream.close() for upstream in self._by_name.values()), *self._closing)

    def candidates(self, model: str, now: float) -> list[Target]:
        """The targets to try for `model`, in order; those whose circuit is open are left out."""
        tiers = self.table.tiers(model)
        if len(tiers) == 1 and len(tiers[0]) == 1:
            target = tiers[0][0]
            return [target] if self._by_name[target.upstream].breaker.allows(now) else []
        return in_order(
            tiers,
            open_requests={name: upstream.open_requests for name, upstream in self._by_name.items()},
            is_available=lambda name: self._by_name[name].breaker.allows(now),
            chance=self._chance,
        )

    def nobody_left(self, model: str, now: float) -> Failure:
        """Why nobody can be asked for `model`, and after how many seconds somebody can be."""
        names = dict.fromkeys(target.upstream for tier in self.table.tiers(model) for target in tier)
        left_alone = [upstream for name in names if not (upstream := self._by_name[name]).breaker.allows(now)]
        wait = min((upstream.breaker.wait(now) for upstream in left_alone), default=1.0)
        deeds = [f'"{upstream.name}" {upstream.last_deed}' for upstream in left_alone[:MOST_TOLD]]
        why = "; ".join([*deeds, f"one is asked again in {ceil(wait)} s"])
        message = f'no upstream for "{model}" is well: {why}'
        return Failure(Fault.NO_UPSTREAM, message, retry_after=wait)

    def get(self, name: str) -> Upstream:
        """The upstream of this name."""
        return self._by_name[name]

    def began(self, upstream: Upstream, now: float) -> None:
        """A request goes to the upstream."""
        upstream.open_requests += 1
        if not upstream.breaker.is_untroubled:
            upstream.breaker = upstream.breaker.after_start(now)

    def ended(self, upstream: Upstream, request: ChatRequest, failure: Failure | None, now: float) -> None:
        """The request has ended, well or with `failure`."""
        upstream.open_requests -= 1
        if failure is None and upstream.breaker.is_untroubled:
            return
        before = upstream.breaker.circuit(now)
        if failure is None or upstream.is_well_in_spite_of(failure):
            upstream.breaker = upstream.breaker.after_success()
        elif failure.fault not in NOT_ITS_FAULT and not upstream.doubt_engine(failure):
            mark = _mark_of(request) if failure.fault in SAID_BY_IT else None
            upstream.breaker = upstream.breaker.after_failure(now, mark)
            upstream.last_deed = deed(failure)
        after = upstream.breaker.circuit(now)
        if after is not before and Circuit.CLOSED in (before, after):
            # What closes it may be a failure too: a refusal is an answer.
            reason = in_our_words(failure) if failure and after is not Circuit.CLOSED else None
            self._journal.note("upstream", upstream=upstream.name, circuit=after.value, message=reason)

    def snapshots(self, now: float) -> Iterable[UpstreamSnapshot]:
        """The upstreams for the metrics."""
        for upstream in self:
            is_up = upstream.breaker.circuit(now) is not Circuit.OPEN
            yield UpstreamSnapshot(upstream.name, int(is_up), upstream.open_requests)


def _new_upstream(wanted: UpstreamSettings, settings: Settings, new_engine: NewEngine) -> Upstream:
    try:
        return Upstream(wanted, settings.retries, settings.timeouts.connect, new_engine)
    except OSError as error:
        reason = f"ca_file {wanted.ca_file}: {error.strerror or error}"
        raise SettingsInvalid(f'upstream "{wanted.name}": {reason}') from None


def _mark_of(request: ChatRequest) -> int:
    """A number by which the same body is known again."""
    return hash(tuple((name, bytes(value)) for name, value in request.fields.items()))


def _own_engine(settings: UpstreamSettings, journal: Journal) -> Engine:
    wanted = engine_id(settings)
    return Engine(wanted.name, wanted.settings, on_state=EngineNews(journal))
