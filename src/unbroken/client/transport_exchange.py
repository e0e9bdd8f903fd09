"""One question and the lines that its answer comes over, as far as that is the same with and without `await`."""

import logging
import random
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from unbroken.client.resume import Dropped, Means, Post, Reply, Resume, Resumed
from unbroken.client.resume_blocks import BlockReader
from unbroken.client.resume_steps import Posted, ask, follow, give
from unbroken.client.transport_memory import Memory
from unbroken.client.transport_question import ATTACH, Question, attached, digest, read_question
from unbroken.rules.resume import ResumePolicy
from unbroken.wire.retry_after import read_retry_after

CANCEL_TIMEOUT = 0.5  # s for each step of telling the server that the reader has left: it is told or it is not
_OF_THE_BODY = ("content-length", "content-type", "transfer-encoding", "idempotency-key", "unbroken-durable", "expect")

log = logging.getLogger("unbroken.client")


def library_of(transport: object) -> ModuleType:
    """The library that a transport is of: httpx2, or httpx where that is what it is built on."""
    roots = [base.__module__.partition(".")[0] for base in type(transport).__mro__]
    return sys.modules[next((root for root in roots if root in ("httpx", "httpx2")), "httpx2")]


class Surroundings:
    """What all exchanges of a transport share."""

    def __init__(self, library: ModuleType, patience: float, on_resume: Callable[[Resumed], None] | None) -> None:
        self.library = library
        self.memory = Memory()
        self.means = Means(
            ResumePolicy(patience), time.monotonic, random.random, broken=library.RemoteProtocolError, tell=self._tell
        )
        #: What a line can drop with. Any other error is no drop: the request itself is at fault.
        self.drops = (library.NetworkError, library.TimeoutException, library.RemoteProtocolError, library.ProxyError)
        self._on_resume = on_resume

    def exchange(self, request: Any) -> "Exchange | None":
        """What keeps the answer to this request whole; None where it asks for none, or cannot be sent twice."""
        if not isinstance(request.stream, self.library.ByteStream):
            return None
        body = b"".join(request.stream)
        if path_end := request.extensions.get(ATTACH):
            question: Question | None = attached(request.url.path, path_end)
        else:
            question = read_question(request.method, request.url.path, request.headers, body)
        if question is None:
            return None
        return Exchange(self, request, question, digest(str(request.url), request.headers, body))

    def _tell(self, resumed: Resumed) -> None:
        log.info(
            "stream %s goes on behind block %d after %.1f s, at attempt %d: %r",
            *(resumed.stream, resumed.offset, resumed.waited, resumed.attempts, resumed.cause),
        )
        if self._on_resume is not None:
            self._on_resume(resumed)


class Exchange:
    """One question: its requests, what is made of their responses, and the steps to its answer."""

    def __init__(self, around: Surroundings, request: Any, question: Question, digest: bytes) -> None:
        self.around = around
        self._request = request
        self._question = question
        self._digest = digest
        self._origin = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
        self._is_known = around.memory.knows(self._origin)
        is_retry = request.headers.get("x-stainless-retry-count", "0") != "0"
        self._lost = around.memory.find(digest) if is_retry else None
        self._key = request.headers.get("idempotency-key") or (
            self._lost.key if self._lost else around.memory.new_key()
        )
        self._timeouts = dict(request.extensions.get("timeout") or {})
        self._blocks = BlockReader(question.path_end)
        self._stream: str | None = None
        #: Whether the answer was given up, or needs no reader: then leaving it cancels nothing.
        self._is_left = question.is_background

    def ask(self) -> Any:
        """The steps up to a response for the SDK."""
        return ask(self.around.means, is_known=self._is_known, since=self._lost.since if self._lost else None)

    def answer(self, posted: Posted) -> Any:
        """The steps through the body of that response."""
        if not posted.reply.is_event_stream:
            self._is_left = True
            return give(posted)
        assert posted.reply.stream is not None
        self._stream = posted.reply.stream
        return follow(self.around.means, self._stream, self._blocks)

    def request(self, step: Post | Resume) -> Any:
        """The request of a step."""
        if isinstance(step, Resume):
            headers = {"accept": "text/event-stream", "last-event-id": str(step.offset)}
            return self._stream_request("GET", step.stream, headers, self._timeouts)
        headers = self._request.headers.copy()
        if self._request.method == "POST":
            headers["idempotency-key"] = self._key
            headers["unbroken-durable"] = "true"
        headers["accept-encoding"] = "identity"
        if self._is_known and self._question.is_stream:
            self._expect_heartbeats()
        return self._new_request(
            self._request.method, self._request.url, headers, self._timeouts, stream=self._request.stream
        )

    def cancel(self) -> Any | None:
        """The request that says that the reader has left (D5); None where there is nothing to cancel."""
        if self._stream is None or self._blocks.is_over or self._is_left or sys.is_finalizing():
            return None
        self._is_left = True
        limits = dict.fromkeys(("connect", "read", "write", "pool"), CANCEL_TIMEOUT)
        return self._stream_request("DELETE", self._stream, {}, limits)

    def reply(self, response: Any) -> Reply:
        """What a response says."""
        headers = response.headers
        if any(name.startswith("unbroken-") for name in headers):
            self.around.memory.meet(self._origin)
            self._is_known = True
        kind = headers.get("content-type", "").partition(";")[0].strip()
        is_readable = headers.get("content-encoding", "identity") == "identity"  # what somebody packed, passes as it is
        reply = Reply(
            response.status_code,
            headers.get("unbroken-stream") if is_readable else None,
            is_event_stream=is_readable and kind == "text/event-stream",
            retry_after=read_retry_after({name.lower(): value for name, value in headers.raw}),
        )
        if reply.is_event_stream and self._is_known:
            self._expect_heartbeats()
        return reply

    def dropped(self, error: Exception) -> Dropped:
        """What a failed step means."""
        library = self.around.library
        is_callers = isinstance(error, library.PoolTimeout) or (
            isinstance(error, library.ReadTimeout) and not self._question.is_stream
        )
        return Dropped(error, is_callers)

    def give_up(self) -> None:
        """The SDK is told that the rest cannot be had: the answer goes on, another reader may come."""
        self._is_left = True

    def lose(self) -> None:
        """The SDK is told that there is no answer: if it asks again, that is the same question."""
        since = self._lost.since if self._lost else self.around.means.clock()
        self.around.memory.lose(self._digest, self._key, since)

    def _expect_heartbeats(self) -> None:
        """From here on a silent line is a dropped one; the connection looks its limits up before each read."""
        silence = self.around.means.policy.silence
        self._timeouts["read"] = min(self._timeouts.get("read") or silence, silence)

    def _stream_request(self, method: str, stream: str, headers: dict[str, str], timeouts: dict[str, Any]) -> Any:
        kept = self._request.headers.copy()
        for name in _OF_THE_BODY:
            kept.pop(name, None)
        kept.update({"accept-encoding": "identity", **headers})
        url = self._request.url.copy_with(path=self._question.stream_path(stream), query=None)
        return self._new_request(method, url, kept, timeouts, stream=self.around.library.ByteStream(b""))

    def _new_request(self, method: str, url: Any, headers: Any, timeouts: dict[str, Any], *, stream: Any) -> Any:
        extensions = {**self._request.extensions, "timeout": timeouts}
        return self.around.library.Request(method, url, headers=headers, stream=stream, extensions=extensions)
