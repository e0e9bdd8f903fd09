"""The judge: holds what clients saw against the logs, the logs against each other, and both against the plan. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from unbroken.chaos.blocks import Seen
from unbroken.chaos.plan import Question, Reader
from unbroken.chaos.transcripts import Evidence, LogCopy, Transcript
from unbroken.chat.fault import UpstreamFailed
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.continuing import SaidSoFar, read_back
from unbroken.wire.dialects import Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES)
}

OVER = ("finished", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Breach:
    """A promise that was not kept."""

    question: Question | None
    stream: str
    message: str

    def __str__(self) -> str:
        where = "the run" if self.question is None else f"question {self.question.number} ({_kind(self.question)})"
        return f"{where}{f', stream {self.stream}' if self.stream else ''}: {self.message}"


def _kind(question: Question) -> str:
    return f"{question.reader.value}, {question.dialect}{', engine' if question.is_for_engine else ''}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run, or a part of it, comes to."""

    streams: int = 0
    #: Ends: as the model meant it, by a reader that left, and by an error that its client was told.
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    #: Blocks that clients saw, that they should have seen and did not, and that they saw again.
    blocks: int = 0
    lost: int = 0
    doubled: int = 0
    #: Tokens of the answers that the logs hold.
    tokens: int = 0
    #: How often clients had to come back, upstreams went on with an answer of another, and gateways with another's.
    returns: int = 0
    continued: int = 0
    takeovers: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found."""

    breaches: tuple[Breach, ...]
    figures: Figures
    #: The errors that clients were told, honestly: what is said of them, and how often.
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Log:
    """A stream's log, as all copies tell it."""

    copy: LogCopy
    said: SaidSoFar | None

    @property
    def state(self) -> str:
        return str(self.copy.status["state"])

    @property
    def text(self) -> str:
        return self.said.said.text if self.said is not None else ""


def judge(evidence: Evidence) -> Verdict:
    """What of the promises was kept in a round."""
    breaches: list[Breach] = []
    figures = Figures()
    errors: list[str] = []
    logs: dict[str, _Log] = {}
    for transcript in evidence.transcripts:
        question, stream = transcript.question, transcript.stream
        copies = evidence.copies.get(stream, ())
        found = [Breach(question, stream, transcript.trouble)] if transcript.trouble else []
        if not copies:
            breaches += found or [Breach(question, stream, f"there is no stream: {transcript.error or 'nothing said'}")]
            continue
        if stream not in logs:
            log = logs[stream] = _log(question, copies)
            found += [Breach(question, stream, wrong) for wrong in _wrong_in_log(question, log, copies)]
            figures += _figures_of(log, evidence.takeovers.get(stream, 0))
            errors += [_error_of(log)] if log.state == "failed" else []
        log = logs[stream]
        lost, doubled = _difference(transcript, log)
        figures += Figures(blocks=len(transcript.seen), lost=lost, doubled=doubled, returns=transcript.returns)
        breaches += found
        breaches += [Breach(question, stream, wrong) for wrong in _wrong_in_transcript(transcript, log, lost, doubled)]
    breaches += _generated_too_often(evidence)
    return Verdict(tuple(breaches), figures, tuple(errors))


def _log(question: Question, copies: Sequence[LogCopy]) -> _Log:
    blocks = [Block(seen.block) for seen in copies[0].seen]
    try:
        return _Log(copies[0], read_back(DIALECTS[question.dialect], blocks))
    except UpstreamFailed:
        return _Log(copies[0], None)


def _wrong_in_log(question: Question, log: _Log, copies: Sequence[LogCopy]) -> Iterator[str]:
    """What is wrong with a log, whoever has read it."""
    status, seen = log.copy.status, log.copy.seen
    if any(copy.seen != seen or copy.status != status for copy in copies):
        yield f"gateways {[copy.gateway for copy in copies]} tell different logs"
    if [one.offset for one in seen] != list(range(1, len(seen) + 1)) or status["offset"] != len(seen):
        yield f"the log has the offsets {_short([one.offset for one in seen])}, its status says {status['offset']}"
    if log.state not in OVER:
        yield f"it is {log.state}, and nobody writes it"
    if log.said is None:
        yield "its log is in no words of ours"
    if log.state == "finished":
        yield from _wrong_in_finished(question, log)
    elif not question.text.startswith(log.text) and question.text:
        yield f"it is {log.state}, and what there is of it is not how the answer begins: {_apart(log.text, question)}"
    if log.state == "cancelled" and question.reader is not Reader.LEAVING:
        yield f"it was cancelled, and nobody asked for that: {status['error']}"


