"""The composition root: puts the parts together and sends each call to its route."""

import asyncio
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.chat.fault import Failure, Fault
from unbroken.chat.request import ChatRequest
from unbroken.chat.usage import Usage
from unbroken.gateway import health, models
from unbroken.gateway.admission import Keyring, allows_origin, caller_name
from unbroken.gateway.call import Call, ClientLeft, Receive, Scope, Send
from unbroken.gateway.chat_completions import create_chat_completion
from unbroken.gateway.cors import cors_headers, preflight
from unbroken.gateway.journal import Journal
from unbroken.gateway.metrics import Metrics
from unbroken.gateway.produce import Means, Producer
from unbroken.gateway.upstreams import Upstreams
from unbroken.rules.lifecycle import State
from unbroken.rules.retry import RetryPolicy
from unbroken.settings.tree import Settings
from unbroken.store.memory import MemoryStreamLog

Handler = Callable[["Gateway", Call, str], Awaitable[None]]

#: path → method → handler; a path that ends in `/` takes whatever follows.
ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": create_chat_completion},
    "/v1/models": {"GET": models.list_models},
    "/v1/models/": {"GET": models.get_model},
    "/healthz": {"GET": health.healthz},
    "/readyz": {"GET": health.readyz},
    "/metrics": {"GET": health.metrics},
}

#: Routes that a probe or a scraper may call without a key.
OPEN = ("/healthz", "/readyz")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gateway:
    """The ASGI application."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        *,
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.journal = journal
        self.metrics = Metrics()
        self.log = MemoryStreamLog()
        self.upstreams = Upstreams(journal, chance)
        self.producers: set[Producer] = set()
        self.is_draining = False
        self._chance = chance
        self._now = now
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Takes settings, at the start and again on a reload; running answers go on with what they began with."""
        self.settings = settings
        self.keyring = Keyring(settings.keys)
        self.upstreams.apply(settings)
        self.metrics.upstreams = lambda: self.upstreams.snapshots(asyncio.get_running_loop().time())
        retries = settings.retries
        policy = RetryPolicy(retries.attempts, retries.backoff_first, retries.backoff_most, retries.retry_after_most)
        self.means = Means(self.upstreams, self.log, self.metrics, settings.timeouts, policy, self._chance, self._now)

    async def start(self) -> None:
        """Starts what runs beside the requests."""
        await self.upstreams.start()

    async def close(self) -> None:
        """Ends what still runs, with an error that says so, and stops what was started."""
        self.stop_answers()
        await self.upstreams.close()

    def stop_answers(self) -> None:
        """Ends every running answer with a clear error."""
        for producer in list(self.producers):
            producer.stop(Failure(Fault.SHUTTING_DOWN, "the gateway is shutting down"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        call = Call(scope, receive, send)
        request_id = call.header(b"x-request-id")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = f"req_{secrets.token_hex(12)}"
        call.own_headers.append((b"x-request-id", request_id.encode()))
        route = ""
        try:
            route, handler = self._route(call)
            await self._serve(call, route, handler)
        except RequestRefused as refused:
            await self._refuse(call, refused.error)
        except ClientLeft:
            call.status = 499
        finally:
            self.metrics.count_response(route, call.status)

    def book(self, call: Call, request: ChatRequest, producer: Producer, key_name: str, started_at: float) -> None:
        """Writes the line of one answer, and counts it."""
        account, now = producer.account, asyncio.get_running_loop().time()
        failure = account.failure
        outcome = producer.state.value if failure is None else failure.fault.value
        usage = account.usage or Usage()
        first_token = account.first_token_at - started_at if account.first_token_at else None
        answered = self.metrics.answered(account.model or request.model, account.upstream)
        answered.requests[outcome] = answered.requests.get(outcome, 0) + 1
        answered.input_tokens += usage.input
        answered.output_tokens += usage.output
        answered.duration.observe(now - started_at)
        if first_token is not None:
            answered.first_token.observe(first_token)
            answered.gaps.total += now - account.first_token_at
        self.journal.note(
            "request",
            method=call.method,
            path=call.path,
            status=call.status or 499,
            id=call.own_headers[0][1].decode(),
            key=key_name or None,
            model=request.model,
            answered=account.model if account.model != request.model else None,
            upstream=account.upstream or None,
            attempts=account.attempts,
            stream=request.stream,
            input_tokens=usage.input,
            output_tokens=usage.output,
            estimated=True if usage.estimated else None,
            first_token_s=None if first_token is None else round(first_token, 6),
            duration_s=round(now - started_at, 6),
            outcome=outcome,
            message=failure.message if failure and producer.state is not State.CANCELLED else None,
        )

    async def models(self) -> dict[str, dict[str, Any]]:
        """Every model by its name, as the API shows it."""
        return await models.listed(self)

    async def model_names(self) -> list[str]:
        """The names of the models that exist."""
        return list(await self.models())

    def _route(self, call: Call) -> tuple[str, Handler]:
        path = call.path
        methods = ROUTES.get(path)
        if methods is None:
            path = next((known for known in ROUTES if known.endswith("/") and path.startswith(known)), "")
            methods = ROUTES.get(path)
        if methods is None:
            raise RequestRefused(
                ApiError(404, f"There is nothing at {call.method} {call.path[:200]}.", code="unknown_url")
            )
        if call.method == "OPTIONS":
            return path, preflight
        handler = methods.get("GET" if call.method == "HEAD" else call.method)
        if handler is None:
            allowed = ", ".join(methods)
            message = f"{call.path} does not take {call.method}; it takes {allowed}."
            raise RequestRefused(ApiError(405, message, code="method_not_allowed", headers={"allow": allowed}))
        return path, handler

    async def _serve(self, call: Call, route: str, handler: Handler) -> None:
        origin = call.header(b"origin")
        if origin:
            call.own_headers += cors_headers(origin, self.settings.server.cors_origins)
        name = ""
        if route not in OPEN and handler is not preflight:
            name = caller_name(self.keyring, call.header(b"authorization"))
        if call.method == "POST" and not allows_origin(
            origin, self.settings.server.cors_origins, has_keys=bool(len(self.keyring))
        ):
            message = f"Pages of {origin[:200]} may not call this gateway: see `cors_origins` in the configuration."
            raise RequestRefused(ApiError(403, message, code="origin_not_allowed"))
        await handler(self, call, name)

    async def _refuse(self, call: Call, error: ApiError) -> None:
        await call.respond_error(error)
        self.journal.note(
            "refused",
            method=call.method,
            path=call.path[:200],
            status=error.status,
            id=call.own_headers[0][1].decode(),
            code=error.code,
        )
