"""Whole answers: asked for whole where the upstream speaks the client's dialect, else put together from a stream."""

import asyncio
from collections.abc import Callable

from unbroken.chat.error import RequestRefused
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.gateway.account import Answer
from unbroken.gateway.attempt import LAST_LOOK_SECONDS
from unbroken.gateway.production import Production
from unbroken.gateway.questions import EventCollector, Question, ask_for_events, rate_limits
from unbroken.gateway.response_heads import why_refused, why_unreadable
from unbroken.gateway.upstreams import Upstream
from unbroken.rules.lifecycle import Step, next_state
from unbroken.rules.retry import whole_patience
from unbroken.rules.routing import Target
from unbroken.upstream.sinks import WholeResponse
from unbroken.wire.openai_chat.assemble import AnswerAssembler
from unbroken.wire.openai_chat.request import as_stream
from unbroken.wire.translate import translate_request


class WholeProduction(Production):
    """Makes one answer that goes out in one piece."""

    async def answer(self) -> Answer:
        """The whole answer of the first upstream that gives one.

        Raises:
            UpstreamFailed: none did.
        """
        limit = self._begin()
        try:
            answer, _ = await self._first_to(self._ask_for_answer)
        except UpstreamFailed as failed:
            self._note_failure(failed.failure)
            raise
        except asyncio.CancelledError:
            if self.stopped is None or self._task is None:
                raise
            self._task.uncancel()  # it was `stop`: the task that called us goes on
            self._note_failure(self.stopped)
            raise UpstreamFailed(self.stopped) from None
        finally:
            limit.cancel()
        self.state = next_state(next_state(self.state, Step.CONTENT), Step.FINISH)
        self.account.usage = answer.usage
        if self._on_whole is not None:
            self._on_whole(answer.body)
        return answer

    async def _ask_for_answer(self, target: Target, upstream: Upstream) -> Answer:
        if upstream.dialect is not self._dialect:
            return await self._translate_answer(target, upstream)
        if upstream.is_engine:
            return await self._assemble_answer(target, upstream)
        client = await upstream.client()
        self.account.dropped = ()
        sink = WholeResponse()
        body = self._dialect.write_request(self._request, model=target.model, ask_usage=False, more={})
        headers = upstream.headers_for(self.asked.headers)
        connection = await client.post(self._dialect.path, body, sink, accept="application/json", more_headers=headers)
        try:
            if self._others:
                await self._wait_for_whole(sink)
            status, answer = await sink.complete
        except BaseException:
            connection.close()
            raise
        if status != 200:
            raise UpstreamFailed(why_refused(status, sink.headers, answer, upstream.read_error, secret=upstream.secret))
        if (unreadable := why_unreadable(sink.headers, "")) is not None:
            raise UpstreamFailed(unreadable)
        self.account.limits = rate_limits(sink.headers, self._dialect, now=self._means.now())
        relayed, usage = self._dialect.relay_answer(answer, self._answering(target), secret=upstream.secret)
        return Answer(relayed, usage)

    def _can_be_asked(self, upstream: Upstream) -> bool:
        """Whether the question can be said in an upstream's dialect."""
        if upstream.dialect is self._dialect:
            return True
        try:
            translate_request(self._request, self._dialect, upstream.dialect, model="", stream=True)
        except RequestRefused:
            return False
        return True

    async def _wait_for_whole(self, sink: WholeResponse) -> None:
        """Waits until the response is there or lost; not for ever, as another upstream could be asked.

        An upstream that is making an answer is as silent as one that never will: only its time can tell.
        """
        left = self._deadline - self._loop.time()
        limit = whole_patience(self._means.timeouts.whole, left=left, others=len(self._others))
        await asyncio.wait({sink.complete}, timeout=limit)
        if not sink.complete.done():
            await asyncio.wait({sink.complete}, timeout=LAST_LOOK_SECONDS)
            if not sink.complete.done() and any(self._can_be_asked(other) for _, other in self._others):
                raise UpstreamFailed(Failure(Fault.WHOLE_TIMEOUT, f"no whole answer within {limit:.3g} s"))

    async def _assemble_answer(self, target: Target, upstream: Upstream) -> Answer:
        """A whole answer asked for in pieces: llama.cpp notices only while it streams that nobody waits any more."""
        assembler = AnswerAssembler()
        request = as_stream(self._request)
        question = self._question(request, target, upstream)
        await self._gather(target, upstream, question, lambda blocks, ends: assembler.feed(blocks))
        return Answer(assembler.whole(), question.relay.usage)

    async def _translate_answer(self, target: Target, upstream: Upstream) -> Answer:
        """A whole answer of another dialect: asked for in pieces, and written when all of them are there."""
        collector = EventCollector()
        question = ask_for_events(
            self._request,
            self._dialect,
            upstream.dialect,
            collector,
            model=target.model,
            secret=upstream.secret,
            is_engine=upstream.is_engine,
        )
        await self._gather(target, upstream, question, lambda blocks, ends: None)
        return Answer(self._dialect.write_answer(collector.events, self._answering(target)), question.relay.usage)

    async def _gather(
        self, target: Target, upstream: Upstream, question: Question, on_blocks: Callable[[list[Block], bool], None]
    ) -> None:
        """Sees a stream through to its end for an answer that goes out whole."""
        attempt = await self._open_stream(target, upstream, question, on_blocks)
        try:
            await attempt.ended
        except BaseException:
            attempt.abandon()
            raise
        finally:
            self._attempt = None
