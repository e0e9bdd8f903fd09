"""The log tells what an engine does, and how far its model is loaded."""

import io

import msgspec

from unbroken.gateway.engine_news import EngineNews
from unbroken.gateway.journal import Journal
from unbroken.upstream.engine_state import EnginePhase, EngineState


def test_phases_and_quarters_are_told_and_nothing_twice() -> None:
    out = io.StringIO()
    journal = Journal(out, format="json")
    news = EngineNews(journal)
    news(EngineState(EnginePhase.STARTING, "is starting"))
    for percent in range(0, 101, 5):
        news(EngineState(EnginePhase.LOADING, f"loads {percent} %", percent / 100))
    news(EngineState(EnginePhase.READY, "runs", 1.0))
    news(EngineState(EnginePhase.READY, "runs", 1.0))
    journal.close()
    said = [msgspec.json.decode(line)["message"] for line in out.getvalue().splitlines()]
    assert said == ["is starting", *(f"loads {n} %" for n in (0, 25, 50, 75, 100)), "runs"]
