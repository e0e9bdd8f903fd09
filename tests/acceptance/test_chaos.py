"""`unbroken chaos`, a short run of each kind: lines cut, gateways killed, every answer whole (L2 to L6, D12)."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import bare_environment, command_line, missing, wait_for
from unbroken.chaos.blocks import Seen
from unbroken.chaos.judge import judge
from unbroken.chaos.plan import Chance, LineCut, Question, Reader, StoreKind, Wishes, fate_of_line, plan_round
from unbroken.chaos.stores import PROGRAMS, NoStore, ValkeyServer
from unbroken.chaos.transcripts import Evidence, LogCopy, Transcript

CHAOS = [sys.executable, "-m", "unbroken", "chaos", "--json"]
RUNS = {
    "one gateway": ["--seed", "1", "--rounds", "1"],
    "two workers": ["--seed", "12", "--rounds", "1", "--workers", "2"],
    "two gateways, an engine": ["--seed", "36", "--rounds", "1", "--gateways", "2", "--engine"],
    "two gateways on Valkey": ["--seed", "18", "--rounds", "1", "--gateways", "2", "--store", "valkey"],
}


@pytest.mark.parametrize("run", RUNS)
def test_every_answer_arrives_whole(run: str, tmp_path: Path) -> None:
    if "valkey" in RUNS[run]:
        try:
            asyncio.run(start_and_stop(ValkeyServer(tmp_path)))
        except NoStore:
            missing(f"neither {' nor '.join(PROGRAMS)} is installed")
    done = subprocess.run([*CHAOS, *RUNS[run]], env=bare_environment(), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    outcome = json.loads(done.stdout)
    assert outcome["lost"] == outcome["doubled"] == outcome["breaches"] == 0
    assert outcome["cut"] > 0
    assert outcome["finished"] > 0
    assert outcome["folder"] is None


async def start_and_stop(server: ValkeyServer) -> None:
    await server.start()
    await server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*CHAOS, "--rounds", "100"],
        env=bare_environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    wait_for(lambda: gateways_below(tmp_path), "a gateway runs")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert not gateways_below(tmp_path)
    assert not list(tmp_path.iterdir())


def gateways_below(folder: Path) -> list[int]:
    """The processes whose configuration lies in a folder."""
    numbers = [int(name) for name in os.listdir("/proc") if re.fullmatch("[0-9]+", name)]
    return [pid for pid in numbers if str(folder) in command_line(pid)]


# the plan


def test_the_same_seed_plans_the_same() -> None:
    wishes = Wishes(seed=7, gateways=3, workers=2, store=StoreKind.VALKEY, has_engine=True)
    assert [plan_round(wishes, number) for number in (1, 2)] == [plan_round(wishes, number) for number in (1, 2)]
    assert plan_round(wishes, 1) != plan_round(wishes, 2)
    assert [fate_of_line(7, number) for number in range(9)] == [fate_of_line(7, number) for number in range(9)]


def test_chance_is_the_same_everywhere() -> None:
    assert [Chance("a", 1).whole(1, 1000), Chance("a", 2).whole(1, 1000)] == [960, 956]


def test_a_plan_asks_in_every_way_and_cuts_lines_both_ways() -> None:
    questions = [question for number in range(1, 20) for question in plan_round(Wishes(), number).questions]
    assert {question.reader for question in questions} == set(Reader)
    cuts = [fate for number in range(500) if isinstance(fate := fate_of_line(1, number), LineCut)]
    assert {cut.is_request for cut in cuts} == {cut.is_reset for cut in cuts} == {True, False}


# the judge: every kind of breach is found

QUESTION = Question(1, Reader.RAW, "openai-chat", "hello", "one two", 0.0, 0.0)


def block(number: int, delta: dict[str, Any], finish: str | None = None) -> Seen:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "s", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return Seen(number, b"data: %b\n\n" % json.dumps(chunk).encode())


LOG = (
    block(1, {"role": "assistant", "content": ""}),
    block(2, {"content": "one"}),
    block(3, {"content": " two"}),
    block(4, {}, "stop"),
    Seen(5, b"data: [DONE]\n\n"),
)


def evidence(
    seen: tuple[Seen, ...] = LOG,
    log: tuple[Seen, ...] = LOG,
    *,
    asked: int = 1,
    faults: int = 0,
    takeovers: int = 0,
    **status: Any,
) -> Evidence:
    said = {"state": "finished", "offset": len(log), "usage": {"output": 2}, "continuations": [], "error": None}
    copy = LogCopy(0, said | status, log)
    transcript = Transcript(QUESTION, "s", list(seen))
    return Evidence((transcript,), {"s": (copy,)}, {"hello": asked}, {"hello": faults}, {"s": takeovers})


def test_a_whole_answer_is_no_breach() -> None:
    verdict = judge(evidence())
    assert verdict.breaches == ()
    assert (verdict.figures.blocks, verdict.figures.lost, verdict.figures.doubled) == (5, 0, 0)
    assert judge(evidence(asked=3, faults=1, takeovers=1)).breaches == ()


@pytest.mark.parametrize(
    ("given", "lost", "doubled"),
    [
        (evidence(LOG[:4]), 1, 0),
        (evidence((*LOG[:2], *LOG[3:])), 1, 0),
        (evidence((*LOG[:2], LOG[1], *LOG[2:])), 0, 1),
        (evidence((LOG[1], LOG[0], *LOG[2:])), 0, 1),
        (evidence((*LOG[:2], block(3, {"content": " 2"}), *LOG[3:])), 1, 1),
    ],
    ids=["its end is missing", "a block is missing", "one came twice", "two changed places", "one was changed"],
)
def test_what_a_client_did_not_see_as_it_is_is_counted(given: Evidence, lost: int, doubled: int) -> None:
    verdict = judge(given)
    assert (verdict.figures.lost, verdict.figures.doubled) == (lost, doubled)
    assert len(verdict.breaches) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (evidence(asked=2), "asked 2 times"),
        (evidence(asked=0), "no upstream was ever asked"),
        (evidence(state="running"), "nobody writes it"),
        (evidence(usage={"output": 3}), "its usage says"),
        (evidence(offset=4), "its status says 4"),
        (evidence(LOG[:4], LOG[:4]), "its terminal block is missing"),
        (evidence(state="cancelled", error={"code": "cancelled"}), "nobody asked for that"),
    ],
)
def test_what_is_wrong_with_a_log_is_found(given: Evidence, said: str) -> None:
    assert any(said in str(breach) for breach in judge(given).breaches)