def _wrong_in_finished(question: Question, log: _Log) -> Iterator[str]:
    if log.said is not None and not log.said.is_complete:
        yield "it is finished, and its terminal block is missing"
    if question.text and log.text != question.text:
        yield f"its text is not the answer: {_apart(log.text, question)}"
    usage, count = log.copy.status["usage"] or {}, len(question.text.split())
    counted = usage.get("output", 0)
    # An estimate counts pieces, of which a splice may have put some together; none may be counted twice (K5).
    is_right = 0 < counted <= count if usage.get("estimated") else counted == count
    if not question.is_for_engine and not is_right:
        yield f"{count} tokens were made, and its usage says {usage}"


def _wrong_in_transcript(transcript: Transcript, log: _Log, lost: int, doubled: int) -> Iterator[str]:
    """What a client saw that it should not have seen, or did not."""
    if transcript.whole is not None and transcript.whole != log.text:
        yield f"the whole answer is not what the log says: {transcript.whole[:200]!r}, {log.text[:200]!r}"
    if transcript.whole is None and not transcript.question.is_streamed and log.state == "finished":
        yield f"the answer is finished, and its client was told: {transcript.error or 'nothing'}"
    if lost or doubled:
        offsets = [seen.offset for seen in transcript.seen]
        yield f"{lost} blocks were lost and {doubled} doubled or changed; offsets {_short(offsets)}"


def _difference(transcript: Transcript, log: _Log) -> tuple[int, int]:
    """How many blocks a client did not see, and how many it saw twice, in another place, or changed."""
    if not transcript.question.is_streamed:
        return 0, 0
    seen, held = transcript.seen, log.copy.seen
    has_offsets = transcript.question.reader is not Reader.RESUMING  # of which the transport keeps them
    expected = list(held[: len(seen)] if transcript.has_left else held)
    if not has_offsets:
        expected = [Seen(None, one.block) for one in expected]
    if seen == expected:
        return 0, 0
    lost, doubled = Counter(expected) - Counter(seen), Counter(seen) - Counter(expected)
    return lost.total(), max(doubled.total(), int(not lost))  # in another order, if nothing else


def _figures_of(log: _Log, takeovers: int) -> Figures:
    state, status = log.state, log.copy.status
    return Figures(
        streams=1,
        finished=int(state == "finished"),
        cancelled=int(state == "cancelled"),
        failed=int(state == "failed"),
        tokens=(status["usage"] or {}).get("output", 0),
        continued=len(status["continuations"]),
        takeovers=takeovers,
    )


def _error_of(log: _Log) -> str:
    error = log.copy.status["error"] or {}
    return f"{error.get('code')}: {error.get('message')}"


def _generated_too_often(evidence: Evidence) -> Iterator[Breach]:
    """One generation for each stream, one more for each that broke off or was taken over, and no other (L6)."""
    streams: dict[str, set[str]] = {}
    questions = {transcript.question.prompt: transcript.question for transcript in evidence.transcripts}
    for transcript in evidence.transcripts:
        streams.setdefault(transcript.question.prompt, set()).add(transcript.stream)
    for prompt, found in streams.items():
        question = questions[prompt]
        if question.is_for_engine:
            continue
        if len(found - {""}) > 1:
            yield Breach(question, "", f"one key, and {len(found)} streams: {sorted(found)}")
        asked, faults = evidence.asked.get(prompt, 0), evidence.faults.get(prompt, 0)
        takeovers = sum(evidence.takeovers.get(stream, 0) for stream in found)
        if asked > 1 + faults + takeovers:
            yield Breach(question, "", f"asked {asked} times, with {faults} faults and {takeovers} takeovers")
        if not asked:
            yield Breach(question, "", "no upstream was ever asked")


def _apart(text: str, question: Question) -> str:
    """Where a text leaves the answer."""
    place = next((at for at, (a, b) in enumerate(zip(text, question.text, strict=False)) if a != b), None)
    place = min(len(text), len(question.text)) if place is None else place
    start = max(0, place - 20)
    return f"at {place} it says {text[start : place + 40]!r}, not {question.text[start : place + 40]!r}"


def _short(offsets: Sequence[int | None]) -> str:
    """A list of offsets, by where it does not count on."""
    jumps = [
        f"{one} behind {former}"
        for former, one in zip([0, *offsets], offsets, strict=False)
        if one is None or former is None or one != former + 1
    ]
    return f"1 to {len(offsets)}" if not jumps else ", ".join(jumps[:5])
