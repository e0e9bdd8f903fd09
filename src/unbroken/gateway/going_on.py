"""An answer goes on after its upstream has died in the middle of it: which ways are tried, one after the other (K1)."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.said import Said
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.gateway.attempt import StreamAttempt
from unbroken.gateway.continuation import (
    Ending,
    ask_to_continue,
    end_with,
    failing_behind,
    go_on_exactly,
    read_said,
    read_wishes,
)
from unbroken.gateway.exact import ExactEnd, ExactQuestion, Inexact, exact_question
from unbroken.gateway.production import Asked, Means, OnWhole, Production
from unbroken.gateway.questions import Question
from unbroken.gateway.remembered import Remembered
from unbroken.gateway.stream_account import Continued
from unbroken.gateway.upstreams import Upstream
from unbroken.rules.continuation import (
    Ask,
    Capability,
    Tier,
    Way,
    Wishes,
    came_to,
    capability_of,
    counts_as_attempt,
    next_step,
    patience,
    tiers,
    told,
    ways,
    why_not,
)
from unbroken.rules.retry import GiveUp
from unbroken.rules.routing import Target
from unbroken.wire.dialects import Answering

Candidate = tuple[Target, Upstream]


class GoingOn(Production):
    """A production of a stream that can be continued."""

    __slots__ = ("said",)

    def __init__(self, asked: Asked, means: Means, *, on_whole: OnWhole | None = None) -> None:
        super().__init__(asked, means, on_whole=on_whole)
        #: What the client may have seen; of a plain stream its blocks are in the log until they are wanted.
        self.said = Remembered()

    @abstractmethod
    async def _open(self, target: Target, upstream: Upstream, question: Question) -> StreamAttempt:
        """An attempt that writes the log."""

    @abstractmethod
    def _end_well(self, ending: Ending) -> None:
        """Writes the end of an answer of which nothing else is missing."""

    @abstractmethod
    async def _recall(self) -> None:
        """Sees to it that `said` has all blocks so far, or knows that they are too many."""

    def _error_behind(self, error: ApiError) -> list[Block]:
        """The blocks that end the stream with an error, where no attempt is there to say it."""
        return failing_behind(self._dialect, self._answering_again(), self.said.blocks)(error)

    async def _first_to_continue(self, broke_off: Failure) -> tuple[StreamAttempt, Upstream] | None:
        """The first attempt that goes on with the answer; None if nothing but its end was missing, which is written.

        Raises:
            UpstreamFailed: none can; it says how the answer broke off, and how much of it there is.
        """
        await self._recall()
        if self.said.is_too_long:
            self.account.not_continued = "it is too long to be remembered"
            raise UpstreamFailed(broke_off)
        said = self._read_said(broke_off)
        if said.finished is not None and self._request.choices == 1 and not any(said.choices):
            ending = end_with(self._dialect, self._answering_again(), self.said.blocks, ())
            return self._end_well(replace(ending, usage=self._usage_so_far(said)))
        candidates = [
            (target, self._means.upstreams.get(target.upstream))
            for target in self._means.upstreams.candidates(self._request.model, self._loop.time())
        ]
        capabilities = [_capability(candidate) for candidate in candidates]
        wishes = self._read_wishes(broke_off)
        died = next((at for at, (target, _) in enumerate(candidates) if target.upstream == self.account.upstream), None)
        honest = ways(
            [tiers(said, wishes, capability) for capability in capabilities], died=died, fault=broke_off.fault
        )
        name = self.account.upstream
        failure, last, left = broke_off, None, honest
        failures: list[Failure] = []
        tried: list[str] = []
        while isinstance(step := self._next_step(failure, last, left), Ask):
            await asyncio.sleep(step.seconds)
            last, left = step.way, step.left
            self.account.upstream = candidates[last.upstream][0].upstream
            try:
                candidate, capability = candidates[last.upstream], capabilities[last.upstream]
                wait = patience(step, self._means.retries)
                return await self._continue_at(candidate, last.tier, capability, patience=wait)
            except UpstreamFailed as failed:
                failure = failed.failure
                failures.append(failure)
                tried.append(came_to(last, self.account.upstream, failure))
                if not counts_as_attempt(failures):
                    self.account.attempts -= 1
            if self.stopped is not None:
                raise UpstreamFailed(self.stopped)
        self.account.upstream = name
        self.account.not_continued = why_not(tried, honest, broke_off.fault)
        raise UpstreamFailed(told(broke_off, said))

    def _usage_so_far(self, said: Said) -> Usage:
        """What was told of it, in the stream or to the producer; what there is of the answer where nobody counted."""
        return said.usage or self.account.usage or Usage(output=said.tokens, estimated=True)

    def _next_step(self, failure: Failure, last: Way | None, left: Sequence[Way]) -> Ask | GiveUp:
        policy, attempts = self._means.retries, self.account.attempts - self.attempts_before
        return next_step(failure, last, left, policy, attempts=attempts, chance=self._means.chance())

    def _read_said(self, broke_off: Failure) -> Said:
        try:
            return read_said(self._dialect, self.said.blocks)
        except UpstreamFailed:  # nobody can go on with it
            self.account.not_continued = "it is said in no word of ours"
            raise UpstreamFailed(broke_off) from None

    def _read_wishes(self, broke_off: Failure) -> Wishes:
        try:
            return read_wishes(self._dialect, self._request)
        except UpstreamFailed:
            self.account.not_continued = "it was asked for with what only its own provider can do"
            raise UpstreamFailed(broke_off) from None

    async def _continue_at(
        self, candidate: Candidate, tier: Tier, capability: Capability, *, patience: float | None
    ) -> tuple[StreamAttempt, Upstream] | None:
        target, upstream = candidate
        upstreams, account = self._means.upstreams, self.account
        account.attempts += 1
        account.continuations.append(Continued(tier.value, len(self.said.blocks), upstream.name))
        self.heard_at = self._loop.time()
        upstreams.began(upstream, self.heard_at)
        failure: Failure | None = Failure(Fault.CLIENT_LEFT, "given up")
        try:
            await upstream.client(patience)
            question = await self._question_to_continue(target, upstream, tier, capability)
            if isinstance(question, Ending):
                failure = None
                upstreams.ended(upstream, self._request, None, self._loop.time())
                return self._end_well(question)
            attempt = await self._open(target, upstream, replace(question, holds_back=True))
            failure = None
            return attempt, upstream
        except UpstreamFailed as failed:
            failure = upstream.without_secrets(failed.failure)
            failed.__traceback__ = None  # through its frames it holds the attempt, which holds the error
            raise UpstreamFailed(failure) from None
        finally:
            if failure is not None:
                account.continuations.pop()
                upstreams.ended(upstream, self._request, failure, self._loop.time())
                self._means.metrics.count_retry(upstream.name, failure.fault.value)

    async def _question_to_continue(
        self, target: Target, upstream: Upstream, tier: Tier, capability: Capability
    ) -> Question | Ending:
        if tier is Tier.EXACT:
            return await self._exact_question(target, upstream)
        return ask_to_continue(
            self._request,
            self._dialect,
            upstream.dialect,
            self._answering_again(),
            self.said.blocks,
            tier=tier,
            capability=capability,
            model=target.model,
            secret=upstream.secret,
            ask_usage=upstream.settings.ask_usage,
            is_engine=upstream.is_engine,
            on_matched=self._call_it_matched,
        )

    def _call_it_matched(self) -> None:
        """Of the attempt that is under way: it was to be spliced, and says again what was sent (K3)."""
        continuations = self.account.continuations
        continuations[-1] = msgspec.structs.replace(continuations[-1], tier=Tier.MATCHED.value)

    async def _exact_question(self, target: Target, upstream: Upstream) -> Question | Ending:
        blocks, answering = self.said.blocks, self._answering_again()
        body, sent = self._question(self._request, target, upstream).body, read_said(self._dialect, blocks).text
        match await exact_question(await upstream.client(), body, self.said.note, sent):
            case ExactQuestion(path, body, reader):
                question = go_on_exactly(self._dialect, answering, blocks, reader, body=body, path=path)
                return replace(question, take_note=reader.take_note)
            case ExactEnd(events):
                return end_with(self._dialect, answering, blocks, events)
            case Inexact(reason):
                raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, reason))

    def _answering_again(self) -> Answering:
        """What a writer has to know that goes on: the client has been told of one model, and it stays."""
        request = self._request
        return Answering(
            self.stream,
            self.account.model,
            self.asked.created,
            request.choices,
            request.include_usage,
            self.asked.echo,
        )


def _capability(candidate: Candidate) -> Capability:
    target, upstream = candidate
    settings = upstream.settings
    return capability_of(
        settings.continuation,
        dialect=upstream.dialect.name,
        base_url=settings.base_url,
        model=target.model,
        is_engine=upstream.is_engine,
    )
