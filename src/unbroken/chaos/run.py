"""A run from its beginning to its verdict."""

import asyncio
import shutil
import signal
import tempfile
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from unbroken.chaos.clients import Clients
from unbroken.chaos.judge import Breach, Figures, judge
from unbroken.chaos.place import Place
from unbroken.chaos.plan import Question, Reader, Round, Wishes, plan_round
from unbroken.chaos.questions import ASKING, request_body
from unbroken.chaos.transcripts import Evidence

IDLE_SECONDS = 20.0  # for upstreams whose readers have all left


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    wishes: Wishes
    rounds: int
    figures: Figures
    breaches: tuple[Breach, ...]
    #: What clients were told of answers that failed, and how often.
    errors: Counter[str]
    lines: int
    cuts: int
    #: By the name of the disturbance.
    disturbances: Counter[str]
    upstream_faults: int
    seconds: float
    #: Where the logs are; None where they are gone, as nothing has to be looked up.
    folder: Path | None


Tell = Callable[[str], None]
"""Hears of the progress, a line at a time."""


async def run(wishes: Wishes, tell: Tell, store_url: str = "") -> Outcome:
    """Plays all rounds, and judges each; raises NoStore and GatewayFailed."""
    began = asyncio.get_running_loop().time()
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="unbroken-chaos-"))
    keep = True
    conductor: Conductor | None = None
    try:
        async with Place(wishes, folder, store_url) as place:
            conductor = Conductor(wishes, place, tell)
            await conductor.play_all()
        conductor.look_at_the_end()
        keep = bool(conductor.breaches)
    except BaseException as error:
        keep = not isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        if keep:
            error.add_note(f"The logs are in {folder}.")
        raise
    finally:
        if not keep:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return conductor.outcome(asyncio.get_running_loop().time() - began, folder if keep else None)


async def ended_by_sigterm(work: Awaitable[Outcome]) -> Outcome:
    """Does the work; SIGTERM ends it as Ctrl-C does, with all that it has started."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


class Conductor:
    """Plays round after round, and adds up what comes of them."""

    def __init__(self, wishes: Wishes, place: Place, tell: Tell) -> None:
        self.breaches: list[Breach] = []
        self._wishes = wishes
        self._place = place
        self._tell = tell
        self._figures = Figures()
        self._errors: Counter[str] = Counter()
        self._rounds = 0
        self._engine_answers: dict[tuple[str, str], str] = {}
        self._key_prefix = uuid.uuid4().hex  # a store that is not ours may know the keys of another run

    async def play_all(self) -> None:
        """Plays the rounds that are wished for."""
        for number in range(1, self._wishes.rounds + 1):
            planned = plan_round(self._wishes, number)
            if self._wishes.has_engine:
                planned = replace(planned, questions=await self._with_engine_answers(planned))
            await self._play(planned)
            self._rounds += 1

    def look_at_the_end(self) -> None:
        """What is found when all has been told to end."""
        for left in self._place.left_running:
            self.breaches.append(Breach(None, "", f"was left running: {left}"))
        for gateway in self._place.gateways:
            if gateway.tracebacks:
                self.breaches.append(Breach(None, "", f"gateway {gateway.number} has written a traceback"))
            for note in (note for event in ("error", "internal") for note in gateway.notes(event)):
                self.breaches.append(Breach(None, "", f"gateway {gateway.number} has failed: {note}"))

    def outcome(self, seconds: float, folder: Path | None) -> Outcome:
        """What came of it all."""
        place = self._place
        return Outcome(
            self._wishes,
            self._rounds,
            self._figures,
            tuple(self.breaches),
            self._errors,
            place.proxy.lines,
            place.proxy.cuts,
            place.done,
            place.upstreams.faults.total(),
            seconds,
            folder,
        )

    async def _play(self, planned: Round) -> None:
        place = self._place
        place.upstreams.expect(planned.questions)
        clients = Clients(place.proxy.root, self._key_prefix)
        try:
            async with asyncio.TaskGroup() as tasks:
                for disturbance in planned.disturbances:
                    tasks.create_task(place.disturb(disturbance))
                asked = [tasks.create_task(clients.ask(question)) for question in planned.questions]
        finally:
            await clients.close()
        transcripts = tuple(transcript for task in asked for transcript in task.result())
        streams = sorted({transcript.stream for transcript in transcripts} - {""})
        copies = dict(zip(streams, await asyncio.gather(*map(place.copies, streams)), strict=True))
        left: list[Breach] = []
        try:
            await place.upstreams.wait_until_idle(IDLE_SECONDS)
        except TimeoutError as error:
            left.append(Breach(None, "", f"round {planned.number}: upstreams still answer: {error}"))
        verdict = judge(
            Evidence(
                transcripts,
                copies,
                dict(place.upstreams.asked),
                dict(place.upstreams.faults),
                dict(await asyncio.to_thread(place.takeovers)),
            )
        )
        self._figures += verdict.figures
        self._errors.update(verdict.errors)
        self.breaches += [*verdict.breaches, *left]
        self._tell_of(planned, verdict.figures, [*verdict.breaches, *left])

    def _tell_of(self, planned: Round, figures: Figures, breaches: list[Breach]) -> None:
        names = ", ".join(type(disturbance).__name__ for disturbance in planned.disturbances)
        said = f"{figures.streams} streams, {figures.returns} returns, {figures.takeovers} takeovers"
        self._tell(f"round {planned.number} of {self._wishes.rounds}: {names}: {said}, {len(breaches)} breaches")
        for breach in breaches:
            self._tell(f"  BREACH {breach}")

    async def _with_engine_answers(self, planned: Round) -> tuple[Question, ...]:
        """The questions with the text that the engine gives where nothing disturbs it."""
        questions = []
        for question in planned.questions:
            if question.is_for_engine:
                question = replace(question, text=await self._undisturbed(question))
            questions.append(question)
        return tuple(questions)

    async def _undisturbed(self, question: Question) -> str:
        asked = question.dialect, question.prompt
        if asked not in self._engine_answers:
            asking = ASKING[question.dialect]
            body = request_body(replace(question, reader=Reader.WHOLE))
            async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
                answer = await client.post(f"{self._place.gateways[0].root}{asking.path}", json=body)
                self._engine_answers[asked] = asking.text(answer.raise_for_status().json())
        return self._engine_answers[asked]
