"""The composition root: puts the parts together and sends each call to its route."""

import asyncio
import os
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.usage import Usage
from unbroken.gateway import health, models
from unbroken.gateway.admission import Keyring, allows_origin, caller_name
from unbroken.gateway.answers import create_chat_completion
from unbroken.gateway.call import Call, ClientLeft, Receive, Scope, Send
from unbroken.gateway.cors import cors_headers, preflight
from unbroken.gateway.durable import DurableStreams
from unbroken.gateway.ids import SecretIds
from unbroken.gateway.journal import Journal
from unbroken.gateway.messages import count_tokens, create_message
from unbroken.gateway.metrics import Metrics
from unbroken.gateway.origin import Origin
from unbroken.gateway.produce import Producer
from unbroken.gateway.production import Asked, Means, OnWhole, Production
from unbroken.gateway.reaper import Reaper
from unbroken.gateway.remembered import MAX_REMEMBERED_BYTES
from unbroken.gateway.responses import cancel_response, create_response, delete_response, get_response, response_keeper
from unbroken.gateway.store_errors import told
from unbroken.gateway.stores import Stores
from unbroken.gateway.streams import delete_stream, get_chat_completion, get_stream, list_streams
from unbroken.gateway.upstreams import NewEngine, Upstreams
from unbroken.rules.lifecycle import State
from unbroken.rules.our_words import in_our_words
from unbroken.rules.outcome import STATUS
from unbroken.rules.retry import RetryPolicy
from unbroken.settings.tree import Settings
from unbroken.store.log import LogError, StoreUnavailable
from unbroken.store.memory import MemoryStreamLog
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES

Handler = Callable[["Gateway", Call, str], Awaitable[None]]

_WORDS = {state: state.value for state in State}  # to ask a member of an enum for its value costs two calls

#: path → method → handler; a path that ends in `/` takes whatever follows.
ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": create_chat_completion},
    "/v1/chat/completions/": {"GET": get_chat_completion},
    "/v1/streams": {"GET": list_streams},
    "/v1/streams/": {"GET": get_stream, "DELETE": delete_stream},
    "/v1/messages": {"POST": create_message},
    "/v1/messages/count_tokens": {"POST": count_tokens},
    "/v1/responses": {"POST": create_response},
    "/v1/responses/": {"GET": get_response, "DELETE": delete_response, "POST": cancel_response},
    "/v1/models": {"GET": models.list_models},
    "/v1/models/": {"GET": models.get_model},
    "/healthz": {"GET": health.healthz},
    "/readyz": {"GET": health.readyz},
    "/metrics": {"GET": health.metrics},
}

#: Routes that a probe may call without a key.
OPEN = ("/healthz", "/readyz")

MAX_LOGGED_NAME = 100  # characters of a model's or a field's name in the line of a refused request

#: Routes that are called so often and say so little that the log has only their failures.
QUIET = (*OPEN, "/metrics")


class Gateway:
    """The ASGI application; made in the loop that it serves in."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        *,
        stores: Stores | None = None,
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
        new_engine: NewEngine | None = None,
    ) -> None:
        self._loop_time = asyncio.get_running_loop().time
        self.journal = journal
        self.metrics = Metrics()
        #: The log of plain streams; what it holds of them is what they can be continued from.
        self.log = MemoryStreamLog(spare_bytes=MAX_REMEMBERED_BYTES)
        stores = stores or Stores.of(settings, now=now)
        self.responses = stores.responses
        self.durable = DurableStreams(
            stores.log, journal, means=lambda: self.means, on_whole=self.on_whole, book=self._book_durable
        )
        stores.log.health.on_change = self._tell_of_store
        self._reaper = Reaper(self.durable, lease=settings.store.lease)
        self._reaping: asyncio.Task[None] | None = None
        self.upstreams = Upstreams(journal, chance, new_engine)
        self.model_lists = models.ModelLists(self._loop_time)
        #: The plain answers that are being made.
        self.productions: set[Production] = set()
        self.ids = SecretIds()
        self.is_draining = False
        self._chance = chance
        self._now = now
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Takes settings, at the start and again on a reload; running answers go on with what they began with."""
        self.upstreams.apply(settings)
        self.model_lists.keep_only(self.upstreams)
        self.settings = settings
        self.keyring = Keyring(settings.keys)
        self.metrics.upstreams = lambda: self.upstreams.snapshots(self._loop_time())
        retries = settings.retries
        policy = RetryPolicy(retries.attempts, retries.backoff_first, retries.backoff_most, retries.retry_after_most)
        self.means = Means(self.upstreams, self.log, self.metrics, settings.timeouts, policy, self._chance, self._now)

    async def start(self) -> None:
        """Starts what runs beside the requests; called again after a reload.

        Raises:
            LogError: the store of durable streams cannot be used.
        """
        await self.upstreams.start()
        if self._reaping is None:
            await self.durable.log.start()
            self._reaping = asyncio.create_task(self._reaper.run())

    async def close(self) -> None:
        """Ends what still runs: plain answers with an error that says so, durable ones for another to go on with."""
        self.stop_answers()
        if self._reaping is not None:
            self._reaping.cancel()
            await self.durable.hand_over()
            await self.durable.log.close()
        await self.upstreams.close()

    def stop_answers(self) -> None:
        """Ends every running plain answer with a clear error."""
        for production in list(self.productions):
            production.stop(Failure(Fault.SHUTTING_DOWN, "the gateway is shutting down"))

    @property
    def running(self) -> int:
        """How many answers are being made here."""
        return len(self.productions) + len(self.durable)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._serve(Call(scope))

    async def _serve(self, call: Call) -> None:
        started_at = self._loop_time()
        try:
            try:
                await self._handle(call)
                if call.rest is not None:
                    await call.rest
            except (RequestRefused, LogError, ClientLeft) as error:
                await self._refuse(call, error)
        except asyncio.CancelledError:
            call.abort()  # the server ends at once
        except Exception as error:  # the root of the request's task: nothing of uvicorn's own is ever answered
            await self._fail(call, error)
        if call.connection.is_lost:
            call.give_up()
        self.metrics.count_response(call.route, call.status)
        if not call.is_noted and (call.route not in QUIET or call.status >= 400):
            self._note(call, self._loop_time() - started_at)

    def _tell_of_store(self, error: StoreUnavailable | None) -> None:
        """Notes that the store has gone, or is back."""
        self.journal.note("store", message="the store of streams is well again" if error is None else str(error))

    def on_whole(self, asked: Asked, key_name: str) -> OnWhole | None:
        """Who wants to hear of the whole answer, None if nobody does."""
        return response_keeper(self, asked, key_name) if asked.dialect is OPENAI_RESPONSES else None

    def _book_durable(self, producer: Producer, origin: Origin) -> None:
        failure = producer.account.failure
        is_refused = failure is not None and producer.has_said_nothing
        self.book(producer, origin, status=STATUS[failure.fault] if failure and is_refused else 200)

    def book(self, production: Production, origin: Origin, *, status: int) -> None:
        """Writes the line of one answer, and counts it."""
        account, now, request = production.account, self._loop_time(), production.asked.request
        started_at = origin.started_at
        failure = account.failure
        outcome = _WORDS[production.state] if failure is None else failure.fault.value
        usage = account.usage or Usage()
        first_token = account.first_token_at - started_at if account.first_token_at else None
        answered = self.metrics.answered(account.model or request.model, account.upstream)
        answered.requests[outcome] = answered.requests.get(outcome, 0) + 1
        answered.input_tokens += usage.input
        answered.output_tokens += usage.output
        answered.duration.observe(now - started_at)
        if first_token is not None:
            answered.first_token.observe(first_token)
        is_wished = production.state is State.CANCELLED
        self.journal.note(
            "request",
            method=origin.method,
            path=origin.path,
            status=status or 499,
            id=origin.request_id,
            key=origin.key_name or None,
            model=request.model,
            answered=account.model if account.model not in ("", request.model) else None,
            upstream=account.upstream or None,
            attempts=account.attempts,
            continued=len(account.continuations) or None,
            not_continued=account.not_continued or None,
            stream=request.stream,
            input_tokens=usage.input,
            output_tokens=usage.output,
            estimated=True if usage.estimated else None,
            first_token_s=None if first_token is None else round(first_token, 6),
            duration_s=round(now - started_at, 6),
            outcome=outcome,
            message=None if failure is None or is_wished else in_our_words(failure),
        )

    async def models(self) -> dict[str, dict[str, Any]]:
        """Every model by its name, as the API shows it."""
        return await models.listed(self)

    async def unknown_model(self, name: str) -> ApiError:
        """What is said of a model that nobody serves."""
        return models.unknown_model(name, list(await self.models()), self.upstreams.table.globs())

    def refused(self, error: ApiError, request_id: bytes) -> None:
        """Notes and counts a request that was refused on the connection, before it could be routed."""
        self.metrics.count_response("", error.status)
        self.journal.note("refused", status=error.status, id=request_id.decode(), message=error.message)

    @staticmethod
    def methods_at(path: str) -> str:
        """What the route of `path` takes, for an Allow header."""
        methods = [*ROUTES[_route_of(path)], "OPTIONS"]
        return ", ".join(["GET", "HEAD", *methods[1:]] if methods[0] == "GET" else methods)

    async def _handle(self, call: Call) -> None:
        self._allow_cross_origin(call)
        call.check_headers()
        handler = self._route(call)
        self._admit(call, handler)
        await handler(self, call, call.key_name)

    async def _refuse(self, call: Call, error: RequestRefused | LogError | ClientLeft) -> None:
        match error:
            case RequestRefused():
                call.refused_for, call.refused_param = error.error.code, error.error.param
                await call.respond_error(error.error)
            case LogError():
                refusal = told(error)
                if not isinstance(error, StoreUnavailable) and refusal.status >= 500:  # of that one its health tells
                    name = type(error).__name__
                    self.journal.note("error", id=call.request_id.decode(), error=name, message=str(error))
                if call.status:
                    return call.abort()
                call.refused_for = refusal.code
                await call.respond_error(refusal)
            case ClientLeft():
                call.status = call.connection.refused_with or 499

    def _route(self, call: Call) -> Handler:
        call.route = _route_of(call.path)
        if call.path.startswith("/v1/responses"):
            call.speak(OPENAI_RESPONSES)
        elif call.path.startswith("/v1/messages") or (
            # The header alone decides only where both have a route, or neither has.
            b"anthropic-version" in call.headers and not call.path.startswith("/v1/chat/")
        ):
            call.speak(ANTHROPIC_MESSAGES)
        if not call.route:
            message = f"There is nothing at {call.method} {call.path[:200]}."
            raise RequestRefused(ApiError(404, message, code="unknown_url"))
        method = "GET" if call.method == "HEAD" else call.method
        handler = preflight if method == "OPTIONS" else ROUTES[call.route].get(method)
        if handler is None:
            allowed = self.methods_at(call.path)
            message = f"{call.path[:200]} does not take {call.method}; it takes {allowed}."
            raise RequestRefused(ApiError(405, message, code="method_not_allowed", headers={"allow": allowed}))
        return handler

    def _allow_cross_origin(self, call: Call) -> None:
        if origin := call.headers.get(b"origin"):
            call.own_headers += cors_headers(origin, self.settings.server.cors_origins)

    def _admit(self, call: Call, handler: Handler) -> None:
        if handler is preflight or call.route in OPEN:
            return
        call.key_name = caller_name(
            self.keyring, call.headers.get(b"authorization", b""), call.headers.get(b"x-api-key", b"")
        )
        origin, allowed = call.header(b"origin"), self.settings.server.cors_origins
        if origin and call.method == "POST" and not allows_origin(origin, allowed, has_keys=bool(self.settings.keys)):
            message = f"Pages of {origin[:200]} may not call this gateway: see `cors_origins` in the configuration."
            raise RequestRefused(ApiError(403, message, code="origin_not_allowed"))

    async def _fail(self, call: Call, error: Exception) -> None:
        """Our own mistake: the client gets an error that it can report, the log says where it happened."""
        # Where, and not what: an error's own words may be part of somebody's request.
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
        self.journal.note("error", id=call.request_id.decode(), error=type(error).__name__, where=" > ".join(where))
        if call.status:
            return call.abort()
        message = "The gateway failed at this request; its log says more under the x-request-id."
        await call.respond_error(ApiError(500, message, "server_error", "internal_error"))

    def _note(self, call: Call, seconds: float) -> None:
        """Writes the line of a call that is no answer of a model."""
        self.journal.note(
            "refused" if call.status >= 400 else "request",
            method=call.method,
            path=call.path[:200],
            status=call.status,
            id=call.request_id.decode(),
            key=call.key_name or None,
            model=call.asked_model[:MAX_LOGGED_NAME] or None,
            code=call.refused_for,
            param=call.refused_param[:MAX_LOGGED_NAME] if call.refused_param and call.status == 400 else None,
            duration_s=round(seconds, 6),
        )


def _route_of(path: str) -> str:
    """The key in `ROUTES` for a path, empty if there is none."""
    if path in ROUTES:
        return path
    return next((route for route in ROUTES if route.endswith("/") and path.startswith(route)), "")
